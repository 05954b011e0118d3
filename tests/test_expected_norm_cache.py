"""The cache of expected norms: the same numbers, never those of other weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import families
import pytest
from safetensors.torch import load_file, save_file

import plop_lora as plop
from plop_lora.data.batches import ready_batches
from plop_lora.demo import MODEL
from plop_lora.scoring.engines.in_memory import measure
from plop_lora.scoring.measurement import expected_norm_cache as cache
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache, checkpoint_key
from plop_lora.scoring.sites import operators
from plop_lora.scoring.sites.find import find_sites

TEXTS = ["Tom has 3 pens and buys 4 more.", "How many apples are left?"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache's folder, which is empty."""
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plop-lora"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with every expected norm that is computed."""
    calls: list[str] = []
    inner = operators.DenseOperator.expected_norm

    def counted(self: object, part: object, **options: object) -> object:
        calls.append("expected norm")
        return inner(self, part, **options)

    monkeypatch.setattr(operators.DenseOperator, "expected_norm", counted)
    return calls


def _score(model: str | Path = MODEL, **options: object) -> plop.Scores:
    return plop.score(str(model), texts=TEXTS, progress=False, **options)


def _numbers(scores: plop.Scores) -> object:
    return scores.sites, scores.types, scores.measurements


@pytest.mark.slow
def test_the_second_run_computes_no_expected_norm(folder: Path, computed: list[str]) -> None:
    """The numbers are the same to the last digit, and the weights are read once."""
    first = _score()
    assert len(computed) == len(first.sites)
    assert [path.suffix for path in folder.iterdir()] == [".json"]
    second = _score()
    assert len(computed) == len(first.sites)
    assert _numbers(second) == _numbers(first)


@pytest.mark.slow
def test_settings_that_change_a_gain_have_their_own(folder: Path, computed: list[str]) -> None:
    """An expected norm of another denominator, seed or precision must not be taken."""
    sites = len(_score().sites)
    for runs, options in enumerate(
        ({"seed": 1}, {"dtype": "bfloat16"}, {"denominator": "monte_carlo"}), start=2
    ):
        _score(**options)
        assert len(computed) == runs * sites
    assert len(list(folder.iterdir())) == 1


@pytest.mark.slow
def test_a_new_site_is_added(folder: Path, computed: list[str]) -> None:
    """A run over some modules must not hide those of a run over all."""
    some = len(_score(include=["*layers.0.*"]).sites)
    everything = len(_score().sites)
    assert len(computed) == everything
    assert 0 < some < everything


@pytest.mark.slow
def test_changed_weights_are_seen(folder: Path, tmp_path: Path) -> None:
    """A file of the same size, in the same place, with its old times set back."""
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    times = weights.stat()
    before = _score(model)
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    tensors[name][: len(tensors[name]) // 2] *= 3
    save_file(tensors, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights.stat().st_size == times.st_size
    after = _score(model)
    assert _numbers(after) == _numbers(_score(model, cache=False))
    assert _numbers(after) != _numbers(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[1]",
        '{"x": {"y": NaN}}',
        '{"x": {"y": "1"}}',
        '{"x": ' * 20_000 + "1" + "}" * 20_000,
    ],
    ids=["empty", "cut", "list", "nan", "text", "nested"],
)
def test_a_damaged_file_is_written_anew(folder: Path, damage: str) -> None:
    """A crash or another program may leave anything there; a cache never fails a run."""
    expected = _numbers(_score())
    (path,) = folder.iterdir()
    sound = json.loads(path.read_text())
    path.write_text(damage)
    assert _numbers(_score()) == expected
    assert json.loads(path.read_text()) == sound


def _changed(path: Path, value: object, *, signed: bool) -> dict:
    """Replace the first expected norm of a cache; return what the file held before."""
    before = json.loads(path.read_text())
    ((section, content),) = before.items()
    expected_norms = content["gains"] | {next(iter(content["gains"])): value}
    checksum = cache._checksum(path, section, expected_norms) if signed else content["checksum"]
    path.write_text(json.dumps({section: {"checksum": checksum, "gains": expected_norms}}))
    return before


@pytest.mark.slow
def test_a_multiplied_gain_is_computed_anew(folder: Path) -> None:
    """It moved a score from 1.13 to 0.38 without a word."""
    expected = _numbers(_score())
    (path,) = folder.iterdir()
    before = _changed(path, 9.0, signed=False)
    assert _numbers(_score()) == expected
    assert json.loads(path.read_text()) == before


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, -1.0, [1.0, 2.0], [[1.0]], "1", None, 1])
def test_gains_that_cannot_be_are_computed_anew(folder: Path, value: object) -> None:
    """Zeros and lists of another length raised, or gave infinity, with a checksum or without."""
    expected = _numbers(_score())
    (path,) = folder.iterdir()
    before = _changed(path, value, signed=True)
    assert _numbers(_score()) == expected
    assert json.loads(path.read_text()) == before


@pytest.mark.slow
def test_gains_of_another_checkpoint_are_not_taken(folder: Path, tmp_path: Path) -> None:
    """A file under another name, or a section copied to other settings, is another weight's."""
    expected = _numbers(_score())
    (path,) = folder.iterdir()
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    other = folder / f"{checkpoint_key(str(model))}.json"
    document = json.loads(path.read_text())
    (content,) = document.values()
    content["gains"] = dict.fromkeys(content["gains"], 9.0)
    other.write_text(json.dumps(document))
    assert _numbers(_score(model))[1] == expected[1]


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with any uid and no HOME there is no folder for a cache, and no error."""
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert _score().sites


@pytest.mark.slow
def test_turned_off(folder: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither read nor written with `cache=False` or PLOP_CACHE=0."""
    _score(cache=False)
    monkeypatch.setenv("PLOP_CACHE", "0")
    sites = len(_score().sites)
    assert len(computed) == 2 * sites
    assert not folder.exists()


@pytest.mark.slow
def test_a_loaded_module_is_not_cached(folder: Path) -> None:
    """Its weights may have been trained since they were read."""
    from transformers import AutoModelForCausalLM

    plop.score(AutoModelForCausalLM.from_pretrained(MODEL), texts=TEXTS, progress=False)
    assert not folder.exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home without a place for caches must not end a run."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLOP_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _score().sites


def test_hub_files_are_known_by_the_hash_in_their_blob(tmp_path: Path) -> None:
    """In the hub's cache a file is a link whose target is named by content: no time matters."""
    keys = []
    for snapshot, blob in (("one", "abc"), ("two", "abc"), ("three", "def")):
        blobs, files = tmp_path / snapshot / "blobs", tmp_path / snapshot / "snapshot"
        blobs.mkdir(parents=True)
        files.mkdir()
        for name in ("config.json", "model.safetensors"):
            (blobs / f"{blob}{name}").write_text("content")
            (files / name).symlink_to(blobs / f"{blob}{name}")
        keys.append(checkpoint_key(str(files)))
    assert keys[0] == keys[1] != keys[2]


def test_an_adapters_folder_has_no_key(tmp_path: Path) -> None:
    """Its base model's weights stand somewhere else, and may change there."""
    for name in ("config.json", "model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    assert checkpoint_key(str(tmp_path)) is None
    (tmp_path / "adapter_config.json").unlink()
    assert checkpoint_key(str(tmp_path)) is not None


def test_experts_keep_a_gain_each() -> None:
    """An expected norm of stacked experts is a list, and comes back as one."""
    model = families.build("qwen3_moe")
    sites = find_sites(model).sites
    batches = list(ready_batches([families.batch_of("qwen3_moe")]))
    expected_norms = ExpectedNormCache()
    first = measure(model, sites, batches, expected_norms=expected_norms)
    assert any(isinstance(norm, list) for norm in expected_norms.known.values())
    second = measure(
        model, sites, batches, expected_norms=ExpectedNormCache(known=dict(expected_norms.known))
    )
    assert (first.sums_RN == second.sums_RN).all()


def test_a_run_in_chunks_computes_each_gain_once(computed: list[str]) -> None:
    """Also without a file: the engine is called again for every chunk of batches."""
    model = families.build("llama")
    sites = find_sites(model).sites
    batches = list(ready_batches([families.batch_of("llama")]))
    expected_norms = ExpectedNormCache()
    for _ in range(3):
        measure(model, sites, batches, expected_norms=expected_norms)
    assert len(computed) == len(sites)
