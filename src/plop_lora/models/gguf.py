"""GGUF files: which one is meant, whether it is sound, and what its header says.

transformers reads the weights and dequantises them (`loading.py`). This file finds the GGUF and
checks it first, because transformers reports a damaged file by whatever fails in it. The header is
read by the `gguf` package of llama.cpp, which is an optional extra. Does not import torch.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import ModelError, UsageError, nearest, require
from plop_lora.files import file_digest
from plop_lora.models.folders import CONFIG, expanded, has_tokenizer, is_lfs_pointer
from plop_lora.models.origin import Origin
from plop_lora.records import GgufFile

SUFFIX = ".gguf"
MAGIC = b"GGUF"
OLDEST_TRANSFORMERS = "5.17"
"""Oldest release of transformers whose reading of GGUF was tried."""
_LISTED = 6
_SPLIT_AS_GPT2 = frozenset({"default", "gpt-2", "mpt", "olmo", "jais", "phi-2"})
"""Pre-tokenizers that llama.cpp runs with GPT-2's expression, which is what transformers takes for
every pre-tokenizer that it does not know."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header of a GGUF file says.

    Attributes:
        file: The file and its quantisation types, for a record.
        architecture: llama.cpp's name of the architecture, such as `llama`.
        elements: Number of weights of all tensors.
        tokenizer: llama.cpp's name of the kind of tokenizer, such as `gpt2`; None without one.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer, such as `smollm`.
    """

    file: GgufFile
    architecture: str
    elements: int
    tokenizer: str | None
    pre_tokenizer: str | None


def locate(model: str, gguf: str | None) -> tuple[str, str | None]:
    """Return the folder or hub id of a model, and the name of its GGUF file, if it is one.

    Args:
        model: Name as the user typed it: a GGUF file, a folder or a hub id.
        gguf: Name of a GGUF file in that folder or repository, or None. A folder without a
            config.json may leave it out if it holds a single one.

    Raises:
        ModelError: The file does not exist, or several could be meant.
        UsageError: Both name a file, or `gguf` is a path or the name of another kind of file.
    """
    path = Path(expanded(model))
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        if gguf is not None:
            raise UsageError(f"{model} is a GGUF file already; leave out --gguf {gguf}.")
        _check_there(path.parent, path.name, model)
        return str(path.parent), path.name
    if gguf is None:
        single = _only_one(model, path)
        return model if single is None else str(path), single
    if Path(gguf).name != gguf or not gguf.lower().endswith(SUFFIX):
        raise UsageError(
            f"--gguf {gguf} is not the name of a GGUF file in {model}. Give its name alone, such "
            "as --gguf model-Q8_0.gguf, or the path of the file as the model."
        )
    if path.is_dir() or model.startswith((".", "/", "~")):
        _check_there(path, gguf, str(path / gguf))
    return str(path), gguf


def check_engine(engine: str, gguf: str | None) -> None:
    """Refuse to stream a GGUF file, which transformers dequantises as a whole.

    Raises:
        UsageError: The engine is `stream`, and there is a GGUF file.
    """
    if gguf is not None and engine == "stream":
        raise UsageError(
            f"{gguf} cannot be streamed, because a GGUF file is dequantised as a whole. Give "
            "--engine auto, memory or ray, or stream the folder or hub id of the model that the "
            "file was made from."
        )


def path_of(name: str, origin: Origin) -> Path:
    """Return the path of the GGUF file of an origin, downloaded from the hub if need be.

    Raises:
        OSError: The hub does not give the file.
    """
    assert origin.gguf is not None
    if Path(name).is_dir():
        return Path(name) / origin.gguf
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, origin.gguf, **origin.files()))


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file, after checking that the file is complete.

    The whole file is read for its SHA-256, once unless it changes.

    Raises:
        ModelError: It is not GGUF, is truncated or damaged, or is one part of several.
        MissingExtraError: The `gguf` package is not installed.
    """
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int, modified: int) -> GgufHeader:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(_not_gguf(path))
    library = require("gguf")
    try:
        reader = library.GGUFReader(path)
        fields = {key: reader.fields[key].contents() for key in _FIELDS if key in reader.fields}
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        elements = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except Exception as error:  # the reader raises whatever fails on bytes that mean something else
        raise ModelError(
            f"{path} is a truncated or damaged GGUF file ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}). Copy or download it again."
        ) from error
    if _ARCHITECTURE not in fields or not types:
        lacking = "no tensors" if _ARCHITECTURE in fields else f"no {_ARCHITECTURE}"
        raise ModelError(f"{path} is a GGUF file without a model: it has {lacking}.")
    if fields.get(_PARTS, 1) > 1:
        raise ModelError(
            f"{path} is one of {fields[_PARTS]} parts of a model, and transformers reads single "
            f"files. Merge them: llama-gguf-split --merge {path} whole.gguf."
        )
    return GgufHeader(
        GgufFile(path.name, file_digest(path), dict(sorted(types.items()))),
        fields[_ARCHITECTURE], elements, fields.get(_TOKENIZER), fields.get(_PRE_TOKENIZER),
    )  # fmt: skip


_ARCHITECTURE = "general.architecture"
_TOKENIZER, _PRE_TOKENIZER = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_PARTS = "split.count"
_FIELDS = (_ARCHITECTURE, _TOKENIZER, _PRE_TOKENIZER, _PARTS)


def covered_architectures() -> list[str]:
    """Return the architectures whose GGUF the installed transformers reads, sorted."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    except ImportError:  # the second reader is newer than the first
        return sorted(GGUF_SUPPORTED_ARCHITECTURES)
    return sorted({*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS})


def loading_failure(path: Path, header: GgufHeader, reason: str) -> str:
    """Return the error message for a sound GGUF file that transformers could not load."""
    covered = covered_architectures()
    plain = header.architecture.replace("-", "_")
    if not any(name.replace("_", "") == plain.replace("_", "") for name in covered):
        return (
            f"{path} is a GGUF of the architecture {header.architecture!r}, which the installed "
            f"transformers does not read. It reads: {', '.join(covered)}. Give the folder or hub "
            "id of the model that the file was made from."
        )
    return (
        f"transformers cannot load {path}, a GGUF of the architecture {header.architecture!r}: "
        f"{reason}. Give the folder or hub id of the model that the file was made from."
    )


def tokenizer_failure(path: Path, reason: str) -> str:
    """Return the error message for a GGUF whose tokenizer cannot be built."""
    return (
        f"transformers cannot build a tokenizer from {path}: {reason}. Give the folder or hub id "
        "of the tokenizer that the model was trained with as --tokenizer, or put its "
        "tokenizer.json beside the file."
    )


def tokenizer_notes(name: str, header: GgufHeader, tokenizer: object) -> list[str]:
    """Return what a record should note of a tokenizer that was built from a GGUF file.

    transformers splits words as GPT-2 does where it does not know the pre-tokenizer of a file,
    and does not say so.
    """
    own = getattr(tokenizer, "name_or_path", None) == name and not has_tokenizer(name)
    if not own or header.tokenizer != "gpt2" or header.pre_tokenizer in _known_splits():
        return []
    return [
        f"transformers does not know the pre-tokenizer {header.pre_tokenizer!r} of "
        f"{header.file.name} and splits words as GPT-2 does, so that some texts are cut into other "
        "tokens than in training; --tokenizer takes the model's own"
    ]


def conversion(file: str) -> str:
    """Return the command that converts a GGUF file into a folder that can be trained."""
    path = Path(file)
    name = path.absolute() if path.exists() else path.name
    return (
        'python -c "import transformers as t; '
        f"f = dict(pretrained_model_name_or_path='{path.parent}', gguf_file='{name}'); "
        "t.AutoModelForCausalLM.from_pretrained(quantization_config=t.GgufConfig(dequantize=True), "
        "**f).save_pretrained('converted'); "
        "t.AutoTokenizer.from_pretrained(**f).save_pretrained('converted')\""
    )


def _known_splits() -> frozenset[str | None]:
    try:
        from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

        return _SPLIT_AS_GPT2 | {None, *mapping.GGUF_PRE_TOKENIZER_SPLITS}
    except (ImportError, AttributeError):
        return _SPLIT_AS_GPT2


def _only_one(model: str, folder: Path) -> str | None:
    """Return the single GGUF file of a folder that holds no other model, or None."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return None
    names = _files_in(folder)
    if len(names) > 1:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise ModelError(
            f"{model} holds several GGUF files: {', '.join(names[:_LISTED])}{more}. Name one with "
            f"--gguf {names[0]}."
        )
    return names[0] if names else None


def _check_there(folder: Path, name: str, typed: str) -> None:
    if not (folder / name).is_file():
        beside = _files_in(folder) if folder.is_dir() else []
        holds = f" {folder} holds: {', '.join(beside[:_LISTED])}." if beside else ""
        raise ModelError(f"There is no GGUF file {typed}.{nearest(name, beside)}{holds}")


def _files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == SUFFIX)


def _not_gguf(path: Path) -> str:
    if is_lfs_pointer(path):
        return (
            f"{path} is a pointer of Git LFS and not the file itself. Fetch it: "
            f"git -C {path.parent} lfs pull."
        )
    return (
        f"{path} is not a GGUF file: it does not begin with the letters GGUF. Copy or download it "
        "again, or give the folder or hub id of the model."
    )
