"""Look up tokens in an embedding that stays on disk, reading only the rows that a batch needs.

The embedding is memory-mapped, and a kernel may make megabytes around each accessed row resident: a
batch of random tokens would then load all of a large vocabulary. Lookups therefore read single rows
from the file. Any other use of the weight accesses the mapped tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from plop_lora.scoring.engines.streaming.shards import Shards

LARGE = 1 << 26
"""Size in bytes from which an embedding is read by the row; smaller ones are only mapped."""


class EmbeddingRows(TorchFunctionMode):
    """Context manager in which `embedding` on mapped weights reads single rows, in its thread."""

    def __init__(self, shards: Shards, mapped: dict[int, str]) -> None:
        """Create the mode from the shards and the names of mapped tensors by data address."""
        super().__init__()
        self._shards = shards
        self._mapped = mapped

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        options: dict[str, Any] | None = None,
    ) -> object:
        """Call the function, or look the tokens up in single rows."""
        if function is nn.functional.embedding and len(arguments) > 1:
            tokens, weight = arguments[:2]
            name = None if weight.is_meta else self._mapped.get(weight.data_ptr())
            if name is not None and tokens.numel() and self._inside(tokens, len(weight)):
                return self._rows(name, tokens)
        return function(*arguments, **(options or {}))

    @staticmethod
    def _inside(tokens: torch.Tensor, vocabulary: int) -> bool:
        """Return whether all tokens have a row; otherwise torch is left to raise its own error."""
        return int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary

    def _rows(self, name: str, tokens: torch.Tensor) -> torch.Tensor:
        distinct, places = torch.unique(tokens, return_inverse=True)
        return self._shards.read_rows(name, distinct.tolist())[places]
