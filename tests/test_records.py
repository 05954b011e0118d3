"""Records survive the disk, and refuse what is damaged, foreign, or newer."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plop_lora as plop
from plop_lora.errors import OutputError, RecordError
from plop_lora.escapes import acting
from plop_lora.files import check_writable
from plop_lora.records import Comparison, Placement, Scores, TypeDifference
from plop_lora.records.placement import GapVerdict


def test_round_trip(scores, tmp_path) -> None:
    placement = plop.place(scores, budget="5%")
    comparison = plop.compare(scores, scores)
    for record in (scores, placement, comparison):
        loaded = type(record).load(record.save(tmp_path / "deep" / "record.json"))
        assert loaded == record
        assert loaded.digest() == record.digest()


FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters().filter(lambda character: acting(character) is None))
DIFFERENCES = st.builds(
    TypeDifference,
    TEXT,
    FINITE,
    FINITE,
    FINITE,
    FINITE | st.none(),
    st.none(),
    st.sampled_from(GapVerdict),
)


@pytest.mark.slow
@given(
    st.builds(
        Comparison, TEXT, TEXT, st.lists(DIFFERENCES).map(tuple),
        st.lists(TEXT).map(tuple), st.just(()), st.integers() | st.none(), st.none(),
    )
)  # fmt: skip
def test_any_record_round_trips(record: Comparison) -> None:
    assert Comparison.from_dict(json.loads(record.to_json())) == record


def test_json_has_the_documented_keys(scores) -> None:
    document = scores.to_dict()
    assert list(document)[:2] == ["kind", "schema_version"]
    assert {"type", "nfn", "low", "high", "modules", "parameters"} <= set(document["types"][0])
    assert {"name", "type", "layer", "nfn", "tokens"} <= set(document["sites"][0])
    assert {"sequences", "tokens", "coverage", "provenance"} <= set(document)
    values = [row["nfn"] for row in document["types"]]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"kind": "placement"}, "is a 'placement' record, but a 'scores' record"),
        (lambda d: d | {"schema_version": 99}, "schema_version 99; this plop-lora reads up to 1"),
        (lambda d: {"a": 1}, "not a plop-lora record"),
        (lambda d: [1], "not a plop-lora record"),
        (lambda d: {k: v for k, v in d.items() if k != "sites"}, "damaged 'scores' record: sites"),
        (lambda d: d | {"sequences": "many"}, "damaged 'scores' record: sequences"),
    ],
)
def test_wrong_documents(scores, tmp_path, change, message: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(change(scores.to_dict())))
    with pytest.raises(RecordError, match=message):
        Scores.load(path)


def test_truncated_missing_and_binary_files(scores, tmp_path) -> None:
    path = scores.save(tmp_path / "scores.json")
    path.write_text(path.read_text()[:500])
    with pytest.raises(RecordError, match="not complete JSON"):
        Scores.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not complete JSON"):
        Scores.load(path)
    with pytest.raises(RecordError, match="No such file"):
        Placement.load(tmp_path / "absent.json")


def test_full_disk_keeps_the_old_file(scores, tmp_path, monkeypatch) -> None:
    """A failed write must leave the old content, no half file and no temporary file."""
    path = tmp_path / "scores.json"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        scores.save(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.json"]


def test_interrupt_leaves_no_half_file(scores, tmp_path, monkeypatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scores.save(tmp_path / "scores.json")
    assert not list(tmp_path.iterdir())


def test_unwritable_paths_are_found_early(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="Cannot write"):
        check_writable(tmp_path / "file" / "scores.json")
    check_writable(tmp_path / "new" / "scores.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_special_targets_are_refused_or_kept(scores, tmp_path, monkeypatch) -> None:
    """Renaming over a device would replace it; over a link would cut it off from its file."""
    with pytest.raises(OutputError, match="not a plain file"):
        check_writable(Path(os.devnull))
    real = tmp_path / "real.json"
    real.write_text("old")
    real.chmod(0o600)
    link = tmp_path / "link.json"
    link.symlink_to(real)
    check_writable(link)
    scores.save(link)
    assert link.is_symlink()
    assert Scores.load(real) == scores
    assert real.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="it is read-only"):
        check_writable(real)


def test_records_print_and_render(scores) -> None:
    placement = plop.place(scores)
    for record in (scores, placement, plop.compare(scores, scores)):
        text = str(record)
        assert scores.type_names()[0] in text
        assert "\x1b" not in text
        assert "\n" not in repr(record)
        assert len(repr(record)) < 200
        assert type(record).__name__ in repr(record)
        assert "<table>" in record._repr_html_()
    assert "Coverage: 100.0%" in str(scores)


def test_compare_pairs_only_the_same_sequences(scores, models, tokenizer, texts) -> None:
    same = plop.compare(scores, scores)
    assert same.paired_sequences == scores.sequences
    assert same.kendall_tau == pytest.approx(1)
    assert all(row.difference == 0 for row in same.types)
    fewer = plop.score(models("llama"), tokenizer, texts[:12], stop="fixed", progress=False)
    other = plop.compare(scores, fewer)
    assert other.paired_sequences is None
    assert "12 sequences are in both" in other.notes[0]


def test_order_of_texts_does_not_matter(scores, models, tokenizer, texts) -> None:
    again = plop.score(
        models("llama"), tokenizer, texts[::-1], batch_size=5, stop="fixed", progress=False
    )
    assert again.provenance.data_fingerprint == scores.provenance.data_fingerprint
    for one, two in zip(scores.types, again.types, strict=True):
        assert (one.type, one.nfn) == (two.type, pytest.approx(two.nfn, rel=1e-5))
        assert one.low == pytest.approx(two.low, rel=1e-5)
    assert Path(str(scores.provenance.data)).name == "texts"
