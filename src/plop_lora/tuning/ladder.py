"""The first stage of a search: a ladder of learning rates, around whose best the others follow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from plop_lora.errors import MeasurementError
from plop_lora.records import LadderStep, TrialCost, TrialResult
from plop_lora.records.trial import LADDER
from plop_lora.study.rates import best_rate
from plop_lora.study.splits import SELECT
from plop_lora.tuning.search import Search
from plop_lora.tuning.space import Space, ladder_rates
from plop_lora.tuning.storage import SearchStorage

STEPS, COSTS, LOSSES = "ladder", "ladder costs", "ladder losses"


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rates tried, what they took, and the causes of trials that the machine has ended.

    `losses` are the held-out losses of the trials, which tell equal rates apart; None where a
    trial has none.
    """

    steps: tuple[LadderStep, ...]
    costs: tuple[TrialCost, ...]
    losses: tuple[float | None, ...]
    lost: tuple[str, ...] = ()

    def best(self, higher: bool) -> float | None:
        """Return the best rate, None without a ladder."""
        return best_rate(self.steps, self.losses, higher=higher)


def climb(search: Search, storage: SearchStorage) -> Ladder:
    """Try the rates of the ladder with the default configuration, or read what others found.

    Raises:
        MeasurementError: no rate came to an end.
    """
    if (known := storage.recall(STEPS)) is not None:
        steps = tuple(LadderStep(**values) for values in known)
        costs = tuple(TrialCost(**values) for values in storage.recall(COSTS))
        return Ladder(steps, costs, tuple(storage.recall(LOSSES) or (None,) * len(steps)))
    results = search.run(
        [
            search.spec(
                replace(search.space.default, learning_rate=rate), seed=search.study.seed,
                phase=LADDER, judged_on=SELECT, length=search.ladder,
            )
            for rate in ladder_rates(search.space, search.policy.trials)
        ]
    )  # fmt: skip
    ladder = Ladder(
        steps=tuple(_step(search, result) for result in results),
        costs=tuple(result.cost for result in results),
        losses=tuple(result.metrics.get("loss") for result in results),
        lost=tuple(result.cause or "no cause given" for result in results if result.mendable),
    )
    if ladder.steps and all(step.value is None for step in ladder.steps):
        raise MeasurementError(
            "Every trial of the learning-rate ladder failed, the first with: "
            f"{ladder.steps[0].cause}. The logs are in {search.folder}; change the training "
            "settings and start again."
        )
    if not ladder.lost:  # else the next start tries again
        storage.keep(COSTS, [asdict(cost) for cost in ladder.costs])
        storage.keep(LOSSES, list(ladder.losses))
        storage.keep(STEPS, [asdict(step) for step in ladder.steps])
    return ladder


def narrowed(search: Search, ladder: Ladder) -> Space:
    """Return the space around the best rate of the ladder, as wide as its neighbours."""
    space = search.space
    best = ladder.best(search.study.higher)
    if best is None:
        return space
    return space.around(best, (space.high / space.low) ** (1 / (len(ladder.steps) - 1)))


def _step(search: Search, result: TrialResult) -> LadderStep:
    value, cause = search.outcome(result)
    return LadderStep(
        arm=result.arm, learning_rate=result.learning_rate, value=value, cause=cause
    )  # fmt: skip
