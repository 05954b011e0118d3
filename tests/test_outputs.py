"""Where results go: never over what the user gave, never into what is not ours, safe to print."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import builders
import pytest

import plop_lora as plop
from plop_lora.cli.output import print_json, say
from plop_lora.data.sampling import shares
from plop_lora.errors import ExportError, OutputError, UsageError
from plop_lora.files import size
from plop_lora.placement import parse_budget, parse_layers
from plop_lora.records import GroupCount, NotMeasured, Placement, Scores, Stopping
from plop_lora.reports.live import LiveBoard, State, Trial, drawn, live, rows
from plop_lora.reports.rows import shown
from plop_lora.reports.terminal import as_html, as_text
from plop_lora.study.folder import check_disk
from plop_lora.training.runners.events import FINISHED, Event

GOLDEN = Path(__file__).parent / "golden"
Run = Callable[..., tuple[int, str, str]]
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with records, data, a link to each record, and a model's folder."""
    monkeypatch.chdir(tmp_path)
    for kind in ("scores", "placement"):
        shutil.copy(GOLDEN / f"{kind}-1.json", f"{kind}.json")
        Path(f"{kind}-link.json").symlink_to(f"{kind}.json")
    Path("data.jsonl").write_text('{"text": "one"}\n')
    Path("notes.txt").write_text("what I must not lose")
    Path("model").mkdir()
    for name in ("config.json", "model.safetensors"):
        Path("model", name).write_text("{}")
    Path("adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        Path("adapter", name).write_text("{}")
    return tmp_path


PROOF = ("--task", "sft", "--train", "data.jsonl", "--eval", "notes.txt")
REFUSED = [
    (["place", "scores.json", "-o", "scores.json"], "which is read here and would be lost"),
    (["place", "scores.json", "-o", "./scores-link.json"], "which is read here"),
    (["place", "scores-link.json", "-o", "scores.json"], "which is read here"),
    (["place", "scores.json", "-o", "notes.txt"], "was not written by plop-lora"),
    (["place", "scores.json", "-o", "model/config.json"], "was not written by plop-lora"),
    (["place", "scores.json", "-o", "model/placement.json"], "is the folder of a model"),
    (["compare", "scores.json", "scores-link.json", "-o", "scores.json"], "which is read here"),
    (["import", "adapter", "-o", "adapter/adapter_config.json"], "which is read here"),
    (["import", "adapter", "--scores", "scores.json", "-o", "scores.json"], "which is read here"),
    (["score", "model", "--data", "data.jsonl", "-o", "data.jsonl"], "which is read here"),
    (["score", "model", "--data", "data.jsonl", "-o", "model/s.json"], "the folder of a model"),
    (["export", "placement.json", "-o", "adapter"], "is the folder of a model"),
    (["export", "placement.json", "-o", "model"], "is the folder of a model"),
    (["verify", "scores.json", *PROOF, "-o", "scores.json"], "which is read here"),
    (["verify", "scores.json", *PROOF, "-o", "data.jsonl"], "which is read here"),
    (["tune", "scores.json", *PROOF, "-o", "./scores-link.json"], "which is read here"),
    (["tune", "scores.json", *PROOF, "-o", "data.jsonl"], "which is read here"),
    (["export", "adapter", "--to", "vllm", "-o", "-"], "cannot go to standard output"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(w) for w, _ in REFUSED])
def test_nothing_of_the_users_is_overwritten(
    words: list[str], message: str, here: Path, run: Run
) -> None:
    """`-o` replaced the data, the scores or a model's configuration, and said "Wrote"."""
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, output, errors = run(*words)
    assert (code, output) == (2, "")
    assert message in errors
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_force_replaces_what_is_not_an_input(here: Path, run: Run) -> None:
    """Where replacing can be meant, `--force` does it; an input is never replaced."""
    assert run("place", "scores.json", "-o", "notes.txt", "--force")[0] == 0
    assert Placement.load("notes.txt").sites
    assert run("place", "scores.json", "-o", "scores.json", "--force")[0] == 2
    assert run("export", "placement.json", "-o", "adapter", "--no-dry-run", "--force")[0] == 0
    assert json.loads(Path("adapter", "adapter_config.json").read_text())["r"]


def test_our_own_files_are_replaced_as_before(here: Path, run: Run) -> None:
    """Running the same command again is what people do."""
    for _ in range(2):
        assert run("place", "scores.json", "-o", "mine.json")[0] == 0
        assert run("export", "mine.json", "-o", "out", "--no-dry-run")[0] == 0


def test_a_dash_is_standard_output(here: Path, run: Run) -> None:
    """`-o -` made a file of that name."""
    code, output, _ = run("place", "scores.json", "-o", "-")
    assert (code, json.loads(output)["kind"]) == (0, "placement")
    code, output, _ = run("export", "placement.json", "-o", "-", "--no-dry-run")
    assert (code, json.loads(output)["peft_type"]) == (0, "LORA")
    assert not Path("-").exists()


def _scores() -> Scores:
    return Scores.load(GOLDEN / "scores-1.json")


def _grouped(*groups: str) -> Scores:
    counts = tuple(GroupCount(group, 1, 1) for group in groups)
    stopping = Stopping("fixed", "all", False, 6, 6, 3, 0.03, 0.95, groups=counts)
    return dataclasses.replace(_scores(), stopping=stopping)


def test_tables_move_no_cursor() -> None:
    """Names of models, types and groups reached the terminal as they were."""
    scores = _grouped(f"group{ESCAPE}")
    scores = dataclasses.replace(
        scores,
        model=dataclasses.replace(scores.model, name=f"m{ESCAPE}"),
        coverage=dataclasses.replace(
            scores.coverage, not_measured=(NotMeasured("n", "t", 1, f"reason{ESCAPE}"),)
        ),
        notes=(f"note{ESCAPE}\u202e",),
    )
    for text in (as_text(scores), str(scores), as_html(scores)):
        assert not any(character in text for character in "\x1b\x07\x9b\u202e")
        assert "\\x1b]0;owned" in text


def test_live_tables_move_no_cursor() -> None:
    """The name of an arm and the cause of a failure come from others as well."""
    from rich.console import Console

    spec = builders.trial_spec(f"arm{ESCAPE}")
    result = builders.trial_result(spec, None, cause=f"cause{ESCAPE}")
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(drawn(shown(rows(State((Trial(spec, FINISHED, (), result),))))))
    lines = Console(file=io.StringIO(), force_terminal=False)
    with live([spec], console=lines) as watch:
        watch(Event(spec, Path(), FINISHED, result))
    for text in (console.file.getvalue(), lines.file.getvalue()):
        assert "\\x1b]0;owned" in text
        assert not any(character in text for character in "\x1b\x07\x9b")
    assert isinstance(LiveBoard(), LiveBoard)


def test_messages_and_json_move_no_cursor(
    here: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names of files, and characters that JSON leaves as they are, reach the terminal too."""
    code, _, errors = run("place", f"no{ESCAPE}.json")
    assert code == 1
    assert "\\x1b]0;owned" in errors
    assert "\x1b" not in errors
    print_json(_grouped("g\x9b31m\u202e").to_json())
    printed = capfd.readouterr().out
    assert not {"\x9b", "\u202e"} & set(printed)
    assert Scores.from_dict(json.loads(printed)).stopping.groups[0].group == "g\x9b31m\u202e"
    say(f"two\nlines{ESCAPE}")
    assert capfd.readouterr().out == "two\nlines\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\n"


def test_groups_are_listed_not_poured_out() -> None:
    """`--group` on a field of unique values printed every text."""
    with pytest.raises(UsageError, match="a group of its own"):
        shares({f"text {n}": 1 for n in range(50)}, 200)
    assert shares({"a": 1, "b": 1}, 10) == {"a": 1, "b": 1}
    text = as_text(_grouped(*(f"{n} {'long ' * 100}" for n in range(100))), 400)
    assert "and 88 more groups, in the record" in text
    assert len(text) < 8000


def test_an_empty_placement_is_told(here: Path, run: Run) -> None:
    """`max()` of nothing came up as a fault of plop-lora."""
    empty = dataclasses.replace(Placement.load("placement.json"), sites=(), choices=())
    empty.save("empty.json")
    code, _, errors = run("export", "empty.json", "-o", "out")
    assert code == 1
    assert "holds no adapter, so there is nothing to export" in errors
    with pytest.raises(ExportError, match="holds no adapter"):
        empty.to_peft()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "200%"], "more than the whole model"),
        (["--budget", "9" * 400], "is larger than any model"),
        (
            ["--layers", "0-99999999999"],
            "are not possible. Count blocks from 0, the lower number first",
        ),
        (["--layers", "1-0"], "are not possible. Count blocks from 0, the lower number first"),
    ],
)
def test_what_cannot_be_is_an_error(options: list[str], message: str, here: Path, run: Run) -> None:
    """Ranks and budgets beyond the model were clipped without a word."""
    code, _, errors = run("place", "scores.json", *options)
    assert code == 2
    assert message in errors


def test_what_is_clipped_is_told() -> None:
    """A rank that some weights cannot take, and a budget that none can use up."""
    scores = _scores()
    smallest = min(host.largest_rank for host in scores.hosts)
    largest = max(host.largest_rank for host in scores.hosts)
    assert smallest < largest
    placed = plop.place(scores, strategy="all-linear", rank=100_000)
    count = len(placed.sites)
    assert f"rank 100000 is more than {count} of the {count} weights can use" in str(placed)
    notes = plop.place(scores, strategy="all-linear", rank=largest).notes
    assert any(f"they have rank {smallest}" in note for note in notes)
    placed = plop.place(scores, strategy="all-linear", budget=10**9)
    assert "the budget of 1,000,000,000 is more than these weights can use" in str(placed)
    assert plop.place(scores, rank=4).notes == plop.place(scores).notes
    assert parse_budget("100%", 10) == 10
    assert parse_layers("0-2") == {0, 1, 2}


def test_more_types_than_there_are(models, tokenizer, texts) -> None:
    """`score --top 1000000` asked for less than was said."""
    with pytest.raises(UsageError, match="--top 1000000 is not possible: 7 module types"):
        plop.score(models("llama"), tokenizer, texts[:4], top=1_000_000, progress=False)


def test_sizes_are_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That 0.0 GiB are needed and 0.0 GiB are free told nothing."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OutputError, match=r"need 1\.9 MiB in .*, but 0 bytes are free"):
        check_disk(tmp_path / "run", 100, 4_000)
    assert size(2**20) == "1.0 MiB"

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    with pytest.raises(OutputError, match="mounted read-only"):
        check_disk(tmp_path / "run", 1, 1)
