"""Events from a file of the user's: one value a row, or one unit a row with a column a value.

Rows are streamed, so that a large file does not need to fit into memory. Imports no torch and no
database.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from plop_lora.ab.events import (
    BEFORE,
    EXPOSURE,
    ROUTER_VALUES,
    VALUE,
    Event,
    EventKind,
    exposure,
    measured,
)
from plop_lora.ab.store.checks import check_events
from plop_lora.data.lines import STDIN, DataFile
from plop_lora.data.reading import Row, numbered_rows
from plop_lora.errors import DataError, UnknownNameError, UsageError, nearest
from plop_lora.records import Experiment

COLUMNS = ("unit", "at", "arm", "name", "value", "id", "kind")
"""Columns with a meaning of their own; every other one is a value of that name."""
_NEEDED = ("unit", "at")
_REPORTED = 10_000
"""Rows after which the progress is told again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFile:
    """A file of events of an experiment, which may be gone through several times.

    A row has a `unit` and the time `at`. With an `arm` it says that the unit met the arm. A `name`
    with its `value`, or any other column that is named like a value of the experiment, is a value
    of the unit. The `kind` "before" makes it one from before the experiment. An `id` makes the row
    count once however often it is imported; a row without one is identified by its content, and by
    how many rows of the same content stand before it.

    Attributes:
        file: File of .csv, .tsv, .jsonl or .parquet, or standard input.
        experiment: Experiment that the events belong to.
        timezone: Time zone of times that have none; None refuses them.
        unknown: Name of a value that the experiment does not have → rows that have it. Filled
            while the events are read.
    """

    file: DataFile
    experiment: Experiment
    timezone: tzinfo | None = None
    unknown: Counter[str] = field(default_factory=Counter)

    def events(self, told: Callable[[int], None] = lambda rows: None) -> Iterator[Event]:
        """Yield the events of the file in its order.

        Args:
            told: Function that is called with the number of rows read, now and then.

        Raises:
            DataError: The file cannot be read, a column is missing, or a row is no event of the
                experiment. The text names the file, the line and the column.
        """
        self.unknown.clear()
        earlier: Counter[int] = Counter()
        known = names_of(self.experiment)
        for number, (place, row) in enumerate(numbered_rows(self.file), start=1):
            if number == 1:
                self._check_columns(row)
            yield from _RowReader(self, f"{self.file}, {place}", row).events(known, earlier)
            if not number % _REPORTED:
                told(number)

    def check(self, told: Callable[[int], None] = lambda rows: None) -> int:
        """Read the whole file, so that nothing of it is stored if a row is refused.

        Returns:
            Number of events.

        Raises:
            DataError: As `events`; or there is no event in it.
        """
        count = sum(1 for _ in self.events(told))
        if not count:
            raise DataError(self._nothing())
        return count

    def _check_columns(self, row: Row) -> None:
        for column in _NEEDED:
            if column not in row:
                raise DataError(
                    f"{self.file} has no column {column!r}; it has {', '.join(map(str, row))}."
                    f"{nearest(column, map(str, row))} The columns are {', '.join(COLUMNS)}, and "
                    "those named like a value."
                )

    def _nothing(self) -> str:
        names = names_of(self.experiment)
        hints = "".join(nearest(name, names) for name in self.unknown)
        found = f" It has {', '.join(self.unknown)}.{hints}" if self.unknown else ""
        return (
            f"{self.file} holds no exposure and no value of the experiment "
            f"{self.experiment.name!r}, whose values are {', '.join(names)}.{found}"
        )


def open_events(source: str | Path, experiment: Experiment, *, timezone: str = "") -> EventFile:
    """Name a file of events.

    Args:
        source: Path of the file, or "-" for standard input.
        experiment: Experiment that the events belong to.
        timezone: Name of the time zone of times that have none, such as Europe/Berlin.

    Raises:
        DataError: There is no such file.
        UsageError: There is no such time zone.
    """
    if str(source) != STDIN and not Path(source).exists():
        folder = Path(source).parent
        beside = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        raise DataError(
            f"No such file: {source}.{nearest(Path(source).name, beside)} Give a file of events: "
            ".csv, .tsv, .jsonl or .parquet."
        )
    zone = read_zone(timezone) if timezone else None
    return EventFile(file=DataFile(str(source)), experiment=experiment, timezone=zone)


def names_of(experiment: Experiment) -> list[str]:
    """Return the names of all values that an experiment can have: of its metrics, and a router."""
    own = (name for metric in experiment.metrics for name in metric.values)
    return list(dict.fromkeys((*own, *ROUTER_VALUES)))


def check_name(name: str, experiment: Experiment) -> None:
    """Refuse the name of a value that an experiment cannot have.

    Raises:
        UnknownNameError: It cannot; the text lists the names.
    """
    names = names_of(experiment)
    if name not in names:
        raise UnknownNameError(
            f"The experiment {experiment.name!r} has no value {name!r}; its values are "
            f"{', '.join(names)}.{nearest(name, names)}"
        )


def read_zone(name: str) -> tzinfo:
    """Return a time zone by its name.

    Raises:
        UsageError: There is no such time zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"There is no time zone {name!r}; give one such as UTC or Europe/Berlin."
            f"{nearest(name, available_timezones())}"
        ) from None


def read_time(given: object, zone: tzinfo | None) -> datetime:
    """Return a time with its zone.

    Args:
        given: A text in ISO 8601, or a time or date.
        zone: Time zone of a time that has none; None refuses it. Of an hour that a change of the
            clocks repeats, the first is meant.

    Raises:
        ValueError: It is no time, or has no zone.
    """
    if isinstance(given, str):
        try:
            at = datetime.fromisoformat(given.strip())
        except ValueError:
            raise ValueError(
                f"is {given!r}; it must be a time such as 2026-03-02T09:00:00+00:00"
            ) from None
    elif isinstance(given, datetime):
        at = datetime.combine(given.date(), given.timetz())  # a class of pandas becomes a plain one
    elif isinstance(given, date):
        at = datetime.combine(given, time())
    else:
        raise ValueError(f"is {given!r}; it must be a time such as 2026-03-02T09:00:00+00:00")
    if at.tzinfo is None and zone is None:
        raise ValueError(
            f"is {str(given)!r}, which has no time zone. Write it with one, such as "
            f"{at.isoformat()}+00:00, or name the zone of such times with --timezone"
        )
    return (at.replace(tzinfo=zone) if at.tzinfo is None else at).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class _RowReader:
    """One row of the file, with its place for errors."""

    source: EventFile
    place: str
    row: Row

    def events(self, known: list[str], earlier: Counter[int]) -> Iterator[Event]:
        unit = self.source.experiment.pseudonym(self._unit())
        try:
            at = read_time(self._cell("at"), self.source.timezone)
        except (ValueError, OverflowError) as error:
            raise self._wrong("at", str(error)) from None
        kind, arm, identity = self._kind(), self._text("arm"), self._text("id")
        if arm:
            yield self._checked(exposure(unit, arm, at))
        for name, value in self._values(known):
            content = (kind, unit, name, repr(value), at.isoformat())
            own = identity or _occurrence(content, earlier)
            yield self._checked(measured(unit, name, value, at, kind=kind, id=own))

    def _checked(self, event: Event) -> Event:
        try:
            check_events(self.source.experiment, [event])
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from None
        return event

    def _kind(self) -> EventKind:
        """Return the kind of the values of the row, which an exposure has none of."""
        given, arm = self._text("kind") or str(VALUE), self._text("arm")
        names = [str(kind) for kind in EventKind]
        if given not in names:
            raise self._wrong(
                "kind", f"is {given!r}; it is {', '.join(names)}.{nearest(given, names)}"
            )
        if given == EXPOSURE and not arm:
            raise self._wrong("arm", "is empty in an exposure; give the arm that the unit met")
        if given == BEFORE and arm:
            raise self._wrong("arm", f"is {arm!r}, and a value from before has no arm")
        return VALUE if given == EXPOSURE else EventKind(given)

    def _values(self, known: list[str]) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the row, and count the names that are unknown."""
        name = self._text("name")
        pairs: Iterator[tuple[str, str]] = (
            (str(column), str(column)) for column in self.row if column not in COLUMNS
        )
        if name:
            pairs = iter([(name, "value"), *pairs])
        for value_name, column in pairs:
            given = self.row.get(column)
            empty = given is None or given == ""
            if value_name not in known:
                self.source.unknown[value_name] += not empty
            elif not empty:
                yield value_name, self._number(column, given)
            elif column == "value":
                raise self._wrong("value", f"is empty, and {name!r} needs one")

    def _number(self, column: str, given: object) -> float:
        try:
            value = float(given)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise self._wrong(column, f"is {given!r}; it must be a finite number")
        return value

    def _unit(self) -> str:
        given = self._cell("unit")
        if isinstance(given, str | int) and not isinstance(given, bool) and str(given):
            return str(given)
        raise self._wrong("unit", f"is {given!r}; it must be a text or a whole number")

    def _cell(self, column: str) -> object:
        given = self.row.get(column)
        if given is None or given == "":
            raise self._wrong(column, "is empty; every row needs it")
        return given

    def _text(self, column: str) -> str:
        given = self.row.get(column)
        return "" if given is None else str(given).strip()

    def _wrong(self, column: str, what: str) -> DataError:
        return DataError(f"{self.place}, column {column!r} {what}.")


def _occurrence(content: tuple[str, ...], earlier: Counter[int]) -> str:
    """Return the identity of a row without one: its content, and how often it stood before."""
    text = "\x1f".join(content)
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    earlier[key] += 1
    return f"row|{'|'.join(content[3:])}|{earlier[key]}"
