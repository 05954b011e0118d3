"""From rows to a sample of documents: which field is the text, which rows are drawn.

A row without text is skipped and counted, and so is a copy of another row. A row whose field holds
something else than text is an error that names the row. No torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plop_lora.data.fields import LABELS, lost_column
from plop_lora.data.reading import Row, Rows, open_rows
from plop_lora.data.recognising import Fields, Reader, demand_fields, fields_of, reader_of
from plop_lora.data.sampling import draw
from plop_lora.data.texts import Chat, Document, UnreadableError, plain
from plop_lora.errors import DataError, UsageError
from plop_lora.placement.stopping import LEAST

NO_GROUP = "(none)"


@dataclass(frozen=True, slots=True)
class Documents:
    """Sampled documents, with the numbers of rows that were passed over.

    Attributes:
        source: The user's name of the data.
        items: The drawn documents, in the order of their rows.
        rows: Number of rows in the data.
        skipped: Number of rows without text.
        duplicates: Number of rows whose text an earlier row has already.
        field: What of a row is its text: a field, several with commas between them, or a template.
    """

    source: str
    items: tuple[Document, ...]
    rows: int
    skipped: int
    duplicates: int = 0
    field: str | None = None


def load_documents(
    source: str | Path | Iterable[Row | str],
    *,
    text: str | None = None,
    template: str | None = None,
    chat: Chat | None = None,
    group: str | None = None,
    samples: int = 200,
    seed: int = 0,
    token: str | None = None,
) -> Documents:
    r"""Read a data set and draw a sample of its documents.

    The rows are gone through three times and not kept: a million of them need little memory.

    Args:
        source: A local file (.jsonl .json .csv .tsv .parquet .txt, also as .gz), `-` for standard
            input, a folder of `datasets.save_to_disk`, a hub data set (`name`, `name:split` or
            `name:config:split`), a `datasets.Dataset`, or any iterable of rows or strings.
        text: Field that holds the text, or a list of chat messages.
        template: Text with fields in braces, `"{question}\n{answer}"`; `{answer[value]}` reaches
            into nested fields, `{{` and `}}` are plain braces.
        chat: Function that renders the messages of a row, usually `tokenizer.apply_chat_template`
            with `tokenize=False`; it is called with `tools=` where the row has tools.
        group: Field by whose values the sample is stratified: each has its share of the
            sample, and a small one at least `sampling.LEAST_OF_GROUP` documents.
        samples: Number of documents to draw without replacement; all of them if there are fewer.
        seed: Seed of the draw.
        token: Access token of the hub; None takes the stored one.

    Raises:
        DataError: There is no such data or field, no row has text, a row's field or a message of
            its chat is no text, or many rows share the same few texts.
        UsageError: Both `text` and `template` are given, or the template cannot be read.
    """
    if samples < 1:
        raise UsageError(f"--samples {samples} is not possible; give 1 or more.")
    rows = _rows_of(source, token)
    fields = fields_of(rows)
    if not fields.rows:
        raise DataError(f"{rows.source} holds no rows. Give a file with at least one.")
    reader = reader_of(fields, rows.source, text, template, chat)
    read = reader.read
    if group is not None:
        read = _grouped(read, fields, rows.source, group)
    texts = _texts_of(read, rows, grouped=group is not None)
    if not texts.keys:
        raise DataError(
            f"No row of {rows.source} has text (rows read: {fields.rows}), so there is nothing to "
            "score. Name another field with --text or --template."
        )
    firsts = different(texts.keys, rows.source)
    groups = [texts.groups[first] for first in firsts] if texts.groups else [None] * len(firsts)
    numbers = [texts.numbers[firsts[index]] for index in draw(groups, samples, seed)]
    drawn = list(_rows_at(rows, numbers))
    items = tuple(document for row in drawn if (document := read(row)) is not None)
    _check_words(items, rows.source)
    _check_lost(drawn, items, reader, rows.source)
    if reader.guessed:
        _check_not_names(items, rows.source, reader.field)
    return Documents(
        rows.source,
        items,
        rows=fields.rows,
        skipped=fields.rows - len(texts.keys),
        duplicates=len(texts.keys) - len(firsts),
        field=reader.field,
    )


@dataclass(frozen=True, slots=True)
class _Texts:
    """The rows that have text: their indices, the keys of their texts, their groups if asked for.

    Arrays, since there may be millions.
    """

    numbers: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    groups: list[str | None] = field(default_factory=list)


def _texts_of(read: Callable[[Row], Document | None], rows: Rows, *, grouped: bool) -> _Texts:
    texts = _Texts()
    for number, document in enumerate(_each(read, rows)):
        if document is not None:
            texts.numbers.append(number)
            texts.keys.append(key_of(document))
            if grouped:
                texts.groups.append(document.group)
    return texts


def key_of(document: Document) -> int:
    """Return a 64-bit hash of the text of a document."""
    whole = f"{document.text}\0{document.target or ''}".encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "big")


def different(keys: Sequence[int], source: str) -> list[int]:
    """Return the index of each text's first occurrence; a copy would only narrow an interval.

    Args:
        keys: Key of every text, from `key_of`.
        source: The user's name of the data, for the error.

    Raises:
        DataError: There are enough texts for a sample, but too few of them differ.
    """
    import numpy as np

    _, firsts = np.unique(np.asarray(keys, dtype=np.uint64), return_index=True)
    count = len(firsts)
    if count < LEAST <= len(keys):
        raise DataError(
            f"{source} holds {len(keys)} texts, of which only {count} "
            f"{'is' if count == 1 else 'are'} different, and {LEAST} are the least that say "
            "how sure a score is. Give more texts of the task."
        )
    found: list[int] = np.sort(firsts).tolist()
    return found


def _rows_of(source: str | Path | Iterable[Row | str], token: str | None) -> Rows:
    """Return rows that can be gone through again, whatever they were given as."""
    if isinstance(source, str | Path):
        return open_rows(str(source), token)
    if isinstance(source, Mapping):
        raise UsageError(
            f"Several splits are no data set: {', '.join(map(str, source))}. Give one of them, "
            "such as dataset['train']."
        )
    rows: Iterable[Any] = source if hasattr(source, "__len__") else list(source)
    return Rows(type(source).__name__, lambda: map(_as_row, rows))


def _as_row(row: object) -> Row:
    if isinstance(row, Mapping):
        return row
    if row is None or isinstance(row, str):
        return {"text": row}
    raise DataError(f"A row is {row!r}, neither an object with named fields nor a string.")


def _rows_at(rows: Rows, numbers: Sequence[int]) -> Iterator[Row]:
    """Read the rows at some numbers once more, in their order."""
    wanted = set(numbers)
    for number, row in enumerate(rows):
        if number in wanted:
            yield row
        if number >= numbers[-1]:
            return


def _check_lost(
    rows: Sequence[Row], items: Sequence[Document], reader: Reader, source: str
) -> None:
    """Refuse a part of the question that recognised columns leave out, as training refuses it.

    Raises:
        DataError: There is such a column.
    """
    columns = reader.columns
    if columns is None or not columns.guessed:
        return
    used = (*columns.names, *LABELS)
    lost = lost_column(rows, [item.text for item in items], used, guessed=True)
    if lost is not None:
        read = "\\n".join(f"{{{name}}}" for name in columns.names)
        raise DataError(
            f"The column {lost!r} of {source} holds text beside {reader.field}, and may be a part "
            f'of it. Join it with --template "{{{lost}}}\\n{read}", or leave it out with '
            f'--template "{read}".'
        )


def _check_words(items: Sequence[Document], source: str) -> None:
    """Refuse a column of numbers, which a table without types gives as strings.

    Raises:
        DataError: All of the texts are numbers.
    """
    if all(_is_number(document.text) for document in items):
        raise DataError(
            f"All texts of {source} are numbers, such as {items[0].text!r}. Name the field that "
            "holds the text with --text or --template."
        )


def _check_not_names(items: Sequence[Document], source: str, field: str) -> None:
    """Refuse a column of names, which nobody called the text and which no text stands in.

    Raises:
        DataError: Each of the texts is one word of letters and digits, as ids are.
    """
    if all(_NAME.fullmatch(document.text.strip()) for document in items):
        raise DataError(
            f"The only field of {source} with strings is {field!r}, and each of them is one word, "
            f"such as {items[0].text!r}, as ids are. If that is the text, say so: --text {field}."
        )


_NAME = re.compile(r"[A-Za-z0-9_.:/#-]{1,64}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _each(read: Callable[[Row], Document | None], rows: Rows) -> Iterator[Document | None]:
    for number, row in enumerate(rows, start=1):
        try:
            yield read(row)
        except UnreadableError as error:
            raise DataError(f"{rows.source}, row {number}: {error}") from error


def _grouped(
    read: Callable[[Row], Document | None], fields: Fields, source: str, group: str
) -> Callable[[Row], Document | None]:
    """Return a reader that notes the group of each row; rows without a value are one group."""
    demand_fields([group], fields.names, source)

    def grouped(row: Row) -> Document | None:
        document = read(row)
        if document is None:
            return None
        return dataclasses.replace(document, group=plain(row.get(group), group) or NO_GROUP)

    return grouped
