"""Splits: what a row becomes, and that nothing is trained on that is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.judged import answer_text, prompt_text
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.splits import FOLDER, REPORT, SELECT, TRAIN, prepare_splits, write_splits

Rows = list[dict[str, object]]


def pairs(start: int, count: int) -> Rows:
    return [
        {"question": f"What is {n}+1?", "answer": f"{n + 1}"} for n in range(start, start + count)
    ]


def labelled(start: int, count: int) -> Rows:
    return [{"text": f"text {n}", "label": n % 3} for n in range(start, start + count)]


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def recipe(tmp_path: Path):
    """A recipe over rows that are written to files."""

    def make(task: str, train: Rows, evaluation: Rows, **keys: object) -> VerifyRecipe:
        names = {"train": train, "eval": evaluation}
        paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in names.items()}
        return VerifyRecipe(task=task, **paths, **keys)

    return make


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_prompt_stands_in_two_splits(recipe, tmp_path: Path) -> None:
    """A rate chosen on rows that were trained on, or reported on, is chosen by memory."""
    splits = prepare_splits(recipe("sft", pairs(0, 200), pairs(500, 40)), tmp_path)
    parts = [read(tmp_path / FOLDER / name) for name in (TRAIN, SELECT, REPORT)]
    assert [len(part) for part in parts] == [180, 20, 40]
    prompts = [{row["prompt"] for row in part} for part in parts]
    assert not (prompts[0] & prompts[1])
    assert not (prompts[0] & prompts[2])
    assert not (prompts[1] & prompts[2])
    assert parts[0] == list(splits.train)
    assert splits.overlap == 0
    assert [note.split(" becomes")[0][:13] for note in splits.notes] == ["the first row"]


def test_the_seed_shuffles(recipe) -> None:
    first, again, other = (
        prepare_splits(recipe("sft", pairs(0, 100), pairs(500, 20), seed=seed))
        for seed in (0, 0, 1)
    )
    assert first.digests == again.digests
    assert first.digests[TRAIN] != other.digests[TRAIN]
    assert first.digests[REPORT] == other.digests[REPORT]
    assert [row["prompt"] for row in first.train] != sorted(row["prompt"] for row in first.train)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "share", "size"), [(60, 0.1, 16), (8000, 0.4, 500)])
def test_the_selection_split_has_bounds(recipe, rows: int, share: float, size: int) -> None:
    splits = prepare_splits(recipe("sft", pairs(0, rows), pairs(9000, 20), selection=share))
    assert len(splits.selection) == size


def test_much_overlap_is_refused(recipe) -> None:
    """Case and white space do not make another prompt."""
    shouted = [{"question": "  WHAT is\n3+1? ", "answer": "4"}]
    with pytest.raises(DataError, match=r"1 of 31 rows .*eval.jsonl \(3.2%\)"):
        prepare_splits(recipe("sft", pairs(0, 100), pairs(500, 30) + shouted))


def test_little_overlap_leaves_the_training_rows(recipe) -> None:
    splits = prepare_splits(recipe("sft", pairs(0, 100), pairs(99, 200)))
    assert splits.overlap == 1
    assert len(splits.train) + len(splits.selection) == 99
    assert len(splits.report) == 200
    everything = {row["prompt"] for row in (*splits.train, *splits.selection)}
    assert "What is 99+1?\n" not in everything
    assert "1 of 200 evaluation rows (0.5%)" in splits.notes[0]


def test_repeats_are_left_out(recipe) -> None:
    splits = prepare_splits(recipe("sft", pairs(0, 80) * 2, pairs(500, 20) + pairs(500, 3)))
    assert len(splits.train) + len(splits.selection) == 80
    assert len(splits.report) == 20
    assert [note.split(" ", 1)[0] for note in splits.notes] == ["80", "3", "the"]


def test_one_prompt_with_many_answers_is_no_overlap(recipe) -> None:
    """Where every row asks the same, only the answer says what was seen."""
    stories = [{"prompt": "Write a story.", "completion": f"story {n}"} for n in range(120)]
    splits = prepare_splits(recipe("sft", stories[:90], stories[90:]))
    assert splits.overlap == 0
    with pytest.raises(DataError, match="measure memory"):
        prepare_splits(recipe("sft", stories[:90], stories[80:]))


@pytest.mark.parametrize(
    ("row", "made"),
    [
        ({"prompt": "a", "completion": "b", "text": "c"}, {"prompt": "a", "completion": "b"}),
        ({"text": "a", "id": 1}, {"text": "a", "id": 1}),
        ({"question": "a", "answer": "b"}, {"prompt": "a\n", "completion": "b"}),
        ({"instruction": "a", "output": "b"}, {"prompt": "a\n", "completion": "b"}),
    ],
)
def test_rows_of_sft_are_recognised(recipe, row, made) -> None:
    rows = [{**row, **{key: f"{row[key]} {n}" for key in row if key != "id"}} for n in range(60)]
    splits = prepare_splits(recipe("sft", rows[:40], rows[40:]))
    first = splits.report[0]
    for key, value in made.items():
        assert str(first[key]).startswith(str(value).strip())
    kinds = {"prompt", "completion", "messages", "text"} & set(first)
    assert kinds == {"prompt", "completion", "messages", "text"} & set(made)


def test_chats_and_templates(recipe) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"q {n}"},
                      {"role": "assistant", "content": f"a {n}", "name": None}]}
        for n in range(60)
    ]  # fmt: skip
    first = prepare_splits(recipe("sft", chats[:40], chats[40:])).report[0]
    assert (prompt_text(first), answer_text(first)) == ("q 40", "a 40")
    assert "name" not in first["messages"][1]
    made = recipe("sft", pairs(0, 40), pairs(500, 20), prompt="Q: {question}\nA:",
                  completion=" {answer}")  # fmt: skip
    first = prepare_splits(made).report[0]
    assert first["prompt"] == "Q: What is 500+1?\nA:"
    assert first["completion"] == " 501"
    assert first["answer"] == "501"


def test_classes_are_sorted_by_number(recipe) -> None:
    rows = [{"sentence": f"s {n}", "label": n % 11} for n in range(120)]
    splits = prepare_splits(recipe("classify", rows[:99], rows[99:]))
    assert splits.labels == tuple(map(str, range(11)))
    assert splits.report[0] == {"sentence": "s 99", "text": "s 99", "label": "0"}


def test_pairs_of_texts_are_joined(recipe) -> None:
    rows = [{"premise": f"p {n}", "hypothesis": "h", "label": "yn"[n % 2]} for n in range(60)]
    splits = prepare_splits(recipe("classify", rows[:40], rows[40:]))
    assert splits.labels == ("n", "y")
    assert splits.report[0]["text"] == "p 40\nh"


def test_columns_reach_the_rewards(recipe) -> None:
    splits = prepare_splits(recipe("grpo", pairs(0, 40), pairs(500, 20)))
    first = splits.report[0]
    assert first == {"question": "What is 500+1?", "answer": "501", "prompt": "What is 500+1?"}


def test_labels_match_between_the_files(recipe) -> None:
    with pytest.raises(DataError, match=r"eval.jsonl, row 21: the label '7' is not among"):
        prepare_splits(
            recipe("classify", labelled(0, 60), [*labelled(90, 20), {"text": "t", "label": 7}])
        )


FAULTS = [
    ("sft", [*pairs(0, 40), {"question": "x", "answer": " "}], "row 41: 'answer' is missing"),
    ("sft", [{"a": "b", "c": "d"}] * 40, "Cannot tell what to train on .*has: a, c"),
    ("sft", [{"messages": [{"role": "user", "content": "x"}]}] * 40, "not an assistant's"),
    ("sft", [{"messages": [{"say": "x"}]}] * 40, "must be a list of messages"),
    ("sft", pairs(0, 20), "leaves 4 training rows beside 16"),
    ("sft", [], "holds no rows"),
    ("classify", [*labelled(0, 40), {"text": "x"}], "row 41: there is no label"),
    ("classify", [*labelled(0, 40), {"text": "x", "label": -1}], "row 41: there is no label"),
    ("classify", [*labelled(0, 40), {"text": "x", "label": 0.5}], "which is no class"),
    ("classify", [{"text": f"t {n}", "label": 1} for n in range(40)], "have the label '1'"),
    ("classify", [{"text": f"t {n}", "label": n} for n in range(40)], "are no classes"),
    ("classify", [{"text": "x"}] * 40, "Cannot tell the field for --label"),
    ("classify", [{"label": 1}] * 40, "Cannot tell the field for --text"),
    ("grpo", [*pairs(0, 40), {"question": None}], "row 41: 'question' is missing"),
    ("grpo", [{"question": {"a": 1}}] * 40, "row 1: 'question' holds a dict"),
]


@pytest.mark.parametrize(("task", "train", "message"), FAULTS)
def test_faults_name_the_row(recipe, task: str, train: Rows, message: str) -> None:
    evaluation = labelled(900, 20) if task == "classify" else pairs(900, 20)
    with pytest.raises(DataError, match=message):
        prepare_splits(recipe(task, train, evaluation))


def test_few_evaluation_rows_are_refused(recipe) -> None:
    with pytest.raises(DataError, match=r"eval.jsonl has 9 different rows; at least 16"):
        prepare_splits(recipe("sft", pairs(0, 60), pairs(900, 9) * 3))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "{question}"}, "together"),
        ({"prompt": "{question}", "completion": "{anser}"}, "no field 'anser'. Did you mean"),
        ({"prompt": "{question", "completion": "{answer}"}, "Cannot read the template"),
        ({"text": "txt"}, "no field 'txt'"),
    ],
)
def test_wrong_fields_are_refused(recipe, keys, message: str) -> None:
    with pytest.raises((UsageError, DataError), match=message):
        prepare_splits(recipe("sft", pairs(0, 40), pairs(500, 20), **keys))


def test_a_folder_keeps_to_its_data(recipe, tmp_path: Path) -> None:
    """Going on with other rows would mix two experiments in one verdict."""
    made = recipe("sft", pairs(0, 80), pairs(500, 20))
    before = prepare_splits(made, tmp_path / "run")
    stamps = [path.stat().st_mtime_ns for path in (tmp_path / "run" / FOLDER).iterdir()]
    prepare_splits(made, tmp_path / "run")
    assert stamps == [path.stat().st_mtime_ns for path in (tmp_path / "run" / FOLDER).iterdir()]
    other = recipe("sft", pairs(0, 81), pairs(500, 20))
    with pytest.raises(UsageError, match="belongs to other data"):
        prepare_splits(other, tmp_path / "run")
    (tmp_path / "run" / FOLDER / SELECT).unlink()
    write_splits(before, tmp_path / "run")
    assert len(read(tmp_path / "run" / FOLDER / SELECT)) == len(before.selection)


def test_what_json_cannot_hold_is_left_out(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = pairs(0, 60)
    columns = {key: [row[key] for row in rows] for key in rows[0]} | {"image": [b"\x00"] * 60}
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    evaluation = write(tmp_path / "eval.jsonl", pairs(500, 20))
    made = VerifyRecipe(task="sft", train=str(tmp_path / "train.parquet"), eval=evaluation)
    splits = prepare_splits(made)
    assert "image" not in splits.train[0]
    assert "'image'" in splits.notes[0]
