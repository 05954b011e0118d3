"""What is said once: layers without v, and a weight that ran on nothing but zeros."""

from __future__ import annotations

import families
import pytest
import torch
import transformers as t
from torch import nn

import plop_lora as plop
from plop_lora.scoring.sites.find import NEVER_RAN, ZERO_INPUT, find_sites


def _gemma4() -> nn.Module:
    torch.manual_seed(0)
    settings = families.DECODER | {
        "num_hidden_layers": 4, "head_dim": 8, "global_head_dim": 8, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "attention_k_eq_v": True,
        "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
    }  # fmt: skip
    return t.Gemma4ForCausalLM(t.Gemma4TextConfig(**settings)).eval()


@pytest.mark.slow
def test_layers_whose_keys_serve_as_values_are_named() -> None:
    """A reader of `v_proj: 2 modules` beside `k_proj: 4` looks for a fault of the measurement."""
    scores = plop.score(_gemma4(), batches=families.rows_of("llama"), progress=False)
    assert scores["k_proj"].modules == 4
    assert scores["v_proj"].modules == 2
    assert any(note.startswith("the layers 1, 3 have no v_proj") for note in scores.notes)
    assert find_sites(families.build("llama")).notes == ()


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen, self.starved, self.idle = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.seen(x) + self.starved(torch.zeros_like(x))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


def test_a_zero_input_is_not_called_never_ran() -> None:
    """Who reads "never ran" looks for a branch that was not taken; this one was."""
    scores = plop.score(_Net(), batches=[{"x": torch.randn(2, 4, 8)}], progress=False)
    reasons = {entry.name: entry.reason for entry in scores.coverage.not_measured}
    assert reasons == {"layers.0.starved": ZERO_INPUT, "layers.0.idle": NEVER_RAN}
