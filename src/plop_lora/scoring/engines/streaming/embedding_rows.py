"""Look tokens up in an embedding that stays on disk, reading only the rows that a batch asks for.

The embedding is mapped, and a kernel may make whole megabytes around each touched row resident: a
batch of random tokens then has all of a large vocabulary in memory. So lookups are answered from
rows that are read one by one. Anything else that uses the weight finds it mapped as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from plop_lora.scoring.engines.streaming.shards import Shards

LARGE = 1 << 26
"""Bytes from which on an embedding is worth this; smaller ones are mapped and that is all."""


class EmbeddingRows(TorchFunctionMode):
    """Answers `embedding` on mapped weights while it is entered; it holds for its thread alone."""

    def __init__(self, shards: Shards, mapped: dict[int, str]) -> None:
        """Take the names of mapped tensors by the address of their data."""
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
        """Make the call, or answer it from single rows."""
        if function is nn.functional.embedding and len(arguments) > 1:
            tokens, weight = arguments[:2]
            name = None if weight.is_meta else self._mapped.get(weight.data_ptr())
            if name is not None and tokens.numel() and self._inside(tokens, len(weight)):
                return self._rows(name, tokens)
        return function(*arguments, **(options or {}))

    @staticmethod
    def _inside(tokens: torch.Tensor, vocabulary: int) -> bool:
        """Whether all tokens have a row; where not, torch's own error is the right one."""
        return int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary

    def _rows(self, name: str, tokens: torch.Tensor) -> torch.Tensor:
        distinct, places = torch.unique(tokens, return_inverse=True)
        return self._shards.read_rows(name, distinct.tolist())[places]
