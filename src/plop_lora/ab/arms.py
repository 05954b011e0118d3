"""Arms of an experiment from the folders of their adapters, and whether these are still the same.

Imports no torch.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from plop_lora.errors import AdapterError
from plop_lora.gating.adapter import adapter_digest
from plop_lora.records import Experiment, ExperimentArm, GateVerdict

_SALT_BYTES = 16


def new_salt() -> str:
    """Return a random salt, by which an experiment is independent of all others."""
    return secrets.token_hex(_SALT_BYTES)


def adapter_arm(
    name: str,
    weight: float,
    folder: str | Path | None,
    *,
    gate: GateVerdict | str | Path | None = None,
    accepted: str = "",
) -> ExperimentArm:
    """Return an arm with the digest of its adapter.

    Args:
        name: Name of the arm.
        weight: Share of the covered units that get this arm.
        folder: Folder that PEFT saved; None is the base model without an adapter.
        gate: Verdict of `plop gate` on the adapter, or its file.
        accepted: Why the arm runs without a gate that passes.

    Raises:
        AdapterError: A file of the adapter cannot be read.
        RecordError: The file of the verdict cannot be loaded.
    """
    return ExperimentArm(
        name=name,
        weight=weight,
        adapter=None if folder is None else str(folder),
        adapter_digest=None if folder is None else adapter_digest(Path(folder)),
        gate=None if gate is None else GateVerdict.of(gate),
        accepted=accepted,
    )


def check_unchanged(experiment: Experiment) -> None:
    """Refuse to go on with an adapter whose files have changed since the design.

    Raises:
        AdapterError: A file has changed, or cannot be read any more.
    """
    for arm in experiment.arms:
        if arm.adapter is not None and adapter_digest(Path(arm.adapter)) != arm.adapter_digest:
            raise AdapterError(
                f"The adapter of the arm {arm.name!r} in {arm.adapter} has changed since the "
                f"experiment {experiment.name!r} was designed, so its units would see two "
                "adapters. Put the files back as they were, or end the experiment and start "
                "another one with another salt."
            )
