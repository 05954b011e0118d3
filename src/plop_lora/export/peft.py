"""A placement as PEFT's configuration: exact target names, ranks by pattern, one alpha / rank.

Building the fields needs neither torch nor peft; `to_peft` and the dry run import them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plop_lora.errors import OutputError, UsageError, nearest
from plop_lora.files import atomic_file, check_writable
from plop_lora.records import PlacedSite, Placement

FORMATS = ("peft",)
FILE_NAME = "adapter_config.json"


def export(
    placement: Placement, folder: str | Path, *, to: str = "peft", dry_run: bool = True
) -> Path:
    """Write a placement as a trainer's configuration and return the file.

    Args:
        placement: result of `place`.
        folder: where the file goes; made if it does not exist.
        to: the target; only `peft` so far.
        dry_run: first apply the configuration with real PEFT to the model's skeleton and compare
            modules and ranks; without it neither torch nor peft is imported.

    Raises:
        ExportError: PEFT would adapt other modules or ranks.
        OutputError: the folder cannot be written.
        UsageError: an unknown target.
    """
    if to not in FORMATS:
        raise UsageError(
            f"There is no export to {to!r}.{nearest(to, FORMATS)} Allowed: {', '.join(FORMATS)}."
        )
    path = Path(folder) / FILE_NAME
    if Path(folder).is_file():
        raise OutputError(f"Cannot write into {folder}: it is a file. Give a folder with -o.")
    check_writable(path)
    if dry_run:
        to_peft(placement)
    with atomic_file(path) as file:
        json.dump(peft_fields(placement), file, indent=2, sort_keys=True)
        file.write("\n")
    return path


def to_peft(placement: Placement, model: Any = None, *, dry_run: bool = True) -> Any:
    """Return a placement as `peft.LoraConfig`, checked by applying it.

    Args:
        placement: result of `place`.
        model: the module to check against; by default a skeleton on the meta device, built from
            the configuration in the record. Its weights are neither copied nor changed.
        dry_run: apply the configuration with real PEFT and compare modules and ranks.

    Raises:
        ExportError: PEFT would adapt other modules or ranks, or there is no skeleton to check.
    """
    from peft import LoraConfig

    fields = peft_fields(placement)
    if dry_run:
        from plop_lora.export.dryrun import check_with_peft

        check_with_peft(placement, LoraConfig(**fields), model)
    return LoraConfig(**fields)


def peft_fields(placement: Placement) -> dict[str, Any]:
    """Return the fields of `adapter_config.json`.

    The largest rank is `r`; other ranks stand in `rank_pattern`, with `alpha_pattern` beside it
    so that alpha / rank is the same for every module.
    """
    largest = max(site.rank for site in placement.sites)
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    for rank, sites in _by_rank(placement.sites).items():
        if rank == largest:
            continue
        for key in _pattern_keys(sites, placement):
            rank_pattern[key] = rank
            alpha_pattern[key] = _plain(placement.scaling * rank)
    return {
        "peft_type": "LORA",
        "task_type": placement.model.task_type,
        "base_model_name_or_path": placement.model.name,
        "revision": placement.model.revision,
        "r": largest,
        "lora_alpha": _plain(placement.scaling * largest),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": target_modules(placement),
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def target_modules(placement: Placement) -> list[str] | str:
    """Return the shortest exact description of the placed sites.

    A list of name endings where endings hit the sites and nothing else, which reads well and
    works whatever prefix a task head adds; otherwise one regular expression, which PEFT matches
    against the full name.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for site in placement.sites:
        groups[site.type].append(site.name)
    endings = [_exact_ending(names, placement.untouched) for names in groups.values()]
    if all(ending is not None for ending in endings):
        return sorted({ending for ending in endings if ending is not None})
    patterns = _layer_patterns(site.name for site in placement.sites)
    return rf"(?:.*\.)?(?:{'|'.join(patterns)})"


def _exact_ending(names: Sequence[str], untouched: Sequence[str]) -> str | None:
    """Return the shortest dotted ending that all names share and no untouched name has."""
    parts = names[0].split(".")
    for start in reversed(range(len(parts))):
        ending = ".".join(parts[start:])
        if not all(_ends(name, ending) for name in names):
            return None
        if not any(_ends(name, ending) for name in untouched):
            return ending
    return None


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _by_rank(sites: Iterable[PlacedSite]) -> dict[int, list[PlacedSite]]:
    groups: dict[int, list[PlacedSite]] = defaultdict(list)
    for site in sites:
        groups[site.rank].append(site)
    return dict(sorted(groups.items()))


def _pattern_keys(sites: Sequence[PlacedSite], placement: Placement) -> list[str]:
    """Return keys that match exactly these sites among the placed ones.

    PEFT reads a key as a regular expression for the end of a name, after any dotted prefix.
    """
    others = [site.name for site in placement.sites if site not in sites]
    groups: dict[str, list[str]] = defaultdict(list)
    for site in sites:
        groups[site.type].append(site.name)
    keys = []
    for names in groups.values():
        ending = _exact_ending(names, others)
        keys += [re.escape(ending)] if ending is not None else _layer_patterns(names)
    return keys


def _layer_patterns(names: Iterable[str]) -> list[str]:
    r"""Fold names that differ in one number into patterns such as `layers\.(?:0|2)\.fc1`."""
    folded: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\..*)", name)
        if match is None:
            folded[name, ""] = []
        else:
            folded[match[1], match[3]].append(match[2])
    patterns = []
    for (head, tail), numbers in folded.items():
        if not numbers:
            patterns.append(re.escape(head))
            continue
        choice = "|".join(sorted(set(numbers), key=int))
        middle = choice if len(numbers) == 1 else f"(?:{choice})"
        patterns.append(f"{re.escape(head)}{middle}{re.escape(tail)}")
    return patterns


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() else number
