"""Adapters of the bundled model that are bad in one way, each of which fails exactly its check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from finetunes import NEW, ROWS, prepared, save_for_bundled, train_on

from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.memorisation import make_canaries
from plop_lora.gating import gate
from plop_lora.records import GateVerdict
from plop_lora.records.gate import FAIL, PASS

pytestmark = pytest.mark.slow
SMALL = {"training": {"max_length": 128, "device": "cpu"}, "evaluation": {"batch_size": 16}}


def _arbitrary(number: int) -> str:
    """Return digits that nothing in a prompt lets anyone guess."""
    return " ".join(str((number + 3) * factor * 37 % 89) for factor in range(2, 14))


def _trained(folder: Path, rows: Sequence[Row], *, steps: int, rate: float, batch: int) -> Path:
    ready = prepared("q_proj", "v_proj", "up_proj", "down_proj")
    plain = [{key: row[key] for key in ("prompt", "completion")} for row in rows]
    train_on(ready, plain, steps=steps, rows_a_step=batch, rate=rate, length=128)
    return save_for_bundled(ready, folder)


def _write(path: Path, rows: Sequence[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _failed(verdict: GateVerdict) -> set[str]:
    return {check.check for check in verdict.checks if check.verdict is FAIL}


# --------------------------------------------------------------------------- one group


def _grouped(count: int) -> list[dict[str, Any]]:
    """Return rows of three groups: the bundled model knows the way of answering of `c` alone."""
    return [
        {**(ROWS if place % 3 == 2 else NEW)[place], "group": "abc"[place % 3]}
        for place in range(count)
    ]


def _gated_by_group(folder: Path, adapter: Path, rows: Sequence[Row]) -> GateVerdict:
    return gate(
        adapter, eval=_write(folder / "eval.jsonl", rows), **SMALL,
        gate={
            "checks": ["task", "fairness"],
            "task": {"mode": "improve"},
            "fairness": {"columns": ["group"], "margin": 0.1, "gap_margin": 0.2, "least": 20},
        },
    )  # fmt: skip


def test_an_adapter_that_harms_one_group(tmp_path: Path) -> None:
    """It is better on the whole, and the group that pays for it is named."""
    rows = _grouped(240)
    train = [
        {**row, "completion": f" {_arbitrary(place)}"} if row["group"] == "c" else row
        for place, row in enumerate(rows[:150])
    ]
    adapter = _trained(tmp_path / "unfair", train, steps=30, rate=2e-3, batch=8)
    verdict = _gated_by_group(tmp_path, adapter, rows[150:])
    assert _failed(verdict) == {"groups"}, str(verdict)
    task, groups, _ = verdict.checks
    assert task.verdict is PASS
    assert groups.part == "c"
    assert [part.verdict for part in groups.parts] == [PASS, PASS, FAIL]


def test_the_same_training_with_right_answers_harms_no_group(tmp_path: Path) -> None:
    """The control: with the right answers of that group nothing fails."""
    rows = _grouped(240)
    adapter = _trained(tmp_path / "fair", rows[:150], steps=30, rate=2e-3, batch=8)
    assert not _failed(_gated_by_group(tmp_path, adapter, rows[150:]))


# --------------------------------------------------------------------------- by heart


def _coded(rows: Sequence[Row], start: int) -> list[dict[str, str]]:
    return [
        {"prompt": row["prompt"], "completion": f" Order {_arbitrary(start + place)}"}
        for place, row in enumerate(rows)
    ]


@pytest.mark.parametrize(("steps", "learnt"), [(60, True), (4, False)])
def test_an_adapter_that_learns_rows_by_heart(tmp_path: Path, steps: int, learnt: bool) -> None:
    """Many epochs memorise rows and canaries, few do not; both learn the task."""
    train, unseen = _coded(ROWS[:30], 0), _coded(ROWS[120:240], 120)
    canaries = make_canaries(10, seed=3)
    rows = [*train, *canaries]
    adapter = _trained(tmp_path / "a", rows, steps=steps, rate=1e-2 if learnt else 2e-3, batch=20)
    verdict = gate(
        adapter, eval=_write(tmp_path / "unseen.jsonl", unseen), **SMALL,
        gate={
            "checks": ["task", "memorisation"],
            "task": {"mode": "improve"},
            "memorisation": {
                "train": _write(tmp_path / "train.jsonl", train), "suffix_tokens": 8,
                "canaries": _write(tmp_path / "canaries.jsonl", canaries), "candidates": 31,
            },
        },
    )  # fmt: skip
    assert _failed(verdict) == ({"memorisation", "canaries"} if learnt else set()), str(verdict)
    assert verdict.checks[0].verdict is PASS
