"""Acquiring rows: what is held out, what repeats, what leaks, and the folder that comes of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plop_lora.acquisition import EVAL_FILE, RECORD_FILE, TRAIN_FILE, acquire
from plop_lora.acquisition import sources as source_files
from plop_lora.acquisition.duplicates import near_duplicates
from plop_lora.acquisition.leakage import leaked_pairs
from plop_lora.acquisition.ngrams import Cutter, grams_of, normalised, unit_of
from plop_lora.data.reading import read_rows
from plop_lora.errors import DataError, OutputError, UsageError
from plop_lora.records import Acquisition, Reason, Side

WORDS = (  # of made-up texts
    "river stone lamp garden winter paper bridge copper music window market silver "
    "harbour candle forest engine letter mirror valley button ladder pepper saddle ticket"
)


def sentence(seed: int, words: int = 30) -> str:
    """Return a made-up text of so many words; other seeds share no long passage."""
    draw, known = random.Random(seed), WORDS.split()
    return " ".join(draw.choice(known) for _ in range(words))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as JSON Lines and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(*seeds: int) -> list[dict[str, Any]]:
    return [{"text": sentence(seed)} for seed in seeds]


def found(record: Acquisition) -> dict[tuple[Side, Reason], tuple[int, ...]]:
    """Return the row numbers of every finding."""
    return {(one.side, one.reason): one.rows for one in record.findings}


def written(folder: Path) -> tuple[list[Any], list[Any]]:
    return tuple(list(read_rows(str(folder / name))) for name in (TRAIN_FILE, EVAL_FILE))


def test_what_repeats_goes_and_the_rest_stays_as_it_was(tmp_path: Path) -> None:
    """A copy in other letters or spaces is a copy; other columns of a row are not lost."""
    rows = [*texts(1, 2, 3), {"text": f" {sentence(1).upper()}\n", "id": 4}, {"text": " "}]
    near = sentence(2).replace(sentence(2).split()[0], "changed", 1)
    rows += [{"text": near, "id": 6}, {"text": "Ｔｈｅ　ｅｎｄ", "id": 7}, {"text": "the end"}]
    train = write(tmp_path / "train.jsonl", rows)
    evaluation = write(tmp_path / "eval.jsonl", texts(11, 12))
    record = acquire(train=train, eval=evaluation, folder=tmp_path / "out")
    assert found(record) == {
        (Side.TRAIN, Reason.EMPTY): (5,),
        (Side.TRAIN, Reason.EXACT): (4, 8),
        (Side.TRAIN, Reason.NEAR): (6,),
    }
    kept, held = written(tmp_path / "out")
    assert kept == [rows[0], rows[1], rows[2], rows[6]]
    assert held == texts(11, 12)
    assert (record.train_rows, record.eval_rows, record.held_out) == (4, 2, False)
    assert Acquisition.load(tmp_path / "out" / RECORD_FILE) == record


def test_leaked_rows_leave_the_training_rows(tmp_path: Path) -> None:
    """The evaluation set kept its leaked rows, or lost them and shrank with every new source."""
    passage = sentence(21)
    rows = [*texts(1, 2), {"text": f"{sentence(3)} {passage} {sentence(4)}"}, {"text": passage}]
    train = write(tmp_path / "train.jsonl", rows)
    evaluation = write(tmp_path / "eval.jsonl", [*texts(11), {"text": passage}])
    record = acquire(train=train, eval=evaluation, folder=tmp_path / "out")
    assert found(record) == {(Side.TRAIN, Reason.LEAKED): (3, 4)}
    (leak,) = record.leaks
    assert (leak.row, leak.train_rows, leak.share) == (2, (3, 4), 1.0)
    assert written(tmp_path / "out") == (rows[:2], [*texts(11), {"text": passage}])
    assert passage not in record.to_json()


def test_a_question_leaks_whatever_its_answer_is(tmp_path: Path) -> None:
    """Rows were compared whole, so that another answer hid a question that was trained on."""
    train = [{"question": sentence(1), "answer": "one"}, {"question": sentence(2), "answer": "no"}]
    held = [{"question": sentence(1), "answer": sentence(9)}]
    record = acquire(
        train=write(tmp_path / "train.jsonl", train),
        eval=write(tmp_path / "eval.jsonl", held),
        folder=tmp_path / "out",
    )
    assert found(record) == {(Side.TRAIN, Reason.LEAKED): (1,)}


def test_words_that_all_rows_share_are_no_leak(tmp_path: Path) -> None:
    """A long instruction in every row made every row a leak; so did templates and system texts."""
    instruction = sentence(0, 40)
    rows = [{"text": f"{instruction} {word}"} for word in (sentence(n, 20) for n in range(40))]
    settings = {"near": {"threshold": 0.95}, "leakage": {"share": 0.5}}
    evaluation, train = (
        write(tmp_path / "e.jsonl", rows[:20]),
        write(tmp_path / "t.jsonl", rows[20:]),
    )
    assert not acquire(train=train, eval=evaluation, folder=tmp_path / "o", acquire=settings).leaks
    system = {"role": "system", "content": instruction}
    chats = [
        {"messages": [system, {"role": "user", "content": sentence(n)},
                      {"role": "assistant", "content": "yes"}]}
        for n in (1, 2, 3, 1)
    ]  # fmt: skip
    evaluation, train = (
        write(tmp_path / "e.jsonl", chats[:1]),
        write(tmp_path / "t.jsonl", chats[1:]),
    )
    record = acquire(train=train, eval=evaluation, folder=tmp_path / "o")
    assert found(record) == {(Side.TRAIN, Reason.LEAKED): (3,)}


def test_japanese_is_compared_by_characters(tmp_path: Path) -> None:
    """A Japanese text is one word to a splitter at spaces, so that nothing was near anything."""
    text = (
        "梅雨は六月から七月にかけて日本列島に長い雨をもたらす季節である。農家にとっては"
        "田に水を満たす大切な時期だが、洗濯物は乾かない。"
    )
    rows = [
        {"text": text},
        {"text": text.replace("季節", "時期")},
        {"text": "猫は窓辺で眠る。" * 4},
    ]
    evaluation = write(tmp_path / "e.jsonl", [{"text": "山の朝は早く、鳥の声で目が覚める。" * 3}])
    record = acquire(
        train=write(tmp_path / "t.jsonl", rows), eval=evaluation, folder=tmp_path / "o"
    )
    assert record.unit == "characters"
    assert found(record) == {(Side.TRAIN, Reason.NEAR): (2,)}
    assert unit_of("auto", ["plain English", "and a name, 山田"]) == "words"


@pytest.mark.parametrize("action", ["count", "refuse"])
def test_other_actions_than_removal(action: str, tmp_path: Path) -> None:
    """Rows that were to be kept went, or refused data were written all the same."""
    rows = [*texts(1, 2, 1), {"text": sentence(11)}]
    record = acquire(
        train=write(tmp_path / "t.jsonl", rows),
        eval=write(tmp_path / "e.jsonl", texts(11, 12)),
        folder=tmp_path / "o",
        acquire={"exact": action, "leakage": {"action": action}},
    )
    assert found(record) == {
        (Side.TRAIN, Reason.EXACT): (3,),
        (Side.TRAIN, Reason.LEAKED): (4,),
    }
    assert record.train_rows == 4
    assert (record.exit_code, (tmp_path / "o").exists()) == ((0, True), (3, False))[
        action == "refuse"
    ]


# --------------------------------------------------------------------------- splits


def split(
    tmp_path: Path, rows: Sequence[Mapping[str, Any]], **keys: Any
) -> tuple[list[Any], list[Any]]:
    train = write(tmp_path / "rows.jsonl", rows)
    acquire(train=train, folder=tmp_path / "out", acquire={"split": keys})
    return written(tmp_path / "out")


def test_split_by_row_keeps_equal_questions_together(tmp_path: Path) -> None:
    """A question with two answers stood on both sides and was then called a leak."""
    rows = [{"question": sentence(n // 4), "answer": sentence(100 + n)} for n in range(40)]
    train, held = split(tmp_path, rows, share=0.3)
    assert len(train) + len(held) == 40
    assert not {row["question"] for row in train} & {row["question"] for row in held}
    assert len(held) == 12


def test_split_by_group_and_by_time(tmp_path: Path) -> None:
    """A customer stood on both sides; rows of the same second were parted."""
    rows = [{"text": sentence(n), "who": f"c{n % 5}", "at": 1000 + n // 3} for n in range(30)]
    train, held = split(tmp_path, rows, by="group", column="who", share=0.2)
    assert {row["who"] for row in train} & {row["who"] for row in held} == set()
    assert len(held) == 6
    train, held = split(tmp_path, rows, by="time", column="at", share=0.1)
    assert max(row["at"] for row in train) < min(row["at"] for row in held)
    assert len(held) == 3
    dated = [row | {"at": f"2026-01-{1 + n:02}T00:00:00Z"} for n, row in enumerate(rows)]
    assert [row["at"][8:10] for row in split(tmp_path, dated, by="time", column="at")[1]] == [
        "28", "29", "30",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (texts(1, 2), {"by": "group", "column": "who"}, r"has no field 'who'"),
        ([row | {"who": 1} for row in texts(1, 2)],
         {"by": "group", "column": "who"}, "1 different"),
        ([row | {"at": at} for row, at in zip(texts(1, 2), ("2026-01-01", "soon"), strict=True)],
         {"by": "time", "column": "at"}, "row 2: the column 'at' holds no time"),
        ([row | {"at": at} for row, at in zip(texts(1, 2), (1, None), strict=True)],
         {"by": "time", "column": "at"}, "row 2, has nothing in the column 'at'"),
        ([row | {"at": 3} for row in texts(1, 2)], {"by": "time", "column": "at"}, "the same time"),
        (texts(1), {}, "cannot be split"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be(
    rows: list[dict[str, Any]], keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        split(tmp_path, rows, **keys)
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------- properties

ROWS = st.lists(st.integers(0, 12), min_size=4, max_size=30)


@given(ROWS)
@settings(max_examples=30, deadline=None)
def test_survivors_keep_their_order_and_a_second_pass_finds_nothing(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int]
) -> None:
    """A pass over its own output removed more rows: neighbours of rows that had gone."""
    here = tmp_path_factory.mktemp("pass")
    rows = [
        {"text": sentence(seed // 3) + " and more" * (seed % 3), "n": n}
        for n, seed in enumerate(seeds)
    ]
    evaluation = write(here / "e.jsonl", texts(50, 51))
    acquire(train=write(here / "t.jsonl", rows), eval=evaluation, folder=here / "one")
    train, held = written(here / "one")
    assert train == sorted(train, key=lambda row: row["n"])
    record = acquire(
        train=str(here / "one" / TRAIN_FILE),
        eval=str(here / "one" / EVAL_FILE),
        folder=here / "two",
    )
    assert record.findings == ()
    assert written(here / "two") == (train, held)


@given(st.permutations(range(12)))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_training_rows_does_not_change_what_leaks(order: list[int]) -> None:
    """Which evaluation rows leak is a fact of the two sets and not of their order."""
    train = [sentence(n) for n in range(12)]
    held = [sentence(3), f"{sentence(5)} {sentence(40, 8)}", sentence(41), sentence(7)[:60]]

    def leaked(rows: Sequence[str]) -> dict[tuple[int, str], float]:
        cut = Cutter("words").pieces
        pairs = leaked_pairs(
            list(map(cut, held)), list(map(cut, rows)), near=(3, 0.8), passage=(8, 0.7)
        )
        return {(row, rows[other]): share for (row, other), share in pairs.items()}

    assert leaked([train[n] for n in order]) == leaked(train)
    assert {row for row, _ in leaked(train)} == {0, 1, 3}


@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=2, max_size=25))
@settings(max_examples=100, deadline=None)
def test_the_index_finds_what_a_comparison_of_all_pairs_finds(items: list[str]) -> None:
    """An index that looks at the rarest n-grams alone can miss a pair at the threshold."""
    items = [normalised(item) or "x" for item in items]
    grams = grams_of([Cutter("characters").pieces(item) for item in items], 2)
    sets = [set(grams.of(n).tolist()) for n in range(len(items))]
    kept: list[int] = []
    for n, one in enumerate(sets):
        if not any(len(one & sets[k]) / len(one | sets[k]) >= 0.6 for k in kept):
            kept.append(n)
    assert near_duplicates(grams, 0.6) == [n for n in range(len(items)) if n not in kept]


# --------------------------------------------------------------------------- the folder


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """A time, a set's order or a salted hash in a file makes every run another version."""
    train = write(tmp_path / "t.jsonl", texts(*range(30), 3))
    code = (
        "from plop_lora.acquisition import acquire; import sys; "
        f"acquire(train={train!r}, folder={str(tmp_path / 'out')!r}); "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    made = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True)
        made.append({file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()})
    assert made[0] == made[1]
    assert made[0].keys() == {TRAIN_FILE, EVAL_FILE, RECORD_FILE}


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    """The folder is replaced whole, so that a file of the user's in it would be gone."""
    train = write(tmp_path / "t.jsonl", texts(*range(20)))
    out = tmp_path / "out"
    acquire(train=train, folder=out)
    acquire(train=train, folder=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no acquisition"):
        acquire(train=train, folder=out)
    with pytest.raises(UsageError, match="would be replaced"):
        acquire(train=str(out / TRAIN_FILE), folder=out)
    with pytest.raises(OutputError, match="it is a file"):
        acquire(train=train, folder=Path(train))
    assert (out / "notes.txt").read_text() == "mine"


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the record would be that of another file than the rows are from."""
    train = write(tmp_path / "t.jsonl", texts(*range(20)))
    whole = source_files.open_rows

    def changing(name: str) -> Any:
        rows = list(whole(name))
        write(Path(train), texts(*range(30)))
        return rows

    monkeypatch.setattr(source_files, "open_rows", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        acquire(train=train, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_leaves_the_older_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older files were gone before the new ones were complete."""
    train = write(tmp_path / "t.jsonl", texts(*range(20)))
    out = tmp_path / "out"
    acquire(train=train, folder=out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    write(Path(train), texts(*range(25)))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="the disk is full"):
        acquire(train=train, folder=out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".plop")] == []


@pytest.mark.parametrize(
    ("lines", "keys", "message"),
    [
        ('{"text": "a"}\n{"text": \n', {}, "line 2, is not JSON"),
        ("", {}, "holds no rows"),
        ('{"text": " "}\n', {}, "1 no text"),
        ('{"text": "a", "x": NaN}\n{"text": "b b"}\n', {}, "row 1: the field 'x'"),
        ('{"text": "a"}\n{"text": "b"}\n', {"text": "body"}, "no field 'body'"),
        ('{"text": "a"}\n{"text": "b"}\n', {"task": "classify"}, "--label"),
        ('{"text": 3}\n{"text": 4}\n', {}, "row 1"),
    ],
)
def test_bad_input(lines: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    train = tmp_path / "t.jsonl"
    train.write_text(lines)
    with pytest.raises((DataError, UsageError), match=message):
        acquire(train=str(train), folder=tmp_path / "out", **keys)
    assert not (tmp_path / "out").exists()


def test_more_text_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine ran out of memory in the middle, without a word about the data."""
    monkeypatch.setattr("plop_lora.acquisition.run.MOST_PIECES", 59)
    train = write(tmp_path / "t.jsonl", texts(1, 2))
    with pytest.raises(DataError, match="have 60 words, and 59 are the most"):
        acquire(train=train, folder=tmp_path / "out")


def test_labels_are_a_part_of_a_row(tmp_path: Path) -> None:
    """A text with another label was removed as a copy, and nobody was told of the contradiction."""
    rows = [{"text": sentence(n), "label": n % 2} for n in range(20)] + [
        {"text": sentence(3), "label": 0},
        {"text": sentence(4), "label": 0},
    ]
    record = acquire(
        train=write(tmp_path / "t.jsonl", rows),
        eval=write(
            tmp_path / "e.jsonl", [{"text": sentence(90 + n), "label": 1} for n in range(16)]
        ),
        folder=tmp_path / "out",
        task="classify",
    )
    assert found(record) == {(Side.TRAIN, Reason.EXACT): (22,)}
    assert record.notes == ("texts with more than one label among the train rows: 1",)
