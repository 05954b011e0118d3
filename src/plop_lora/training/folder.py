"""The folder of a trial: its name, the files that a killed trial may leave, and its safety checks.

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
"""The number of characters of the digest in the name of the folder."""
_LONGEST_ARM = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def trial_folder(root: Path, spec: TrialSpec) -> Path:
    """Return the folder of a trial, named after its arm, seed, phase and digest.

    A folder of an older release, which is named after the digest alone, is found as well.
    """
    digest = spec.digest()[:_DIGITS]
    old = Path(root) / digest
    return old if old.is_dir() else Path(root) / f"{_label(spec)}-{digest}"


def _label(spec: TrialSpec) -> str:
    """Return arm, seed and phase in characters that every file system allows.

    An arm may be the path of a file, or a configuration with spaces. No name begins with a dot,
    which would hide it, nor with a hyphen, which commands read as an option.
    """
    arm = _UNSAFE.sub("-", spec.arm)[-_LONGEST_ARM:].strip("-.") or "arm"
    rate = f"-{spec.learning_rate:g}" if spec.phase == LADDER else ""
    return f"{arm}-seed{spec.seed}-{_UNSAFE.sub('-', spec.phase)}{rate}"


def check_no_links(folder: Path) -> None:
    """Check that none of the files that a trial writes is a link, whose target would be replaced.

    Raises:
        UsageError: There is such a link. The text names it.
    """
    for name in (SPEC, CURVE, RESULT, ADAPTER, LOG, LOCK):
        if (folder / name).is_symlink():
            raise UsageError(
                f"{folder / name} is a link, but a trial writes a file of this name. Remove the "
                "link, or give the trial another folder with --folder."
            )
