"""Loading by name: which device, which weights, whose code."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import families
import finetunes
import pytest
import torch
import transformers
from conftest import WordTokenizer, make_batch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from waiting import PATIENCE, until

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.data.reading import read_rows
from plop_lora.demo import MODEL
from plop_lora.errors import DataError, ModelError
from plop_lora.models import hub
from plop_lora.models.folders import model_name
from plop_lora.models.loading import device_named, load_model, load_skeleton, load_tokenizer
from plop_lora.models.weights import load_checked
from plop_lora.training import adapters

Tensors = dict[str, torch.Tensor]


def test_a_build_for_cuda_without_its_driver_runs_on_the_cpu(monkeypatch) -> None:
    """PyPI's torch for Linux names cuda on a machine without a GPU, and `plop demo` died there."""

    def built_for(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for)
    monkeypatch.setattr(torch.accelerator, "is_available", torch.cuda.is_available)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert device_named("auto") == torch.device("cpu")


def test_auto_takes_an_accelerator_that_is_there(monkeypatch) -> None:
    """The other way round: a machine with an accelerator must not fall back to its CPU."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert device_named("auto") == torch.device("cuda")


# --------------------------------------------------------------------------- weights


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a folder with a small Llama."""
    families.build("llama").save_pretrained(tmp_path)
    return tmp_path


def _rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> str:
    """Change the tensors of a checkpoint and return its folder."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return str(folder)


def _score(name: str, engine: str = "memory", **options: object) -> plop.Scores:
    batches = [make_batch("llama")]
    return plop.score(name, batches=batches, engine=engine, progress=False, **options)


@pytest.mark.parametrize("engine", ["memory", "stream"])
@pytest.mark.parametrize(
    "key",
    ["model.layers.1.self_attn.k_proj.weight", "model.embed_tokens.weight", "model.norm.weight"],
)
def test_missing_weights_are_no_scores(checkpoint: Path, key: str, engine: str) -> None:
    """Transformers draws what is missing: one lost k_proj became the first choice."""

    def lose(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name != key}

    with pytest.raises(ModelError, match=rf"lacks weights.*{key}"):
        _score(_rewrite(checkpoint, lose), engine)


@pytest.mark.parametrize("engine", ["memory", "stream"])
def test_weights_that_the_model_does_not_know(checkpoint: Path, engine: str) -> None:
    """A third layer under a config.json of two was left out without a word."""

    def add(tensors: Tensors) -> Tensors:
        more = {
            name.replace("layers.1.", "layers.2."): tensor.clone()
            for name, tensor in tensors.items()
            if "layers.1." in name
        }
        return tensors | more

    with pytest.raises(ModelError, match=r"does not have: model\.layers\.2\."):
        _score(_rewrite(checkpoint, add), engine)


@pytest.mark.parametrize("engine", ["memory", "stream"])
def test_weights_of_another_shape(checkpoint: Path, engine: str) -> None:
    """Transformers points to a table above its error, which nobody prints."""
    key = "model.layers.0.mlp.up_proj.weight"

    def cut(tensors: Tensors) -> Tensors:
        return tensors | {key: tensors[key][:-1].clone()}

    with pytest.raises(ModelError, match=rf"{key} is \[.*do not belong together"):
        _score(_rewrite(checkpoint, cut), engine)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["memory", "stream"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(checkpoint: Path, prefix: str, engine: str) -> None:
    """A save of torch.compile scored as random numbers, near 1.00 everywhere."""
    plain = _score(str(checkpoint))

    def wrap(tensors: Tensors) -> Tensors:
        return {prefix + name: tensor for name, tensor in tensors.items()}

    scores = _score(_rewrite(checkpoint, wrap), engine)
    assert [row.nfn for row in scores.types] == [row.nfn for row in plain.types]
    assert any("_orig_mod" in note for note in scores.notes)


@pytest.mark.slow
def test_a_trial_says_that_it_took_prefixes_off(tmp_path: Path) -> None:
    """Scores had the note, and the trials of the same checkpoint had none."""

    def wrap(tensors: Tensors) -> Tensors:
        return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}

    shutil.copytree(MODEL, tmp_path / "wrapped")
    wrapped = _rewrite(tmp_path / "wrapped", wrap)
    texts = [row["prompt"] for row in finetunes.ROWS[:8]]
    scores = plop.score(str(MODEL), texts=texts, stop="fixed", progress=False)
    plain = dataclasses.replace(finetunes.spec(), placement=plop.place(scores))
    prepared = adapters.prepare(dataclasses.replace(plain, model=wrapped))
    assert any("_orig_mod" in note for note in prepared.notes)
    assert adapters.prepare(plain).notes == ()


@pytest.mark.parametrize("engine", ["memory", "stream"])
def test_wrappers_inside_names_are_taken_off(checkpoint: Path, engine: str) -> None:
    """FSDP and activation checkpointing wrap blocks, and parts of blocks once more."""
    plain = _score(str(checkpoint))
    fsdp, again = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."

    def wrap(tensors: Tensors) -> Tensors:
        named = {}
        for name, tensor in tensors.items():
            inner = name.replace("layers.1.", f"layers.1.{fsdp}{again}")
            named[fsdp + inner.replace(".mlp.", f".mlp.{fsdp}")] = tensor
        return named

    scores = _score(_rewrite(checkpoint, wrap), engine)
    assert [row.nfn for row in scores.types] == [row.nfn for row in plain.types]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["memory", "stream"])
def test_a_new_head_is_fine_until_it_is_scored(tmp_path: Path, engine: str) -> None:
    """A body with a classifier that was never trained is scored; the classifier is not."""
    model = families.build("bert")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    batches = [make_batch("bert")]
    scores = plop.score(str(tmp_path), batches=batches, engine=engine, progress=False)
    assert scores.types
    with pytest.raises(ModelError, match="no weights for classifier"):
        plop.score(
            str(tmp_path), batches=batches, engine=engine, include=["classifier"], progress=False
        )


def test_trials_check_the_same(checkpoint: Path) -> None:
    """Training a placement on random weights would prove anything."""
    key = "model.layers.1.self_attn.k_proj.weight"

    def change(tensors: Tensors) -> Tensors:
        return {f"_orig_mod.{name}": t for name, t in tensors.items() if name != key}

    name = _rewrite(checkpoint, change)
    wanted = transformers.AutoModelForSequenceClassification
    with pytest.raises(ModelError, match=rf"lacks weights.*{key}"):
        load_checked(wanted, name, num_labels=3, ignore_mismatched_sizes=True)


# --------------------------------------------------------------------------- names


@pytest.fixture
def with_code(checkpoint: Path) -> Path:
    """Return a checkpoint of a model type of its own, whose code leaves a file when it runs."""
    config = json.loads((checkpoint / "config.json").read_text())
    config["model_type"] = "of_its_own"
    config["architectures"] = ["OwnModel"]
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
        "AutoModel": "modeling_own.OwnModel",
    }
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "modeling_own.py").write_text(
        f"open({str(checkpoint / 'ran')!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'of_its_own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return checkpoint


@pytest.mark.parametrize("engine", ["auto", "memory", "stream"])
def test_code_beside_the_weights_does_not_run(with_code: Path, engine: str, monkeypatch) -> None:
    """Transformers asks on the terminal, and a piped `yes` answered."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match=r"modeling_own\.py.*--trust-remote-code"):
        _score(str(with_code), engine)
    assert not (with_code / "ran").exists()


def test_no_other_verb_runs_code_either(with_code: Path, monkeypatch) -> None:
    """The skeleton of an import, and the tokenizer of a trial, ask as well."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_skeleton(str(with_code))
    tokenizer = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": ["own.Own", None]},
    }
    (with_code / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="--trust-remote-code"):
        load_tokenizer(str(with_code))
    assert not (with_code / "ran").exists()


@pytest.mark.slow
def test_code_that_is_trusted_runs_and_is_recorded(with_code: Path, tmp_path, monkeypatch) -> None:
    """Models of their own could not be scored from the command line at all."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.syspath_prepend(str(tmp_path / "m"))
    scores = _score(str(with_code), trust_remote_code=True)
    assert (with_code / "ran").exists()
    assert scores.provenance.settings["trust_remote_code"] is True
    assert _score(str(_plain(with_code))).provenance.settings["trust_remote_code"] is False


def _plain(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config.pop("auto_map")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_revision_and_token_reach_the_hub_and_no_record(monkeypatch, checkpoint: Path) -> None:
    """A gated model could not be scored, and a token in a record is a token that is published."""
    asked: list[dict[str, object]] = []

    def refuse(name: str, **options: object) -> None:
        asked.append(options)
        raise OSError(f"401 for {name} with {options['token']}")

    monkeypatch.setattr("plop_lora.models.loading.AutoConfig.from_pretrained", refuse)
    with pytest.raises(ModelError) as caught:
        plop.score("some/gated", batches=[make_batch("llama")], revision="v2", token="hf_secret")
    assert asked[0] == {"revision": "v2", "token": "hf_secret", "trust_remote_code": False}
    assert "hf_secret" not in str(caught.value)
    assert "'v2'" in str(caught.value)
    monkeypatch.undo()
    scores = _score(str(checkpoint), token="hf_secret", revision="v2")
    assert "hf_secret" not in scores.to_json()
    assert scores.provenance.settings["revision"] == "v2"


def test_a_tokenizer_from_elsewhere(checkpoint: Path, texts: list[str]) -> None:
    """A checkpoint of a training run often has no tokenizer beside it."""
    with pytest.raises(ModelError, match=r"no tokenizer.*--tokenizer"):
        plop.score(str(checkpoint), texts=texts)
    tokenizer = WordTokenizer()
    tokenizer.name_or_path = "some/other"
    scores = plop.score(str(checkpoint), tokenizer, texts, progress=False)
    assert scores.provenance.settings["tokenizer"] == "some/other"


def _folder(tmp_path: Path, files: dict[str, str]) -> str:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is empty"),
        (
            {"adapter_config.json": '{"base_model_name_or_path": "some/base"}'},
            "an adapter and not a model. Score its base model: some/base",
        ),
        ({"dataset_info.json": "{}", "state.json": "{}"}, "a saved data set.*--data"),
        ({"train.jsonl": "{}"}, "a folder of data"),
        ({"model.gguf": "GGUF"}, "GGUF.*was made from"),
        ({"model.safetensors": ""}, "weights but no config.json"),
        ({"checkpoint-2/config.json": "{}"}, "checkpoint-2 does"),
        ({"notes.md": ""}, "holds no config.json"),
    ],
)
def test_folders_that_hold_no_model(tmp_path: Path, files: dict[str, str], message: str) -> None:
    """All of them were answered with a package called sentencepiece."""
    with pytest.raises(ModelError, match=message):
        model_name(_folder(tmp_path, files))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.gguf", "GGUF"),
        ("m.safetensors", "Give the folder that holds it"),
        ("texts.jsonl", "plop score MODEL --data"),
        ("README", "is a file, not a folder"),
    ],
)
def test_files_are_no_models(tmp_path: Path, name: str, message: str, monkeypatch) -> None:
    """A file in the working directory went to the hub; so did arguments the wrong way round."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        model_name(name)


def test_a_tilde_is_the_home_folder(checkpoint: Path, monkeypatch) -> None:
    """`~/model` in quotes or in a recipe went to the hub as it stands."""
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert _score(f"~/{checkpoint.name}").types


# --------------------------------------------------------------------------- the hub


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Let `reachable` ask anew, before and after a test."""
    hub.reachable.cache_clear()
    yield
    hub.reachable.cache_clear()


def test_a_hub_that_does_not_answer_costs_one_wait(monkeypatch, asked_again: None) -> None:
    """Each file had its own retries: 31 to 53 seconds, and 244 where the name server is mute."""
    waiting, looked_up, answered, waits = threading.Event(), [], [], []

    class Asking(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            """Wait until the name is looked up, as if that was all that the time is enough for."""
            waits.append(timeout)
            until(lambda: looked_up)

    def look_up(*words: object, **_: object) -> list[object]:
        looked_up.append(words)
        waiting.wait(PATIENCE)
        answered.append(words)
        return []

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "threading", SimpleNamespace(Thread=Asking))
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ModelError, match="cannot be reached"):
        load_tokenizer("nobody/nothing")
    with pytest.raises(ModelError, match="cannot be reached"):
        load_model("nobody/nothing", progress=False)
    assert (waits, len(looked_up)) == ([hub.SECONDS], 1), "it waited once"
    assert not answered, "and not for the answer"
    waiting.set()
    assert not constants.HF_HUB_OFFLINE, "the setting of the user's process is put back"


def test_offline_is_respected_at_once(monkeypatch, asked_again: None) -> None:
    """HF_HUB_OFFLINE=1 says that nobody is to be asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        load_model("nobody/nothing", progress=False)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        read_rows("nobody/nothing")
    assert not asked


@pytest.mark.slow
def test_a_name_out_of_reach_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    """The hub was asked after seconds of imports, by way of a tokenizer."""
    (tmp_path / "a.txt").write_text("one text")
    program = (
        "import sys; from plop_lora.models import hub; hub._asked = lambda: False\n"
        "from plop_lora.cli import app\n"
        "from plop_lora.errors import PlopError\n"
        "for words in (['nobody/nothing', '--data', 'a.txt'], ['.', '--data', 'nobody/nothing']):\n"
        "    try:\n"
        "        app(['score', *words], standalone_mode=False)\n"
        "    except PlopError as error:\n"
        "        print(type(error).__name__, 'cannot be reached' in str(error))\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))\n"
    )
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == ["ModelError True", "DataError True", "[]"]


@pytest.mark.slow
def test_an_unknown_user_without_a_home(tmp_path: Path) -> None:
    """A container that runs as any number has neither HOME nor a line in the list of users."""
    program = (
        "import os, pwd, sys\n"
        "def unknown(*_): raise KeyError('uid not found')\n"
        "pwd.getpwuid = unknown\n"
        "from plop_lora.cli import main\n"
        "sys.argv[1:] = ['score', '~/missing', '--data', 'a.txt']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code)\n"
        "sys.argv[1:] = sys.argv[:0] + os.environ['WORDS'].split()\n"
        "main()\n"
    )
    (tmp_path / "a.txt").write_text("one text\nand another")
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    words = f"score {MODEL} --data a.txt --stop fixed --format quiet -o out.json"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=tmp_path,
        env=environment | {"WORDS": words, "PLOP_CACHE": "1", "USER": "", "LOGNAME": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1\n")
    assert (tmp_path / "out.json").exists()


def test_a_declared_class_that_is_no_model(checkpoint: Path) -> None:
    """The name comes from a file, and transformers has many names that are no models."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"architectures": ["pipeline"]}))
    assert _score(str(checkpoint)).model.architecture == "LlamaModel"


def test_the_command_line_passes_the_origin_on(checkpoint: Path, tmp_path, monkeypatch) -> None:
    """`plop score` had no way to name a revision, a tokenizer or a token."""
    asked: list[tuple[str, dict[str, object]]] = []
    tokenizer = WordTokenizer()

    def given(name: str, **options: object) -> WordTokenizer:
        asked.append((name, options))
        return tokenizer

    monkeypatch.setattr("plop_lora.models.loading.AutoTokenizer.from_pretrained", given)
    (tmp_path / "a.txt").write_text("one text\nand another")
    (tmp_path / "records").mkdir()
    out = tmp_path / "records" / "out.json"
    words = ["--revision", "v2", "--tokenizer", "some/other", "--token", "hf_secret"]
    app(
        ["score", str(checkpoint), "--data", str(tmp_path / "a.txt"), "-o", str(out), *words],
        standalone_mode=False,
    )
    expected = {"revision": None, "token": "hf_secret", "trust_remote_code": False}
    assert asked == [("some/other", expected)]
    assert "hf_secret" not in out.read_text()
    assert plop.Scores.load(out).provenance.settings["revision"] == "v2"
