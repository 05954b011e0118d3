"""Files of records: their digest, old ones, damaged ones, and what is said about each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import trial_result, trial_spec

from plop_lora.errors import RecordError
from plop_lora.records import (
    TIE,
    Analysis,
    Comparison,
    Experiment,
    ExperimentPlan,
    GateVerdict,
    Placement,
    Ramp,
    Record,
    Replay,
    Scores,
    TrialResult,
    TrialSpec,
)
from plop_lora.records.reading import check_values

GOLDEN = Path(__file__).parent / "golden"
KINDS: dict[str, tuple[type[Record], str]] = {
    "scores": (Scores, "d08c4ef8eb42c18b"),
    "placement": (Placement, "babb42e229e52f97"),
    "comparison": (Comparison, "22671afc161ade6f"),
    "trial": (TrialSpec, "f5d950767abee8a5"),
    "trial-result": (TrialResult, "f0309d872917cca2"),
    "gate-verdict": (GateVerdict, "d157bfa385243bdf"),
    "experiment": (Experiment, "f00714277ceb1bab"),
    "experiment-ramp": (Ramp, "0011e59f22cabd3c"),
    "experiment-analysis": (Analysis, "97413bfee6370791"),
    "experiment-plan": (ExperimentPlan, "5925daacb1395347"),
    "replay": (Replay, "edbf5f3c6d84d86b"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_without_a_digest_load_and_keep_their_identity(kind: str) -> None:
    """Files of schema 1 from before digests must load, and their trials must be found again."""
    record_class, identity = KINDS[kind]
    path = GOLDEN / f"{kind}-1.json"
    assert "digest" not in json.loads(path.read_text())
    record = record_class.load(path)
    assert record.digest().startswith(identity)
    assert record_class.from_dict(json.loads(record.to_json())) == record


def test_the_tolerance_of_a_tie_is_read_from_the_text_of_older_files() -> None:
    """Older files say `a tie within 0.2`; the number has a field of its own since."""
    text = (GOLDEN / "placement-1-tie.json").read_text()
    assert '"verdict": "a tie within 0.2"' in text
    record = Placement.from_dict(json.loads(text))
    gap = record.choices[0].left_out
    assert (record.verdict, record.tolerance) == (gap.verdict, gap.tolerance) == (TIE, 0.2)
    assert "Against what was left out: a tie within 0.2." in str(record)
    assert '"verdict": "tie", "tolerance": 0.2' in record.to_json()
    assert Placement.from_dict(json.loads(record.to_json())) == record


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_carries_its_digest(kind: str, tmp_path: Path) -> None:
    """The digest in the file is the one by which other records name it."""
    record_class, _ = KINDS[kind]
    record = record_class.load(GOLDEN / f"{kind}-1.json")
    document = json.loads(record.save(tmp_path / "record.json").read_text())
    assert document["digest"] == record.digest()
    assert list(document)[:3] == ["kind", "schema_version", "digest"]
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(document, indent=2))
    assert record_class.load(pretty) == record


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_digit_is_noticed(kind: str, tmp_path: Path) -> None:
    """A flipped digit in a score or a result was taken for what had been measured."""
    record_class, _ = KINDS[kind]
    text = record_class.load(GOLDEN / f"{kind}-1.json").to_json()
    body = text.index('"digest"') + 80
    digits = [found.start() for found in re.finditer(r"\d", text) if found.start() > body]
    path = tmp_path / "record.json"
    for place in digits[:: max(1, len(digits) // 25)]:
        changed = f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}"
        path.write_text(changed)
        if json.loads(changed) != json.loads(text):  # the last digit may be below the precision
            with pytest.raises(RecordError):
                record_class.load(path)


def test_a_meant_change_is_possible(tmp_path: Path) -> None:
    """Whoever edits a record by hand is told how to say so."""
    document = json.loads(Placement.load(GOLDEN / "placement-1.json").to_json())
    document["strategy"] = "mine"
    with pytest.raises(RecordError, match=r"changed or damaged after.*delete the key 'digest'"):
        Placement.from_dict(document)
    del document["digest"]
    assert Placement.from_dict(document).strategy == "mine"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_byte_order_are_read(encoding: str, tmp_path: Path) -> None:
    """Editors and shells of Windows write them; the file was called incomplete JSON."""
    golden = GOLDEN / "placement-1.json"
    path = tmp_path / "placement.json"
    path.write_text(golden.read_text(encoding="utf-8"), encoding=encoding)
    assert Placement.load(path) == Placement.load(golden)


def _with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: document | changes


def _site(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: (
        document | {"sites": [document["sites"][0] | changes, *document["sites"][1:]]}
    )


BAD = [
    (_with(schema_version=0), "schema_version 0, which must be a whole number from 1 to 1"),
    (_with(schema_version=True), "schema_version True, which must be a whole number"),
    (_with(schema_version="1"), "schema_version '1', which must be a whole number"),
    (_with(schema_version=2), "schema_version 2; this plop-lora reads up to 1"),
    (lambda d: {k: v for k, v in d.items() if k != "schema_version"}, "has no schema_version"),
    (lambda d: {k: v for k, v in d.items() if k != "sites"}, "sites is needed, but is not there"),
    (_with(scaling=math.nan), "scaling is nan, and must be a finite number"),
    (_with(scaling=math.inf), "scaling is inf, and must be a finite number"),
    (_with(scaling=0), "scaling is 0; it must be above 0"),
    (_with(verdict="a tie within 1.2.3"), "verdict: Input should be 'decided'"),
    (_with(seed="many"), "seed must be a whole number, and is 'many'"),
    (_with(seed=1.5), "seed must be a whole number, and is 1.5"),
    (_with(strategy=None), "strategy must be text, and is empty"),
    (_with(sites={}), "sites must be a list, and is a section of keys"),
    (_with(sites=[7]), "sites.0 must be a section of keys with values, and is 7"),
    (_with(settings={"rslora": "perhaps"}), "settings.rslora must be true or false"),
    (_site(rank=0), "sites.0.rank is 0; it must be 1 or more"),
    (_site(rank=-3), "sites.0.rank is -3; it must be 1 or more"),
    (_site(alpha="x"), "sites.0.alpha must be a number, and is 'x'"),
    (_site(alpha=math.nan), "sites.0.alpha is nan, and must be a finite number"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_a_damaged_record_is_told_in_plain_words(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    """Faults came in the words of a library, as a traceback, or not at all (NaN, schema 0)."""
    path = tmp_path / "placement.json"
    path.write_text(json.dumps(change(json.loads((GOLDEN / "placement-1.json").read_text()))))
    with pytest.raises(RecordError) as caught:
        Placement.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "valid" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"[" * 100_000, "is not complete JSON"),
        (b'{"kind": "placement", ', "is not complete JSON (line 1)"),
        (b"\x1f\x8b\x08\x00", "is not complete JSON"),
        (b'{"kind": ' + b"9" * 5000 + b"}", "is not complete JSON"),
    ],
)
def test_files_that_are_no_json(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "placement.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        Placement.load(path)
    assert message in str(caught.value)
    with pytest.raises(RecordError, match="is a folder, but a record is a file"):
        Placement.load(tmp_path)


def test_numbers_are_looked_at_wherever_they_stand() -> None:
    """NaN hides in the long lists of sums as well as in single fields."""
    for document in ({"sums": [[1.0, math.nan]]}, {"a": [{"b": math.inf}]}, {"c": -math.inf}):
        with pytest.raises(RecordError, match="must be a finite number"):
            check_values(document, "the document")
    check_values({"sums": [[1.0, 2], []], "mixed": [1, None, "x", True]}, "the document")


def test_causes_may_hold_what_a_library_says(tmp_path: Path) -> None:
    """A colourful message of another library must not make a finished trial unreadable."""
    result = trial_result(trial_spec(), None, cause="\x1b[31mred\x1b[0m\nand more")
    assert TrialResult.load(result.save(tmp_path / "result.json")) == result
