"""How the files of a model are asked for: which version, on whose behalf, running whose code.

Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Origin:
    """What goes to every `from_pretrained` beside the name.

    Attributes:
        revision: Branch, tag or commit of a model on the hub; None is its main branch.
        trust_remote_code: Whether Python files that lie beside the weights may run. Only the
            user's own word makes it true; transformers never asks and no record sets it.
        token: Access token of the hub; None takes the one that `hf auth login` stored. It is
            never recorded and never shown.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    token: str | None = field(default=None, repr=False)

    def files(self) -> dict[str, Any]:
        """Return the keywords of what reads a file and runs nothing."""
        return {"revision": self.revision, "token": self.token}

    def loading(self) -> dict[str, Any]:
        """Return the keywords of `from_pretrained`."""
        return {**self.files(), "trust_remote_code": self.trust_remote_code}

    def elsewhere(self) -> Origin:
        """Return the origin of files that lie in another repository, whose revisions differ."""
        return Origin(None, self.trust_remote_code, self.token)

    def without_token(self, text: str) -> str:
        """Return a text in which the token is not readable."""
        return text.replace(self.token, "***") if self.token else text


PLAIN = Origin()
"""The main branch, the stored token, and no code but that of transformers."""
