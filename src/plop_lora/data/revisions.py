"""The commit of a hub data set, by which the same rows are found again, and what its card says.

Where the hub cannot be reached, the commit is that of the local cache. No torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from plop_lora.data.tables import first_line
from plop_lora.errors import DataError
from plop_lora.models.hub import is_offline, reachable
from plop_lora.models.origin import Origin

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubRevision:
    """A data set of the hub at one commit.

    Attributes:
        name: Its id.
        commit: The commit.
        licence: The licence on its card; None where there is none, or where the hub was not asked.
    """

    name: str
    commit: str
    licence: str | None = None


def resolved(name: str, revision: str | None, token: str | None = None) -> HubRevision:
    """Return the commit of a branch, a tag or a commit of a data set.

    Args:
        name: Id of the data set.
        revision: Branch, tag or commit; None is the main branch.
        token: Access token of the hub; None takes the stored one.

    Raises:
        DataError: The hub knows no such revision; or it cannot be reached, and the cache holds
            none.
    """
    if is_offline() or not reachable():
        return HubRevision(name, _cached(name, revision))
    from huggingface_hub import HfApi

    try:
        found = HfApi().dataset_info(name, revision=revision, token=token)
    except Exception as error:  # the client raises many unrelated classes here
        reason = Origin(token=token).without_token(first_line(error))
        raise DataError(
            f"The hub does not tell the commit of {name} at {revision or MAIN} ({reason}). Give "
            "a branch, tag or commit that it has with --set acquire.revision=…."
        ) from error
    if not found.sha:
        raise DataError(f"The hub does not tell the commit of {name} at {revision or MAIN}.")
    card = found.card_data
    licence = None if card is None else card.get("license")
    words = ", ".join(map(str, licence)) if isinstance(licence, list) else licence
    return HubRevision(name, found.sha, words)


def _cached(name: str, revision: str | None) -> str:
    """Return the commit that the cache of the hub holds for a revision."""
    from huggingface_hub import constants

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    try:
        return (folder / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The commit of {name} at {revision or MAIN} is unknown: the hub cannot be reached, "
            "and the cache does not hold it. Give the commit with --set acquire.revision=COMMIT, "
            "or run the command once with a network."
        ) from error
