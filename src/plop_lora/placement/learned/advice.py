"""What a learned model says of the placements of a model: one of them, or the default. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import numpy as np

from plop_lora.placement.learned.features import placement_features
from plop_lora.placement.learned.fit import ALONE, DEFAULT
from plop_lora.records import HistoryType, LearnedModel

FILE = "study.json"
_DEFAULT = "this is the default placement"


@dataclass(frozen=True, slots=True)
class Advice:
    """The arm that a learned model chooses, and why; `DEFAULT` where it leaves the choice alone."""

    arm: str
    note: str


@cache
def study_model() -> LearnedModel:
    """Return the model that is fitted on the study of this project, and comes with the package."""
    with as_file(files(__package__) / FILE) as path:
        return LearnedModel.load(path)


def advise(
    types: Sequence[HistoryType], placements: Mapping[str, Sequence[str]], model: LearnedModel
) -> Advice:
    """Return which of the placements a learned model chooses.

    It keeps the default where its gain on left-out networks is not surely above 0, where it has
    never seen a module type of this kind, or where the scores lack an indicator that it needs.

    Args:
        types: Module types of the model.
        placements: Module types of each placement by its name; the default is among them.
        model: Learned model.
    """
    if model.abstains:
        return Advice(DEFAULT, f"learned: abstains, because {worth(model)}; {_DEFAULT}")
    unseen = [row.type for row in types if row.part not in model.parts]
    if unseen:
        return Advice(
            DEFAULT,
            f"learned: it was never fitted on types such as {', '.join(unseen)}, only on "
            f"{', '.join(model.parts)}; {_DEFAULT}",
        )
    lacking = [name for name in model.further if any(name not in row.further for row in types)]
    if lacking:
        return Advice(
            DEFAULT,
            f"learned: the scores lack {', '.join(lacking)}, which it needs; score with "
            f"--indicator {' --indicator '.join(lacking)}. Until then {_DEFAULT}",
        )
    return _best(types, placements, model)


def _best(
    types: Sequence[HistoryType], placements: Mapping[str, Sequence[str]], model: LearnedModel
) -> Advice:
    """Return the placement of highest predicted gain, of those that the history has tried.

    One type alone counts as tried where any was trained alone: names differ between models.
    """
    tried = {arm.arm for pair in model.history for arm in pair.arms}
    alone = any(name.startswith(ALONE) for name in tried)
    names = [name for name in placements if name in tried or (alone and name.startswith(ALONE))]
    rows = placement_features(types, [placements[name] for name in names], model.features)
    predicted = {
        name: float(np.dot(row, model.coefficients)) for name, row in zip(names, rows, strict=True)
    }
    best = min(names, key=lambda name: (-predicted[name], name != DEFAULT, name))
    if best == DEFAULT:
        return Advice(DEFAULT, f"learned: prefers the default placement; {worth(model)}")
    more = predicted[best] - predicted[DEFAULT]
    return Advice(
        best,
        f"learned: chooses {best}, with a predicted gain of {more:.1%} of the best gain over the "
        f"default placement; {worth(model)}",
    )


def worth(model: LearnedModel) -> str:
    """Say what a learned model gains over the default placement on networks left out of the fit."""
    if model.gain is None:
        return "it was fitted on one network, and nothing is known of another"
    bounds = "with no interval"
    if model.low is not None and model.high is not None:
        bounds = f"95 % interval {model.low:+.1%} to {model.high:+.1%}"
    return (
        f"on {model.networks} networks, each left out of the fit in turn, it gains "
        f"{model.gain:+.1%} of the best gain over the default placement ({bounds})"
    )
