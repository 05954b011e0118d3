"""A model whose blocks stay on disk: a skeleton in memory, and one block's weights at a time.

The skeleton is on the meta device. The weights outside the blocks are materialised once; those of a
block are set by `load` and removed by `free`. The names in a checkpoint are not those of the model:
transformers renames, stacks and fuses tensors when it loads them. Its own rules and converters are
applied here to the tensors of one block instead of all.

This file does not depend on passes or probes.
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
    """A tensor of the model, or several from one converter, and the tensors it is made from.

    Attributes:
        name: Name in the model.
        converter: Converter of transformers, or None for a tensor that is used as stored.
        sources: Pairs of the converter's pattern and the key in the checkpoint.
    """

    name: str
    converter: WeightConverter | None
    sources: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> list[str]:
        """The names in the checkpoint."""
        return [key for _, key in self.sources]

    @property
    def names(self) -> list[str]:
        """The names in the model; a converter that splits a tensor has one for each pattern.

        transformers names a tensor that it splits by the first pattern.
        """
        patterns = [] if self.converter is None else self.converter.target_patterns
        first = next((pattern for pattern in patterns[:1] if pattern in self.name), None)
        if first is None:
            return [self.name]
        return [self.name.replace(first, pattern) for pattern in patterns]


@dataclass(slots=True, eq=False)
class Block:
    """A block and the sources of its weights; `free` restores the meta tensors in `empty`."""

    name: str
    module: nn.Module
    targets: list[_Target] = field(default_factory=list)
    empty: dict[str, torch.Tensor] = field(default_factory=dict)


class Checkpoint:
    """The skeleton of a model on disk, and its blocks."""

    def __init__(
        self, name: str, *, device: torch.device, dtype: str, origin: Origin = PLAIN
    ) -> None:
        """Build the skeleton and materialise the weights outside the blocks.

        Args:
            name: Hub id or local folder.
            device: Device of the weights.
            dtype: `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`.
            origin: Revision, token, and whether code beside the weights may run.

        Raises:
            UnstreamableError: The model must be loaded whole.
            ModelError: A weights file is missing or damaged, or the weights are not those of the
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
        """The modules that are loaded when called: the blocks in order, and an untied head."""
        return [block.module for block in self.blocks]

    # ------------------------------------------------------------------ blocks

    def load(self, module: nn.Module) -> None:
        """Load the weights of a block.

        Raises:
            ModelError: A weights file is damaged.
            UnstreamableError: The checkpoint lacks a tensor of the block.
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
        """Remove the weights of a block, and release its pages."""
        block = self._block_of[module]
        for name, tensor in block.empty.items():
            _set(self.model, name, tensor)
        self._release(block.targets)

    def release_outside(self) -> None:
        """Release the pages of the weights outside the blocks."""
        self._release(self._outside)

    def _release(self, targets: Iterable[_Target]) -> None:
        for target in targets:
            self.shards.release(target.keys)

    def materialise(self) -> PreTrainedModel:
        """Load all blocks permanently and return the model, which then runs like any other."""
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
        """Return a context in which large embeddings are read by the row and not kept in memory."""
        return EmbeddingRows(self.shards, self._mapped)

    # ------------------------------------------------------------------ index

    def _assign_owners(self, targets: Iterable[_Target]) -> None:
        """Assign every tensor of the model to its block, or to none if several blocks share it."""
        owner = _owners(self.model, self.blocks)
        for target in targets:
            block = owner.get(target.name)
            (self._outside if block is None else block.targets).append(target)
        state = self.model.state_dict(keep_vars=True)
        for name, block in owner.items():
            if name in state:
                block.empty[name] = state[name]

    def _targets(self) -> tuple[list[_Target], list[str]]:
        """Map the keys of the checkpoint to names in the model, as transformers does.

        Returns:
            The tensors of the model, and the names of those that the model does not have.
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
        """Return the names of the weights of a new head, and refuse the weights of another model.

        As in transformers, tied weights and those that a class declares as optional are exempt.
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

        Tensors that need no conversion are views of the mapped file.
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
        """Return whether a tensor of the model is a view of the mapped file."""
        return target.converter is None and self._stays(target.keys[0], target.name)

    def _stays(self, key: str, name: str) -> bool:
        """Return whether a stored tensor can be used from the mapped file without a copy.

        Buffers are copied, because a forward pass may write to them and mapped pages are read-only.
        A float32 matrix that is not aligned as torch's allocator would align it is copied, because
        its product with a single row would differ in the last digits; this does not affect
        narrower dtypes, nor embeddings, which are not multiplied.
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
        """Set tensors permanently, and initialise those that no checkpoint holds.

        transformers initialises non-persistent buffers and missing weights, and skips tensors that
        are marked as initialised. This runs first, because mapped pages cannot be written.
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
    """Return the blocks of a model with their names: the entries of its outermost `ModuleList`s.

    If the model declares which classes must not be split over devices, only those are blocks:
    each of them is called as a whole, which other lists need not be.
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
    """Return the output head if its weights are not tied; scoring does not need it."""
    head = model.get_output_embeddings()
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    return [
        (name, module)
        for name, module in model.named_modules()
        if module is head and not any(key.startswith(f"{name}.") for key in tied)
    ]


def _owners(model: PreTrainedModel, blocks: Sequence[Block]) -> dict[str, Block]:
    """Return the block of each tensor by name, without tensors that are shared beyond a block."""
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
    """Set a parameter or buffer to a tensor."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    elif isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        # torch.matmul folds its operands depending on requires_grad, even in inference mode:
        # without the flag that a loaded model has, sums differ in the last digits.
        flag = tensor.is_floating_point() or tensor.is_complex()
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=flag)
