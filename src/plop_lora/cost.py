"""The measured cost of trials, and the estimated cost of a plan that was not run.

Measured cost comes from the `TrialCost` of each trial: device time is wall time × devices. A plan
that was not run is estimated at the mean cost of the measured trials and is always named. No torch.

`trial_flops` counts only the products with weights, so it underestimates attention over long
sequences and generation token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from plop_lora.records import CostLedger, Counterfactual, Spent, TrialCost, TrialResult
from plop_lora.records.trial import CONFIRM

USUAL_PLACEMENTS = 6
"""The number of placements in the plan of a full search, which has no scores."""
HOUR = 3600.0

Costs = Iterable[TrialCost | TrialResult]
"""Trials, by their results or by the cost in them."""


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search that was not run: its description in the report and its number of full trials."""

    text: str
    trials: int


def full_search(arms: int = USUAL_PLACEMENTS, rates: int = 3, seeds: int = 5) -> SearchPlan:
    """Return the plan of a full search: every placement at every learning rate and seed.

    >>> full_search(rates=3, seeds=5)
    SearchPlan(text='every usual placement (6) × learning-rate ladder (3) × seeds (5)', trials=90)
    """
    text = f"every usual placement ({arms}) × learning-rate ladder ({rates}) × seeds ({seeds})"
    return SearchPlan(text, arms * rates * seeds)


def spent(what: str, results: Costs, price: float | None) -> Spent:
    """Return the total cost of trials, including failed ones, which used the hardware as well.

    Args:
        what: Name of the part of the run.
        results: Trials of this part. Without any, every sum is 0 and there are no GPU-hours.
        price: Price of a device-hour, or None.
    """
    costs = [_cost(result) for result in results]
    device_seconds = sum(cost.device_seconds for cost in costs)
    on_gpus = [cost.device_seconds for cost in costs if cost.accelerator]
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


def ledger(
    parts: Mapping[str, Sequence[TrialCost | TrialResult]],
    price: float | None,
    currency: str,
    search: SearchPlan | None = None,
    *,
    full: str = CONFIRM,
) -> CostLedger:
    """Return the cost by part and in total, and the estimated cost of the plan.

    Args:
        parts: Trials by the name of the part, in the order of the report.
        price: Price of a device-hour, or None.
        currency: Currency of the price.
        search: Plan to compare with, or None.
        full: Name of the part whose trials have full length, at whose mean cost the plan is
            estimated. Without a finished trial in it there is no comparison.
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
    """Estimate the cost of a plan from the mean of finished trials; failed ones end early."""
    done = [_cost(t) for t in trials if not isinstance(t, TrialResult) or t.done]
    if plan is None or not done:
        return None
    device_seconds = plan.trials * fmean(cost.device_seconds for cost in done)
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
