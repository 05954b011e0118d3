from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from evaluation_logs import DATE, Line, harness_log, header, inspect_log, line, results, sample

from plop_lora.errors import DataError, MissingExtraError, UsageError
from plop_lora.evaluation.logs import Log, PairedLog, documents, paired, read_log

STRICT = "exact_match,strict-match"


def graded(*values: int) -> list[Line]:
    """Return documents under two filters, of which the second is right for all."""
    return [
        line(index, filtered, exact_match=value if filtered == "strict-match" else 1)
        for index, value in enumerate(values)
        for filtered in ("strict-match", "flexible-extract")
    ]


def harness(folder: Path, lines: list[Line], **settings: Any) -> Log:
    """Return a log of the harness with its results, by the name of the folder as the model."""
    known = {"exact_match": True, **settings}
    return read_log(harness_log(folder, lines, results("sums", model=folder.name, **known)))


def inspected(path: Path, samples: list[Line], **fields: Any) -> Log:
    return read_log(inspect_log(path, samples, header(model=path.stem, **fields)))


# --------------------------------------------------------------------------- reading


def test_a_log_of_the_harness(tmp_path: Path) -> None:
    """One sample per document, although every filter has a line of its own."""
    log = harness(tmp_path / "base", graded(1, 0))
    assert (log.format, log.task, log.model, log.date) == ("lm-eval", "sums", "base", DATE)
    assert log.metrics == ("exact_match,flexible-extract", STRICT)
    assert [(s.id, s.values[STRICT]) for s in log.samples] == [("0", 1.0), ("1", 0.0)]
    assert log.higher_is_better == dict.fromkeys(log.metrics, True)
    assert log.samples[0].document != log.samples[1].document
    assert log.notes == ()


def test_a_log_without_results_says_what_is_unknown(tmp_path: Path) -> None:
    log = read_log(harness_log(tmp_path / "base", graded(1)))
    assert log.model is None
    assert log.higher_is_better == {}
    assert "--limit of the run" in log.notes[0]


@pytest.mark.parametrize("name", ["base.eval", "base.json"])
def test_a_log_of_inspect(tmp_path: Path, name: str) -> None:
    """Both forms hold the same; grades are numbers, and a scorer may give several."""
    scores = {"match": "C", "many": {"a": 0.25, "b": True}}
    samples = [sample("x", **scores), sample("x", 2, match="P", many={"a": 1, "b": False})]
    log = inspected(tmp_path / name, samples)
    assert (log.format, log.task, log.model) == ("inspect", "sums", "base")
    assert log.metrics == ("many/a", "many/b", "match")
    assert [s.values["match"] for s in log.samples] == [1.0, 0.5]
    assert [s.values["many/b"] for s in log.samples] == [1.0, 0.0]
    assert log.higher_is_better == {"match": True}
    assert log.samples[0].document == log.samples[1].document, "ids of messages are no content"


def test_zstandard(tmp_path: Path) -> None:
    """What Inspect writes today; Python reads it from 3.14 on, or with the extra."""
    if sys.version_info < (3, 14):
        pytest.importorskip("zipfile_zstd")
    path = tmp_path / "base.eval"
    inspect_log(path, [sample(1, match="I")], header(), compression=93)
    assert read_log(path).samples[0].values == {"match": 0.0}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python reads Zstandard itself")
def test_zstandard_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback about an unknown method of compression."""
    path = inspect_log(tmp_path / "a.eval", [sample(1, match="C")], header())
    data = path.read_bytes()
    for mark, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        parts = data.split(mark)
        stamped = [part[: offset - 4] + b"\x5d\0" + part[offset - 2 :] for part in parts[1:]]
        data = mark.join([parts[0], *stamped])
    path.write_bytes(data)
    monkeypatch.setitem(sys.modules, "zipfile_zstd", None)
    with pytest.raises(MissingExtraError, match=r"plop-lora\[inspect\]"):
        read_log(path)


def test_reading_needs_no_torch() -> None:
    code = "import sys, plop_lora.evaluation.logs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- pairing


def test_pairs_by_id_and_not_by_place(tmp_path: Path) -> None:
    base = harness(tmp_path / "base", graded(1, 0, 0))
    adapter = harness(tmp_path / "adapter", graded(0, 0, 1)[::-1])
    pair = paired(base, adapter, STRICT)
    assert (pair.task, pair.metric, pair.higher_is_better) == ("sums", STRICT, True)
    assert (pair.base, pair.adapter) == ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    assert len(set(pair.clusters)) == 3


def test_epochs_are_one_cluster(tmp_path: Path) -> None:
    pairs = [(name, epoch) for name in ("x", "y") for epoch in (1, 2)]
    base = inspected(tmp_path / "base.eval", [sample(n, e, match="C") for n, e in pairs])
    adapter = inspected(tmp_path / "adapter.json", [sample(n, e, match="I") for n, e in pairs])
    pair = paired(base, adapter)
    assert pair.metric == "match"
    assert pair.higher_is_better
    assert pair.clusters[0] == pair.clusters[1] != pair.clusters[2]
    assert pair.names == ("x", "x (epoch 2)", "y", "y (epoch 2)")


def test_identical_values_are_allowed(tmp_path: Path) -> None:
    """An adapter that changes no answer makes samples of lm-eval that are equal to the byte."""
    base, adapter = (harness(tmp_path / name, graded(1, 0)) for name in ("base", "adapter"))
    assert base.digest == adapter.digest
    pair = paired(base, adapter, STRICT)
    assert pair.base == pair.adapter


def two(folder: Path, metric: str, **known: bool) -> tuple[Log, Log]:
    """Return two logs of one metric without a filter's name."""
    made = []
    for side, values in (("base", (0.1, 0.2)), ("adapter", (0.3, 0.4))):
        lines = [line(index, **{metric: value}) for index, value in enumerate(values)]
        beside = results("sums", model=side, **known)
        made.append(read_log(harness_log(folder / side, lines, beside)))
    return made[0], made[1]


def test_direction(tmp_path: Path) -> None:
    """From the results, else from the name, else from the argument, and never two of them."""
    told = two(tmp_path / "told", "speed", speed=False)
    assert not paired(*told).higher_is_better
    with pytest.raises(UsageError, match="contradictory"):
        paired(*told, higher_is_better=True)
    assert not paired(*two(tmp_path / "named", "brier_score")).higher_is_better
    unknown = two(tmp_path / "unknown", "speed")
    with pytest.raises(UsageError, match=r"'speed,none' tells .* Give higher_is_better"):
        paired(*unknown)
    assert paired(*unknown, higher_is_better=True).higher_is_better


# --------------------------------------------------------------------------- refusals


def test_the_metric_has_to_be_named(tmp_path: Path) -> None:
    base, adapter = (harness(tmp_path / n, graded(v, 1)) for n, v in (("base", 1), ("new", 0)))
    with pytest.raises(UsageError, match=r"has 2 metrics. Name one .*: 'exact_match,flexible"):
        paired(base, adapter)
    with pytest.raises(UsageError, match=f"Did you mean '{STRICT}'"):
        paired(base, adapter, "exact_match,strict-mach")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([-18.7, 4], "is a list of 2 and not one number"),
        (float("nan"), "is NaN or infinite for 1 samples: 0"),
        (10**400, "is NaN or infinite for 1 samples: 0"),
    ],
)
def test_values_that_cannot_be_compared(tmp_path: Path, value: object, reason: str) -> None:
    """Another metric of the same log stays usable."""
    logs = []
    for side in ("base", "adapter"):
        lines = [line(0, word_perplexity=value, acc=1), line(1, word_perplexity=0.5, acc=0)]
        beside = results("sums", model=side, word_perplexity=False)
        logs.append(read_log(harness_log(tmp_path / side, lines, beside)))
    assert paired(*logs, "acc,none").base == (1.0, 0.0)
    with pytest.raises(DataError, match=reason):
        paired(*logs, "word_perplexity,none")


def test_a_sample_without_a_score(tmp_path: Path) -> None:
    """An unscored sample of Inspect is absent, which is not zero."""
    scored = [sample(1, match="C"), sample(2, match=None)]
    logs = [inspected(tmp_path / f"{side}.eval", scored) for side in ("base", "adapter")]
    with pytest.raises(DataError, match=r"'match' .* has no value for 1 samples: 2"):
        paired(*logs)


@pytest.mark.parametrize(
    ("adapter", "refusal"),
    [
        (graded(1), "adapter.* lacks 1 of the samples .* has 2: 1"),
        (graded(1, 0, 0), "base.* lacks 1 of the samples .* has 3: 2"),
        (
            [e | {"doc_hash": "new"} if e["doc_id"] == 1 else e for e in graded(1, 0)],
            "1 samples have another document or target .*: 1",
        ),
        (
            [e | {"prompt_hash": "new"} for e in graded(1, 0)],
            "2 samples were asked with another prompt .*: 0, 1",
        ),
    ],
)
def test_other_samples(tmp_path: Path, adapter: list[Line], refusal: str) -> None:
    """The shared samples alone are never taken silently."""
    base = harness(tmp_path / "base", graded(1, 0))
    with pytest.raises(DataError, match=refusal):
        paired(base, harness(tmp_path / "adapter", adapter), STRICT)


def test_other_runs(tmp_path: Path) -> None:
    base = harness(tmp_path / "base", graded(1, 0))
    copy = tmp_path / "copy" / Path(base.path).name
    copy.parent.mkdir()
    shutil.copy(base.path, copy)
    for other in (base, read_log(copy)):  # the copy without results tells of no other model
        with pytest.raises(DataError, match="are the same file"):
            paired(base, other, STRICT)
    with pytest.raises(DataError, match="are of one model, 'base'"):
        paired(base, harness(tmp_path / "again" / "base", graded(0, 0)), STRICT)
    other = inspected(tmp_path / "adapter.eval", [sample(1, match="C")])
    with pytest.raises(DataError, match="different tasks: 'sums' of lm-eval and 'sums' of inspect"):
        paired(base, other)


def test_limited_runs(tmp_path: Path) -> None:
    """A limited run says little of its task, so that it is not taken without being asked for."""
    base = harness(tmp_path / "base", graded(1, 0))
    adapter = harness(tmp_path / "adapter", graded(0, 0), limit=2.0)
    with pytest.raises(DataError, match=r"part of its task \(--limit 2.0\)"):
        paired(base, adapter, STRICT)
    assert isinstance(paired(base, adapter, STRICT, allow_limited=True), PairedLog)
    log = inspected(tmp_path / "part.eval", [sample(1, match="C")], config={"limit": 2})
    assert log.limited == "--limit 2"


def test_results_of_another_run(tmp_path: Path) -> None:
    """A reported value that is not the mean of the samples is of other samples, or no mean."""
    logs = []
    for side, reported in (("base", 0.5), ("adapter", 0.9)):
        beside = results("sums", model=side, exact_match=True)
        beside["results"]["sums"][STRICT] = reported
        logs.append(read_log(harness_log(tmp_path / side, graded(1, 0), beside)))
    with pytest.raises(DataError, match=r"adapter.* report 0.9 for .* is 0.5"):
        paired(*logs, STRICT)


@pytest.mark.parametrize(
    ("head", "refusal"),
    [
        ({"status": "error"}, "ended with status 'error'.*eval-retry"),
        ({"status": "started"}, "ended with status 'started'"),
        ({"version": 3}, "version 3 of Inspect's format"),
        ({"invalidated": True}, "marked as invalid"),
        ({"eval": 3}, "is no log of Inspect"),
    ],
)
@pytest.mark.parametrize("name", ["a.eval", "a.json"])
def test_runs_of_inspect_that_did_not_succeed(
    tmp_path: Path, name: str, head: dict[str, Any], refusal: str
) -> None:
    path = inspect_log(tmp_path / name, [sample(1, match="C")], {**header(), **head})
    with pytest.raises(DataError, match=refusal):
        read_log(path)


def test_a_run_of_inspect_that_has_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(DataError, match=r"has no header\.json: the run has not ended"):
        read_log(path)


def test_damaged_files(tmp_path: Path) -> None:
    """The place of the damage is named."""
    path = harness_log(tmp_path, graded(1, 0))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataError, match=r"jsonl, line 4, is not complete JSON"):
        read_log(path)
    path.write_text('{"doc_id": 0}\n')
    with pytest.raises(DataError, match=r"line 1, lacks 'filter'"):
        read_log(path)
    harness_log(tmp_path, graded(1) + graded(1))
    with pytest.raises(DataError, match="line 3, has document 0 once more"):
        read_log(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no samples"):
        read_log(path)
    archive = inspect_log(tmp_path / "a.eval", [sample(1, match="C")], header())
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="no complete zip archive"):
        read_log(archive)
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("header.json", json.dumps(header()))
        made.writestr("samples/1_epoch_1.json", '{"id": 1,')
    with pytest.raises(DataError, match=r"member samples/1_epoch_1.json, is not complete JSON"):
        read_log(archive)
    deep = "[" * 100_000
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_log(tmp_path / "deep.json")


@pytest.mark.parametrize("odd", [None, 3, "x", [], [1], True, {}])
def test_results_of_another_form(tmp_path: Path, odd: object) -> None:
    """What cannot be read of the results is unknown, and the samples stay readable."""
    for key in ("config", "higher_is_better", "n-samples", "model_name"):
        beside = results("sums", model="base", exact_match=True) | {key: odd}
        assert len(read_log(harness_log(tmp_path, graded(1, 0), beside)).samples) == 2


def test_a_member_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive cannot fill the memory."""
    monkeypatch.setattr(documents, "LARGEST_MEMBER", 1 << 20)
    padded = {**sample(1, match="C"), "metadata": " " * (1 << 21)}
    path = inspect_log(tmp_path / "a.eval", [padded], header())
    assert path.stat().st_size < 1 << 14
    with pytest.raises(DataError, match=r"1_epoch_1.json, unpacks to more than 1 MiB"):
        read_log(path)


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    """A terminal must not obey what a log is called."""
    hostile = "\x1b[2J\u202e"
    scores = {f"m{hostile}": "C"}
    samples = [sample(f"i{hostile}", **scores)]
    fields = {"task": f"t{hostile}"}
    path = inspect_log(tmp_path / "a.eval", samples, header(model=f"b{hostile}", **fields))
    log = read_log(path)
    shown = [log.task, log.model, *log.metrics, log.samples[0].id]
    assert not [name for name in shown if "\x1b" in name or "\u202e" in name]
    inspect_log(path, samples, {**header(), "status": hostile})
    with pytest.raises(DataError) as caught:
        read_log(path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("absent.eval", r"There is no log at .*Did you mean 'absence.eval'"),
        ("notes.txt", "Allowed are samples_TASK_DATE.jsonl"),
        ("renamed.jsonl", "is not named samples_TASK_DATE.jsonl"),
        (".", "is a folder. Give one log"),
        (f"results_{DATE}.json", "results file of lm-eval: give the samples"),
    ],
)
def test_paths_that_are_no_log(tmp_path: Path, name: str, refusal: str) -> None:
    for other in ("absence.eval", "notes.txt", "renamed.jsonl"):
        (tmp_path / other).touch()
    harness_log(tmp_path, graded(1), results("sums", model="base"))
    with pytest.raises(DataError, match=refusal):
        read_log(tmp_path / name)
