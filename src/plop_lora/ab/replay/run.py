"""Run a replay: read the prompts, ask what is not known, and compare. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from plop_lora import __version__
from plop_lora.ab.replay.asking import Asker
from plop_lora.ab.replay.measures import adjusted, compared
from plop_lora.ab.replay.metrics import METRICS, OWN_METRIC, UNSAFE, ReplayMetric, Values
from plop_lora.ab.replay.outcomes import Answers, Asking, Outcome, kept_answers
from plop_lora.ab.replay.prompts import ReplayPrompt, ReplayPrompts, read_replay_prompts
from plop_lora.ab.replay.settings import ReplaySettings
from plop_lora.errors import MachineError, UsageError
from plop_lora.evaluation.judges import each_answered
from plop_lora.records import IdenticalShare, Replay, ReplayArm, ReplayMeasure
from plop_lora.statistics import exact_interval

Watch = Callable[[str, int, int], None]
Valued = tuple[ReplayMetric, dict[str, Values]]
"""A metric, and its values at each arm."""


def replay(
    prompts: str | Path,
    settings: ReplaySettings,
    *,
    answers: Path | None = None,
    again: bool = False,
    watch: Watch = lambda what, done, count: None,
) -> Replay:
    """Send logged prompts to all arms, and compare the answers pair by pair.

    Args:
        prompts: JSON Lines with `messages` or `prompt` in each row.
        settings: Where the arms are served, and how they are asked and compared.
        answers: File in which the answers are kept, so that an interrupted replay goes on; None
            keeps them in memory only.
        again: Whether prompts that failed at an arm are asked again.
        watch: Function that is called with a word, the number of prompts that are done, and of all.

    Raises:
        DataError: The prompts cannot be read, a row is wrong, or a metric of the user's fails.
        MachineError: The endpoint or the judge cannot be reached, or takes no more requests.
        OutputError: The file of answers cannot be written.
        RecordError: The file of answers is damaged or of another kind.
        UsageError: The endpoint refuses the key or a model, or the file holds other answers.
    """
    read = read_replay_prompts(Path(prompts))
    if settings.judge is not None:
        settings.judge.check()
    with kept_answers(answers, _asking(read, settings), len(read.prompts)) as known:
        notes = _ask(read.prompts, settings, known, again=again, watch=watch, answers=answers)
    outcomes = {
        arm: [known.known[index][arm] for index in range(len(read.prompts))]
        for arm in settings.models
    }
    return _record(read, settings, outcomes, notes)


def _asking(read: ReplayPrompts, settings: ReplaySettings) -> Asking:
    return Asking(
        prompts=read.digest,
        url=settings.url.rstrip("/"),
        models=dict(settings.models),
        adapters={arm: settings.digest_of(arm) for arm in settings.models},
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _ask(
    prompts: Sequence[ReplayPrompt],
    settings: ReplaySettings,
    known: Answers,
    *,
    again: bool,
    watch: Watch,
    answers: Path | None,
) -> tuple[str, ...]:
    """Ask the prompts that are not known; return what is to be noted."""
    missing = known.missing(len(prompts), again=again)
    done = len(prompts) - len(missing)
    if not missing:
        return ()
    asker = Asker.of(settings)
    with asker.client:
        notes = asker.warm_up(not isinstance(prompts[missing[0]].asked, str))
        found = each_answered(
            missing, lambda index: asker.ask_all(prompts[index], index), settings.concurrency
        )
        try:
            for index, outcomes in found:
                known.add(index, outcomes)
                done += 1
                watch("prompts", done, len(prompts))
        except (MachineError, UsageError) as error:
            kept = "none of them is kept in a file"
            if answers is not None:
                kept = f"they are kept in {answers}. Run the same command again to go on"
            raise type(error)(
                f"{error} {done} of {len(prompts)} prompts are answered, and {kept}."
            ) from None
    return notes


# --------------------------------------------------------------------------- the record


def _record(
    read: ReplayPrompts,
    settings: ReplaySettings,
    outcomes: dict[str, list[Outcome]],
    notes: tuple[str, ...],
) -> Replay:
    units = [prompt.unit for prompt in read.prompts]
    measures = []
    for metric, values in _valued(read.prompts, settings, outcomes):
        for arm in settings.candidates:
            pair = (values[settings.control], values[arm])
            margin = settings.margins.get(metric.name)
            measures.append(compared(metric, arm, pair, units, margin))
    experiment = settings.experiment
    return Replay(
        source=read.source,
        prompts=len(read.prompts),
        units=read.units,
        prompts_digest=read.digest,
        upstream=settings.url,
        control=settings.control,
        arms=tuple(_arm(settings, arm, outcomes) for arm in settings.models),
        measures=adjusted([one for one in measures if one is not None]),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
        concurrency=settings.concurrency,
        experiment=None if experiment is None else experiment.name,
        experiment_digest=None if experiment is None else experiment.digest(),
        judge=None if settings.judge is None else settings.judge.identity,
        plop_version=__version__,
        notes=(*notes, *_notes(read, outcomes, [one for one in measures if one is not None])),
    )


def _arm(settings: ReplaySettings, arm: str, outcomes: dict[str, list[Outcome]]) -> ReplayArm:
    failures = Counter(one.failed for one in outcomes[arm] if one.failed)
    pairs = [
        (before.text, after.text)
        for before, after in zip(outcomes[settings.control], outcomes[arm], strict=True)
        if not before.failed and not after.failed
    ]
    identical = None
    if arm != settings.control and pairs:
        bounds = exact_interval(sum(a == b for a, b in pairs) / len(pairs), len(pairs))
        identical = IdenticalShare(
            prompts=len(pairs), share=bounds.value, low=bounds.low, high=bounds.high
        )
    return ReplayArm(
        name=arm,
        model=settings.models[arm],
        adapter_digest=settings.digest_of(arm),
        answered=len(outcomes[arm]) - failures.total(),
        failures=dict(sorted(failures.items())),
        identical=identical,
    )


def _valued(
    prompts: Sequence[ReplayPrompt], settings: ReplaySettings, outcomes: dict[str, list[Outcome]]
) -> list[Valued]:
    """Return the values of all metrics at all arms."""
    found: list[Valued] = [
        (
            metric,
            {
                arm: [metric.of(*pair) for pair in zip(prompts, own, strict=True)]
                for arm, own in outcomes.items()
            },
        )
        for metric in METRICS.values()
    ]
    judge, function = settings.judge, settings.metric
    if judge is not None:
        judged = _of_answers(prompts, outcomes, lambda rows, texts: judge.judge(
            [row.text for row in rows], texts
        ))  # fmt: skip
        found.append((UNSAFE, judged))
    if function is not None:
        found.append((OWN_METRIC, _of_answers(prompts, outcomes, _own(function))))
    return found


Value = Callable[[list[ReplayPrompt], list[str]], Sequence[float | None]]


def _own(function: str) -> Value:
    """Return what values answers by a function of the user's."""
    from plop_lora.evaluation.metrics import judged_by_user
    from plop_lora.user_code import find_function

    judge = find_function(function, "metric", ())
    return lambda rows, texts: judged_by_user(
        function, judge, [row.asked for row in rows], texts, [row.row for row in rows]
    )


def _of_answers(
    prompts: Sequence[ReplayPrompt], outcomes: dict[str, list[Outcome]], value: Value
) -> dict[str, Values]:
    """Return what values the answers of all arms at once; None where there is no answer."""
    places = [
        (arm, index)
        for arm, own in outcomes.items()
        for index, one in enumerate(own)
        if not one.failed
    ]
    rows = [prompts[index] for _, index in places]
    texts = [outcomes[arm][index].text for arm, index in places]
    known = dict(zip(places, value(rows, texts), strict=True)) if places else {}
    return {arm: [known.get((arm, index)) for index in range(len(prompts))] for arm in outcomes}


def _notes(
    read: ReplayPrompts, outcomes: dict[str, list[Outcome]], measures: Sequence[ReplayMeasure]
) -> tuple[str, ...]:
    notes = []
    if read.answers_left_out:
        notes.append(f"the last answer of {read.answers_left_out} chats was left out")
    for arm, own in outcomes.items():
        first = next((one for one in own if one.failed), None)
        if first is not None:
            notes.append(f"the first failure at {arm}: {first.failed}: {first.detail}")
    seen = {one.metric for one in measures}
    lacking = [name for name in METRICS if name not in seen]
    if lacking:
        notes.append(f"no prompt has a value at both arms of {', '.join(lacking)}")
    return tuple(notes)
