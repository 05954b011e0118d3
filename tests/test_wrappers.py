"""Models in wrappers are scored as the model inside, or refused with the line that unwraps them."""

from __future__ import annotations

import families
import pytest
import torch
from conftest import make_batch
from torch import nn

import plop_lora as plop
from plop_lora.errors import ModelError


def _nfn(model: nn.Module) -> dict[str, float]:
    scores = plop.score(model, batches=[make_batch("llama")], progress=False)
    return {site.name: site.nfn for site in scores.sites}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    ],
    ids=["compiled", "data parallel", "both"],
)
def test_wrappers_change_nothing(models, wrap) -> None:
    """A wrapper's prefix in the names would end in an adapter that matches nothing."""
    assert _nfn(wrap(families.build("llama"))) == _nfn(models("llama"))


def test_distributed_data_parallel(models, tmp_path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(families.build("llama"))
        assert _nfn(wrapped) == _nfn(models("llama"))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_compiled_in_place(models) -> None:
    """A graph made before the hooks came would never call them."""
    model = families.build("llama")
    for layer in model.model.layers:
        layer.compile(backend="eager")
    with torch.no_grad():
        model(**make_batch("llama"))
    assert _nfn(model) == _nfn(models("llama"))


def test_hooks_of_others_do_not_disturb(models) -> None:
    """A hook that replaces an output comes after ours: W z is what the module itself made."""
    model = families.build("llama")
    projection = model.model.layers[0].self_attn.q_proj
    calls = []
    projection.register_forward_hook(lambda *_: calls.append(1))
    last = model.model.layers[-1].mlp.down_proj
    last.register_forward_hook(lambda module, arguments, output: output * 3)
    assert _nfn(model) == pytest.approx(_nfn(models("llama")))
    assert calls


def test_an_adapted_model_is_refused_with_the_line_that_helps() -> None:
    """The layers of an adapter scored as the model's own would be silently wrong."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(families.build("llama"), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ModelError, match=r"merge_and_unload\(\).*model\.unload\(\)"):
        plop.score(adapted, batches=[make_batch("llama")], progress=False)
    assert _nfn(adapted.unload()).keys() == _nfn(families.build("llama")).keys()


def test_flat_weights_are_refused() -> None:
    class FullyShardedDataParallel(nn.Module):
        """Stands in for FSDP, which needs a process group and an accelerator to be made."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

    with pytest.raises(ModelError, match=r"FSDP\.summon_full_params"):
        plop.score(FullyShardedDataParallel(), batches=[{"x": torch.randn(2, 2, 4)}])
