"""The model of a trial: loaded for its task, frozen, and wrapped with the placement's adapters.

All random values depend only on the trial's seed and on the name of the weight. A module that two
placements share therefore starts from the same A, and so does the head of a classifier: arms
differ only in where their adapters are.

Neither trains nor evaluates.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from torch import nn

from plop_lora.errors import (
    AdapterError,
    ExportError,
    MachineError,
    MeasurementError,
    ModelError,
    UsageError,
)
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.exports.adapters import WEIGHTS_FILE
from plop_lora.exports.dryrun import adapters_of, compare_adapters, lora_layers, with_every_module
from plop_lora.exports.names import parameter_sites
from plop_lora.exports.trainers.peft import peft_fields
from plop_lora.files import atomic_folder
from plop_lora.models.loading import describe, quietly
from plop_lora.models.memory import is_out_of_memory
from plop_lora.placement.inits import DRAWN, FROM_DATA, TRIAL_INITS, is_trial_init, moves_base
from plop_lora.records import Placement, TrialSpec
from plop_lora.training.eva import initialise_from_features
from plop_lora.training.kept_base import base_of
from plop_lora.training.tasks import task_named

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ADAPTER = "default"


def prepare(spec: TrialSpec, rows: Sequence[Row] = ()) -> Prepared:
    """Load the model of a trial and add the adapters of its placement.

    The base weights are frozen in the dtype of the settings; the adapters, and for `classify` the
    head, are float32 and train.

    Args:
        spec: Specification of the trial.
        rows: Training rows, which only the initialisation `eva` reads.

    Raises:
        UsageError: A trial cannot make the initialisation, there are too few labels, the
            architecture does not support the task, or the device or dtype is unknown.
        ModelError: The model cannot be loaded, its checkpoint is incomplete, or it lacks a weight
            of the placement.
        ExportError: PEFT adapts other modules or ranks than the placement.
    """
    check_adapters(spec)
    model, tokenizer, heads, notes = base_of(spec)
    placement = retarget(spec.placement, model)
    adapted = _wrap(spec, model, placement, heads)
    check_wrapped(placement, adapted)
    if placement.settings.init in DRAWN:
        _draw(adapted, placement.settings.init, spec.seed)
    elif placement.settings.init in FROM_DATA:
        initialise_from_features(adapted, tokenizer, rows, spec)
        check_wrapped(placement, adapted)
    transformers.set_seed(spec.seed)
    device = next(model.parameters()).device
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(device, torch.float32)
    return Prepared(adapted, tokenizer, notes)


def check_adapters(spec: TrialSpec) -> None:
    """Check, before anything is loaded, that a trial can make the adapters and the head.

    Raises:
        UsageError: It cannot. The text says what is allowed.
    """
    placement, init = spec.placement, spec.placement.settings.init
    if not is_trial_init(init):
        raise UsageError(
            f"A trial cannot initialise adapters by {init!r}, which needs a separate step before "
            f"training. Allowed: {', '.join(TRIAL_INITS)}."
        )
    if init not in ("default", "gaussian"):
        stacked = [site.name for site in parameter_sites(placement)]
        if stacked:
            raise UsageError(
                f"The initialisation {init!r} works on modules, and {stacked[0]} is adapted as a "
                "parameter. Use --init default or gaussian."
            )
    odd = [site for site in placement.sites if site.rank % 2]
    if init == "orthogonal" and odd:
        raise UsageError(
            f"The initialisation 'orthogonal' needs even ranks, and {odd[0].name} has rank "
            f"{odd[0].rank}. Use --init default or another rank."
        )
    if task_named(spec.task).has_classes and len(set(spec.labels)) < 2:
        raise UsageError(
            f"The task {spec.task} needs two or more labels, and the trial has {list(spec.labels)}."
        )


# --------------------------------------------------------------------------- names


def retarget(placement: Placement, model: nn.Module) -> Placement:
    """Return a placement with the names that its weights have in `model`.

    A weight of a bare encoder is named `encoder.layer.0…` and in a classifier on top of it
    `bert.encoder.layer.0…`: the prefix of the base model is added to or removed from all names.
    The untouched weights become those of `model`.

    Raises:
        ModelError: The model has a placed weight under none of these names.
    """
    there = {name for name, _ in model.named_modules()}
    there |= {name for name, _ in model.named_parameters()}
    placed = [site.name for site in placement.sites]
    rename = next(
        (step for step in _renamings(model) if all(step(name) in there for name in placed)), None
    )
    if rename is None:
        name = next(name for name in placed if name not in there)
        raise ModelError(
            f"{type(model).__name__} has no weight {name}, which the placement adapts: it was "
            f"made for {placement.model.architecture}. Score this model and place again."
        )
    names = {rename(name) for name in placed}
    known = {rename(name) for name in placement.untouched}
    matrices = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.ndim > 1}
    untouched = sorted(known & there | (matrices - names))
    return _with_names(placement, rename, tuple(untouched), model)


def _renamings(model: nn.Module) -> tuple[Callable[[str], str], ...]:
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if prefix == ".":
        return (str,)
    return (str, lambda name: prefix + name, lambda name: name.removeprefix(prefix))


def _with_names(
    placement: Placement,
    rename: Callable[[str], str],
    untouched: tuple[str, ...],
    model: nn.Module,
) -> Placement:
    return replace(
        placement,
        model=describe(model, placement.model.name),
        sites=tuple(replace(site, name=rename(site.name)) for site in placement.sites),
        hosts=tuple(replace(host, name=rename(host.name)) for host in placement.hosts),
        untouched=untouched,
    )


# --------------------------------------------------------------------------- adapters


def _wrap(
    spec: TrialSpec, model: nn.Module, placement: Placement, heads: Sequence[str]
) -> PeftModel:
    from peft import EvaConfig, LoraConfig, get_peft_model

    fields = peft_fields(with_every_module(placement, model))
    # The scored model may have another name, or be in another folder, than the trained one.
    fields |= {"base_model_name_or_path": spec.model, "revision": spec.revision}
    if placement.settings.init == "eva":
        # More components than ranks would let EVA move ranks between modules.
        fields["eva_config"] = EvaConfig(rho=1.0)
    if heads:
        fields["modules_to_save"] = list(heads)
    with warnings.catch_warnings():
        # EVA's advice saves memory only; pissa and olora are converted by `save_adapter`.
        warnings.filterwarnings("ignore", message="lora with eva initialization used with")
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")
        return get_peft_model(model, LoraConfig(**fields))


def check_wrapped(placement: Placement, model: PeftModel) -> None:
    """Compare the adapters of a PEFT model with a placement.

    Raises:
        ExportError: A module, rank, scaling or the number of parameters differs.
    """
    compare_adapters(placement, adapters_of(model.base_model.model))
    found = adapter_parameters(model)
    if found != placement.trainable_parameters:
        raise ExportError(
            f"The adapters have {found:,} parameters in {type(model.base_model.model).__name__}, "
            f"and the placement says {placement.trainable_parameters:,}: its weights have other "
            "shapes there. Score this model and place again."
        )


def adapter_parameters(model: nn.Module) -> int:
    """Return the number of LoRA parameters, without the head of a classifier."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if "lora_" in name and f".{ADAPTER}" in name
    )


def _draw(model: PeftModel, init: str, seed: int) -> None:
    """Initialise every adapter with a seed made of the trial's seed and the weight's name."""
    for name, layer in lora_layers(model.base_model.model):
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:4], "big"))
        with torch.no_grad():
            if init == "orthogonal":
                layer.orthogonal_init(ADAPTER)
            else:
                layer.reset_lora_parameters(ADAPTER, True if init == "default" else init)


def optimizer_of(spec: TrialSpec, model: nn.Module) -> torch.optim.Optimizer | None:
    """Return the optimizer of LoRA+, or None to use the trainer's AdamW.

    Under LoRA+ (arXiv 2402.12354) every B trains at `loraplus_ratio` times the learning rate;
    every A and the head keep it.
    """
    from peft.optimizers import create_loraplus_optimizer

    ratio = spec.placement.settings.loraplus_ratio
    if ratio is None or ratio == 1:
        return None
    optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=spec.learning_rate,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=spec.training.weight_decay,
    )
    return optimizer


# --------------------------------------------------------------------------- saving

Factors = Mapping[str, torch.Tensor]


def initial_factors(model: PeftModel, init: str) -> Factors:
    """Return copies of A and B before training, if the initialisation changed the base weights.

    The result is empty for an initialisation that does not change them.
    """
    if not moves_base(init):
        return {}
    return {name: tensor.clone() for name, tensor in _saved(model).items() if "lora_" in name}


def save_adapter(model: PeftModel, folder: Path, initial: Factors) -> None:
    """Write a trained adapter for the original base model in PEFT's format.

    After pissa or olora the model computes W - s·B0·A0 + s·B·A, so the adapter of W is
    s·[B, -B0]·[A; A0], of twice the rank at the same scaling. PEFT's own conversion drops the
    head of a classifier, hence this one.

    Args:
        model: PEFT model with the trained adapter.
        folder: Folder of the adapter, which is written atomically.
        initial: Result of `initial_factors`.

    Raises:
        OutputError: The folder cannot be written.
    """
    from safetensors.torch import save_file

    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.init_lora_weights = True
    config.eva_config = None
    state = _saved(model)
    _check_saved(state, model)
    if initial:
        _double(config)
        state = {name: _beside(name, tensor, initial) for name, tensor in state.items()}
    with atomic_folder(folder) as temporary:
        tensors = {name: tensor.contiguous().cpu().clone() for name, tensor in state.items()}
        save_file(tensors, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(temporary))


def _check_saved(state: Factors, model: PeftModel) -> None:
    """Refuse to save another number of adapter parameters than was trained.

    Raises:
        MeasurementError: the text has both numbers.
    """
    trained = sum(weight.numel() for name, weight in model.named_parameters() if ".lora_" in name)
    # Modules that are shared are saved under each of their names.
    once = {tensor.data_ptr(): tensor for name, tensor in state.items() if ".lora_" in name}
    saved = sum(tensor.numel() for tensor in once.values())
    if saved != trained:
        raise MeasurementError(
            f"The adapter to be saved has {saved:,} parameters, and {trained:,} were trained. This "
            "is a fault of plop-lora or of PEFT; please report it with the recipe."
        )


def _saved(model: PeftModel) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: tensor.detach() for name, tensor in state.items()}


def _beside(name: str, tensor: torch.Tensor, initial: Factors) -> torch.Tensor:
    if "lora_A" in name:
        return torch.cat([tensor, initial[name]], dim=0)
    return torch.cat([tensor, -initial[name]], dim=1) if "lora_B" in name else tensor


def _double(config: LoraConfig) -> None:
    """Double every rank of a configuration and keep every scaling."""
    factor = math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.lora_alpha *= factor
    config.rank_pattern = {key: 2 * rank for key, rank in config.rank_pattern.items()}
    config.alpha_pattern = {key: factor * alpha for key, alpha in config.alpha_pattern.items()}


# --------------------------------------------------------------------------- loading


@contextlib.contextmanager
def loading_adapter(folder: Path, base: str) -> Iterator[None]:
    """Let PEFT load a trained adapter quietly, and explain what goes wrong.

    Args:
        folder: Folder of the adapter.
        base: Name of its base, for errors.

    Raises:
        AdapterError: PEFT cannot load the adapter on this base.
        MachineError: It does not fit into memory.
    """
    try:
        with quietly():
            yield
    except (ValueError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise MachineError(
                f"The adapter {folder} does not fit into memory beside {base}. Give a smaller "
                "dtype, or a larger device."
            ) from error
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise AdapterError(
            f"PEFT cannot load {folder} on {base}: {first} Give the base that it was trained on."
        ) from error
