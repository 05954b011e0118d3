"""How the files of a model are requested: the revision, the token, and whether code may run.

Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Origin:
    """The arguments of `from_pretrained` in addition to the name.

    Attributes:
        revision: Branch, tag or commit of a model on the hub; None is its main branch.
        trust_remote_code: Whether Python files beside the weights may run. It is true only if
            the user sets it explicitly: there is no prompt, and no record sets it.
        token: Access token of the hub; None uses the one that `hf auth login` stored. It is
            never recorded and never shown.
        gguf: Name of a GGUF file in the folder or repository, which then gives the weights, the
            configuration and the tokenizer.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    token: str | None = field(default=None, repr=False)
    gguf: str | None = None

    def files(self) -> dict[str, Any]:
        """Return the keywords for functions that only read files."""
        return {"revision": self.revision, "token": self.token}

    def loading(self) -> dict[str, Any]:
        """Return the keywords for `from_pretrained`."""
        return {**self.files(), "trust_remote_code": self.trust_remote_code}

    def elsewhere(self) -> Origin:
        """Return the origin for another repository, in which neither revision nor GGUF applies."""
        return Origin(None, self.trust_remote_code, self.token)

    def without_token(self, text: str) -> str:
        """Return a text with the token replaced by asterisks."""
        return text.replace(self.token, "***") if self.token else text


PLAIN = Origin()
"""Origin with the main branch, the stored token, and no code except that of transformers."""
