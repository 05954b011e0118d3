"""What trials cost, what a named plan would have cost, and how long one will take.

Measured cost comes from the `TrialCost` of each trial: device time is wall time × devices. A plan
that was not run is charged at the mean of what was measured, and always by name. Pure: no torch.

Does not cover memory, and counts only the products with weights: attention over long sequences
and generation token by token take longer than their FLOPs say, which a calibration on the same
task absorbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from plop_lora.errors import MeasurementError
from plop_lora.records import CostLedger, Counterfactual, Spent, TrialCost, TrialResult
from plop_lora.records.trial import CONFIRM

USUAL_PLACEMENTS = 6
"""Placements that the plan of a search without scores is charged for."""
HOUR = 3600.0

Costs = Iterable[TrialCost | TrialResult]
"""Trials, by their results or by the cost in them."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search that was not run: its name in the report, and its trials of full length."""

    text: str
    trials: int


def full_search(arms: int = USUAL_PLACEMENTS, rates: int = 3, seeds: int = 5) -> SearchPlan:
    """Return the plan that the ledger compares with: every placement at every rate and seed.

    >>> full_search(rates=3, seeds=5)
    SearchPlan(text='every usual placement (6) × learning-rate ladder (3) × seeds (5)', trials=90)
    """
    text = f"every usual placement ({arms}) × learning-rate ladder ({rates}) × seeds ({seeds})"
    return SearchPlan(text, arms * rates * seeds)


def spent(what: str, results: Costs, price: float | None) -> Spent:
    """Return the sum over trials, failed ones included: they took the hardware as well.

    Args:
        what: name of the part.
        results: its trials; without any, every sum is 0 and there are no GPU-hours.
        price: money a device-hour, or None.
    """
    costs = [_cost(result) for result in results]
    device_seconds = sum(_device_seconds(cost) for cost in costs)
    on_gpus = [_device_seconds(cost) for cost in costs if cost.accelerator]
    return Spent(
        what=what,
        trials=len(costs),
        wall_seconds=float(sum(cost.wall_seconds for cost in costs)),
        device_seconds=float(device_seconds),
        gpu_hours=sum(on_gpus) / HOUR if on_gpus else None,
        money=None if price is None else device_seconds / HOUR * price,
        tokens=sum(cost.tokens for cost in costs),
        peak_memory=max((cost.peak_memory for cost in costs), default=0),
    )


def _cost(result: TrialCost | TrialResult) -> TrialCost:
    return result.cost if isinstance(result, TrialResult) else result


def _device_seconds(cost: TrialCost) -> float:
    return cost.wall_seconds * cost.devices


def ledger(
    parts: Mapping[str, Sequence[TrialCost | TrialResult]],
    price: float | None,
    currency: str,
    search: SearchPlan | None = None,
    *,
    full: str = CONFIRM,
) -> CostLedger:
    """Return the lines of all parts, their sum, and what the plan would have cost.

    Args:
        parts: trials by the name of the part, in the order of the report.
        price: money a device-hour, or None.
        currency: of the price.
        search: the plan; None where nothing is to be compared.
        full: the part whose trials have full length; the plan is charged at their mean. Without
            a finished trial in it there is no comparison.
    """
    every = [result for part in parts.values() for result in part]
    total = spent("total", every, price)
    return CostLedger(
        lines=tuple(spent(what, part, price) for what, part in parts.items()),
        total=total,
        search=_counterfactual(search, parts.get(full, ()), price),
        price=price,
        currency=currency,
        device="; ".join(dict.fromkeys(_cost(result).device for result in every)),
    )


def _counterfactual(
    plan: SearchPlan | None, trials: Sequence[TrialCost | TrialResult], price: float | None
) -> Counterfactual | None:
    """Charge a plan at the mean of trials that ended with numbers; a failed one ends early."""
    done = [_cost(t) for t in trials if not isinstance(t, TrialResult) or t.done]
    if plan is None or not done:
        return None
    device_seconds = plan.trials * fmean(_device_seconds(cost) for cost in done)
    hours = device_seconds / HOUR
    return Counterfactual(
        plan=plan.text,
        trials=plan.trials,
        device_seconds=device_seconds,
        gpu_hours=hours if all(cost.accelerator for cost in done) else None,
        money=None if price is None else hours * price,
    )


# --------------------------------------------------------------------------- estimates


def trial_flops(
    parameters: int, tokens: int, trainable_share: float, *, checkpointing: bool = False
) -> float:
    """Return the floating-point operations of training on some tokens.

    With P parameters and T tokens, the forward pass takes 2·P·T, the gradients of the activations
    as much, and the gradients of the weights 2·P·T times the share that trains: 4·P·T for small
    adapters, 6·P·T for a full finetune. Recomputed activations are another forward pass.

    >>> trial_flops(100, 10, 0.0), trial_flops(100, 10, 1.0)
    (4000.0, 6000.0)

    Source: Kaplan et al., arXiv 2001.08361, section 2.1 (2·P a token forward, 4·P backward).
    """
    passes = 2 + 2 + 2 * trainable_share + (2 if checkpointing else 0)
    return float(passes * parameters * tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What decides how long a trial takes; `parameters` are those that a token passes."""

    parameters: int
    tokens: int
    trainable_share: float = 0.0
    checkpointing: bool = False
    devices: int = 1

    @property
    def flops(self) -> float:
        """Of the training."""
        return trial_flops(
            self.parameters, self.tokens, self.trainable_share, checkpointing=self.checkpointing
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured speed of training: FLOPs a second and device, and seconds a trial beside it.

    The overhead is everything but training: starting, loading, judging, saving.
    """

    flops_per_second: float
    seconds_overhead: float


def calibrate(
    model_parameters: int,
    steps: Sequence[tuple[int, float]],
    *,
    trainable_share: float = 0.0,
    checkpointing: bool = False,
    seconds_overhead: float = 0.0,
) -> Calibration:
    """Return the speed from a few measured steps on one device.

    Args:
        model_parameters: that a token passes.
        steps: tokens and seconds of each. The first pays for allocations and compiled kernels,
            and is left out where there are others.
        trainable_share: adapter parameters over model parameters.
        checkpointing: whether the steps recomputed activations.
        seconds_overhead: measured beside the steps, such as the time to load the model.

    Raises:
        MeasurementError: no step, no tokens or no time in them.
    """
    counted = steps[1:] or steps
    tokens, seconds = sum(t for t, _ in counted), sum(s for _, s in counted)
    flops = trial_flops(model_parameters, tokens, trainable_share, checkpointing=checkpointing)
    return Calibration(_speed(flops, seconds), seconds_overhead)


def calibrate_on_trials(
    finished: Sequence[TrialCost],
    model_parameters: int,
    *,
    trainable_share: float = 0.0,
    checkpointing: bool = False,
) -> Calibration:
    """Return the speed and the overhead from trials that are finished.

    Raises:
        MeasurementError: none trained for any time.
    """
    tokens = sum(cost.tokens for cost in finished)
    flops = trial_flops(model_parameters, tokens, trainable_share, checkpointing=checkpointing)
    speed = _speed(flops, sum(cost.train_seconds * cost.devices for cost in finished))
    return Calibration(speed, fmean(c.wall_seconds - c.train_seconds for c in finished))


def _speed(flops: float, seconds: float) -> float:
    if flops <= 0 or seconds <= 0:
        raise MeasurementError(
            f"No speed can be had from {flops:g} floating-point operations in {seconds:g} s. "
            "Measure at least one step with tokens in it."
        )
    return flops / seconds


def estimate_seconds(sizes: Sizes, calibration: Calibration) -> float:
    """Return the wall time of a trial."""
    return calibration.seconds_overhead + sizes.flops / (
        calibration.flops_per_second * sizes.devices
    )


def expected_seconds(
    sizes: Sizes, finished: Sequence[TrialCost], calibration: Calibration | None = None
) -> float | None:
    """Return the wall time of a trial from finished ones if there are, else from a calibration.

    Trials that trained on nothing, as failed ones, tell nothing. None where nothing is known.
    """
    trained = [cost for cost in finished if cost.tokens and cost.train_seconds]
    if trained:
        calibration = calibrate_on_trials(
            trained,
            sizes.parameters,
            trainable_share=sizes.trainable_share,
            checkpointing=sizes.checkpointing,
        )
    return None if calibration is None else estimate_seconds(sizes, calibration)
