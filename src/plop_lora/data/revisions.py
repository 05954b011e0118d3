"""The commit of a hub data set, by which the same rows are found again, and what its card says.

Where the hub cannot be reached, `datasets` reads the newest version in its cache, whatever revision
is asked for; so the commit of the rows that were read is compared with the one that is wanted.
No torch.
"""

from __future__ import annotations

import contextlib
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
        commit: The commit; None where the hub cannot be reached and no cache knows it.
        licence: The licence on its card; None where there is none, or where the hub was not asked.
    """

    name: str
    commit: str | None
    licence: str | None = None


def resolved(name: str, revision: str | None, token: str | None = None) -> HubRevision:
    """Return the commit of a branch, a tag or a commit of a data set.

    Args:
        name: Id of the data set.
        revision: Branch, tag or commit; None is the main branch.
        token: Access token of the hub; None takes the stored one.

    Raises:
        DataError: The hub knows no such revision; or it cannot be reached, and no cache knows the
            branch or tag that is asked for.
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


def _cached(name: str, revision: str | None) -> str | None:
    """Return the commit that the cache of the hub holds for a revision."""
    from huggingface_hub import constants

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip()
    if revision is None:
        return None
    raise DataError(
        f"The commit of {name} at {revision} is unknown: the hub cannot be reached, and the cache "
        "does not hold it. Give the commit with --set acquire.revision=COMMIT, or run the command "
        "once with a network."
    )


def commit_of(rows: object, wanted: HubRevision) -> str:
    """Return the commit of rows that `datasets` has read.

    Args:
        rows: The `datasets.Dataset`, whose files in the cache lie in a folder named after a commit.
        wanted: Revision that was asked for.

    Raises:
        DataError: The rows are of another commit, or their commit is unknown.
    """
    files = getattr(rows, "cache_files", ())
    folders = {Path(str(file["filename"])).parent.name for file in files}
    commits = sorted(folder for folder in folders if _COMMIT.fullmatch(folder))
    read = commits[0] if len(commits) == 1 else None
    if read is not None and wanted.commit not in (None, read):
        raise DataError(
            f"{wanted.name} is wanted at commit {wanted.commit}, but the cache holds commit "
            f"{read}, and the hub cannot be reached. Give that one with --set "
            f"acquire.revision={read}, or run the command with a network."
        )
    if (read or wanted.commit) is None:
        raise DataError(
            f"The commit of {wanted.name} is unknown: the hub cannot be reached, and the cache "
            "does not say it. Give the commit with --set acquire.revision=COMMIT, or run the "
            "command once with a network."
        )
    return str(read or wanted.commit)
