"""A trained PEFT adapter as a folder that vLLM serves right: one rank, scaling inside B.

PEFT multiplies B·A of every module by its own alpha / rank. SGLang, and vLLM before 0.32.0,
multiply all of them by the one of `r` and `lora_alpha`. So each module's factor is multiplied into
its B, every A and B is padded with zeros to one rank, and the configuration says alpha = r. The
same folder means the same to PEFT, and to any server that reads less than PEFT does.

torch and safetensors are imported by `fold` only. Not covered: DoRA and whatever else is more
than B·A beside the original weights; that is refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plop_lora.errors import AdapterError, ExportError, OutputError
from plop_lora.exports.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    Pair,
    read_adapter,
    read_header,
)
from plop_lora.exports.serving.checks import lint
from plop_lora.exports.serving.findings import Finding, rejections
from plop_lora.exports.serving.servers import MERGE, VLLM_RANKS, unfoldable
from plop_lora.exports.wrapped import unwrapped
from plop_lora.files import atomic_folder, check_writable

if TYPE_CHECKING:
    import torch

NAME = "vllm"
_MARK = "plop_lora"


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded adapter: where it is, its rank, what folding repaired and what remains.

    Attributes:
        path: The folder.
        config: Content of its `adapter_config.json`.
        pairs: The modules as they were, with their own ranks and scalings.
        repaired: What the server would have got wrong about the original.
        findings: What it still rejects or ignores.
    """

    path: Path
    config: Mapping[str, Any]
    pairs: tuple[Pair, ...]
    repaired: tuple[Finding, ...]
    findings: tuple[Finding, ...]

    @property
    def text(self) -> str:
        """The configuration as it is written."""
        return _as_text(self.config)

    @property
    def messages(self) -> tuple[str, ...]:
        """What the user should know beside the result, a line each."""
        repaired = [f"Repaired: {finding.what}." for finding in self.repaired]
        return (*repaired, *map(str, self.findings))

    @property
    def summary(self) -> str:
        """One line: what was written."""
        ranks = sorted({pair.rank for pair in self.pairs})
        were = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        return f"{self.path}: {len(self.pairs)} adapters, rank {were} → {self.config['r']}"

    @property
    def description(self) -> str:
        """What to do with the folder."""
        base = shlex.quote(str(self.config.get("base_model_name_or_path") or "MODEL"))
        rank = f" --max-lora-rank {self.config['r']}" if self.config["r"] > 16 else ""
        modules = shlex.quote(f"NAME={self.path}")
        return f"Serve it: vllm serve {base} --enable-lora{rank} --lora-modules {modules}"


def fold(
    adapter: str | Path,
    folder: str | Path,
    *,
    server: str = NAME,
    allow_loss: bool = False,
) -> Folded:
    """Write a trained adapter so that vLLM gives the same outputs as PEFT.

    Scaling is multiplied into B in float32 and rounded to the dtype of the adapter. The product
    B·A is the same to float32 precision there; in bfloat16 each entry of B moves by at most 1 in
    256, and not at all where the scaling is a power of two.

    Args:
        adapter: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        folder: Where the folded adapter goes; an earlier one of ours there is replaced.
        server: Whose rules are linted, a name in `SERVERS` or `NAME==RELEASE`; what is written is
            the same for all.
        allow_loss: Write although the server will refuse a part of it.

    Raises:
        UsageError: `adapter` is a file, or the server is unknown.
        AdapterError: The adapter is not there, is damaged, or holds more than B·A beside the
            original weights.
        ExportError: The server rejects a part, and `allow_loss` is not given.
        OutputError: `folder` holds something that is not ours, or cannot be written.
    """
    source, target = read_adapter(Path(adapter)), Path(folder)
    _refuse_unfoldable(source)
    _check_target(target)
    rank = _common_rank(source)
    config = _folded_config(source, rank)
    names = tuple(pair.name for pair in source.pairs)
    before = lint(source.config, server, modules=names, added_tokens=source.added_tokens)
    # Tokenizer files stay behind, so added tokens are no question any more.
    after = lint(config, server, modules=names)
    if rejections(after) and not allow_loss:
        lines = " ".join(map(str, rejections(after)))
        raise ExportError(
            f"{server} would refuse this adapter. {lines} Nothing was written. "
            "Accept it with --allow-loss."
        )
    with atomic_folder(target) as new:
        _write_weights(source, rank, new / WEIGHTS_FILE)
        (new / CONFIG_FILE).write_text(_as_text(config), encoding="utf-8")
    wrong = [finding for finding in before if finding.severity != "note"]
    wrong += [_wrapped(word) for word in source.wrappers]
    repaired = tuple(finding for finding in wrong if finding not in after)
    return Folded(target, config, source.pairs, repaired, after)


def _wrapped(word: str) -> Finding:
    what = f"its names hold {word}, the wrapper of a model, and match nothing in any other model"
    return Finding("ignored", what, (), "Save the adapter of the model without its wrapper")


def _refuse_unfoldable(source: Adapter) -> None:
    for what, todo in unfoldable(source.config):
        raise AdapterError(f"{source.folder} has {what}; that cannot be folded. {todo}.")


def _check_target(target: Path) -> None:
    """Refuse a folder whose content is not an earlier export of ours."""
    if target.is_file():
        raise OutputError(f"Cannot write into {target}: it is a file. Give a folder with -o.")
    check_writable(target / CONFIG_FILE)
    if not target.exists() or not any(target.iterdir()):
        return
    ours = {entry.name for entry in target.iterdir()} <= {CONFIG_FILE, WEIGHTS_FILE}
    try:
        ours = ours and _MARK in read_header(target / WEIGHTS_FILE)[1]
    except AdapterError:
        ours = False
    if not ours:
        raise OutputError(
            f"{target} is not empty and was not written by plop export --to {NAME}; it stays as "
            "it is. Give an empty or a new folder with -o."
        )


def _common_rank(source: Adapter) -> int:
    largest = max(pair.rank for pair in source.pairs)
    fitting = [rank for rank in VLLM_RANKS if rank >= largest]
    if not fitting:
        raise AdapterError(
            f"{source.folder} has rank {largest}; vLLM serves at most {VLLM_RANKS[-1]}. {MERGE}."
        )
    return fitting[0]


def _folded_config(source: Adapter, rank: int) -> dict[str, object]:
    """Return the configuration: full module names, so that nothing else can match."""
    return {
        **source.config,
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": [pair.module for pair in source.pairs if pair.parameter is None],
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        # How A and B began does not matter any more, and some inits read data when they load.
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _as_text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def _write_weights(source: Adapter, rank: int, path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    with safe_open(source.folder / WEIGHTS_FILE, framework="pt") as file:
        for pair in source.pairs:
            A, B = file.get_tensor(pair.tensor_A), file.get_tensor(pair.tensor_B)
            folded = _fold_pair(pair, A, B, rank)
            names = (unwrapped(tensor)[0] for tensor in (pair.tensor_A, pair.tensor_B))
            tensors |= zip(names, folded, strict=True)
        for name in source.passengers:
            tensors[unwrapped(name)[0]] = file.get_tensor(name)
    save_file(tensors, path, metadata={"format": "pt", _MARK: "scaling folded into B"})


def _fold_pair(
    pair: Pair, A: torch.Tensor, B: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiply the scaling into B and pad both to a rank, for each copy of the pair.

    Raises:
        AdapterError: NaN or infinity, in the adapter or in B times its scaling.
    """
    from torch.nn.functional import pad

    missing = rank - pair.rank
    stacked_A = A.reshape(pair.copies, pair.rank, A.shape[1])
    scaled_B = (B.float() * pair.scaling).to(B.dtype)
    stacked_B = scaled_B.reshape(B.shape[0], pair.rank, pair.copies)
    if not (A.isfinite().all() and scaled_B.isfinite().all()):
        raise AdapterError(
            f"{pair.name} holds NaN or infinity, or B times its scaling {pair.scaling:g} does not "
            f"fit into {B.dtype}. Look at the training run, or save the adapter in float32."
        )
    padded_A = pad(stacked_A, (0, 0, 0, missing)).reshape(pair.copies * rank, A.shape[1])
    padded_B = pad(stacked_B, (0, 0, 0, missing)).reshape(B.shape[0], rank * pair.copies)
    return padded_A.contiguous(), padded_B.contiguous()
