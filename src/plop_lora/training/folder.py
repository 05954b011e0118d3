"""The folder of a trial: how it is named, what a kill may have left in it, and what it must not be.

Imports no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

from plop_lora.errors import UsageError
from plop_lora.records import TrialSpec
from plop_lora.records.trial import LADDER

SPEC, CURVE, ADAPTER, RESULT = "spec.json", "curve.jsonl", "adapter", "result.json"
LOG, LOCK = "log.txt", ".lock"
_DIGITS = 16
"""Of the digest, in the name of the folder."""
_LONGEST_ARM = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def trial_folder(root: Path, spec: TrialSpec) -> Path:
    """Return the folder of a trial: named by its arm, seed and phase, and by its digest.

    A folder that has the digest alone for a name, as older releases made them, is found as well.
    """
    digest = spec.digest()[:_DIGITS]
    old = Path(root) / digest
    return old if old.is_dir() else Path(root) / f"{_label(spec)}-{digest}"


def _label(spec: TrialSpec) -> str:
    """Return arm, seed and phase in letters that every file system has.

    An arm may be the path of a file, or a configuration with spaces. No name begins with a dot,
    which would hide it, nor with a hyphen, which commands take for an option.
    """
    arm = _UNSAFE.sub("-", spec.arm)[-_LONGEST_ARM:].strip("-.") or "arm"
    rate = f"-{spec.learning_rate:g}" if spec.phase == LADDER else ""
    return f"{arm}-seed{spec.seed}-{_UNSAFE.sub('-', spec.phase)}{rate}"


def check_no_links(folder: Path) -> None:
    """Refuse a folder in which a link stands where a trial writes: its target would be lost.

    Raises:
        UsageError: the link is named.
    """
    for name in (SPEC, CURVE, RESULT, ADAPTER, LOG, LOCK):
        if (folder / name).is_symlink():
            raise UsageError(
                f"{folder / name} is a link, and a trial writes a file of its own there. Remove "
                "the link, or give the trial another folder with --folder."
            )
