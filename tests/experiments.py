"""Experiments and observations made by hand.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from plop_lora.ab import Experiment, ExperimentArm, Guardrail, Metric, MetricKind, Observation
from plop_lora.records import GateVerdict
from plop_lora.records.gate import CheckResult, CheckVerdict, Measured

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
SALT = "5f2b7c0e9a41d683"
DIGESTS = {"now": "a" * 64, "next": "b" * 64, "other": "c" * 64}


def arm(name: str, weight: float, **values: object) -> ExperimentArm:
    """Return an arm whose adapter was accepted without a gate."""
    digest = DIGESTS.get(name, name.ljust(64, "0"))
    fields = {"adapter": f"adapters/{name}", "adapter_digest": digest, "accepted": "a test"}
    return ExperimentArm(name=name, weight=weight, **fields | values)


def experiment(**values: object) -> Experiment:
    """Return an experiment of two arms with a share that decides and a latency that guards."""
    fields: dict[str, object] = {
        "name": "support",
        "unit": "account",
        "arms": (arm("now", 0.5), arm("next", 0.5)),
        "control": "now",
        "salt": SALT,
        "metrics": (
            Metric(name="resolved", kind=MetricKind.SHARE),
            Metric(name="latency", higher_is_better=False),
        ),
        "primary": "resolved",
        "guardrails": (Guardrail(metric="latency", margin=0.2),),
        "planned_units": 4000,
        "plop_version": "0.1.0",
    }
    return Experiment(**fields | values)


def check(found: CheckVerdict) -> CheckResult:
    """Return the outcome of one check of a gate."""
    value = Measured(1.0, 0.9, 1.1)
    return CheckResult(
        check="task", verdict=found, mode="non-inferior", metric="loss", higher_is_better=False,
        base=value, adapter=value, difference=value, level=0.95, limit=0.02, bound_low=None,
        bound_high=None, noise_floor=None, items=40, groups=40, source="eval.jsonl",
    )  # fmt: skip


def adapter_folder(folder: Path) -> Path:
    """Make the folder of an adapter whose files hold nothing but its name."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text(folder.name)
    return folder


def verdict(digest: str, *checks: object) -> GateVerdict:
    """Return a gate verdict on the adapter of a digest; without checks it passes."""
    return GateVerdict(
        adapter="adapters/next", adapter_digest=digest, base="toy", base_digest=None, task="sft",
        checks=checks, measurement="d" * 64, evidence=None, plop_version="0.1.0",
    )  # fmt: skip


def observations(
    arm_name: str, columns: Mapping[str, Iterable[float]], *, before: Mapping[str, object] = {}
) -> list[Observation]:
    """Return one observation for each unit of an arm, an hour after the start, from columns."""
    rows = zip(*columns.values(), strict=True)
    earlier = list(zip(*before.values(), strict=True))
    return [
        Observation(
            unit=f"{arm_name}-{number}",
            arm=arm_name,
            exposed_at=START + timedelta(hours=1, seconds=number),
            values=dict(zip(columns, map(float, row), strict=True)),
            before=dict(zip(before, map(float, earlier[number]), strict=True)) if before else {},
        )
        for number, row in enumerate(rows)
    ]


def drawn(
    counts: Mapping[str, int],
    shares: Mapping[str, float],
    latencies: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[Observation]:
    """Return observations with an exact share that is resolved and latencies with a spread of 1."""
    draw = np.random.default_rng(seed)
    found = []
    for name, count in counts.items():
        resolved = np.arange(count) < round(shares[name] * count)
        noise = draw.normal(size=count)
        latency = (latencies or {}).get(name, 1.0) + noise - noise.mean()
        found += observations(name, {"resolved": resolved, "latency": latency})
    return found
