"""What is measured of each answer, by name. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plop_lora.ab.events import FAILED, LATENCY_FIRST, LATENCY_LAST, TOKENS_OUT
from plop_lora.ab.replay.outcomes import Outcome
from plop_lora.ab.replay.prompts import ReplayPrompt
from plop_lora.gating.suites.prompts import DEGENERATE, REFUSED, UNENDED, answer_values

Values = Sequence[float | None]
"""A value for each prompt; None where an arm has none."""
OWN = "metric"
"""Name under which a function of the user's is reported."""


@dataclass(frozen=True, slots=True)
class ReplayMetric:
    """A quantity of an answer.

    Attributes:
        name: Its name.
        higher_is_better: Which direction is better, on which a margin depends.
        binary: Whether it is 0 or 1.
        of: Function from a prompt and its answer to the value; None where there is none.
    """

    name: str
    higher_is_better: bool
    binary: bool
    of: Callable[[ReplayPrompt, Outcome], float | None]


def _rule(name: str) -> Callable[[ReplayPrompt, Outcome], float | None]:
    def of(prompt: ReplayPrompt, outcome: Outcome) -> float | None:
        if outcome.failed:
            return None
        return answer_values(prompt.text, outcome.text, ended=not outcome.cut_off)[name]

    return of


def _pace(prompt: ReplayPrompt, outcome: Outcome) -> float | None:
    """Return the tokens per second after the first one."""
    first, last, tokens = outcome.first, outcome.last, outcome.tokens
    if first is None or last is None or tokens is None or tokens < 2 or last <= first:
        return None
    return (tokens - 1) / (last - first)


METRICS: Mapping[str, ReplayMetric] = {
    metric.name: metric
    for metric in (
        ReplayMetric(FAILED, False, True, lambda prompt, outcome: float(bool(outcome.failed))),
        ReplayMetric(REFUSED, False, True, _rule(REFUSED)),
        ReplayMetric(DEGENERATE, False, True, _rule(DEGENERATE)),
        ReplayMetric(UNENDED, False, True, _rule(UNENDED)),
        # Longer answers cost more, so a margin of a length bounds how much longer they are.
        ReplayMetric(TOKENS_OUT, False, False, lambda prompt, outcome: outcome.tokens),
        ReplayMetric(
            "characters", False, False,
            lambda prompt, outcome: None if outcome.failed else len(outcome.text),
        ),
        ReplayMetric(LATENCY_FIRST, False, False, lambda prompt, outcome: outcome.first),
        ReplayMetric(LATENCY_LAST, False, False, lambda prompt, outcome: outcome.last),
        ReplayMetric("tokens_per_second", True, False, _pace),
    )
}  # fmt: skip
"""What every replay measures."""
UNSAFE = ReplayMetric("unsafe", False, False, lambda prompt, outcome: None)
"""What a judge says of the answers; its values come from the judge."""
OWN_METRIC = ReplayMetric(OWN, True, False, lambda prompt, outcome: None)
"""What a function of the user's says of the answers."""
