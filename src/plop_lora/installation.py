"""What is installed, which device and dtype would be used, and where the caches are.

Nothing is loaded or downloaded, and nothing secret is read. Imports torch only when it examines.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from plop_lora._version import __version__
from plop_lora.files import cache_folder
from plop_lora.records import Finding, Installation

NAME = "plop-lora"
BUNDLES = ("all", "dev")
"""Extras that only join others."""
GIB = 1 << 30
_EXTRA = re.compile(r"""extra == ['"]([^'"]+)['"]""")


def examine() -> Installation:
    """Return what is installed and what would be used here."""
    findings = (*_versions(), *_extras(), *_devices(), *_caches())
    return Installation(findings=findings, plop_version=__version__)


def _versions() -> Iterator[Finding]:
    where = shutil.which("plop")
    yield Finding(area="versions", name=NAME, value=f"{__version__}, {where or 'not on the PATH'}")
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding(area="versions", name="python", value=value)
    for wanted in _requirements(""):
        yield _package(wanted)


def _package(wanted: Requirement) -> Finding:
    """Return the version of a dependency, and what to do if it is missing or too old."""
    found = _installed(wanted)
    sound = found is not None and wanted.specifier.contains(found, prereleases=True)
    return Finding(
        area="versions",
        name=wanted.name,
        value=found or "not installed",
        sound=sound,
        advice="" if sound else f"pip install '{wanted.name}{wanted.specifier}'",
    )


def _extras() -> Iterator[Finding]:
    """Yield a line for every extra: what it holds, and what of it is missing."""
    for extra in metadata.metadata(NAME).get_all("Provides-Extra") or ():
        if extra in BUNDLES:
            continue
        wanted = [one for one in _requirements(extra) if one.name != NAME]
        lacking = [
            one.name
            for one in wanted
            if (found := _installed(one)) is None or not one.specifier.contains(found, True)
        ]
        value = f"lacks {', '.join(lacking)}" if lacking else "installed"
        advice = f"pip install '{NAME}[{extra}]'" if lacking else ""
        yield Finding(area="extras", name=extra, value=value, advice=advice)


def _requirements(extra: str) -> list[Requirement]:
    """Return what an extra requires here, or with an empty text the package itself."""
    found = []
    for text in metadata.requires(NAME) or ():
        wanted = Requirement(text)
        named = _EXTRA.search(str(wanted.marker or ""))
        if (named.group(1) if named else "") != extra:
            continue
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            found.append(wanted)
    return found


def _installed(wanted: Requirement) -> str | None:
    try:
        return metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    import torch

    from plop_lora.models.capacity import available_memory
    from plop_lora.models.devices import is_slow
    from plop_lora.models.loading import device_named

    used = device_named("auto")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        value = f"{about.name}, {about.total_memory / GIB:.0f} GiB"
        yield Finding(area="devices", name=f"cuda:{index}", value=value)
    free = available_memory()
    memory = "" if free is None else f", {free / GIB:.1f} GiB of memory free"
    value = f"{torch.get_num_threads()} threads{memory}"
    yield Finding(area="devices", name="cpu", value=value)
    yield Finding(area="used", name="device", value=f"{used} (auto)")
    slow = used.type == "cpu" and is_slow(torch.bfloat16)
    why = "float32, since this processor is slow in bfloat16" if slow else "that of the checkpoint"
    yield Finding(area="used", name="dtype", value=f"{why} (auto)")


def _caches() -> Iterator[Finding]:
    own = cache_folder()
    if own is None:
        yield Finding(
            area="caches", name="expected norms", value="none: PLOP_CACHE switches it off"
        )
    else:
        yield _folder("expected norms", own)
    from huggingface_hub import constants

    yield _folder("models of the hub", Path(constants.HF_HUB_CACHE))
    offline = "not reached: HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "may be reached"
    yield Finding(area="caches", name="hub", value=offline)


def _folder(name: str, folder: Path) -> Finding:
    """Return a line on the folder of a cache, which need not be there yet."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    writable = os.access(existing, os.W_OK)
    value = f"{folder}{'' if folder.exists() else ' (not made yet)'}"
    return Finding(
        area="caches",
        name=name,
        value=value,
        sound=writable,
        advice="" if writable else f"make {existing} writable for {sys.executable}",
    )
