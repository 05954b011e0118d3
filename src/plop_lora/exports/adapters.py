"""A trained PEFT adapter in a folder: its settings, and its pairs of A and B.

Reads `adapter_config.json` and the header of `adapter_model.safetensors`, not the numbers, so
neither torch nor safetensors is imported. The two files are compared here, so the ranks of an
`Adapter` are always those of its weights.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import AdapterError, UsageError
from plop_lora.exports.patterns import check_patterns
from plop_lora.exports.wrapped import unwrapped, unwrapped_fields

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_FACTOR = re.compile(r"(.+)\.(?:lora_([AB])\.weight|lora_embedding_([AB]))")
_WRAPPED = ".base_layer"


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of A and B: its module, rank, scaling and two tensors.

    Attributes:
        module: Name of the module in the base model.
        parameter: Name of the adapted parameter of the module, or None if it is the module itself.
        tensor_A: Name of the tensor of shape (copies · rank, in).
        tensor_B: Name of the tensor of shape (out, rank · copies), in which the index of the copy
            varies fastest.
        rank: LoRA rank of one copy.
        scaling: Factor by which B·A is multiplied.
        copies: Number of experts that are stacked in the parameter; otherwise 1.
    """

    module: str
    parameter: str | None
    tensor_A: str
    tensor_B: str
    rank: int
    scaling: float
    copies: int

    @property
    def name(self) -> str:
        """The name against which PEFT matches its patterns."""
        return _full_name(self.module, self.parameter)


def _full_name(module: str, parameter: str | None) -> str:
    return module if parameter is None else f"{module}.{parameter}"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained LoRA adapter; `passengers` are base embeddings that PEFT saved with it.

    `wrappers` are the names of model wrappers that occurred in names of its weights or its
    configuration. They are removed from all names but those of tensors.
    """

    folder: Path
    config: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    passengers: tuple[str, ...]
    added_tokens: bool
    wrappers: tuple[str, ...] = ()


def read_adapter(folder: Path) -> Adapter:
    """Read a folder written by `save_pretrained` of a PEFT LoRA model.

    Raises:
        UsageError: `folder` is a file.
        AdapterError: The folder does not exist, a file in it is missing or damaged, the adapter is
            of another PEFT method or has tensors other than LoRA factors, or the ranks of its
            weights are not those of the configuration.
    """
    check_adapter_folder(folder)
    config, in_config = unwrapped_fields(read_config(folder))
    shapes, _ = read_header(folder / WEIGHTS_FILE)
    factors, passengers = _sort_tensors(folder, shapes)
    in_names = (word for tensor in shapes for word in unwrapped(tensor)[1])
    return Adapter(
        folder=folder,
        config=config,
        pairs=tuple(_pairs(folder, config, shapes, factors)),
        passengers=tuple(passengers),
        added_tokens=(folder / "added_tokens.json").exists(),
        wrappers=tuple(dict.fromkeys([*in_config, *in_names])),
    )


def check_adapter_folder(folder: Path) -> None:
    """Refuse what is not a folder, before a file in it is read.

    Raises:
        UsageError: It is a file.
        AdapterError: It does not exist.
    """
    if folder.is_dir():
        return
    is_file = folder.exists()
    found = "is a file" if is_file else "does not exist"
    raise (UsageError if is_file else AdapterError)(
        f"{folder} {found}, but a trained adapter is a folder with {CONFIG_FILE} and "
        f"{WEIGHTS_FILE}. {_TRAIN}"
    )


_TRAIN = "Train one with: plop finetune placement.json --recipe recipe.yaml"


def read_config(folder: Path) -> dict[str, object]:
    """Read `adapter_config.json` of a LoRA adapter.

    Raises:
        AdapterError: The file is missing or damaged, or of another PEFT method.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"{folder} holds no {CONFIG_FILE}. Give the folder that "
            "model.save_pretrained(FOLDER) of the PEFT model wrote."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path} is not complete JSON ({error}). Save the adapter again.") from (
            error
        )
    method = config.get("peft_type") if isinstance(config, dict) else None
    if method != "LORA":
        raise AdapterError(
            f"{path} has peft_type {method!r}; only 'LORA' can be folded. Merge another method "
            "into its model with model.merge_and_unload() and serve the result."
        )
    if not all(isinstance(config.get(key), (int, float)) for key in ("r", "lora_alpha")):
        raise AdapterError(f"{path} has no numbers r and lora_alpha. Save the adapter again.")
    return dict(config)


def read_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes and the metadata of a safetensors file, whose length is checked.

    Raises:
        AdapterError: The file is missing, truncated or not in the safetensors format.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            size = path.stat().st_size
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in header.values()]
        if size != 8 + length + max(ends, default=0):
            raise ValueError(f"it has {size:,} bytes, its header says otherwise")
        return {name: tuple(entry["shape"]) for name, entry in header.items()}, metadata
    except FileNotFoundError as error:
        raise AdapterError(
            f"{path.parent} holds no {path.name}, so it is not a trained adapter. {_TRAIN}. If it "
            "holds adapter_model.bin, load the adapter with PEFT and save it again with "
            "save_pretrained(FOLDER)."
        ) from error
    except OSError as error:
        raise AdapterError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise AdapterError(
            f"{path} is truncated or not a safetensors file ({error}). Copy or save it again."
        ) from error


def ranks_and_scalings(
    config: Mapping[str, Any], names: Iterable[str]
) -> dict[str, tuple[int, float]]:
    """Return the rank that PEFT gives each name, and the factor by which it multiplies B·A.

    A key of `rank_pattern` or `alpha_pattern` is a regular expression for the end of the name,
    from a dot on; the first that matches wins.

    Source: peft `utils/other.py`, `get_pattern_key`.
    """
    rank_of = _lookup(config.get("rank_pattern"), config["r"])
    alpha_of = _lookup(config.get("alpha_pattern"), config["lora_alpha"])
    found = {}
    for name in names:
        rank = rank_of(name)
        found[name] = rank, alpha_of(name) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return found


def _lookup(patterns: Mapping[str, object] | None, default: object) -> Callable[[str], Any]:
    compiled = [
        (key, re.compile(rf"(?:.*\.)?(?:{key})$"), value) for key, value in (patterns or {}).items()
    ]

    def value_of(name: str) -> object:
        hits = (value for key, regex, value in compiled if key == name or regex.match(name))
        return next(hits, default)

    return value_of


def _sort_tensors(
    folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return stem → side → tensor, and the base embeddings; reject all other tensors."""
    factors: dict[str, dict[str, str]] = defaultdict(dict)
    passengers, unknown = [], []
    for tensor, shape in shapes.items():
        plain, _ = unwrapped(tensor)
        found = _FACTOR.fullmatch(plain.removeprefix(PREFIX))
        if found and plain.startswith(PREFIX) and len(shape) == 2:
            side = found[2] or found[3]
            if side in factors[found[1]]:
                raise AdapterError(_twice(folder, tensor, factors[found[1]][side]))
            factors[found[1]][side] = tensor
        elif plain.endswith(("embed_tokens.base_layer.weight", "lm_head.base_layer.weight")):
            passengers.append(tensor)
        else:
            unknown.append(tensor)
    unknown += [pair[side] for pair in factors.values() if len(pair) == 1 for side in pair]
    if unknown or not factors:
        shown = ", ".join(sorted(unknown)[:4]) or "nothing"
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise AdapterError(
            f"{folder / WEIGHTS_FILE} should hold pairs {PREFIX}MODULE.lora_A.weight and "
            f"….lora_B.weight with two dimensions. It also holds, or only: {shown}{more}. "
            "Save the adapter with save_pretrained(FOLDER) of the PEFT model; merge what is not "
            "LoRA with model.merge_and_unload()."
        )
    return factors, passengers


def _twice(folder: Path, tensor: str, other: str) -> str:
    return (
        f"{folder / WEIGHTS_FILE} holds {other} and {tensor}, which name the same weight, once "
        "with the wrapper of a model. Save the adapter of the model without its wrapper."
    )


def _pairs(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    factors: Mapping[str, Mapping[str, str]],
) -> list[Pair]:
    """Return the pairs, their ranks compared with the configuration."""
    stems: dict[str, list[str]] = defaultdict(list)
    for stem in factors:
        module = stem
        while module.endswith(_WRAPPED):
            module = module.removesuffix(_WRAPPED)
        stems[module].append(stem)
    named = {module: _parameters(module, config, len(wrapped)) for module, wrapped in stems.items()}
    wanted = [_full_name(module, parameter) for module in named for parameter in named[module]]
    check_patterns(config, wanted, str(folder / CONFIG_FILE))
    given = ranks_and_scalings(config, wanted)
    pairs = []
    for module, wrapped in stems.items():
        # PEFT nests the wrappers of several parameters of one module, the first one innermost.
        innermost_first = sorted(wrapped, key=len, reverse=True)
        made = [
            _pair(module, parameter, given[_full_name(module, parameter)], shapes, factors[stem])
            for parameter, stem in zip(named[module], innermost_first, strict=True)
        ]
        copies = {pair.copies for pair in made if pair is not None}
        if None in made or len(copies) != 1:
            raise AdapterError(_rank_mismatch(folder, module, config, shapes, factors[wrapped[0]]))
        pairs += [pair for pair in made if pair is not None]
    return pairs


def _pair(
    module: str,
    parameter: str | None,
    given: tuple[int, float],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, str],
) -> Pair | None:
    """Return a pair with the rank and scaling in `given`, or None if the shapes do not match."""
    rank, scaling = given
    rows, columns = shapes[tensors["A"]][0], shapes[tensors["B"]][1]
    copies, rest = divmod(rows, rank)
    if rest or rows != columns or copies == 0 or (parameter is None and copies > 1):
        return None
    return Pair(module, parameter, tensors["A"], tensors["B"], rank, scaling, copies)


def _parameters(module: str, config: Mapping[str, Any], count: int) -> Sequence[str | None]:
    """Return the parameters of a module that are adapted, in the order PEFT wraps them.

    PEFT wraps in the order in which the module declares them; every family of transformers
    declares the down projection last.

    Raises:
        AdapterError: The module has more pairs of tensors than parameters are named.
    """
    leaves = []
    for target in config.get("target_parameters") or ():
        holder, _, leaf = target.rpartition(".")
        ends = module == holder or module.endswith(f".{holder}")
        # PEFT names routed experts by the parameter alone when it has rewritten the targets.
        if ends if holder else module.rpartition(".")[2] == "experts":
            leaves.append(leaf)
    ordered = sorted(set(leaves), key=lambda leaf: ("down" in leaf, leaf))
    if not ordered and count == 1:
        return (None,)
    if len(ordered) != count or count > 2:
        raise AdapterError(
            f"{module} has {count} nested adapters, but target_parameters names "
            f"{', '.join(ordered) or 'none'} of its parameters. Merge the adapter into its model "
            "with model.merge_and_unload() and serve the result."
        )
    return ordered


def _rank_mismatch(
    folder: Path,
    module: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, str],
) -> str:
    rows, columns = shapes[tensors["A"]][0], shapes[tensors["B"]][1]
    return (
        f"{folder}: the weights of {module} have rank {rows} (A) and {columns} (B), which is not "
        f"what {CONFIG_FILE} gives it (r {config['r']}, rank_pattern "
        f"{config.get('rank_pattern') or 'empty'}). The two files belong to different adapters; "
        "save the adapter again with save_pretrained(FOLDER)."
    )
