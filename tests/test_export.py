"""Exports are applied by real PEFT; the adapted modules and ranks are read back."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from conftest import MODELS, build, score_model
from torch import nn

import plop_lora as plop
from plop_lora.errors import ExportError, OutputError
from plop_lora.exports.dryrun import check_with_peft
from plop_lora.records import Placement


def _read_back(placement: Placement, name: str) -> dict[str, tuple[int, float]]:
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    adapted = get_peft_model(build(name), placement.to_peft())
    return {
        key: (module.r["default"], module.scaling["default"])
        for key, module in adapted.base_model.model.named_modules()
        if isinstance(module, LoraLayer)
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options",
    [{}, {"strategy": "all-linear"}, {"budget": "7%"}, {"strategy": "plop-inverse", "top": 1}],
    ids=str,
)
def test_real_peft_adapts_exactly_the_placement(name: str, options: dict[str, object]) -> None:
    """Suffix lists hit too much or too little in half of these families when done naively."""
    placement = plop.place(score_model(name), **options)
    found = _read_back(placement, name)
    assert found == {site.name: (site.rank, placement.scaling) for site in placement.sites}


def test_file_loads_in_peft(scores, tmp_path) -> None:
    from peft import LoraConfig

    placement = plop.place(scores, budget="5%")
    path = placement.export(tmp_path / "adapter")
    loaded = LoraConfig.from_pretrained(str(path.parent))
    made = placement.to_peft()
    for field in ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern"):
        assert getattr(loaded, field) == getattr(made, field)


def test_difference_is_an_error_that_names_modules(scores) -> None:
    """PEFT adapts what the names match; a record that says otherwise must not pass."""
    placement = plop.place(scores)
    fewer = dataclasses.replace(placement, sites=placement.sites[1:])
    with pytest.raises(ExportError, match=r"layers\.0\.\w+\.\w+_proj gets an adapter it should"):
        check_with_peft(fewer, placement.to_peft())


def test_names_are_compared_with_the_model_and_not_with_the_record(scores, models) -> None:
    """A record that lists too little must not let an ending hit what it does not list."""
    placement = plop.place(scores)
    fewer = dataclasses.replace(placement, untouched=(), sites=placement.sites[1:])
    model = models("llama")
    for config in (fewer.to_peft(), fewer.to_peft(model)):
        check_with_peft(fewer, config, model)


def test_plain_module_is_checked_against_itself() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}) for _ in range(2)]
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer["b"](layer["a"](x))
            return x

    model = Net()
    scores = plop.score(model, batches=[{"x": torch.randn(4, 3, 8)}], progress=False)
    placement = plop.place(scores, top=1, rank=2)
    with pytest.raises(ExportError, match=r"to_peft\(model\)"):
        placement.to_peft()
    assert placement.to_peft(model).r == 2
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_file_is_no_folder(scores, tmp_path) -> None:
    placement = plop.place(scores)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        placement.export(tmp_path / "file")


def test_written_json_is_sorted_and_plain(scores, tmp_path) -> None:
    document = json.loads(plop.place(scores).export(tmp_path).read_text())
    assert document["peft_type"] == "LORA"
    assert document["r"] == 16
    assert document["lora_alpha"] == 32
    assert document["target_modules"] == sorted(document["target_modules"])
