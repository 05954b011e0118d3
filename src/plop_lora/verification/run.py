"""The step `verify`: every check first, then the ladder, then the confirmation, then the verdict.

What is finished stays in the folder, so that a run that was stopped at any moment goes on where it
was when it is called again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from plop_lora.indicators.signal import Signal
from plop_lora.recipe import VerifyDesign, VerifyRecipe
from plop_lora.records import Scores, TrialResult, TrialSpec, Verification, VerificationPlan
from plop_lora.study.folder import RECORD, VERIFY, check_disk, check_owner, default_folder, keep
from plop_lora.study.splits import REPORT
from plop_lora.study.study import Study
from plop_lora.training.runners.events import ArmEnded, RunTrials, Watch, ignore, runner_of
from plop_lora.verification.design import (
    Design,
    arm_names,
    confirm_specs,
    make_design,
    untrained_spec,
)
from plop_lora.verification.judged_before import judged_before
from plop_lora.verification.ladder import Run as Go
from plop_lora.verification.ladder import choose_rates, climb, known_ladder, ladder_specs
from plop_lora.verification.outcome import conclude
from plop_lora.verification.plan import make_plan, planned_confirm
from plop_lora.verification.signals import measure_signals, measured_arms
from plop_lora.verification.trials import Trials, compared_arms, course_of, screened_out


def verify(
    scores: Scores | str | Path,
    recipe: VerifyRecipe | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    run: RunTrials | None = None,
    watch: Watch = ignore,
    **settings: object,
) -> Verification:
    """Prove a shortlist with finetunes of rival placements at an equal budget.

    Every arm gets the same parameters, rows, order of rows, seeds and number of learning rates;
    rates are chosen on a split that is neither trained on nor reported. Called again with the
    same folder it repeats no finished trial, also with more seeds or further arms.

    Args:
        scores: result of `score`, or the file of one.
        recipe: task, data, arms, seeds, margin and the rest, or the YAML file that has them.
        folder: of the run; by default one beside the working directory, named by recipe and
            scores. It gets the splits, every trial with its adapter, and the record.
        run: goes through the trials; by default processes here, or Ray as the recipe says.
        watch: told of every trial that starts or ends.
        settings: keys of the recipe, such as `task="sft", train="train.jsonl",
            eval="eval.jsonl", seeds=3`; they take the place of its values.

    Returns:
        Arms ranked, with differences, intervals and the verdict; its `exit_code` is 0 confirmed,
        3 beaten, 4 cannot separate.

    Raises:
        DataError: rows that are missing, unreadable, too few, or evaluated and trained on.
        UsageError: a recipe that cannot work, or a folder that belongs to another.
        ModelError: the task does not fit the model.
        MissingExtraError: the trainer of the task is not installed.
        OutputError: the folder cannot be written, or the disk is too small.
        MeasurementError: the shortlist, or every rival, failed in all of its trials.
    """
    scores, recipe = Scores.of(scores), VerifyRecipe.of(recipe, settings)
    root = default_folder(recipe, scores) if folder is None else Path(folder)
    known = _opened(scores, recipe, root)
    study = known.study
    study.check([arm.placements[0] for arm in known.arms])
    trials_an_arm = 2 * len(known.rates) + len(known.seeds)
    check_disk(root, len(arm_names(recipe)) * trials_an_arm, study.budget)
    study.claim(VERIFY)
    keep(root, recipe, scores)
    signals = measure_signals(study, arm_names(recipe))
    design = make_design(study, recipe, signals=signals) if signals else known
    design = replace(design, notes=(*design.notes, *judged_before(root, design)))
    with runner_of(run) as run_trials:
        trials = _run_all(design, signals, run_trials, watch)
    record = conclude(design, trials)
    record.save(root / RECORD)
    return record


def _run_all(design: Design, signals: Mapping[str, Signal], run: RunTrials, watch: Watch) -> Trials:
    """Run the ladder, the model as it was, and the confirmation until no look wants more."""

    def go(specs: Sequence[TrialSpec]) -> tuple[TrialResult, ...]:
        return design.study.run(specs, run, watch)

    ladder = climb(design, go)
    rates = choose_rates(ladder)
    (untrained,) = go([untrained_spec(design, REPORT)])
    trials = Trials(tuple(signals.values()), ladder, rates, untrained)
    return _confirm(design, trials, go, watch)


def _confirm(design: Design, trials: Trials, go: Go, watch: Watch) -> Trials:
    """Train the arms seed by seed, until no look wants more, and tell which are settled."""
    told: dict[str, str] = {}
    while True:
        course = course_of(design, trials)
        endings = {**screened_out(design, trials), **course.endings}
        for arm, why in endings.items():
            if arm not in told:
                watch(ArmEnded(arm, why))
        told |= endings
        if course.next is None:
            return trials
        open_arms = [arm for arm in compared_arms(design, trials) if arm not in endings]
        others = [result for result in trials.confirm if result.arm not in open_arms]
        specs = confirm_specs(design, trials.rates.best, open_arms, course.next.seeds)
        trials = replace(trials, confirm=(*others, *go(specs)))


def plan(
    scores: Scores | str | Path,
    recipe: VerifyRecipe | str | Path | None = None,
    *,
    folder: str | Path | None = None,
    **settings: object,
) -> VerificationPlan:
    """Return what `verify` would run, how long, for how much; run and write nothing.

    Args:
        scores: as for `verify`.
        recipe: as for `verify`.
        folder: finished trials in it say what a trial takes; without any, arithmetic does.
        settings: as for `verify`.

    Raises:
        DataError, UsageError, ModelError: as `verify` would.
    """
    scores, recipe = Scores.of(scores), VerifyRecipe.of(recipe, settings)
    root = default_folder(recipe, scores) if folder is None else Path(folder)
    design = _opened(scores, recipe, root)
    ladder = known_ladder(design)
    wanted = (*ladder_specs(ladder), *planned_confirm(ladder))
    finished = (*ladder.results, *design.study.finished(wanted))
    return make_plan(ladder, finished, unmeasured=measured_arms(arm_names(recipe)))


def _opened(scores: Scores, recipe: VerifyRecipe, folder: Path) -> Design:
    """Find every fault that can be found without running anything or loading a model.

    The arms that follow a signal are left out: it is measured when the run begins.
    """
    check_owner(folder, recipe, scores)
    study = Study.open(scores, recipe, folder)
    design = make_design(study, recipe, names=_plain_arms(recipe))
    study.task.check_length(study.training, design.ladder.rows)
    return design


def _plain_arms(wanted: VerifyDesign) -> list[str] | None:
    """Return the arms that need no signal; None leaves those of the design as they are."""
    measured = measured_arms(arm_names(wanted))
    return [name for name in arm_names(wanted) if name not in measured] if measured else None
