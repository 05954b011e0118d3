"""A model whose blocks stay on disk: a skeleton in memory, and one block's weights at a time.

The skeleton stands on the meta device. What lies outside the blocks is materialised once; a
block's weights are put in by `load` and taken out by `free`. Names in a checkpoint are not those
of the model: transformers renames, stacks and fuses tensors when it loads them. Its own rules and
converters are asked, for the tensors of one block instead of all.

Knows nothing of passes or probes.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.loading_report import LoadStateDictInfo

from plop_lora.errors import ModelError
from plop_lora.models.origin import PLAIN, Origin
from plop_lora.models.weights import KEY_MAPPING, check_weights, is_wrapped, unwrapped_note
from plop_lora.scoring.engines.streaming import embedding_rows
from plop_lora.scoring.engines.streaming.embedding_rows import EmbeddingRows
from plop_lora.scoring.engines.streaming.shards import Shards, shard_files
from plop_lora.scoring.engines.streaming.skeleton import UnstreamableError, skeleton_of

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """A tensor of the model, or several made by one converter, and where they come from.

    `sources` pairs the converter's pattern with the checkpoint's key.
    """

    name: str
    converter: WeightConverter | None
    sources: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> list[str]:
        """The checkpoint's names."""
        return [key for _, key in self.sources]

    @property
    def names(self) -> list[str]:
        """The model's names: a converter that splits a tensor makes one for each of its patterns.

        transformers names what it splits by the first of them.
        """
        patterns = [] if self.converter is None else self.converter.target_patterns
        first = next((pattern for pattern in patterns[:1] if pattern in self.name), None)
        if first is None:
            return [self.name]
        return [self.name.replace(first, pattern) for pattern in patterns]


@dataclass(slots=True, eq=False)
class Block:
    """A block with the place of its weights; `empty` keeps the meta tensors it is freed to."""

    name: str
    module: nn.Module
    targets: list[_Target] = field(default_factory=list)
    empty: dict[str, torch.Tensor] = field(default_factory=dict)


class Checkpoint:
    """The skeleton of a model on disk, and its blocks."""

    def __init__(
        self, name: str, *, device: torch.device, dtype: str, origin: Origin = PLAIN
    ) -> None:
        """Build the skeleton and materialise what lies outside the blocks.

        Args:
            name: hub id or local folder.
            device: where weights are put.
            dtype: `auto` (the checkpoint's), `float32`, `bfloat16`, `float16`.
            origin: revision, token, and whether code beside the weights may run.

        Raises:
            UnstreamableError: it must be loaded whole.
            ModelError: a weights file is missing or damaged, or the weights are not those of the
                model that config.json describes.
        """
        files = shard_files(name, origin)
        if files is None:
            raise UnstreamableError("its weights are not in safetensors files")
        self.name = name
        self.shards = Shards(files)
        self.device = device
        self.model, self._dtypes = skeleton_of(name, files, dtype, origin)
        self._wrapped = any(map(is_wrapped, self.shards))
        self.notes = (unwrapped_note(name),) if self._wrapped else ()
        listed = find_blocks(self.model)
        if not listed:
            raise UnstreamableError("it has no list of blocks")
        self.modules = [module for _, module in listed]
        self.blocks = [Block(name, module) for name, module in listed + _own_head(self.model)]
        self._block_of = {block.module: block for block in self.blocks}
        self._buffers = {name for name, _ in self.model.named_buffers()}
        self._tables = {
            f"{name}.weight"
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Embedding)
        }
        self._outside: list[_Target] = []
        targets, unexpected = self._targets()
        self.new = self._check(targets, unexpected)
        self._assign_owners(targets)
        made = self._realise(self._outside)
        self._mapped = {
            made[target.name].data_ptr(): target.sources[0][1]
            for target in self._outside
            if self._is_plain(target)
            and self.shards[target.sources[0][1]].size >= embedding_rows.LARGE
        }
        self._settle(made)

    @property
    def streamed_modules(self) -> list[nn.Module]:
        """Modules that are loaded when called: the blocks in their order, and an untied head."""
        return [block.module for block in self.blocks]

    # ------------------------------------------------------------------ blocks

    def load(self, module: nn.Module) -> None:
        """Put the weights of a block in place.

        Raises:
            ModelError: a weights file is damaged.
            UnstreamableError: the checkpoint lacks a tensor of the block.
        """
        block = self._block_of[module]
        for target in block.targets:
            self.shards.fetch(target.keys)
            self._put(self._realise([target]))
            if not self._is_plain(target):
                self.shards.release(target.keys)
        lacking = [name for name in block.empty if _get(self.model, name).is_meta]
        if lacking:
            raise UnstreamableError(f"the checkpoint has no {lacking[0]}")

    def free(self, module: nn.Module) -> None:
        """Take the weights of a block out again, and its pages out of memory."""
        block = self._block_of[module]
        for name, tensor in block.empty.items():
            _set(self.model, name, tensor)
        self._release(block.targets)

    def release_outside(self) -> None:
        """Give back the pages that were touched outside the blocks."""
        self._release(self._outside)

    def _release(self, targets: Iterable[_Target]) -> None:
        for target in targets:
            self.shards.release(target.keys)

    def materialise(self) -> PreTrainedModel:
        """Load all blocks for good and return the model, which can then run as any other."""
        for block in self.blocks:
            self._put(self._realise(block.targets))
            block.empty.clear()
        for module in self.model.modules():
            module._is_hf_initialized = False
        self._settle({})
        return self.model

    def close(self) -> None:
        """Close the files."""
        self.shards.close()

    def embedding_rows(self) -> EmbeddingRows:
        """Return a context in which large embeddings are read by the row, not held in memory."""
        return EmbeddingRows(self.shards, self._mapped)

    # ------------------------------------------------------------------ index

    def _assign_owners(self, targets: Iterable[_Target]) -> None:
        """Give every tensor of the model to its block, or to none where several share it."""
        owner = _owners(self.model, self.blocks)
        for target in targets:
            block = owner.get(target.name)
            (self._outside if block is None else block.targets).append(target)
        state = self.model.state_dict(keep_vars=True)
        for name, block in owner.items():
            if name in state:
                block.empty[name] = state[name]

    def _targets(self) -> tuple[list[_Target], list[str]]:
        """Translate the checkpoint's keys into the model's names, as transformers loads them.

        Keys that the model has no name for come second.
        """
        rules = get_model_conversion_mapping(self.model, KEY_MAPPING if self._wrapped else None)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        by_pattern = {p: converter for converter in converters for p in converter.source_patterns}
        state, prefix = self.model.state_dict(), self.model.base_model_prefix
        sources: dict[str, list[tuple[str, str]]] = defaultdict(list)
        used: dict[str, WeightConverter | None] = {}
        unexpected: list[str] = []
        for key in sorted(self.shards, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, prefix, state)
            if name not in state and key in state:
                name, pattern = rename_source_key(key, [], [], prefix, state)
            if name in state:
                used.setdefault(name, by_pattern[pattern] if pattern is not None else None)
                sources[name].append((pattern if pattern is not None else key, key))
            else:
                unexpected.append(name)
        targets = [_Target(name, used[name], tuple(pairs)) for name, pairs in sources.items()]
        return targets, unexpected

    def _check(self, targets: Iterable[_Target], unexpected: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the weights of a new head; refuse weights of another model.

        transformers' own exceptions hold: what it ties, and what a class says to pass over.
        """
        held = {name for target in targets for name in target.names}
        absent = set(self.model.state_dict()) - held - set(self.model.all_tied_weights_keys)
        report = LoadStateDictInfo(absent, set(unexpected), set(), [], {}, set())
        self.model._adjust_missing_and_unexpected_keys(report)
        plain = {target for target in targets if target.converter is None}
        shapes = (
            (target.name, self.shards[target.keys[0]].shape, _get(self.model, target.name).shape)
            for target in plain
        )
        return check_weights(
            self.name,
            self.model,
            missing=report.missing_keys,
            unexpected=report.unexpected_keys,
            mismatched=[row for row in shapes if tuple(row[1]) != tuple(row[2])],
        )

    # ------------------------------------------------------------------ tensors

    def _realise(self, targets: Iterable[_Target]) -> dict[str, torch.Tensor]:
        """Return the tensors of targets, on the device and in the model's dtype.

        Those that need no change are the file's own pages.
        """
        made: dict[str, torch.Tensor] = {}
        for target in targets:
            if target.converter is None:
                made[target.name] = self._cast(target.sources[0][1], target.name)
            else:
                made |= self._converted(target)
        return made

    def _converted(self, target: _Target) -> dict[str, torch.Tensor]:
        converter = copy.deepcopy(target.converter)
        assert converter is not None
        for pattern, key in target.sources:
            converter.add_tensor(target.name, key, pattern, self._later(key, target.name))
        try:
            made = converter.convert(target.name, model=self.model, config=self.model.config)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"The tensors of {target.name} in {self.shards[target.sources[0][1]].file} do not "
                f"fit together: {error}"
            ) from error
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}

    def _later(self, key: str, name: str) -> Callable[[], torch.Tensor]:
        return lambda: self._cast(key, name)

    def _cast(self, key: str, name: str) -> torch.Tensor:
        mapped = self.shards.mapped(key)
        if self._stays(key, name):
            return mapped
        return mapped.to(self.device, self._dtypes(name), copy=True)

    def _is_plain(self, target: _Target) -> bool:
        """Whether a tensor of the model is the file's own pages."""
        return target.converter is None and self._stays(target.keys[0], target.name)

    def _stays(self, key: str, name: str) -> bool:
        """Whether a stored tensor needs no change, and nothing that a copy would have.

        A forward pass may write to a buffer, and mapped pages cannot be written. And the float32
        product of a matrix with a single row has other last digits where the matrix does not lie
        as torch's allocator would have put it; narrow dtypes have not, and nothing is multiplied
        with an embedding.
        """
        stored = self.shards[key]
        if self.device.type != "cpu" or stored.dtype != self._dtypes(name):
            return False
        narrow = stored.dtype.itemsize < torch.float32.itemsize
        exact = narrow or name in self._tables or stored.start % _ALIGNMENT == 0
        return exact and name not in self._buffers

    # ------------------------------------------------------------------ placing

    def _put(self, made: dict[str, torch.Tensor]) -> None:
        for name, tensor in made.items():
            empty = _get(self.model, name)
            if tensor.shape != empty.shape:
                raise ModelError(
                    f"{name} is {list(tensor.shape)} in the checkpoint and {list(empty.shape)} in "
                    "the model its config.json describes. They do not belong together."
                )
            _set(self.model, name, tensor)

    def _settle(self, made: dict[str, torch.Tensor]) -> None:
        """Put tensors in place for good, with all that no checkpoint holds.

        transformers makes non-persistent buffers and weights that are missing in its own
        initialisation, which skips what is marked. It comes first: mapped pages cannot be written.
        """
        model = self.model
        state = model.state_dict(keep_vars=True)
        streamed = {name for block in self.blocks for name in block.empty}
        absent = {name for name, tensor in state.items() if tensor.is_meta}
        missing = absent - set(made) - streamed
        for name, tensor in state.items():
            tensor._is_hf_initialized = name not in missing or name in model.all_tied_weights_keys
        model._move_missing_keys_from_meta_to_device(missing, {"": self.device}, None, None)
        model._initialize_missing_keys(False)
        self._put(made)
        model.tie_weights(missing_keys=missing, recompute_mapping=False)


def find_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks of a model with their names: what stands in its outermost `ModuleList`s.

    Where the model says which classes must not be split over devices, only those are blocks:
    each is called as a whole, which a small list beside them need not be.
    """
    lists = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and name
    ]
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    children = [
        (f"{name}.{index}", child)
        for name in outermost
        for index, child in model.get_submodule(name).named_children()
        if any(True for _ in child.parameters())
    ]
    classes = set(getattr(model, "_no_split_modules", None) or ())
    return [pair for pair in children if type(pair[1]).__name__ in classes] or children


def _own_head(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Return the output head where its weights are its own: scoring does without it."""
    head = model.get_output_embeddings()
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    return [
        (name, module)
        for name, module in model.named_modules()
        if module is head and not any(key.startswith(f"{name}.") for key in tied)
    ]


def _owners(model: PreTrainedModel, blocks: Sequence[Block]) -> dict[str, Block]:
    """Return the block of each tensor's name; what several blocks or the outside share has none."""
    state = model.state_dict(keep_vars=True)
    inside = {
        f"{block.name}.{name}": block for block in blocks for name in block.module.state_dict()
    }
    users: dict[int, set[int]] = defaultdict(set)
    for name, tensor in state.items():
        users[id(tensor)].add(id(inside.get(name)))
    shared = {name for name, tensor in state.items() if len(users[id(tensor)]) > 1}
    for pair in model.all_tied_weights_keys.items():
        shared |= set(pair)
    return {name: block for name, block in inside.items() if name in state and name not in shared}


def _get(model: nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), leaf)
    return tensor


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    elif isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        # torch.matmul folds its operands by requires_grad, even where no gradient is kept: without
        # the flag that a loaded model has, sums differ in their last digits.
        flag = tensor.is_floating_point() or tensor.is_complex()
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=flag)
