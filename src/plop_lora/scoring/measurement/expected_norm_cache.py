"""Cache of expected norms on disk: they depend on the weights only, and cost as much as the hooks.

There is one small JSON file per checkpoint in `$XDG_CACHE_HOME/plop-lora` (`~/.cache/plop-lora`).
Its name is a hash that identifies the files of the checkpoint. It has one section for each
combination of settings that change an expected norm. `PLOP_CACHE=0` or `--no-cache` disables it.

Each section carries a checksum over its norms, its name and that of the file, and a norm is used
only if it has the form that its site needs (`hooks.py`): a changed value would silently change a
score.

The cache never fails a run: a damaged section is ignored and rewritten, and without a folder that
can be written, nothing is cached. Models given as modules are not cached either, because their
weights may have changed after loading.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from torch import nn
from transformers.utils import cached_file

from plop_lora._version import __version__
from plop_lora.errors import OutputError
from plop_lora.files import atomic_file, cache_folder
from plop_lora.indicators import expected_norms
from plop_lora.models.devices import home_of
from plop_lora.models.folders import CONFIG
from plop_lora.models.origin import PLAIN, Origin
from plop_lora.scoring.measurement.hooks import ExpectedNorm
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.measurement.weights import Weights

_WEIGHTS = ("*.safetensors", "*.bin")
_HEADER_BYTES = 65536
_READING = 2
"""Version of how modules are read, increased when a weight may be read as another linear map."""
_FORMULA = (
    expected_norms.METHOD,
    expected_norms.MONTE_CARLO_DRAWS,
    expected_norms.PROBED_DRAWS,
    _READING,
)
_VERSIONS = (__version__, transformers.__version__, *map(str, _FORMULA))


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedNormCache:
    """The expected norms of one checkpoint under one combination of settings.

    Attributes:
        path: File of the checkpoint, or None to keep the norms in memory only.
        section: Name of the section, which lists the settings.
        known: Expected norms by the name of the site.
        weights: Values of further indicators of weights, by indicator and name of the site. They
            are kept in memory only.
    """

    path: Path | None = None
    section: str = ""
    known: dict[str, ExpectedNorm] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)

    def learn(self, expected_norms: Mapping[str, ExpectedNorm]) -> None:
        """Add expected norms, and write new ones to the file, which is replaced atomically.

        A norm of zero, that of a weight that is all zero, is not kept.
        """
        new = {name: norm for name, norm in expected_norms.items() if _is_expected_norm(norm)}
        if all(self.known.get(name) == norm for name, norm in new.items()):
            return
        self.known.update(new)
        if self.path is not None:
            sections = _read(self.path)
            sections[self.section] = {**sections.get(self.section, {}), **new}
            document = {
                section: {"checksum": _checksum(self.path, section, known), "gains": known}
                for section, known in sections.items()
            }
            with contextlib.suppress(OutputError), atomic_file(self.path) as file:
                json.dump(document, file)


def open_cache(job: MeasurementSettings, model: nn.Module) -> ExpectedNormCache:
    """Return the cache of the checkpoint of a job; it is empty if nothing may be cached.

    Args:
        job: Settings of the measurement; its dtype, denominator and seed are part of the key.
        model: The loaded model; its kind of device is part of the key.
    """
    folder = cache_folder()
    if folder is None or not job.cache or job.model is None:
        return ExpectedNormCache()
    key = checkpoint_key(job.model, job.origin)
    if key is None:
        return ExpectedNormCache()
    path = folder / f"{key}.json"
    words = [job.denominator, f"seed={job.seed}", job.dtype, home_of(model).type, *_VERSIONS]
    section = " ".join(words)
    return ExpectedNormCache(path, section, _read(path).get(section, {}))


def checkpoint_key(name: str, origin: Origin = PLAIN) -> str | None:
    """Return a hash that changes with any weight of a checkpoint; None if it has no such hash.

    A file of the hub's cache is a link to a blob whose name is the hash of its content. Any other
    file is identified by its size, its first bytes (which hold the names, shapes and offsets of
    the tensors), its inode, and its modification and change times, the latter of which no program
    can set back. Reading a file of 100 GB to hash it would take longer than the cache saves. A copy
    of a checkpoint counts as another one, which costs one computation.
    """
    folder = _files_of(name, origin)
    if folder is None or (folder / "adapter_config.json").exists():
        return None  # the weights of an adapter's base model are stored elsewhere
    if origin.gguf is not None:
        files = [folder / origin.gguf]
    else:
        files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
        files += [folder / CONFIG] if files else []
    if not files:
        return None
    digest = hashlib.sha256()
    try:
        for path in files:
            digest.update(f"{path.name} {_identity(path)}\n".encode())
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _identity(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs":
        return real.name
    status = real.stat()
    with real.open("rb") as file:
        head = hashlib.sha256(file.read(_HEADER_BYTES)).hexdigest()
    return f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns} {head}"


def _files_of(name: str, origin: Origin) -> Path | None:
    """Return the local folder of a checkpoint, or its folder in the hub's cache."""
    if Path(name).is_dir():
        return Path(name)
    try:
        file = origin.gguf or CONFIG
        config = cached_file(name, file, local_files_only=True, **origin.files())
    except (OSError, ValueError):
        return None
    return None if config is None else Path(config).parent


def _read(path: Path) -> dict[str, dict[str, ExpectedNorm]]:
    """Return the valid sections of a file; a missing or damaged file has none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    sections = document if isinstance(document, dict) else {}
    return {
        name: content["gains"]
        for name, content in sections.items()
        if _is_sound(path, name, content)
    }


def _is_sound(path: Path, section: str, content: object) -> bool:
    """Return whether a section holds expected norms that match its checksum."""
    if not isinstance(content, dict) or not isinstance(content.get("gains"), dict):
        return False
    expected_norms = content["gains"]
    whole = all(map(_is_expected_norm, expected_norms.values()))
    return whole and content.get("checksum") == _checksum(path, section, expected_norms)


def _is_expected_norm(norm: object) -> bool:
    """Return whether a value is a positive finite number, or a list of them."""
    numbers = norm if isinstance(norm, list) else [norm]
    return all(isinstance(x, float) and 0 < x < float("inf") for x in numbers)


def _checksum(path: Path, section: str, expected_norms: Mapping[str, ExpectedNorm]) -> str:
    content = json.dumps([path.name, section, expected_norms], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
