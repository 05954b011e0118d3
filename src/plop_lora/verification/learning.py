"""Learn a placement rule from finished verifications: what the verb `plop learn` does. No torch.

A verification is read from its folder: the record, the scores that its arms were made from, and the
specifications of its trials, which name the weights of every arm. Of these only names of module
types, numbers, and keys of the model and the record are taken over; no row and no text is read.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from plop_lora.errors import RecordError, UsageError
from plop_lora.indicators import recorded_indicator
from plop_lora.placement import groups_of
from plop_lora.placement.learned import fit, further_indicators, history_types, study_model
from plop_lora.records import (
    HistoryArm,
    HistoryPair,
    LearnedModel,
    ModelReference,
    Scores,
    TrialSpec,
    Verification,
)
from plop_lora.study.folder import RECORD, SCORES, TRIALS
from plop_lora.training.folder import SPEC
from plop_lora.verification.design import UNTRAINED_MODEL

_NAME_DIGITS = 8


def learn(
    histories: Iterable[str | Path],
    *,
    base: LearnedModel | str | Path | None = None,
    only: bool = False,
    indicators: Sequence[str] = (),
) -> LearnedModel:
    """Fit a learned model with finished verifications.

    Args:
        histories: Folders of verifications, or the records in them.
        base: Learned model whose history is kept; None takes the one that comes with the package.
        only: Whether the history of `base` is left out.
        indicators: Further indicators to learn from, which the scores of every history must hold.

    Raises:
        RecordError: A file is missing, damaged, of another kind or of a newer schema.
        UsageError: A history teaches nothing, or lacks an indicator.
        MissingExtraError: scikit-learn is not installed.
    """
    names = [recorded_indicator(name).name for name in indicators]
    found: dict[str, HistoryPair] = {}
    if not only:
        known = study_model() if base is None else LearnedModel.of(base)
        found |= {pair.source + pair.name: pair for pair in known.history}
    for path in histories:
        pair = history_of(Path(path), names)
        found[pair.source + pair.name] = pair
    return fit(tuple(found.values()), names)


def history_of(path: Path, further: Sequence[str] = ()) -> HistoryPair:
    """Return what a finished verification teaches.

    Args:
        path: Folder of the verification, or the record in it.
        further: Names of further indicators.

    Raises:
        RecordError: A file is missing, damaged, of another kind or of a newer schema.
        UsageError: It was a smoke test, or says nothing of the untrained model or its arms.
    """
    folder = path if path.is_dir() else path.parent
    record = Verification.load(folder / RECORD if path.is_dir() else path)
    scores = _scores_of(record, folder)
    if record.quick:
        raise UsageError(
            f"{path} was a smoke test, whose trials are too short to learn from. Verify without "
            "--quick."
        )
    return HistoryPair(
        name=f"{Path(record.model.name).name}, {record.task}, {record.digest()[:_NAME_DIGITS]}",
        network=network_key(record.model),
        metric=record.metric,
        source=record.digest(),
        types=history_types(groups_of(scores), further_indicators(scores, further)),
        arms=_arms_of(record, folder),
    )


def network_key(model: ModelReference) -> str:
    """Return a key that is the same for all models of one configuration, whatever their folder."""
    known = model.config_hash or hashlib.sha256(model.name.encode()).hexdigest()[:16]
    return f"{model.architecture} {known}"


def _scores_of(record: Verification, folder: Path) -> Scores:
    scores = Scores.load(folder / SCORES)
    if record.scores_digest != scores.digest():
        raise RecordError(
            f"{folder / SCORES} are not the scores that {folder / RECORD} was made from. Give the "
            "folder of one verification, as plop verify has left it."
        )
    return scores


def _arms_of(record: Verification, folder: Path) -> tuple[HistoryArm, ...]:
    """Return the arms with their gains; one whose types differ between seeds is left out."""
    untrained = next((row.value for row in record.references if row.name == UNTRAINED_MODEL), None)
    if untrained is None:
        raise UsageError(
            f"{folder / RECORD} does not say what the untrained model reaches, so that it says no "
            "gains. Verify again with this release."
        )
    types = _trained_types(folder)
    sign = 1 if record.higher_is_better else -1
    arms = tuple(
        HistoryArm(arm=arm.arm, types=types[arm.arm], gain=sign * (arm.mean - untrained))
        for arm in record.arms
        if arm.mean is not None and arm.arm in types
    )
    if not arms:
        raise UsageError(
            f"The folder {folder / TRIALS} has no trials of the arms of {folder / RECORD}, so that "
            "their module types are not known. Give the folder of the run, with its trials."
        )
    return arms


def _trained_types(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the module types of every arm, from the specifications of its trials."""
    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in sorted((folder / TRIALS).glob(f"*/{SPEC}")):
        spec = TrialSpec.load(path)
        found[spec.arm].add(tuple(sorted({site.type for site in spec.placement.sites})))
    return {arm: next(iter(types)) for arm, types in found.items() if len(types) == 1}
