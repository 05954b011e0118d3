"""Every family that the installed transformers can build small: scored, placed, exported, learning.

A family that other tests know by name is here as well: what transformers adds or changes is found
by the same questions.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import shrunken
import torch
from peft import get_peft_model
from reference import reference
from torch import nn

import plop_lora as plop
from plop_lora.errors import ExportError, PlopError

LENGTHS = (11, 8, 5)
TOLERANCE = 1e-3
WRONG: dict[str, str] = {
    "reformer": "its reversible layers pass a gradient only where the embeddings want one, so that "
    "the adapters of PEFT alone get none",
    "rwkv": "without its CUDA kernel transformers' own code cannot train it: it writes in place",
}
"""What does not hold, and why."""
REFUSED: dict[str, str] = {
    "ibert": "PEFT rejects this configuration",
    "deepseek_v3": "The trainer would not do what the placement says",
    "inkling_mm_model": "shared_experts.down_proj gets an adapter it should not have",
    "inkling_text": "shared_experts.down_proj gets an adapter it should not have",
}
"""Placements that no export takes, and what is said of them."""
UNMEASURED: dict[str, str] = {
    "cpmant": "its input rows are not the tokens of a text",
    "squeezebert": "No weight here is one that a placement may propose",
    "sam3_lite_text_text_model": "No weight here is one that a placement may propose",
}
"""Families without a score, and what is said of them."""
NO_REFERENCE: dict[str, str] = {
    "led": "pads to its window, which the reference counts",
    "longformer": "pads to its window, which the reference counts",
    "fsmt": "fills its mask with a number of float32",
    "inkling2": "makes float32 of its input",
    "inkling2_text": "makes float32 of its input",
    "xglm": "fills its mask with a number of float32",
    "mra": "makes float32 of its input; without its CUDA kernel its attention is zero",
}
"""Families that the reference cannot run in float64 or reads otherwise."""
COPIES: dict[str, str] = {
    "openai_privacy_filter": "experts",
    "inkling_mm_model": "gate",
    "inkling_text": "gate",
}
"""Sites that multiply a copy of their weight or a part of it, which the reference cannot find."""
OWN_ROWS = ("canine", "prophetnet", "reformer")
"""Families that give some weights rows of their own beside the tokens, which a note names."""


def _rows(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def drawn(length: int) -> torch.Tensor:
        return torch.randint(3, shrunken.VOCABULARY - 8, (1, length), generator=generator)

    rows = [{"input_ids": drawn(length)} for length in LENGTHS]
    if model.config.is_encoder_decoder:
        rows = [
            row | {"decoder_input_ids": drawn(length - 2)}
            for row, length in zip(rows, LENGTHS, strict=True)
        ]
    return rows


def _batch(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {}
    for ids in rows[0]:
        width = max(row[ids].shape[1] for row in rows)
        padded = [nn.functional.pad(row[ids], (0, width - row[ids].shape[1])) for row in rows]
        mask = ids.replace("input_ids", "attention_mask")
        ones = [torch.ones_like(row[ids]) for row in rows]
        masks = [nn.functional.pad(one, (0, width - one.shape[1])) for one in ones]
        batch |= {ids: torch.cat(padded), mask: torch.cat(masks)}
    return batch


def _check_definition(
    model: nn.Module, scores: plop.Scores, rows: Any, unseen: str | None = None
) -> None:
    takes = inspect.signature(model.forward).parameters
    fixed = {"use_cache": torch.tensor(False)} if "use_cache" in takes else {}
    names = [site.name for site in scores.sites]
    expected = reference(model, [row | fixed for row in rows], include=names)
    for site in scores.sites:
        if site.name not in expected:
            assert unseen is not None, f"the reference has not seen {site.name}"
            assert unseen in site.name
            continue
        value, tokens = expected[site.name]
        assert site.tokens == tokens, site.name
        assert site.nfn == pytest.approx(value, rel=TOLERANCE), site.name


def _check_coverage(model: nn.Module, scores: plop.Scores) -> None:
    """Every matrix of the model is measured or listed, by its own name or its module's."""
    named = {site.host for site in scores.sites}
    named |= {entry.weight for entry in scores.coverage.not_measured}
    for name, parameter in model.named_parameters():
        matrix = sum(side > 1 for side in parameter.shape) >= 2 and "bias" not in name
        assert not matrix or {name, name.rpartition(".")[0]} & named, f"{name} is nowhere"
    assert 0 < scores.coverage.share <= 1


def _check_learns(model: nn.Module, placement: plop.Placement, batch: Any) -> None:
    """The configuration is read back from PEFT, and every adapter that it makes gets a gradient."""
    adapted = get_peft_model(model, placement.to_peft(model))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    output = adapted(**batch)
    result = output.logits if getattr(output, "logits", None) is not None else output[0]
    result.float().square().mean().backward()
    still = [
        name
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []


def _cases() -> list[Any]:
    cases = []
    for name in shrunken.family_names():
        reason = WRONG.get(name)
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        cases.append(pytest.param(name, marks=marks, id=name))
    return cases


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", _cases())
def test_family(name: str) -> None:
    """Each family has its own ways to lose a weight, to misread it, or to keep it from learning."""
    reason = next((why for why, names in shrunken.NOT_BUILT.items() if name in names), None)
    if reason is not None:
        pytest.skip(reason)
    if shrunken.class_of(name) is None:
        pytest.skip("takes no token numbers")
    model = shrunken.build(name)
    rows = _rows(model)
    batch = _batch(rows)
    if name in UNMEASURED:
        with pytest.raises(PlopError, match=UNMEASURED[name]):
            plop.score(model, batches=[batch], progress=False)
        return
    scores = plop.score(model, batches=[batch], progress=False)
    if name in OWN_ROWS:
        assert any("were left out" in note for note in scores.notes)
    elif name not in NO_REFERENCE:
        _check_definition(model, scores, rows, COPIES.get(name))
    _check_coverage(model, scores)
    placement = plop.place(scores, strategy="all-linear", rank=2)
    if name in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[name]):
            placement.to_peft(model)
        return
    _check_learns(model, placement, batch)


def test_the_list_of_families_that_are_not_built_does_not_grow() -> None:
    """A family that stops being built must be seen, and one that is gone must leave the list."""
    names = [name for group in shrunken.NOT_BUILT.values() for name in group]
    assert len(names) == len(set(names)) <= 105
    assert set(names) | {*WRONG, *REFUSED, *UNMEASURED, *NO_REFERENCE, *COPIES} <= {
        *shrunken.family_names()
    }
