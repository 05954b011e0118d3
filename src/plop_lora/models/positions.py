"""How many tokens a model can read where its positions are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learned_positions(model: PreTrainedModel) -> int | None:
    """Return how many positions a model has a learned vector for, None where it computes them.

    A table of positions is an embedding of as many rows as the configuration has positions, or of
    two more; where it has a row for padding, positions begin behind that.
    """
    config = model.config.get_text_config()
    declared = getattr(config, "max_position_embeddings", None)
    if not isinstance(declared, int):
        return None
    table = model.get_input_embeddings()
    found = [
        min(declared, module.num_embeddings - _before_the_first(module))
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        and module is not table
        and declared <= module.num_embeddings <= declared + 2
    ]
    return min(found, default=None)


def _before_the_first(table: nn.Embedding) -> int:
    return 0 if table.padding_idx is None else 1 + int(table.padding_idx)
