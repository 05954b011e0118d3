"""The step: from a recipe to two files of rows and a record of what was done with them.

No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora._version import __version__
from plop_lora.acquisition.leakage import by_evaluation, leaked_pairs
from plop_lora.acquisition.ngrams import Cutter, unit_of
from plop_lora.acquisition.passages import Passage, passages_of
from plop_lora.acquisition.personal import Detection, places_in
from plop_lora.acquisition.rowsets import (
    PASSAGE_SIZES,
    RowSet,
    near_size,
    without_duplicates,
    without_empty,
)
from plop_lora.acquisition.sources import Source, read_source
from plop_lora.acquisition.splitting import held_out
from plop_lora.acquisition.writing import check_folder, json_lines, sha256, write_folder
from plop_lora.errors import DataError
from plop_lora.escapes import escaped
from plop_lora.recipe import AcquireRecipe
from plop_lora.recipe.acquire import REMOVE, PersonalSettings
from plop_lora.records import Acquisition, DataSource, Leak, PersonalPlace, Reason, RowFinding, Side

LEAST_ROWS = 16
"""Fewer rows of a set than this cannot tell placements apart; `plop verify` refuses them."""
MOST_PIECES = 50_000_000
"""The largest number of words or characters; each takes about 100 bytes while rows are compared."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Both sets, and what was found in them so far."""

    train: RowSet
    evaluation: RowSet
    findings: tuple[RowFinding, ...] = ()
    leaks: tuple[Leak, ...] = ()
    personal: tuple[PersonalPlace, ...] = ()
    detectors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def acquire(
    recipe: AcquireRecipe | Mapping[str, object] | str | Path | None = None,
    folder: str | Path = "acquired",
    **settings: object,
) -> Acquisition:
    r"""Read rows, hold out evaluation rows, find repeated and leaked rows, and write a folder.

    The folder gets `train.jsonl`, `eval.jsonl` and `acquisition.json`; the same inputs give the
    same bytes. Where the settings refuse what was found, nothing is written; the `exit_code` of
    the record is 3 then.

    Args:
        recipe: A recipe, its keys, or the path of a YAML file.
        folder: Folder to be written: a new one, an empty one, or an earlier acquisition, which is
            replaced.
        settings: Keys of the recipe, which take precedence.

    Raises:
        DataError: The data cannot be found, read or split, or no rows are left.
        UsageError: The recipe cannot work as given, or the folder holds something else.
        OutputError: The folder cannot be written.

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> here = Path(tempfile.mkdtemp())
    >>> texts = ["One row.", "Another one.", "one  ROW.", "A third."]
    >>> lines = [json.dumps({"text": text}) for text in texts]
    >>> _ = (here / "rows.jsonl").write_text("\n".join(lines))
    >>> found = acquire(train=str(here / "rows.jsonl"), folder=here / "acquired")
    >>> found.train_rows, found.eval_rows, [(str(f.reason), f.rows) for f in found.findings]
    (2, 1, [('exact duplicate', (3,))])
    """
    wanted = AcquireRecipe.of(recipe, settings)
    folder = Path(folder)
    check_folder(folder, wanted.train, wanted.eval)
    named = {Side.TRAIN: wanted.train, Side.EVAL: wanted.eval}
    sets, unit = _read({side: name for side, name in named.items() if name is not None}, wanted)
    found = _without_leaks(_deduplicated(sets, unit, wanted), unit, wanted)
    found = _without_personal(found, wanted.acquire.personal)
    for rows in (found.train, found.evaluation):
        _check_left(rows, found.findings)
    return _written(found, sets, unit, wanted, folder)


def _read(named: Mapping[Side, str], recipe: AcquireRecipe) -> tuple[list[RowSet], str]:
    """Return all rows of the sources by set, and what their n-grams are made of."""
    settings = recipe.acquire
    sources = [read_source(name, settings.revision, settings.licence) for name in named.values()]
    passages = [passages_of(source.rows, source.name, recipe) for source in sources]
    _check_fields(sources, [found.fields for found in passages])
    texts = (text.whole for found in passages for text in found.items if text is not None)
    cutter = Cutter(unit_of(settings.unit, texts))
    sets = [RowSet.of(*parts, cutter) for parts in zip(named, sources, passages, strict=True)]
    _check_size(sets, cutter.unit)
    return sets, cutter.unit


def _check_size(sets: Iterable[RowSet], unit: str) -> None:
    """Refuse more text than can be compared in memory, before it fills up."""
    pieces = sum(len(asked) + len(answered) for rows in sets for asked, answered in rows.cuts)
    if pieces > MOST_PIECES:
        raise DataError(
            f"The rows have {pieces:,} {unit}, and {MOST_PIECES:,} are the most that are compared "
            "at once. Acquire a part of the rows at a time, or a sample of them."
        )


def _check_fields(sources: Sequence[Source], fields: Sequence[str]) -> None:
    """Refuse sets whose texts stand in different fields, which would be different tasks."""
    if len(set(fields)) > 1:
        train, evaluation = sources
        raise DataError(
            f"{train.name} is read by {fields[0]}, but {evaluation.name} by {fields[1]}. Rename "
            "fields, or name those of both with --text, or with --prompt and --completion."
        )


def _deduplicated(sets: Iterable[RowSet], unit: str, recipe: AcquireRecipe) -> _Found:
    """Return both sets without repeated rows; evaluation rows are held out where none are given."""
    left, findings = [], []
    for rows in sets:
        rows, empty = without_empty(rows)
        rows, repeated = without_duplicates(rows, unit, recipe.acquire)
        left.append(rows)
        findings += [*empty, *repeated]
    train, evaluation = left if len(left) == 2 else _split(left[0], findings, recipe)
    return _Found(train, evaluation, tuple(findings))


def _split(
    rows: RowSet, findings: Iterable[RowFinding], recipe: AcquireRecipe
) -> tuple[RowSet, RowSet]:
    _check_left(rows, findings)
    chosen = held_out(
        rows.rows, rows.texts, rows.numbers, rows.source.name,
        split=recipe.acquire.split, seed=recipe.seed,
    )  # fmt: skip
    sides = [
        tuple(index for place, index in enumerate(rows.kept) if (place in chosen) is held)
        for held in (False, True)
    ]
    return replace(rows, kept=sides[0]), replace(rows, side=Side.EVAL, kept=sides[1])


def _check_left(rows: RowSet, findings: Iterable[RowFinding]) -> None:
    if rows.kept:
        return
    reasons = ", ".join(
        f"{len(found.rows)} {found.reason}"
        for found in findings
        if found.side is rows.side and found.action == REMOVE
    )
    raise DataError(
        f"No {rows.side} rows of {rows.source.name} are left ({reasons or 'all held out'}). Give "
        "more rows, or keep what was removed with --set acquire.exact=count, "
        "acquire.near.action=count or acquire.leakage.action=count."
    )


def _without_leaks(found: _Found, unit: str, recipe: AcquireRecipe) -> _Found:
    """Remove the training rows that hold an evaluation row, or do what the settings say."""
    settings, train, evaluation = recipe.acquire, found.train, found.evaluation
    leakage = settings.leakage
    pairs = leaked_pairs(
        evaluation.asked,
        train.asked,
        near=(near_size(settings.near, unit), settings.near.threshold),
        passage=(leakage.ngram or PASSAGE_SIZES[unit], leakage.share),
    )
    numbers, held = train.numbers, evaluation.numbers
    leaks = tuple(
        Leak(
            row=held[row],
            train_rows=tuple(numbers[other] for other in others),
            share=round(share, 4),
        )
        for row, (others, share) in by_evaluation(pairs).items()
    )
    holders = {other for _, other in pairs}
    train, more = train.found(holders, Reason.LEAKED, leakage.action)
    return replace(found, train=train, leaks=leaks, findings=(*found.findings, *more))


def _without_personal(found: _Found, settings: PersonalSettings) -> _Found:
    """Look for personal data and secrets in the rows that are left of both sets."""
    sides, places = [], []
    findings = list(found.findings)
    with Detection.opened(settings) as detection:
        for rows in (found.train, found.evaluation):
            here = places_in(rows.side, rows.rows, rows.numbers, detection.find)
            numbers = {place.row for place in here}
            held = [place for place, number in enumerate(rows.numbers) if number in numbers]
            left, more = rows.found(held, Reason.PERSONAL, settings.action)
            sides.append(left)
            places += here
            findings += more
    notes = [
        f"{name} is not installed, which finds more; install it with pip install 'plop-lora[data]'"
        for name in detection.missing
    ]
    return replace(
        found,
        train=sides[0],
        evaluation=sides[1],
        findings=tuple(findings),
        personal=tuple(places),
        detectors=detection.detectors,
        notes=tuple(notes),
    )


def _written(
    found: _Found, sets: Iterable[RowSet], unit: str, recipe: AcquireRecipe, folder: Path
) -> Acquisition:
    """Write the folder unless the settings refuse what was found, and return the record."""
    train, evaluation = (
        json_lines(rows.rows, rows.numbers, rows.source.name)
        for rows in (found.train, found.evaluation)
    )
    record = Acquisition(
        task=recipe.task,
        sources=tuple(map(_source, sets)),
        held_out=recipe.eval is None,
        train_rows=len(found.train.kept),
        eval_rows=len(found.evaluation.kept),
        train_sha256=sha256(train),
        eval_sha256=sha256(evaluation),
        unit=unit,
        findings=found.findings,
        leaks=found.leaks,
        personal=found.personal,
        detectors=found.detectors,
        notes=(*found.notes, *_notes(found)),
        recipe=recipe.model_dump(mode="json"),
        plop_version=__version__,
    )
    if record.refused:
        return replace(record, train_sha256=None, eval_sha256=None)
    write_folder(folder, train, evaluation, record)
    return record


def _source(rows: RowSet) -> DataSource:
    return DataSource(
        side=rows.side,
        name=escaped(rows.source.name),
        sha256=rows.source.sha256,
        revision=rows.source.revision,
        rows=len(rows.source.rows),
        fields=escaped(rows.passages.fields),
        licence=rows.source.licence.text,
        licence_from=rows.source.licence.stands_in,
    )


def _notes(found: _Found) -> Iterable[str]:
    """Yield what a reader should know of the rows that are left."""
    for rows in (found.train, found.evaluation):
        if len(rows.kept) < LEAST_ROWS:
            yield (
                f"the number of {rows.side} rows is {len(rows.kept)}, and plop verify needs "
                f"{LEAST_ROWS} or more"
            )
        contradicted = _contradicted(rows.texts)
        if contradicted:
            yield f"texts with more than one label among the {rows.side} rows: {contradicted}"


def _contradicted(texts: Iterable[Passage]) -> int:
    """Return the number of texts that stand with more than one label."""
    labels: dict[str, set[str]] = {}
    for text in texts:
        if text.label is not None:
            labels.setdefault(text.whole, set()).add(text.label)
    return sum(len(different) > 1 for different in labels.values())
