"""The stream engine: the memory engine's numbers, two blocks in memory, and a clean end."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import families
import numpy as np
import pytest
import torch
import transformers as t
from conftest import WordTokenizer
from torch import nn

import plop_lora as plop
from plop_lora.data.batches import Batch, ready_batches
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import MeasurementError, ModelError, UsageError
from plop_lora.models import capacity
from plop_lora.models.loading import quiet_loading
from plop_lora.scoring.engines import choose as engines
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.engines.streaming import checkpoint, embedding_rows, shards
from plop_lora.scoring.engines.streaming import engine as stream
from plop_lora.scoring.engines.streaming.activation_offload import ActivationOffload
from plop_lora.scoring.engines.streaming.lockstep import Pass, intercepted_calls, run_in_lockstep
from plop_lora.scoring.engines.streaming.skeleton import UnstreamableError
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.site_checks import NOT_TRIED
from plop_lora.scoring.sites.find import find_sites

quiet_loading()
SHARD = "40KB"
NARROW = ["llama", "gpt_oss", "qwen3_next", "deepseek_v3", "nemotron_h", "t5", "bert", "qwen2_5_vl"]
HYBRID = ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"]
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "albert": lambda: t.AlbertForMaskedLM(t.AlbertConfig(**families.ENCODER, embedding_size=16)),
    "jamba": families.causal(
        "JambaConfig", "JambaForCausalLM", num_experts=4, num_experts_per_tok=2,
        attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
        mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False,
    ),
    "zamba2": lambda: t.Zamba2ForCausalLM(
        t.Zamba2Config(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=6,
            layers_block_type=HYBRID, layer_types=HYBRID, num_attention_heads=4,
            num_key_value_heads=4, mamba_d_state=4, mamba_expand=2, n_mamba_heads=8,
            mamba_headdim=8, mamba_ngroups=1, hybrid_layer_ids=[2, 4], num_mem_blocks=1,
            adapter_rank=4, chunk_size=8, attention_head_dim=16,
        )
    ),
    "tied": families.causal("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True),
}  # fmt: skip
"""A block used many times, a scan that rounds by `requires_grad`, blocks that share weights."""


def _batches(name: str, dtype: torch.dtype = torch.float32) -> list[dict[str, torch.Tensor]]:
    given = [families.batch_of(name, rows=3, seed=seed) for seed in (1, 2)]
    return [
        {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        for batch in given
    ]


def _ready(batches: list[dict[str, torch.Tensor]]) -> list[Batch]:
    return list(ready_batches(batches))


def _saved(model: nn.Module, folder: Path, shard: str = SHARD) -> str:
    model.save_pretrained(folder, max_shard_size=shard)
    return str(folder)


def _engine(folder: str, engine: str = "stream") -> engines.Engine:
    job = MeasurementSettings(folder, "cpu", "auto", (), (), "analytic", 0, cache=False)
    return engines.engine_for(
        folder, job, engine=engine, ray_address=None, processes=Processes(), progress=False
    )


def _both(
    model: nn.Module,
    folder: str,
    batches: list[dict[str, torch.Tensor]],
    include: tuple[str, ...] = (),
    **options: object,
) -> tuple[Measured, Measured]:
    """Return what the memory engine gives for a model, and the stream engine for its files."""
    given = _ready(batches)
    plain = memory.measure(model, find_sites(model, include=include).sites, given)
    chosen = _engine(folder)
    sites = find_sites(chosen.model, include=include).sites
    return plain, chosen.measure(sites, given, **options)


def _assert_equal(plain: Measured, streamed: Measured) -> None:
    assert streamed.engine == "stream"
    assert streamed.names == plain.names
    assert np.array_equal(streamed.sums_RN, plain.sums_RN)
    assert np.array_equal(streamed.counts_RN, plain.counts_RN)
    assert (streamed.tokens, streamed.alone) == (plain.tokens, plain.alone)
    assert streamed.unassignable == plain.unassignable


def _threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("plop-lora")]


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_equals_the_memory_engine_to_the_last_bit(name: str, tmp_path: Path) -> None:
    """A weight renamed, fused or left out wrongly, a wrong mask or buffer moves every sum."""
    model = families.build(name)
    _assert_equal(*_both(model, _saved(model, tmp_path), _batches(name)))
    assert not _threads()


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROW)
def test_equals_the_memory_engine_in_bfloat16(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are kept in float32 or cast at another place than usual would show here."""
    monkeypatch.setattr("plop_lora.models.loading.is_slow", lambda dtype: False)
    model = families.build(name).to(torch.bfloat16)
    folder = _saved(model, tmp_path)
    loaded = type(model).from_pretrained(folder, dtype="auto")
    _assert_equal(*_both(loaded, folder, _batches(name, torch.bfloat16)))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_unusual_blocks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block called many times, or one that shares its weights with another."""
    monkeypatch.setitem(families.FAMILIES, name, OTHERS[name])
    model = families.build(name)
    _assert_equal(*_both(model, _saved(model, tmp_path), _batches(name)))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_scored_is_loaded(tied: bool, tmp_path: Path) -> None:
    """The head is left on disk unless someone asks for it; in one file or many."""
    settings = families.DECODER | {"tie_word_embeddings": tied}
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**settings)).eval()
    folder = _saved(model, tmp_path, "1GB")
    include = ("*embed_tokens*", "*lm_head*", "*q_proj*")[1 if not tied else 0 :]
    include = tuple(p for p in include if not tied or "lm_head" not in p)
    _assert_equal(*_both(model, folder, _batches("llama"), include=include))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_another_dtype_than_on_disk(name: str, tmp_path: Path) -> None:
    """Stored in float32 and run in bfloat16, as `--dtype` does."""
    folder = _saved(families.build(name), tmp_path)
    options = {"batches": _batches(name), "dtype": "bfloat16", "progress": False}
    streamed = plop.score(folder, engine="stream", **options)
    plain = plop.score(folder, engine="memory", **options)
    assert streamed.measurements == plain.measurements
    assert streamed.provenance.dtype == "bfloat16"


def test_the_record_is_that_of_the_memory_engine(
    tmp_path: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the provenance tells the engines apart, and the weights are never loaded whole."""
    folder = _saved(families.build("llama"), tmp_path)
    score = functools.partial(
        plop.score, folder, WordTokenizer(), texts, batch_size=5, stop="fixed"
    )
    plain = score(engine="memory", progress=False)
    monkeypatch.setattr(engines, "load_weights", lambda *a, **k: pytest.fail("loaded whole"))
    streamed = score(engine="stream", progress=False)
    assert streamed.provenance.settings["engine"] == "stream"
    assert plain.provenance.settings["engine"] == "memory"
    for field in ("model", "types", "sites", "hosts", "coverage", "measurements"):
        assert getattr(streamed, field) == getattr(plain, field), field
    assert streamed.notes == (NOT_TRIED, *plain.notes)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["memory", "stream"])
def test_the_command_line(
    engine: str,
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    bundled: dict[str, plop.Scores],
) -> None:
    """The bundled model, which was really trained, from the shell and by either engine."""
    file = tmp_path / "scores.json"
    words = ["score", str(MODEL), "--data", str(DATA / "problems.jsonl"), "--samples", "20"]
    words += ["--template", "{question}", "--stop", "fixed", "--engine", engine]
    code, _, errors = run(*words, "-o", str(file), "--format", "quiet")
    assert not code, errors
    bundled[engine] = plop.Scores.load(file)
    assert bundled[engine].provenance.settings["engine"] == engine
    assert len({scores.measurements for scores in bundled.values()}) == 1


@pytest.fixture(scope="module")
def bundled() -> dict[str, plop.Scores]:
    """What each engine gave for the bundled model."""
    return {}


def test_chunks_one_after_another(tmp_path: Path) -> None:
    """A run that is stopped between chunks reads the weights again for each."""
    model = families.build("llama")
    chosen = _engine(_saved(model, tmp_path))
    sites = find_sites(chosen.model).sites
    for batch in _batches("llama"):
        given = _ready([batch])
        _assert_equal(
            memory.measure(model, find_sites(model).sites, given), chosen.measure(sites, given)
        )


@pytest.mark.slow
def test_hidden_states_are_offloaded_to_a_file(tmp_path: Path) -> None:
    """Above the limit they wait on disk, and nothing else changes."""
    for name in ("llama", "t5", "gemma3"):
        offload = ActivationOffload(0, smallest=1)
        folder = _saved(families.build(name), tmp_path / name)
        _assert_equal(*_both(families.build(name), folder, _batches(name), offload=offload))
        assert offload.written
        assert offload.held == 0


@pytest.mark.slow
def test_large_embeddings_are_read_by_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled, shared and position embeddings; a token without a row is refused as ever."""
    read: list[str] = []
    rows = shards.Shards.read_rows

    def watched(self: shards.Shards, name: str, wanted: list[int]) -> torch.Tensor:
        read.append(name)
        return rows(self, name, wanted)

    monkeypatch.setattr(shards.Shards, "read_rows", watched)
    monkeypatch.setattr(embedding_rows, "LARGE", 1)
    for name in ("gemma3", "t5", "bert", "gpt2"):
        folder = _saved(families.build(name), tmp_path / name)
        _assert_equal(*_both(families.build(name), folder, _batches(name)))
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in read} >= {
        "embed_tokens", "shared", "word_embeddings", "position_embeddings", "wte", "wpe",
    }  # fmt: skip
    batch = {"input_ids": torch.tensor([[families.VOCABULARY]])}
    with pytest.raises(MeasurementError, match="refused a batch"):
        plop.score(str(tmp_path / "gemma3"), batches=[batch], engine="stream", progress=False)


def test_progress_adds_up(tmp_path: Path) -> None:
    """A bar that jumps to its end says nothing about a run of hours."""
    model = families.build("llama")
    steps: list[int] = []
    _both(model, _saved(model, tmp_path), _batches("llama"), advance=steps.append)
    assert sum(steps) == 6
    assert len(steps) > 2


# --------------------------------------------------------------------------- memory


_PEAKS = """
import ctypes, gc, sys, threading
import torch, transformers
from plop_lora.data.batches import ready_batches
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.engines.streaming.engine import measure
from plop_lora.scoring.sites.find import find_sites

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024

def peak(folder):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    seen, done = [resident()], threading.Event()
    def watch():
        while not done.wait(0.001):
            seen.append(resident())
    thread = threading.Thread(target=watch)
    thread.start()
    checkpoint = Checkpoint(folder, device=torch.device("cpu"), dtype="auto")
    ids = torch.arange(64).reshape(4, 16)
    batches = ready_batches([{"input_ids": ids}] * 2)
    measure(checkpoint, find_sites(checkpoint.model).sites, batches)
    done.set()
    thread.join()
    return max(seen) - seen[0]

transformers.utils.logging.disable_progress_bar()
peak(sys.argv[1])
print(*(min(peak(folder) for _ in range(3)) for folder in sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_two_blocks_whatever_the_depth(tmp_path: Path) -> None:
    """A block that is kept, or a file that is read whole, shows as memory that grows with depth."""
    config = t.LlamaConfig(
        vocab_size=128, hidden_size=512, intermediate_size=1536, num_hidden_layers=24,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = t.LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    block = sum(parameter.numel() * 2 for parameter in model.model.layers[0].parameters())
    for layers in (24, 6):
        model.config.num_hidden_layers = layers
        model.config.layer_types = None
        model.model.layers = model.model.layers[:layers]
        _saved(model, tmp_path / str(layers), "20MB")
    folders = [str(tmp_path / "6"), str(tmp_path / "24")]
    command = [sys.executable, "-c", _PEAKS, *folders]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shallow, deep = map(int, output.split())
    assert deep < 5 * block < 24 * block / 4
    assert deep < shallow + 2 * block


# --------------------------------------------------------------------------- failures


def _shards(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.safetensors"))


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    """A download that broke off; read past its end it would be a bus error or garbage."""
    folder = _saved(families.build("llama"), tmp_path)
    broken = _shards(folder)[1]
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(ModelError, match=broken.name):
        plop.score(folder, batches=_batches("llama"), engine="stream", progress=False)


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    broken = _shards(folder)[0]
    broken.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=broken.name):
        plop.score(folder, batches=_batches("llama"), engine="stream", progress=False)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    gone = _shards(folder)[-1]
    gone.unlink()
    with pytest.raises(ModelError, match=gone.name):
        plop.score(folder, batches=_batches("llama"), engine="stream", progress=False)


def _cut_a_shard(folder: Path) -> str:
    """Cut off the file of a weight in the second block, and return the file's name."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    with (folder / name).open("r+b") as opened:
        opened.truncate(200)
    return name


def test_a_shard_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    """The header was right when it was read; the reader's error must reach the user."""
    folder = _saved(families.build("llama"), tmp_path)
    chosen = _engine(folder)
    name = _cut_a_shard(tmp_path)
    with pytest.raises(ModelError, match=rf"{name}.*ends inside"):
        chosen.measure(find_sites(chosen.model).sites, _ready(_batches("llama")))
    assert not _threads()


@pytest.mark.slow
def test_where_pages_cannot_be_asked_for_they_are_read(tmp_path: Path) -> None:
    """As on an older Linux or another system; a file that is cut meanwhile is named there too."""
    model, given = families.build("llama"), _ready(_batches("llama"))
    folder = _saved(model, tmp_path)
    opened = checkpoint.Checkpoint(folder, device=torch.device("cpu"), dtype="auto")
    files = shards.shard_files(folder)
    opened.shards = shards.Shards(files, populate=lambda *_: False, read_bytes=1000)
    sites = find_sites(opened.model).sites
    plain = memory.measure(model, find_sites(model).sites, given)
    _assert_equal(plain, stream.measure(opened, sites, given))
    name = _cut_a_shard(tmp_path)
    with pytest.raises(ModelError, match=rf"{name}.*ends inside"):
        stream.measure(opened, sites, given)
    assert not _threads()


def test_a_model_may_write_to_its_buffers(tmp_path: Path) -> None:
    """The pages of a file cannot be written: a store into them would end the process."""
    folder = _saved(families.build("deepseek_v3"), tmp_path)
    opened = checkpoint.Checkpoint(folder, device=torch.device("cpu"), dtype="auto")
    for block in opened.modules:
        opened.load(block)
    found = [buffer for block in opened.modules for buffer in block.buffers()]
    assert found
    for buffer in found:
        buffer.add_(1)


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"intermediate_size": 56}))
    with pytest.raises(ModelError, match=r"mlp\.\w+\.weight is \[32, 48\]"):
        plop.score(folder, batches=_batches("llama"), engine="stream", progress=False)


def _is_clean(model: nn.Module) -> bool:
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return not hooks and not any("forward" in vars(m) for m in model.modules()) and not _threads()


@pytest.mark.parametrize("problem", [RuntimeError("odd"), KeyboardInterrupt()])
def test_an_exception_in_the_middle_releases_everything(
    tmp_path: Path, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread left waiting would keep the process alive; a hook left behind, the model changed."""
    chosen = _engine(_saved(families.build("mixtral"), tmp_path))
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise problem

    handle = chosen.model.model.layers[1].self_attn.register_forward_pre_hook(fail)
    before = chosen.model.config._experts_implementation
    sites = find_sites(chosen.model).sites
    with pytest.raises(type(problem)):
        chosen.measure(sites, _ready(_batches("mixtral")))
    handle.remove()
    assert _is_clean(chosen.model)
    assert chosen.model.config._experts_implementation == before
    again = chosen.measure(sites, _ready(_batches("mixtral")))
    assert again.engine == "stream"


def test_nan_in_one_block_names_the_site(tmp_path: Path) -> None:
    """The hook's buffers of several open batches must not be mixed up when one is refused."""
    model = families.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    chosen = _engine(_saved(model, tmp_path))
    with pytest.raises(MeasurementError, match=r"layers\.1\.mlp\.up_proj"):
        chosen.measure(find_sites(chosen.model).sites, _ready(_batches("llama")))
    assert _is_clean(chosen.model)


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path) -> None:
    """Only the batch in question, and only it runs again."""
    chosen = _engine(_saved(families.build("llama"), tmp_path))
    batches = _ready(_batches("llama"))
    sites = find_sites(chosen.model).sites
    plain = chosen.measure(sites, batches)

    def fill(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) > 2:
            raise torch.OutOfMemoryError("full")

    handle = chosen.model.model.layers[1].mlp.register_forward_pre_hook(fill)
    halved = chosen.measure(sites, batches)
    handle.remove()
    assert halved.halvings == 2
    assert halved.names == plain.names
    assert halved.sums_RN == pytest.approx(plain.sums_RN, rel=1e-5)


def _also(linear: nn.Module, module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    """Call a linear layer with all rows but one, which then belong to no sequence."""
    linear(arguments[0].flatten(0, -2)[1:])


@pytest.mark.slow
def test_rows_that_are_mixed_go_one_at_a_time(tmp_path: Path) -> None:
    """The same batches go row by row as in the memory engine, from the same one on."""
    results = []
    for engine in ("memory", "stream"):
        folder = tmp_path / "model"
        if engine == "memory":
            _saved(families.build("llama"), folder)
        chosen = _engine(str(folder), engine)
        layer = chosen.model.model.layers[1].mlp
        layer.register_forward_pre_hook(functools.partial(_also, layer.gate_proj))
        results.append(chosen.measure(find_sites(chosen.model).sites, _ready(_batches("llama"))))
    _assert_equal(*results)
    assert results[0].alone


# --------------------------------------------------------------------------- fallbacks


def test_a_model_without_a_list_of_blocks_is_loaded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    monkeypatch.setattr(checkpoint, "find_blocks", lambda model: [])
    scores = plop.score(folder, batches=_batches("llama"), engine="stream", progress=False)
    assert scores.provenance.settings["engine"] == "memory"
    assert any("loaded whole" in note and "no list of blocks" in note for note in scores.notes)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(t.modeling_utils, "_get_dtype"), (t.PreTrainedModel, "_initialize_missing_keys")],
)
def test_what_transformers_moved_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """It was an ImportError without advice; with the error the model is loaded whole."""
    folder = _saved(families.build("llama"), tmp_path)
    monkeypatch.delattr(owner, name)
    with pytest.raises(UnstreamableError, match=f"{name}, on which streaming depends"):
        checkpoint.Checkpoint(folder, device=torch.device("cpu"), dtype="auto")


def test_weights_that_are_not_safetensors_are_loaded_whole(tmp_path: Path) -> None:
    model = families.build("llama")
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    scores = plop.score(str(tmp_path), batches=_batches("llama"), engine="stream", progress=False)
    assert any("not in safetensors" in note for note in scores.notes)


def test_a_model_that_reaches_into_its_blocks_is_loaded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights used without a call of their block are not there; the run goes on in memory."""
    model = families.build("llama")
    folder = _saved(model, tmp_path)
    # The list itself is no block: nothing ever calls it.
    monkeypatch.setattr(
        checkpoint,
        "find_blocks",
        lambda model: [
            (name, model.get_submodule(name)) for name in ("model.norm", "model.layers")
        ],
    )
    plain, whole = _both(model, folder, _batches("llama"))
    assert whole.engine == "memory"
    assert "without calling it" in whole.notes[0]
    assert np.array_equal(plain.sums_RN, whole.sums_RN)


# --------------------------------------------------------------------------- choice


@pytest.mark.parametrize(("free", "engine"), [(1 << 40, "memory"), (1 << 20, "stream")])
def test_auto_streams_what_would_not_fit(
    free: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    monkeypatch.setattr(engines, "available_memory", lambda: free)
    scores = plop.score(folder, batches=_batches("llama"), progress=False)
    assert scores.provenance.settings["engine"] == engine


def test_auto_counts_the_dtype_that_will_run(tmp_path: Path) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    size = sum(p.numel() * 4 for p in families.build("llama").parameters())
    free = (size * 3 // 4 + engines.SPARE, None)
    assert not engines.fits(folder, "cpu", "auto", free_bytes=free)
    assert engines.fits(folder, "cpu", "bfloat16", free_bytes=free)


def test_a_full_accelerator_counts_as_well(tmp_path: Path) -> None:
    folder = _saved(families.build("llama"), tmp_path)
    assert not engines.fits(folder, "cpu", "auto", free_bytes=(1 << 40, 1 << 20))
    assert engines.fits(folder, "cpu", "auto", free_bytes=(1 << 40, None))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4000 kB\n"}, 4_096_000),
        (
            {
                "proc/meminfo": "MemAvailable: 4000 kB\n",
                "proc/self/cgroup": "0::/user/job\n",
                "cg/user/memory.max": "1000000\n",
                "cg/user/memory.current": "700000\n",
                "cg/user/memory.stat": "anon 100\ninactive_file 50000\nactive_file 50000\n",
                "cg/user/job/memory.max": "max\n",
            },
            400_000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 4000 kB\n",
                "proc/self/cgroup": "5:cpu,memory:/docker/0123\n3:cpuset:/\n",
                "cg/memory/memory.limit_in_bytes": "500000\n",
                "cg/memory/memory.usage_in_bytes": "100000\n",
            },
            400_000,
        ),
        ({"proc/meminfo": "MemAvailable: 1 kB\n", "proc/self/cgroup": "0::/\n"}, 1024),
    ],
)
def test_memory_is_what_system_and_groups_leave(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """In a container the machine's free memory is not ours; both versions of groups are read."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = capacity.available_memory(proc=tmp_path / "proc", groups=tmp_path / "cg")
    assert found == expected


def test_this_system_tells_its_memory() -> None:
    assert 0 < capacity.available_memory() < 1 << 50


def test_what_cannot_be_streamed_is_refused_at_once(models) -> None:
    with pytest.raises(UsageError, match="in memory already"):
        plop.score(models("llama"), batches=_batches("llama"), engine="stream")
    with pytest.raises(UsageError, match="auto, memory, stream, ray"):
        plop.score(models("llama"), batches=_batches("llama"), engine="disk")
    with pytest.raises(ModelError, match="nowhere"):
        plop.score("./nowhere", WordTokenizer(), ["a"], engine="stream")


# --------------------------------------------------------------------------- lockstep


class _Recorder:
    """A loader and an observer that write down what happens."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def loaded(self, block: nn.Module):
        import contextlib

        self.events.append(block)
        return contextlib.nullcontext()

    def running(self, order: int):
        import contextlib

        return contextlib.nullcontext()

    def prefetch(self, block: nn.Module) -> None: ...

    def on_wait(self, order: int, call: object) -> None: ...

    def on_call(self, order: int, call: object) -> None:
        self.events.append(order)

    def on_result(self, order: int, call_result: object) -> None: ...


def test_every_pass_goes_through_a_block_before_the_next_is_loaded() -> None:
    """Passes that skip a block, or come back to one, are served where they wait."""
    first, second = nn.Identity(), nn.Linear(2, 2)
    recorder = _Recorder()

    def job(blocks: list[nn.Module]) -> torch.Tensor:
        value = torch.ones(2)
        for block in blocks:
            value = block(value)
        return value

    routes = [[first, second], [first, first, second], [first, second]]
    with torch.inference_mode(), intercepted_calls([first, second]):
        passes = [Pass(functools.partial(job, route)) for route in routes]
        run_in_lockstep(passes, recorder, recorder, lambda error: True)
    assert recorder.events == [first, 0, 1, 2, second, 0, 2, first, 1, second, 1]
    assert all(torch.equal(one.result, second(torch.ones(2))) for one in passes)
    assert "forward" not in vars(first)
