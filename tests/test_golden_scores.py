"""The record that other tests read instead of scoring is what scoring gives today.

After a change that is meant to alter it: python tests/test_golden_scores.py
"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import GOLDEN, TEXTS, WordTokenizer, build

import plop_lora as plop

TOLERANCE = 1e-4
"""Processors add in different orders."""


def made() -> plop.Scores:
    """Score the small Llama."""
    return plop.score(build("llama"), WordTokenizer(), TEXTS, stop="fixed", progress=False)


def test_the_record_is_what_scoring_gives(scores: plop.Scores) -> None:
    """Tests of placement, export and verification would hold to scores that nothing makes."""
    today, recorded = made().to_dict(), scores.to_dict()
    for document in (today, recorded):
        del document["provenance"], document["model"]["config"]
        del document["model"]["config_hash"]
    _compare(today, recorded, "")


def _compare(today: Any, recorded: Any, place: str) -> None:
    """Compare documents; numbers may differ by rounding."""
    if isinstance(today, dict):
        assert today.keys() == recorded.keys(), place
        for key, value in today.items():
            _compare(value, recorded[key], f"{place}.{key}")
    elif isinstance(today, list | tuple):
        assert len(today) == len(recorded), place
        for index, value in enumerate(today):
            _compare(value, recorded[index], f"{place}[{index}]")
    elif isinstance(today, float):
        assert today == pytest.approx(recorded, rel=TOLERANCE), place
    else:
        assert today == recorded, place


if __name__ == "__main__":
    made().save(GOLDEN / "llama-scores.json")
