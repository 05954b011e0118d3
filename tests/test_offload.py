"""Models whose weights accelerate keeps on the CPU or on disk, and loads module by module."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import accelerate
import families
import pytest
import torch
from conftest import build, make_batch
from torch import nn

import plop_lora as plop
from plop_lora.models.devices import home_of

# accelerate knows no CPU-only dispatch, so the "device" that computes is the CPU itself
CPU = torch.device("cpu")


def _on_cpu(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.cpu_offload(model, CPU)


def _on_disk(model: nn.Module, folder: Path) -> nn.Module:
    return accelerate.disk_offload(model, folder, CPU)


def _mapped(model: nn.Module, folder: Path) -> nn.Module:
    """Dispatch as `device_map` does: the blocks by turns here and on disk."""
    names = [name for name in model.state_dict() if "." in name]
    blocks = dict.fromkeys(m[0] for name in names if (m := re.match(r"(.*?\.\d+)(?=\.)", name)))
    places = {name: ("disk", "cpu")[order % 2] for order, name in enumerate(blocks)}
    places |= {n.rpartition(".")[0]: "cpu" for n in names if not n.startswith(tuple(blocks))}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder)


WAYS = {"cpu_offload": _on_cpu, "disk_offload": _on_disk, "dispatch_model": _mapped}


def _score(model: nn.Module, batch: dict[str, torch.Tensor], **options: object) -> plop.Scores:
    return plop.score(model, batches=[batch], progress=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5"])
def test_offloaded_equals_in_memory(name: str, way: str, tmp_path: Path) -> None:
    """The weight and the bias are on the meta device when the module's own forward is over."""
    model, batch = build(name), make_batch(name)
    here = _score(model, batch)
    away = WAYS[way](copy.deepcopy(model), tmp_path)
    assert any(p.device.type == "meta" for p in away.parameters())
    scores = _score(away, batch)
    assert scores.sites == here.sites
    assert scores.measurements == here.measurements
    assert scores.coverage.share == here.coverage.share


@pytest.mark.parametrize("name", ["qwen3_moe", "llama4"])
def test_offloaded_experts_equal_those_in_memory(name: str, tmp_path: Path) -> None:
    """Experts run by a forward of ours, which must stand inside accelerate's window too."""
    model, batch = families.build(name), families.batch_of(name)
    here = _score(model, batch)
    away = _mapped(copy.deepcopy(model), tmp_path)
    assert _score(away, batch).measurements == here.measurements
    assert _score(away, batch).measurements == here.measurements


def test_accelerate_is_left_as_it_was(tmp_path: Path) -> None:
    """Its forwards come back, also when a forward fails, and the model goes on working."""
    model = accelerate.disk_offload(build("llama"), tmp_path, CPU)
    batch = make_batch("llama")
    expected = model(**batch).logits
    before = {module: module._old_forward for module in model.modules() if _is_hooked(module)}
    _score(model, batch)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        _score(model, batch)
    handle.remove()
    assert before == {m: m._old_forward for m in model.modules() if _is_hooked(m)}
    torch.testing.assert_close(model(**batch).logits, expected)


def _is_hooked(module: nn.Module) -> bool:
    return hasattr(module, "_hf_hook")


def test_inputs_never_go_to_meta() -> None:
    """With every weight away, inputs go where accelerate computes."""
    assert home_of(accelerate.cpu_offload(build("llama"), CPU)) == CPU


def test_a_quantised_layer_is_measured_inside_the_window() -> None:
    """It is measured by calling it, which must not record once more and not lose its weight."""
    from test_quantised import Packed

    torch.manual_seed(0)
    model = nn.Sequential(Packed(nn.Linear(16, 8)), nn.Linear(8, 4))
    batch = {"input": torch.randn(3, 5, 16)}
    here = _score(model, batch)
    hook = accelerate.hooks.AlignDevicesHook(CPU, offload=True, offload_buffers=True)
    accelerate.hooks.add_hook_to_module(model[0], hook)
    assert model[0].packed.device.type == "meta"
    assert _score(model, batch).measurements == here.measurements


@pytest.mark.gpu
def test_two_devices() -> None:
    """Blocks on the CPU and on a GPU: each site's sums stay on its own device until the end."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model, batch = build("llama"), make_batch("llama")
    here = _score(model, batch)
    places: dict[str, str | int] = {
        "model.embed_tokens": 0,
        "model.layers.0": 0,
        "model.layers.1": "cpu",
    }
    places |= {"model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}
    scores = _score(accelerate.dispatch_model(model, places), batch)
    assert [s.nfn for s in scores.sites] == pytest.approx([s.nfn for s in here.sites], rel=1e-3)
