"""The folder of a trial: its name, the files that a killed trial may leave, and its safety checks.

Imports no torch.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from plop_lora.errors import OutputError, UsageError
from plop_lora.placement.inits import moves_base
from plop_lora.records import TrialSpec
from plop_lora.records.trial import FINAL, LADDER

SPEC, CURVE, ADAPTER, RESULT = "spec.json", "curve.jsonl", "adapter", "result.json"
CHECKPOINTS = "checkpoints"
LOG, LOCK = "log.txt", ".lock"
_DIGITS = 16
"""The number of characters of the digest in the name of the folder."""
_LONGEST_ARM = 60
_SPARE_BYTES = 50 * 2**20
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def trial_folder(root: Path, spec: TrialSpec) -> Path:
    """Return the folder of a trial, named after its arm, seed, phase and digest.

    A folder of an older release, which is named after the digest alone, is found as well. A final
    finetune has the folder to itself.
    """
    if spec.phase == FINAL:
        return Path(root)
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
    for name in (SPEC, CURVE, RESULT, ADAPTER, CHECKPOINTS, LOG, LOCK):
        if (folder / name).is_symlink():
            raise UsageError(
                f"{folder / name} is a link, but a trial writes a file of this name. Remove the "
                "link, or give the trial another folder with --folder."
            )


def check_space(folder: Path, spec: TrialSpec) -> None:
    """Check that the disk has space for the adapter, whose rank pissa and olora double.

    Raises:
        OutputError: The free space is too small.
    """
    copies = 2 if moves_base(spec.placement.settings.init) else 1
    if spec.checkpoints is not None:
        # Beside the last ones the best one and the one being written; factors and two moments.
        copies += 3 * (spec.checkpoints.keep + 2)
    needed = 4 * copies * spec.placement.trainable_parameters + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"The disk of {folder} has {free / 2**20:.0f} MB free, and this trial may write "
            f"{needed / 2**20:.0f} MB. Free some space or give another folder with --folder."
        )
