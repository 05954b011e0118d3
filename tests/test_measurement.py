"""Measuring where something is out of the ordinary: masks, empty weights, full memory, nesting."""

from __future__ import annotations

import errno
import types

import families
import pytest
import torch
from conftest import make_batch
from torch import nn

import plop_lora as plop
from plop_lora.data.batches import ready_batches
from plop_lora.demo import MODEL
from plop_lora.errors import OutputError
from plop_lora.models.memory import is_out_of_memory
from plop_lora.scoring.engines import choose as engines
from plop_lora.scoring.engines import ray_tasks
from plop_lora.scoring.engines.in_memory import measure
from plop_lora.scoring.engines.streaming.activation_offload import ActivationOffload
from plop_lora.scoring.measurement.experts import experts_measured
from plop_lora.scoring.measurement.hooks import attach
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.measurement.sums import Layout
from plop_lora.scoring.provenance import _kind
from plop_lora.scoring.sites.find import ALL_ZERO, find_sites

# --------------------------------------------------------------------------- masks


def _sides(width: int, *, padded: int, left: bool = False) -> dict[str, torch.Tensor]:
    """Return a batch of an encoder-decoder whose encoder is `width` wide.

    The decoder's six tokens of each row stand in `width` places, of which `padded` are padding in
    the second row.
    """
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, 60, (2, 6), generator=generator)
    decoder_ids = torch.randint(3, 60, (2, 6), generator=generator)
    mask, decoder_mask = torch.ones_like(ids), torch.ones_like(ids)
    decoder_mask[1, 6 - padded :] = 0
    if left:
        mask[0, :2], ids[0, :2] = 0, 0
    extra = width - 6
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": nn.functional.pad(decoder_ids, (0, extra)),
        "decoder_attention_mask": nn.functional.pad(decoder_mask, (0, extra)),
    }


@pytest.mark.parametrize("left", [False, True])
def test_equal_widths_of_encoder_and_decoder(models, left: bool) -> None:
    """The encoder's mask counted the decoder's padding, which changed the order of types."""
    options = {"stop": "fixed", "progress": False}
    equal = plop.score(models("t5"), batches=[_sides(6, padded=3, left=left)], **options)
    wider = plop.score(models("t5"), batches=[_sides(9, padded=3, left=left)], **options)
    assert [row.type for row in equal.types] == [row.type for row in wider.types]
    for one, other in zip(equal.sites, wider.sites, strict=True):
        assert (one.name, one.tokens) == (other.name, other.tokens)
        assert one.nfn == pytest.approx(other.nfn, rel=1e-5)
    assert equal.provenance.data_fingerprint == wider.provenance.data_fingerprint


def test_a_decoder_without_a_mask_counts_all_its_tokens(models) -> None:
    """Without its own mask the decoder had the encoder's."""
    batch = _sides(6, padded=0)
    batch["attention_mask"][0, 3:] = 0
    whole = plop.score(models("t5"), batches=[batch], stop="fixed", progress=False)
    del batch["decoder_attention_mask"]
    plain = plop.score(models("t5"), batches=[batch], stop="fixed", progress=False)
    assert [site.tokens for site in plain.sites] == [site.tokens for site in whole.sites]


def test_an_encoder_never_takes_the_decoders_mask() -> None:
    """An encoder that shortens its input can come to as many rows as the decoder has tokens."""
    encoder_mask = torch.ones(2, 12, dtype=torch.bool)
    decoder_mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    layout = Layout(2, (encoder_mask, decoder_mask), (encoder_mask,))
    features = torch.zeros(2, 3, 4)
    assert layout.tokens_of(features, in_encoder=True).all()
    assert torch.equal(layout.tokens_of(features), decoder_mask)


# --------------------------------------------------------------------------- empty weights


def test_a_weight_of_zeros_has_no_score(tmp_path) -> None:
    """LLaMA-Pro adds blocks whose outputs begin as zeros; the run ended with `damaged`."""
    model = families.build("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    scores = plop.score(model, batches=[make_batch("llama")], progress=False)
    name = "model.layers.1.self_attn.o_proj"
    assert name not in {site.name for site in scores.sites}
    (entry,) = [entry for entry in scores.coverage.not_measured if entry.reason == ALL_ZERO]
    assert entry.name == name
    model.save_pretrained(tmp_path)
    streamed = plop.score(
        str(tmp_path), batches=[make_batch("llama")], engine="stream", progress=False
    )
    assert [row.nfn for row in streamed.types] == [row.nfn for row in scores.types]


def test_an_expert_of_zeros_is_left_out() -> None:
    """One empty expert of a stack must not end the run of the others."""
    model = families.build("qwen3_moe")
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[0].zero_()
    scores = plop.score(model, batches=[families.batch_of("qwen3_moe")], progress=False)
    site = next(s for s in scores.sites if s.name.endswith("layers.0.mlp.experts.down_proj"))
    assert site.experts[0].tokens == 0
    assert site.nfn > 0


# --------------------------------------------------------------------------- memory and others


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("full"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_full_memory_is_halved_in_scoring(error: RuntimeError) -> None:
    """Torch says it as a plain RuntimeError as well; only its own class was halved."""
    model = families.build("llama")
    sites = find_sites(model).sites
    (batch,) = ready_batches([make_batch("llama")])
    rows = len(batch.names)

    def refuse(module: nn.Module, arguments: tuple, options: dict) -> None:
        if len(options["input_ids"]) == rows:
            raise error

    handle = model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        assert measure(model, sites, [batch]).halvings == 1
    finally:
        handle.remove()


def test_what_is_no_want_of_memory() -> None:
    """A batch that is halved for another reason fails on each of its rows."""
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_measurement_inside_another() -> None:
    """The inner one took the outer one's place among the experts' functions: a KeyError."""
    model = families.build("qwen3_moe")
    sites = find_sites(model).sites
    batches = list(ready_batches([families.batch_of("qwen3_moe")]))
    alone = measure(model, sites, batches)
    with attach(sites) as probe, experts_measured(sites, probe):
        inner = measure(model, sites, batches)
    assert (inner.sums_RN == alone.sums_RN).all()
    assert (measure(model, sites, batches).sums_RN == alone.sums_RN).all()


def test_a_run_on_ray_says_so(monkeypatch) -> None:
    """Its record named the engine of the workers, which is that of one process."""

    def run_here(function: object, arguments: list[tuple]) -> object:
        return enumerate(function(*given) for given in arguments)

    ray_tasks._loaded.cache_clear()
    monkeypatch.setattr(ray_tasks, "run_tasks", run_here)
    monkeypatch.setattr(engines, "check_cluster", lambda address: None)
    monkeypatch.setattr(engines, "connected", lambda address: _nothing())
    scores = plop.score(
        MODEL, texts=["one text", "and another"], engine="ray", device="cpu", progress=False
    )
    assert scores.provenance.settings["engine"] == "ray"


def test_a_worker_measures_what_the_look_has_left(monkeypatch, tmp_path) -> None:
    """It found the weights that cannot learn again: "a Ray worker finds other modules"."""
    model = families.build("phi3")
    model.save_pretrained(tmp_path)
    sites = find_sites(model).sites
    wanted = {
        site.host.name if site.host.type == "qkv_proj" else site.name: None
        for site in sites
        if site.host.type != "o_proj"
    }
    ray_tasks._loaded.cache_clear()
    job = MeasurementSettings(str(tmp_path), "cpu", "float32", (), (), "analytic", 0, False)
    (batch,) = ready_batches([families.batch_of("phi3")])
    names, measured = ray_tasks.measure_shard(job, batch, tuple(wanted))
    assert names == tuple(wanted)
    assert len(measured.sums_RN) == len(wanted)


def _nothing() -> object:
    import contextlib

    return contextlib.nullcontext()


def test_packed_weights_record_what_they_compute_in() -> None:
    """Four bits in a byte were recorded as the dtype uint8."""
    model = nn.Module()
    model.packed = nn.Parameter(torch.zeros(1000, dtype=torch.uint8), requires_grad=False)
    model.norm = nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))
    assert _kind(model)[1] == torch.bfloat16
    del model.norm
    model.config = types.SimpleNamespace(dtype=torch.float16)
    assert _kind(model)[1] == torch.float16


def test_a_full_folder_for_temporary_files_is_named(monkeypatch) -> None:
    """Offloading hidden states to a full disk ended with `The system refused`."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    offload = ActivationOffload(0)
    waiting = torch.zeros(1 << 16)
    offload.record_output(0, waiting)
    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(OutputError, match=r"writing .* failed.*TMPDIR"):
        offload.offload(0, waiting)
    offload.close()
