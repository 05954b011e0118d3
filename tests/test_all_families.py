"""Every family that the installed transformers can build small: scored, placed, exported, learning.

A family that other tests know by name is here as well: what transformers adds or changes is found
by the same questions.
"""

from __future__ import annotations

from typing import Any

import pytest
import shrunken
import torch
from peft import get_peft_model
from reference import reference
from torch import nn

import plop_lora as plop
from plop_lora.errors import PlopError

LENGTHS = (11, 8, 5)
TOLERANCE = 1e-3


def _rows(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def drawn(length: int) -> torch.Tensor:
        return torch.randint(3, shrunken.VOCABULARY - 8, (1, length), generator=generator)

    rows = [{"input_ids": drawn(length)} for length in LENGTHS]
    if model.config.is_encoder_decoder:
        rows = [
            row | {"decoder_input_ids": drawn(length - 2)} for row, length in zip(rows, LENGTHS)
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


def _check_definition(model: nn.Module, scores: plop.Scores, rows: Any) -> None:
    expected = reference(model, rows)
    for site in scores.sites:
        value, tokens = expected[site.name]
        assert site.tokens == tokens, site.name
        assert site.nfn == pytest.approx(value, rel=TOLERANCE), site.name


def _check_coverage(model: nn.Module, scores: plop.Scores) -> None:
    named = {site.host for site in scores.sites}
    named |= {entry.weight for entry in scores.coverage.not_measured}
    for name, parameter in model.named_parameters():
        if sum(side > 1 for side in parameter.shape) >= 2:
            assert {name, name.rpartition(".")[0]} & named, f"{name} is nowhere"
    assert 0 < scores.coverage.share <= 1


def _check_learns(model: nn.Module, placement: plop.Placement, batch: Any) -> None:
    adapted = get_peft_model(model, placement.to_peft(model))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    output = adapted(**batch)
    result = output.logits if hasattr(output, "logits") else output[0]
    result.float().square().mean().backward()
    still = [
        name
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not still


def check(name: str) -> None:
    model = shrunken.build(name)
    rows = _rows(model)
    batch = _batch(rows)
    scores = plop.score(model, batches=[batch], progress=False)
    _check_definition(model, scores, rows)
    _check_coverage(model, scores)
    try:
        placement = plop.place(scores, strategy="all-linear", rank=2)
    except PlopError as reason:
        assert str(reason)
        return
    _check_learns(model, placement, batch)
