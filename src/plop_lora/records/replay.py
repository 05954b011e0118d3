"""Replays: what logged prompts show of the arms of an experiment, before any traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from plop_lora.records.base import Record
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, CheckVerdict

_EXIT_CODES = {PASS: 0, FAIL: 3, NOT_ENOUGH_DATA: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class IdenticalShare:
    """Share of prompts that an arm answers word for word as the control, of those both answer."""

    prompts: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayArm:
    """One arm of a replay.

    `model` is its name at the endpoint. `failures` counts prompts without an answer by their
    reason. `identical` is None for the control, and where no prompt has two answers.
    """

    name: str
    model: str
    adapter_digest: str | None = None
    answered: int
    failures: Mapping[str, int]
    identical: IdenticalShare | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayMeasure:
    """One quantity of an arm against the control, over the prompts on which both have it.

    `difference` is the arm's mean minus the control's, with its two-sided 95 % interval over
    `units`; the ends are None for one unit. `p` is that of no difference, adjusted by Holm's
    step-down for the number of measures; None where it is not known. `verdict` says whether the
    quantity is worse than the control's by less than `margin`, where one was given.
    """

    arm: str
    metric: str
    higher_is_better: bool
    prompts: int
    units: int
    control: float
    value: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    margin: float | None = None
    verdict: CheckVerdict | None = None

    @property
    def differs(self) -> bool:
        """Whether the arm is shown to differ, at 5 % over all measures of the replay."""
        return self.p is not None and self.p < DIFFERS


DIFFERS = 0.05


@dataclass(frozen=True, repr=False, kw_only=True)
class Replay(Record):
    """Answers of all arms to the same prompts, compared pair by pair.

    A replay informs, and decides only where a margin was given. `prompts` and `units` are those of
    the file, and `prompts_digest` identifies it. `experiment` and its digest are None where the
    arms were named by hand.
    """

    kind: ClassVar[str] = "replay"

    source: str
    prompts: int
    units: int
    prompts_digest: str
    upstream: str
    control: str
    arms: tuple[ReplayArm, ...]
    measures: tuple[ReplayMeasure, ...]
    max_tokens: int
    temperature: float
    seed: int | None
    concurrency: int
    experiment: str | None = None
    experiment_digest: str | None = None
    judge: str | None = None
    plop_version: str
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """3 if an arm exceeds a margin, 4 if that is not decided, 0 if not or without margins."""
        verdicts = {measure.verdict for measure in self.measures}
        worst = next((one for one in (FAIL, NOT_ENOUGH_DATA) if one in verdicts), PASS)
        return _EXIT_CODES[worst]
