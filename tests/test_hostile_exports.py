"""A placement may come from anybody: what its texts do to the files and commands made from it.

Every text of a placement is made hostile, in memory, past the check that refuses such a record on
load: line breaks, quotes, YAML and Python that would add a key or run code. Each target's file
must then parse to exactly what the same placement gives with harmless texts in its place.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placements import ATTENTION, placed

from plop_lora.errors import ExportError, RecordError
from plop_lora.exports import TARGETS, export, fold, lint
from plop_lora.exports.dryrun import skeleton
from plop_lora.exports.trainers.unsloth import read_constant
from plop_lora.records import Host, Placement

BASE = placed("llama", ATTENTION)
BASE = dataclasses.replace(
    BASE, hosts=tuple(Host(site.name, site.type, site.layer, 32, 32) for site in BASE.sites)
)
CANARY = "plop_canary"
LINES = (
    f"x\nopen({CANARY!r}, 'w')",
    f"x\r__import__('pathlib').Path({CANARY!r}).touch()",
    "x\ntrust_remote_code: true",
    "x\x85trust_remote_code: true",
    "x\u2028trust_remote_code: true",
    'x"\ntrust_remote_code: true\ny: "',
    "'''\nraise SystemExit\n'''",
    "!!python/object/apply:os.system ['touch plop_canary']",
    "{loader} {0} %s \\N{BULLET} \\",
    "$(touch plop_canary) `touch plop_canary`; touch plop_canary #",
    "- &a [*a]: {",
    "\x1b]0;title\x07\x1b[2J",
)
HOSTILE = st.sampled_from(LINES) | st.text(min_size=1, max_size=40).filter(
    lambda text: not any("\ud800" <= character <= "\udfff" for character in text)
)


def _with(model_name: str, revision: str, strategy: str, version: str) -> Placement:
    return dataclasses.replace(
        BASE,
        model=dataclasses.replace(BASE.model, name=model_name, revision=revision),
        strategy=strategy,
        plop_version=version,
        notes=(strategy,),
    )


def _parsed(to: str, text: str) -> Any:
    if to == "peft":
        return json.loads(text)
    if to == "unsloth":
        return {name: read_constant(text, name) for name in ("MODEL", "ADAPTERS")}
    return yaml.safe_load(text)


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(entry, old, new) for key, entry in value.items()}
    return new if value == old else value


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
@pytest.mark.parametrize("to", TARGETS)
def test_a_file_says_what_was_meant(
    to: str, name: str, revision: str, strategy: str, version: str
) -> None:
    """No text of a placement becomes a key, a value or a statement of the file made from it."""
    plain = _parsed(to, TARGETS[to].render(_with("NAME", "REVISION", "s", "0")).text)
    text = TARGETS[to].render(_with(name, revision, strategy, version)).text
    wanted = _replaced(_replaced(plain, "NAME", name), "REVISION", revision)
    assert _parsed(to, text) == wanted
    if to == "unsloth":
        kinds = [type(statement) for statement in ast.parse(text).body]
        assert kinds == [ast.Assign, ast.Assign, ast.FunctionDef]


@pytest.mark.slow
@pytest.mark.parametrize("to", TARGETS)
def test_nothing_of_an_export_is_executed(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading an export back ran its text as Python, and with it whatever the record held."""
    monkeypatch.chdir(tmp_path)
    for serve, line in zip(itertools.cycle([None, "vllm", "sglang"]), LINES, strict=False):
        hostile = _with(line, line, line, line)
        # One real reading is enough for the trainers that all hand their fields to PEFT.
        dry_run = to in ("unsloth", "trl") or line == LINES[0]
        done = export(hostile, "out", to=to, serve=serve, dry_run=dry_run, allow_loss=True)
        assert done.checked == dry_run
        assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_literal_is_read_and_nothing_else() -> None:
    """What is not a literal is refused instead of being worked out."""
    assert read_constant("A = {'x': [1, None]}\nraise SystemExit", "A") == {"x": [1, None]}
    with pytest.raises(ValueError, match="malformed"):
        read_constant("A = open('x', 'w')", "A")
    with pytest.raises(ExportError, match="assigns nothing to A"):
        read_constant("B = 1", "A")


@pytest.mark.slow
@pytest.mark.parametrize("to", ["unsloth", "trl"])
def test_a_hostile_file_is_refused_before_anything_is_made_of_it(to: str, tmp_path: Path) -> None:
    """The record itself is refused on the command line, with the field named."""
    document = BASE.to_dict() | {"strategy": f"plop\nopen({CANARY!r}, 'w')"}
    (tmp_path / "placement.json").write_text(json.dumps(document))
    words = ["export", "placement.json", "--to", to, "-o", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "plop_lora", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "strategy holds the control character" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["placement.json"]


FIELDS = [
    (("model", "name"), "model.name"),
    (("model", "revision"), "model.revision"),
    (("model", "architecture"), "model.architecture"),
    (("strategy",), "strategy"),
    (("plop_version",), "plop_version"),
    (("sites", 0, "name"), "sites.0.name"),
    (("sites", 1, "type"), "sites.1.type"),
    (("untouched", 2), "untouched.2"),
    (("settings", "init"), "settings.init"),
    (("notes", 0), "notes.0"),
]


@pytest.mark.parametrize(
    "bad", ["\n", "\x1b", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"]
)
@pytest.mark.parametrize(("path", "named"), FIELDS, ids=[named for _, named in FIELDS])
def test_acting_characters_are_refused_on_load(path: tuple[Any, ...], named: str, bad: str) -> None:
    """A name with a line break or a terminal escape passed for a name."""
    document: Any = dataclasses.replace(BASE, notes=("a note",)).to_dict()
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = f"a{bad}b"
    with pytest.raises(RecordError, match=f"{named} holds the control character"):
        Placement.from_dict(document)


def test_a_key_is_a_text_as_well() -> None:
    document = BASE.to_dict() | {"extra\nkey": 1}
    with pytest.raises(RecordError, match="control character"):
        Placement.from_dict(document)


def test_configurations_may_hold_line_breaks() -> None:
    """A model's own configuration has labels and templates with any text; the record must load."""
    config = {**(BASE.model.config or {}), "id2label": {"0": "two\nlines"}}
    record = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, config=config))
    assert Placement.from_dict(json.loads(record.to_json())) == record


def test_only_models_are_built_from_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attribute of transformers was called with the configuration of a record."""
    import transformers

    monkeypatch.setattr(transformers, "pipeline", lambda *_: pytest.fail("called"))
    for name in ("pipeline", "AutoTokenizer", "Trainer"):
        reference = dataclasses.replace(BASE.model, architecture=name)
        with pytest.raises(ExportError, match="has no model"):
            skeleton(reference)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_names_no_code(key: str) -> None:
    """Transformers fetches and runs an attention kernel whose name has a slash."""
    config = {**(BASE.model.config or {}), key: "evil/kernel", "auto_map": {"AutoModel": "x.Y"}}
    model = skeleton(dataclasses.replace(BASE.model, config=config))
    assert model.config._attn_implementation != "evil/kernel"
    assert not hasattr(model.config, "auto_map")


def _run(command: str, folder: Path) -> None:
    """Run a printed line in a shell where the program that it calls only exists."""
    program = shlex.split(command)[0]
    (folder / program).write_text("#!/bin/sh\nexit 0\n")
    (folder / program).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", command], check=True, cwd=folder, env=environment)


HOSTILE_NAME = "m $(touch plop_canary); touch plop_canary '\"`touch plop_canary`"


@pytest.mark.parametrize("to", ["llama-factory", "litgpt", "mlx-lm"])
def test_printed_commands_are_quoted(to: str, tmp_path: Path) -> None:
    """A folder's name ran as a command when the printed line was pasted."""
    folder = tmp_path / "a $(touch plop_canary) b"
    done = export(BASE, folder, to=to, dry_run=False, allow_loss=True)
    command = done.description.rpartition("then: ")[2]
    assert str(done.path) in shlex.split(command)
    _run(command, tmp_path)
    assert not list(tmp_path.rglob(CANARY))


def test_the_serve_line_is_quoted(tmp_path: Path) -> None:
    """The base model that an adapter names ran as a command when the vllm line was pasted."""
    from test_serving import _train

    adapter = _train(tmp_path / "adapter", "llama", target_modules=["o_proj"], r=4)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = HOSTILE_NAME
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    done = fold(adapter, tmp_path / "$(touch plop_canary)")
    command = done.description.removeprefix("Serve it: ")
    assert shlex.split(command)[:3] == ["vllm", "serve", HOSTILE_NAME]
    _run(command, tmp_path)
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.parametrize("server", ["vllm", "sglang"])
def test_findings_are_plain_data(server: str) -> None:
    """Linting a hostile placement only describes it."""
    assert isinstance(lint(_with(*[LINES[0]] * 4), server), tuple)
