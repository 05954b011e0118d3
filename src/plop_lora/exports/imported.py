"""The step `import`: read an existing adapter configuration into a placement.

PEFT itself applies the configuration to the model's architecture (without weights), and the adapted
weights, their ranks and scalings are read back, so every way of naming targets has PEFT's meaning.
Types and layers are those of the scorer, so that scores of the same model can be compared.

A configuration with other adapters (DoRA, another PEFT method, a factor that differs by module) is
rejected, and parameters that it trains beside the adapters are noted. The file is checked before
torch and PEFT are imported.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shlex
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plop_lora._version import __version__
from plop_lora.errors import AdapterError, ModelError, UsageError
from plop_lora.exports.alternatives import dead_alternatives
from plop_lora.exports.entries import dead_entries
from plop_lora.exports.patterns import check_patterns
from plop_lora.exports.wrapped import unwrapped_fields
from plop_lora.placement.groups import groups_of
from plop_lora.placement.place import check_settings, choices_of, known_ties
from plop_lora.placement.ranks import alpha_of
from plop_lora.placement.strategies import Strategy
from plop_lora.records import (
    UNSCORED,
    AdapterSettings,
    Choice,
    Host,
    ModelReference,
    PlacedSite,
    Placement,
    Scores,
)

if TYPE_CHECKING:
    from torch import nn

STRATEGY = "imported"
_OTHER_ADAPTERS = ("use_dora", "use_qalora", "lora_bias", "layer_replication", "megatron_config",
                   "velora_config", "monteclora_config", "alora_invocation_tokens", "use_bdlora",
                   "arrow_config", "kasa_config")  # fmt: skip
"""Fields of PEFT's `LoraConfig` with which the adapter is not just B·A times a factor."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Adapter:
    """The adapter that PEFT creates for one weight."""

    host: Host
    rank: int
    scaling: float
    parameters: int


def import_adapter(
    path: str | Path, model: str | nn.Module | None = None, scores: Scores | None = None
) -> Placement:
    """Read a PEFT adapter configuration into a placement with the strategy `imported`.

    Args:
        path: Path of `adapter_config.json`, or of the folder that contains it.
        model: Hub id or folder, of which only the configuration is read, or a loaded model. By
            default the base model that the configuration names.
        scores: Scores of the same model, from which the choices take NFN and gaps.

    Raises:
        AdapterError: The file does not exist or is not an adapter configuration, or a pattern in
            it is not a regular expression or takes too long to match.
        UsageError: A placement cannot represent the configuration.
        ModelError: The model does not exist, or the configuration adapts no weight of it.
    """
    file, document = _read(Path(path))
    document, wrappers = unwrapped_fields(document)
    _refuse_other_adapters(file, document)
    config, notes = _lora_config(file, document)
    reference, base = _model(file, document, model)
    known, every, untouched = _known_weights(base)
    modules = [name for name, _ in base.named_modules() if name]
    tied = _tied(base)
    check_patterns(document, _names(base), str(file))
    _refuse_containers(file, config, base)
    adapters = _apply(file, config, base, known | every)
    names = [adapter.host.name for adapter in adapters]
    scaling = _one_scaling(file, adapters)
    settings = _settings(file, document)
    sites = tuple(_site(adapter, settings) for adapter in adapters)
    hosts = known | {adapter.host.name: adapter.host for adapter in adapters}
    placed = {site.name for site in sites}
    if scores is not None:
        _check_scores(scores, adapters, reference)
    return Placement(
        model=dataclasses.replace(
            reference, task_type=document.get("task_type") or reference.task_type
        ),
        strategy=STRATEGY,
        verdict=UNSCORED,
        choices=_choices(sites, scores),
        sites=sites,
        scaling=scaling,
        trainable_parameters=sum(site.parameters for site in sites),
        budget=None,
        hosts=tuple(hosts.values()),
        untouched=tuple(name for name in untouched if name not in placed),
        seed=0,
        scores_digest=None if scores is None else scores.digest(),
        plop_version=__version__,
        settings=settings,
        notes=(
            *notes,
            *(f"names were read without {word}, the wrapper of a model" for word in wrappers),
            *dead_entries(document, modules, names),
            *dead_alternatives(document, modules, names),
            *_part_notes(sites, (hosts | every).values()),
            *(f"{name} {tied[name]}" for name in names if name in tied),
        ),
    )


# --------------------------------------------------------------------------- the file


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    file = path / "adapter_config.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterError(
            f"No such file: {file}. Give the adapter_config.json that PEFT saved, or its folder."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"Cannot read {file} as JSON: {error}.") from error
    if not isinstance(document, dict) or "peft_type" not in document:
        raise AdapterError(
            f"{file} is not a PEFT adapter configuration: it has no 'peft_type'. Give the "
            "adapter_config.json that PEFT saved."
        )
    return file, document


def _refuse_other_adapters(file: Path, document: dict[str, object]) -> None:
    if document["peft_type"] != "LORA":
        raise UsageError(
            f"{file} is of the method {document['peft_type']}; a placement holds LORA only."
        )
    for field in _OTHER_ADAPTERS:
        if document.get(field):
            raise UsageError(
                f"{file} sets {field}, which a placement cannot represent: its adapters are "
                f"plain LoRA. Remove {field} to import the rest."
            )


def _lora_config(file: Path, document: dict[str, object]) -> tuple[Any, tuple[str, ...]]:
    """Return PEFT's configuration object, and notes on what a placement does not represent."""
    from peft import LoraConfig

    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    unknown = sorted(document.keys() - fields - {"peft_type", "runtime_config"})
    known = {key: document[key] for key in document.keys() & fields if key != "runtime_config"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(**{**known, "init_lora_weights": True})
    except (ValueError, TypeError) as error:
        raise UsageError(f"PEFT rejects {file}: {error}") from error
    return config, _notes(document, unknown)


def _notes(document: dict[str, object], unknown: list[str]) -> tuple[str, ...]:
    notes = []
    for field in ("modules_to_save", "trainable_token_indices"):
        if document.get(field):
            notes.append(f"not imported: {field} {document[field]}, trained beside the adapters")
    if document.get("bias", "none") != "none":
        notes.append(f"not imported: bias {document['bias']!r}, biases trained with the adapters")
    if document.get("init_lora_weights") is False:
        notes.append("not imported: init_lora_weights false (B is not zero at the start)")
    if unknown:
        notes.append(f"fields that this PEFT does not know were ignored: {', '.join(unknown)}")
    return tuple(notes)


def _settings(file: Path, document: dict[str, Any]) -> AdapterSettings:
    init = document.get("init_lora_weights", True)
    settings = AdapterSettings(
        rslora=bool(document.get("use_rslora", False)),
        init=init if isinstance(init, str) else "default",
        dropout=float(document.get("lora_dropout") or 0.0),
    )
    try:
        check_settings(1.0, settings)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    return settings


# --------------------------------------------------------------------------- the model


def _model(
    file: Path, document: dict[str, object], model: str | nn.Module | None
) -> tuple[ModelReference, nn.Module]:
    from plop_lora.exports.dryrun import on_meta
    from plop_lora.models.loading import describe, load_skeleton

    if model is not None and not isinstance(model, str):
        return describe(model), on_meta(model)
    name = model or document.get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{file} names no base model. Give it with --model (hub id or folder).")
    skeleton = load_skeleton(str(name))
    return describe(skeleton, str(name)), skeleton


def _known_weights(
    model: nn.Module,
) -> tuple[dict[str, Host], dict[str, Host], tuple[str, ...]]:
    """Return the weights that the scorer measures, those that it can describe, and all names.

    Only this function depends on how the scorer describes a model.
    """
    from plop_lora.scoring.sites.find import find_sites

    found = find_sites(model)
    hosts = {site.host.name: site.host for site in found.sites}
    every = {site.host.name: site.host for site in find_sites(model, include=["*"]).sites}
    names = dict.fromkeys([*hosts, *(entry.weight for entry in found.not_measured)])
    return hosts, every, tuple(names)


def _tied(model: nn.Module) -> dict[str, str]:
    """Return a note for each module that shares its weight with another module."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            owners.setdefault(id(weight), []).append(name)
    return {
        name: f"shares its weight with {' and '.join(other for other in names if other != name)}: "
        "the adapter acts only on this module, and merging it would change both"
        for names in owners.values()
        for name in names
        if len(names) > 1
    }


def _names(model: nn.Module) -> Iterator[str]:
    """Yield every name that PEFT may match a pattern against."""
    for name, _ in model.named_modules():
        yield name
    for name, _ in model.named_parameters():
        yield name


def _refuse_containers(file: Path, config: Any, base: nn.Module) -> None:
    """Reject targets that name a module with layers inside it, which PEFT cannot adapt."""
    from peft.tuners.tuners_utils import check_target_module_exists

    for name, module in base.named_modules() if config.target_modules else ():
        inside = [child for child, part in module.named_children() if _has_weights(part)]
        matrices = [key for key, value in module.named_parameters(recurse=False) if value.ndim > 1]
        if not name or not inside or matrices or not check_target_module_exists(config, name):
            continue
        raise UsageError(
            f"{file}: target_modules names {name}, which is a {type(module).__name__} and not a "
            f"single layer. Name the layers inside it ({', '.join(inside[:4])}), or correct it."
        )


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _apply(file: Path, config: Any, base: nn.Module, described: dict[str, Host]) -> list[_Adapter]:
    """Apply the configuration with PEFT and read back what it adapted, in the model's order.

    Only the tuner is applied, without PEFT's wrapper for a task, which would reject a model whose
    head differs from that of the training.
    """
    import torch
    from peft.tuners.lora import LoraModel

    from plop_lora.exports.dryrun import lora_layers

    stacks = {name: len(weight) for name, weight in base.named_parameters() if weight.ndim == 3}
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            tuner = LoraModel(base, {"default": copy.deepcopy(config)}, "default")
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"PEFT cannot apply {file} to this {type(base).__name__}: {_first_line(error)} "
            "Is it the model that the adapter was made for? Give it with --model."
        ) from error
    found = []
    for name, layer in lora_layers(tuner.model):
        sizes = _sizes(layer)
        rank, scaling = layer.r["default"], layer.scaling["default"]
        host = described.get(name) or _unknown_host(name, rank, sizes, stacks)
        found.append(_Adapter(host, rank, scaling, sum(sizes)))
    if not found:
        raise ModelError(
            f"{file} adapts nothing in this {type(base).__name__}. Give the model that the "
            "adapter was made for with --model."
        )
    return found


def _first_line(error: Exception) -> str:
    """Return the first line of an error, since PEFT's errors print whole modules."""
    return str(error).partition("\n")[0].rstrip(" (")


def _sizes(layer: Any) -> list[int]:
    """Return the number of entries of A and of B; an embedding holds them as parameters."""
    from torch import nn

    parts = [layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B]
    weights = [part["default"] for part in parts if "default" in part]
    return [
        sum(p.numel() for p in weight.parameters())
        if isinstance(weight, nn.Module)
        else weight.numel()
        for weight in weights
    ]


def _unknown_host(name: str, rank: int, sizes: list[int], stacks: dict[str, int]) -> Host:
    """Describe a weight that the scorer does not support, such as a convolution.

    Its type is its path inside the block, and its shape follows from the sizes of A and B.
    """
    number = re.search(r"\.(\d+)\.", name)
    path = name[number.end() :] if number else name
    own_type = ".".join(part for part in path.split(".") if not part.isdigit())
    copies = stacks.get(name, 1)
    inside, outside = (size // (rank * copies) for size in sizes)
    layer = int(number[1]) if number else None
    return Host(name, own_type, layer, inside, outside, copies, name in stacks)


def _one_scaling(file: Path, adapters: list[_Adapter]) -> float:
    """Return the factor by which B·A is multiplied, which must be the same for every adapter."""
    first = adapters[0]
    for other in adapters:
        if abs(other.scaling - first.scaling) > 1e-6 * first.scaling:
            raise UsageError(
                f"{file} scales its adapters differently ({first.host.name} by "
                f"{first.scaling:g}, {other.host.name} by {other.scaling:g}); a placement has one "
                "factor. Where rank_pattern sets a rank, let alpha_pattern set the alpha that "
                "keeps the factor."
            )
    return first.scaling


def _site(adapter: _Adapter, settings: AdapterSettings) -> PlacedSite:
    host = adapter.host
    return PlacedSite(
        name=host.name,
        type=host.type,
        layer=host.layer,
        rank=adapter.rank,
        alpha=alpha_of(adapter.rank, adapter.scaling, settings),
        parameters=adapter.parameters,
        copies=host.copies,
        is_parameter=host.is_parameter,
    )


# --------------------------------------------------------------------------- the scores


def _check_scores(scores: Scores, adapters: list[_Adapter], reference: ModelReference) -> None:
    scored = {host.name: host for host in scores.hosts}
    shared = [adapter.host for adapter in adapters if adapter.host.name in scored]
    fits = all(scored[h.name].parameters_per_rank == h.parameters_per_rank for h in shared)
    if not shared or not fits:
        raise UsageError(
            f"These scores are of {scores.model.name}, whose weights have other shapes than "
            f"those of {reference.name}. Score that model: "
            f"plop score {shlex.quote(reference.name)} --data DATA."
        )


def _choices(sites: tuple[PlacedSite, ...], scores: Scores | None) -> tuple[Choice, ...]:
    """Return one choice per type in the order of the model, with NFN and gaps where scored."""
    types = list(dict.fromkeys(site.type for site in sites))
    groups = {} if scores is None else {group.type: group for group in groups_of(scores)}
    eligible = [group for group in groups.values() if group.eligible]
    chosen = [groups[name] for name in types if name in groups]
    row = Strategy(STRATEGY, lambda every, request: every, "read from a file", "the user")
    described = choices_of(row, eligible, chosen, sites, known_ties(scores))
    scored = {choice.type: choice for choice in described}
    return tuple(scored.get(name) or _plain_choice(name, sites) for name in types)


def _plain_choice(type_name: str, sites: tuple[PlacedSite, ...]) -> Choice:
    placed = [site for site in sites if site.type == type_name]
    return Choice(
        type=type_name,
        nfn=None,
        low=None,
        high=None,
        modules=len(placed),
        lowest_rank=min(site.rank for site in placed),
        highest_rank=max(site.rank for site in placed),
        parameters=sum(site.parameters for site in placed),
        next=None,
        left_out=None,
    )


def _part_notes(sites: tuple[PlacedSite, ...], hosts: Iterable[Host]) -> tuple[str, ...]:
    """Return notes on types of which only some weights are adapted."""
    every: dict[str, int] = {}
    for host in {host.name: host for host in hosts}.values():
        every[host.type] = every.get(host.type, 0) + 1
    placed: dict[str, int] = {}
    for site in sites:
        placed[site.type] = placed.get(site.type, 0) + 1
    return tuple(
        f"{name} is adapted in {count} of {every[name]} weights"
        for name, count in placed.items()
        if count < every[name]
    )
