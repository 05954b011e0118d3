"""How far the differences of two arms spread, by task, as measured in this project's own trials.

A plan is made before anything has run, so it needs spreads from elsewhere. These are the root mean
squares over all arms of the complete pairs of the study, but for the small networks that this
project has pretrained (`scripts/experiments/spreads.py` prints them from the records), and of
`scripts/experiments/results/grpo.json` for GRPO, which records no rows: its noise is in the spread
of seeds, and its rows are those of the classification. Other models and data spread otherwise; a
plan is an estimate. Pure; no torch.
"""

from __future__ import annotations

from plop_lora.recipe.verify import LOSS
from plop_lora.statistics import Components
from plop_lora.study.study import Study

OF_LOSS = {
    "sft": Components(seed_sd=0.0093, item_sd=0.067, noise_sd=0.069),
    "classify": Components(seed_sd=0.0496, item_sd=0.340, noise_sd=0.551),
}
"""Nats a token, or a row, by task."""
OF_ANSWERS = {
    "classify": Components(seed_sd=0.0352, item_sd=0.147, noise_sd=0.391),
    "grpo": Components(seed_sd=0.0090, item_sd=0.147, noise_sd=0.0),
}
"""Share of right answers, by task."""


def spread_of(study: Study, outcome: str) -> Components:
    """Return the spread of a task, or that of the most similar one that was measured."""
    if outcome == LOSS:
        return OF_LOSS.get(study.task.name, OF_LOSS["sft"])
    return OF_ANSWERS.get(study.task.name, OF_ANSWERS["classify"])
