"""What the blocks of a network do to the residual path, for the arms of one block each.

- `similarity`: linear CKA (Kornblith et al., arXiv 1905.00414) of a block's inputs and outputs,
  over the tokens of some texts; 1 where the block leaves their geometry as it is.
- `change`: the mean over tokens of ‖output − input‖ / ‖input‖.

Shape letters: N tokens, D width.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plop_lora.records import Scores

if TYPE_CHECKING:
    import torch
    from torch import nn

Pair = list["torch.Tensor"]


def measured_layers(
    model: nn.Module, batches: Sequence[dict[str, Any]], scores: Scores
) -> dict[str, dict[int, float]]:
    """Return what every block does to its inputs, by measure and layer.

    Args:
        model: loaded network.
        batches: inputs with an attention mask.
        scores: of the same network, whose weights say where the blocks are.
    """
    import torch

    names = block_names(scores)
    known = {name for name, _ in model.named_modules()}
    body = model if known >= set(names.values()) else model.base_model  # a classifier has a head
    blocks = {layer: body.get_submodule(name) for layer, name in names.items()}
    with seen_by(blocks) as seen, torch.inference_mode():
        for batch in batches:
            kept = batch["attention_mask"].bool().flatten()
            model(**{name: value for name, value in batch.items() if name != "labels"})
            for pair in seen.values():
                pair[-2:] = [part.flatten(0, 1)[kept] for part in pair[-2:]]
    found: dict[str, dict[int, float]] = {"similarity": {}, "change": {}}
    for layer, parts in sorted(seen.items()):
        before_ND, after_ND = (torch.cat(parts[start::2]).double() for start in (0, 1))
        found["similarity"][layer] = similarity(before_ND, after_ND)
        change_N = (after_ND - before_ND).norm(dim=1) / before_ND.norm(dim=1)
        found["change"][layer] = float(change_N.mean())
    return found


def block_names(scores: Scores) -> dict[int, str]:
    """Return the module of every block, from the names of the weights in it.

    >>> re.match(PREFIX, "model.layers.3.mlp.up_proj").group()
    'model.layers.3'
    """
    names = {}
    for host in scores.hosts:
        found = re.match(PREFIX, host.name)
        if host.layer is not None and found is not None:
            names[host.layer] = found.group()
    return names


PREFIX = r"(?:[^.]+\.)*?\d+(?=\.)"
"""Up to the first number of a name."""


@contextlib.contextmanager
def seen_by(blocks: dict[int, nn.Module]) -> Iterator[dict[int, Pair]]:
    """Collect the inputs and the outputs of blocks, one after the other, while they run."""
    seen: dict[int, Pair] = defaultdict(list)

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], keys: dict[str, Any], out: Any) -> None:
            before = given[0] if given else keys["hidden_states"]
            seen[layer] += [before, out if hasattr(out, "shape") else out[0]]

        return hook

    handles = [
        block.register_forward_hook(keep(layer), with_kwargs=True)
        for layer, block in blocks.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def similarity(first_ND: torch.Tensor, second_ND: torch.Tensor) -> float:
    """Return the linear CKA of two representations of the same tokens, between 0 and 1.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]], dtype=torch.float64)
    >>> round(similarity(x, 3 * x + 1), 6), round(similarity(x, x.flip(1)), 6)
    (1.0, 1.0)
    """
    first, second = (part - part.mean(dim=0) for part in (first_ND, second_ND))
    cross = (first.T @ second).norm() ** 2
    return float(cross / ((first.T @ first).norm() * (second.T @ second).norm()))
