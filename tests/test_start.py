"""How a command starts: errors before anything heavy is imported, help that helps."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from plop_lora.cli import COMMANDS, PANELS, app, command_of
from plop_lora.cli.registering import verb_name
from plop_lora.cli.words import examples_of
from plop_lora.demo import DATA, MODEL

PROBLEMS = str(DATA / "problems.jsonl")
TRAINED = ("--task", "sft", "--train", PROBLEMS, "--eval", PROBLEMS)
HEAVY = ("torch", "transformers", "peft", "datasets", "optuna")


def start(folder: Path, *words: str, unwanted: tuple[str, ...] = HEAVY) -> tuple[int, str]:
    """Run a command in a process of its own; return its code and stderr, and what it imported."""
    code = (
        f"import sys; sys.argv[1:] = {list(words)!r}\n"
        "from plop_lora.cli import main\n"
        "code = 0\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code or 0\n"
        f"found = sorted(set({unwanted!r}) & set(sys.modules))\n"
        "assert not found, found\n"
        "raise SystemExit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data that have a fault, and a chat."""
    here = tmp_path_factory.mktemp("start")
    (here / "empty.jsonl").write_text("")
    (here / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (here / "adapter_config.json").write_text("{}")
    (here / "numbers.jsonl").write_text('{"id": 1, "count": 2}\n')
    chat = {"messages": [{"role": "user", "content": "Hello."}]}
    (here / "chat.jsonl").write_text(json.dumps(chat) + "\n")
    return here


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["score", str(MODEL), "--data", "empty.jsonl"], 1, "holds no rows"),
        (["score", str(MODEL), "--data", "broken.jsonl"], 1, "line 2, is not JSON"),
        (["score", str(MODEL), "--data", PROBLEMS, "--text", "no"], 1, "no field 'no'"),
        (["score", str(MODEL), "--data", "numbers.jsonl"], 1, "it has: id, count"),
        (["score", "./nowhere", "--data", PROBLEMS], 1, "./nowhere is not there"),
        (["score", str(MODEL), "--data", PROBLEMS, "--dtype", "float8"], 2, "no dtype 'float8'"),
        (["score", str(MODEL), "--data", PROBLEMS, "--engine", "gpu"], 2, "no engine 'gpu'"),
        (
            ["score", str(MODEL), "--data", PROBLEMS, "--device", "GPU 1"],
            2,
            "is not the name of a device",
        ),
        (["score", str(MODEL), "--data", PROBLEMS, "--top", "0"], 2, "--top is 0; it must be"),
        (["import", "adapter_config.json"], 1, "is not a PEFT adapter configuration"),
        (["import", ".", "--model", "./nowhere"], 1, "./nowhere is not there"),
        (["trial", "empty.jsonl", "--report-to", "foo"], 2, "no tracker 'foo'"),
        (["verify", "empty.jsonl", *TRAINED, "--seeds", "0"], 2, "--seeds is 0; it must be"),
        (["tune", "empty.jsonl", *TRAINED, "--hours", "nan"], 2, "--hours is nan; it must be"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_errors_come_before_heavy_imports(
    folder: Path, words: list[str], code: int, message: str
) -> None:
    """An empty file took 7.6 s to be told, all of it imports that the error does not need."""
    returned, errors = start(folder, *words)
    assert returned == code, errors
    assert message in errors


@pytest.mark.slow
def test_a_chat_without_a_template_names_the_model(folder: Path) -> None:
    """The tokenizer is loaded only where the data hold a chat; what it lacks is said plainly."""
    plain = folder / "plain"
    shutil.copytree(MODEL, plain, ignore=shutil.ignore_patterns("chat_template*", "*.safetensors"))
    returned, errors = start(folder, "score", "plain", "--data", "chat.jsonl", unwanted=())
    assert returned == 1
    assert "the tokenizer of plain has no chat template" in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_scoring_imports_only_what_the_model_needs(folder: Path) -> None:
    """Llama-4's code, for which every model waited two seconds, is that of Llama-4 alone.

    `scipy.stats` is for comparisons and the end of a verification.
    """
    words = ("score", str(MODEL), "--data", PROBLEMS, "--text", "question", "--samples", "16")
    unwanted = ("transformers.models.llama4.modeling_llama4", "scipy.stats", "datasets", "peft")
    returned, errors = start(folder, *words, "--format", "quiet", unwanted=unwanted)
    assert returned == 0, errors


@pytest.mark.slow
def test_sharded_weights_are_found_without_importing_their_class() -> None:
    code = (
        "import sys, torch\n"
        "from plop_lora.scoring.sites import sharded\n"
        "sys.modules.pop('torch.distributed.tensor', None)\n"
        "assert not sharded.is_spread(torch.zeros(2, 2))\n"
        "assert 'torch.distributed.tensor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- help


def test_help_imports_no_numerical_library(folder: Path) -> None:
    """NumPy and SciPy, which no help text needs, were a quarter of the time of every `--help`."""
    unwanted = (*HEAVY, "numpy", "scipy", "pandas", "pyarrow", "jinja2")
    returned, errors = start(folder, "--help", unwanted=unwanted)
    assert returned == 0, errors


@pytest.mark.parametrize("words", COMMANDS)
def test_help_is_in_sentences(words: str) -> None:
    """`-h` works, every option says in a sentence what it does, and stands in a group."""
    command = command_of(words)
    assert command.context_settings["help_option_names"] == ["-h", "--help"]
    for parameter in command.params:
        text = parameter.help
        assert text[0].isupper(), parameter.name
        assert text.rstrip().endswith((".", "…")), parameter.name
        assert len(text.split()) > 2, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.rich_help_panel, parameter.name


def test_stages_are_named_where_one_is_asked_for() -> None:
    """`--until` said "such as verify", and the others stood in no help text."""
    from plop_lora.pipeline.stages import stages_of

    (until,) = (one for one in command_of("run").params if one.name == "until")
    for proof in ("verify", "tune"):
        recipe = SimpleNamespace(run=SimpleNamespace(proof=proof))
        for stage in stages_of(recipe):  # type: ignore[arg-type]
            assert re.search(rf"\b{stage.name}\b", until.help), stage.name


def test_commands_are_grouped_and_the_first_one_is_named() -> None:
    """A new user met twenty commands in one list, and no hint at which to begin."""
    shown = (
        CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    )
    assert "plop demo" in shown.partition("─ Options")[0]
    for panel, verbs in PANELS.items():
        part = shown.partition(f"─ {panel} ")[2].partition("╰")[0]
        assert [verb_name(verb) for verb in verbs] == re.findall(
            r"^│ ([a-z]+) ", part, re.MULTILINE
        )[: len(verbs)]


def test_lists_say_how_they_are_typed() -> None:
    for words, name in (("verify", "arms"), ("tune", "placements"), ("place", "types")):
        (option,) = (one for one in command_of(words).params if one.name == name)
        assert "separated by commas" in option.help


@pytest.mark.parametrize("words", COMMANDS)
def test_examples_can_be_typed(words: str) -> None:
    """An example with an option that is gone teaches an error."""
    command = command_of(words)
    assert examples_of(COMMANDS[words])
    for _, line in examples_of(COMMANDS[words]):
        head = ["plop", *words.split()]
        typed = shlex.split(line)
        assert typed[: len(head)] == head
        command.make_context("plop", typed[len(head) :])


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", ["", "ab", *COMMANDS])
def test_help_fits_a_terminal(verb: str, flag: str) -> None:
    words = [*verb.split(), flag]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert verb not in COMMANDS or "Examples" in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plop export p.json --to ", {"peft", "axolotl", "trl", "vllm"}),
        ("plop export p.json --to li", {"litgpt"}),
        ("plop export p.json --serve ", {"vllm", "sglang"}),
        ("plop place s.json --strategy pl", {"plop", "plop-inverse"}),
        ("plop place s.json --init o", {"orthogonal", "olora"}),
        ("plop verify s.json --task ", {"sft", "classify", "grpo"}),
        ("plop verify s.json --arms attention,ml", {"attention,mlp"}),
        ("plop tune s.json --runner ", {"local", "ray"}),
        ("plop score m --engine s", {"stream"}),
        ("plop score m --format j", {"json"}),
    ],
)
def test_the_shell_completes_values(line: str, expected: set[str]) -> None:
    """`--to <TAB>` lists the trainers, so that nobody has to look their spelling up."""
    words = line.split(" ")
    environment = os.environ | {
        "_PLOP_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    code = "import sys; sys.argv[0] = 'plop'; from plop_lora.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert expected <= set(done.stdout.split()), done.stderr
