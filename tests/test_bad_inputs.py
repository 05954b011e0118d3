"""Everything that can be typed wrongly: one line that helps, an exit code, and nothing left behind.

The table stands in `bad_inputs`. Each row goes through the command's own entry in this process,
with the hub offline.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_inputs import ROWS, Row
from builders import trial_data, trial_spec

import plop_lora as plop
from plop_lora.demo import MODEL
from plop_lora.records import Placement, TrialSpec

ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
RECIPE = "task: sft\ntrain: train.jsonl\neval: eval.jsonl\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scores) -> Path:
    """A folder with what the rows name: good files, and files with one fault each."""
    here = tmp_path_factory.mktemp("bad")
    (here / "model").symlink_to(MODEL)
    (here / "hollow").mkdir()
    placement = plop.place(scores, rank=2)
    plop.compare(scores, scores).save(here / "comparison.json")
    for record in (scores, placement, _spec(placement)):
        _write_damaged(here, record.kind, record.to_dict())
    _write_texts(here)
    _write_recipes(here)
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (here / "prompt_tuning.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    (here / "binary.json").write_bytes(bytes(range(256)))
    (here / "list.json").write_text("[1, 2]")
    (here / "foreign.json").write_text('{"name": "other"}')
    return here


def _spec(placement: Placement) -> TrialSpec:
    data = trial_data(train="train.jsonl", evaluation="eval.jsonl")
    return trial_spec("plop", model=str(MODEL), placement=placement, data=data)


def _write_damaged(here: Path, kind: str, document: dict) -> None:
    """Write a record as it is, and with each fault that a record can have."""
    text = json.dumps(document)
    (here / f"{kind}.json").write_text(text)
    (here / f"{kind}-torn.json").write_text(text[: len(text) // 2])
    head = {"kind": kind, "schema_version": document["schema_version"]}
    bare = {key: value for key, value in document.items() if key != "schema_version"}
    for name, damaged in {
        "newer": document | {"schema_version": 99},
        "zero": document | {"schema_version": 0},
        "unversioned": bare,
        "bare": head,
    }.items():
        (here / f"{kind}-{name}.json").write_text(json.dumps(damaged))


def _write_texts(here: Path) -> None:
    def lines(name: str, *rows: object) -> None:
        (here / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    good = [{"text": f"number {n} and {n * n}"} for n in range(40)]
    lines("good.jsonl", *good)
    lines("train.jsonl", *({"text": f"train {n} {n * 3}"} for n in range(60)))
    lines("eval.jsonl", *({"text": f"eval {n} {n * 7}"} for n in range(30)))
    lines("few.jsonl", *good[:3])
    lines("labels.jsonl", *({"text": f"row {n}", "label": f"l{n}"} for n in range(60)))
    lines("questions.jsonl", *({"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(60)))
    lines("asked.jsonl", *({"prompt": f"{n} + 2?", "answer": str(n + 2)} for n in range(30)))
    lines("values.jsonl", 3, "four")
    lines("nulls.jsonl", {"text": None}, {"text": None})
    lines("spaces.jsonl", {"text": "  "}, {"text": ""})
    lines("fields.jsonl", {"one": "a", "two": "b"})
    lines("nested.jsonl", {"inner": {"text": "a"}})
    lines("chat.jsonl", {"messages": [{"by": "user", "value": "hello"}]})
    plain = {
        "empty.jsonl": "", "blank.jsonl": "\n\n", "torn.jsonl": '{"text": "a"}\n{"text": \n',
        "empty.json": "", "text.json": "not json", "bare.json": "3", "items.json": '["a", 1]',
        "lists.json": '{"a": [{"x": 1}], "b": [{"y": 2}]}', "empty.csv": "", "header.csv": "a,b\n",
        "ragged.csv": "a,b\n1,2\n1,2,3\n", "quote.csv": 'a,b\n"x"y,2\n', "text.parquet": "text",
        "empty.txt": "", "letter.docx": "dear", "noending": "text",
    }  # fmt: skip
    for name, text in plain.items():
        (here / name).write_text(text)
    (here / "latin1.jsonl").write_bytes('{"text": "é"}\n'.encode("latin-1"))
    (here / "utf16.jsonl").write_text('{"text": "a"}\n', encoding="utf-16")
    (here / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n')[:-9])


def _write_recipes(here: Path) -> None:
    faults = {
        "good.yaml": "", "torn.yaml": None, "list.yaml": None, "twice.yaml": "train: other\n",
        "unknown.yaml": "sedes: 3\n", "seed.yaml": "seed: -1\n", "seeds.yaml": "seeds: many\n",
        "epochs.yaml": "training:\n  epochs: 0\n", "inner.yaml": "training:\n  epoch: 1\n",
        "section.yaml": "training: 3\n", "budget.yaml": "budget: [1]\n",
        "tracker.yaml": "report_to: [foo]\n", "infinite.yaml": "price:\n  hourly: .inf\n",
        "selection.yaml": "selection: 0.7\n",
    }  # fmt: skip
    for name, fault in faults.items():
        (here / name).write_text(RECIPE + (fault or ""))
    (here / "torn.yaml").write_text("task: sft\ntrain: [a\n")
    (here / "list.yaml").write_text("- 1\n")
    (here / "task.yaml").write_text(RECIPE.replace("sft", "stf"))


@pytest.fixture
def plop_command(folder: Path, monkeypatch, run) -> Callable[[str], tuple[int, str, str]]:
    def call(line: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        return run(*shlex.split(line))

    return call


def test_the_table_is_large_and_names_each_line_once() -> None:
    lines = [row.line for row in ROWS]
    assert len(lines) >= 200
    assert len(set(lines)) == len(lines)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.line)
def test_a_bad_input_is_one_line_that_helps(row: Row, plop_command, folder: Path) -> None:
    """Nothing silent, no traceback, no fault of ours; the value is named and what to do next."""
    before = sorted(folder.rglob("*"))
    code, output, errors = plop_command(row.line)
    left = sorted(set(folder.rglob("*")) - set(before), reverse=True)
    for path in left:
        path.rmdir() if path.is_dir() else path.unlink()
    assert code == row.code, errors
    assert output == ""
    assert errors.startswith("Error: "), errors
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    assert "bug in plop-lora" not in errors
    assert re.search(row.says, errors), errors
    assert not left
