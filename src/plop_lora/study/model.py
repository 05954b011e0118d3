"""The model that a study trains: which weights it has, and whether the placements fit them.

Trials run for hours in processes of their own; that their model is missing, or is another one
than was scored, is told before the first of them starts. torch only where a skeleton is built.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.errors import ModelError, UsageError
from plop_lora.models.gguf import conversion
from plop_lora.models.origin import Origin
from plop_lora.records import Host, Placement, Scores
from plop_lora.training.weights import TrainedModel, read_config, trained_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scored = Scores | Placement
"""What a study is made from; both say which model was scored."""


def model_of(scores: Scored, name: str | None = None, revision: str | None = None) -> TrainedModel:
    """Return what the trials of a study load, with what identifies its weights.

    The scored model is trained at the revision that was scored, if no other is asked for; a
    folder goes by its whole path, as trials run in folders of their own.

    Args:
        scores: of the model, or of one like it.
        name: hub id or folder of the model, None for the scored one.
        revision: of a hub id.

    Raises:
        UsageError: a revision of a folder, which has none.
    """
    scored = scores.model
    known = scored.revision if name in (None, scored.name) else None
    model = trained_model(name or scored.name, revision or known)
    if revision is not None and Path(model.name).is_dir():
        raise UsageError(
            f"The revision {revision!r} is asked for, but {name or scored.name} is a local folder, "
            "which has no revisions. Leave --revision out, or give a hub id with --model."
        )
    return model


def check_trainable(scores: Scored, name: str | None) -> None:
    """Refuse to train the GGUF file that was scored.

    Args:
        scores: of the model.
        name: hub id or folder of another model to train, None for the scored one.

    Raises:
        UsageError: the text has the command that converts the file.
    """
    if scores.model.gguf is not None and name in (None, scores.model.name):
        raise UsageError(
            f"{scores.model.name} is a GGUF file, which can be scored but not trained. Give the "
            "folder or hub id of the model that it was made from with --model, or convert it and "
            f"give --model converted: {conversion(scores.model.name)}"
        )


def is_scored(scores: Scored, name: str | None, revision: str | None) -> bool:
    """Whether a model is the very one that was scored."""
    return name in (None, scores.model.name) and revision in (None, scores.model.revision)


def check_config(model: TrainedModel, scores: Scored, *, download: bool) -> None:
    """Refuse a model that is not there, or of another type than the scored one. No torch.

    Args:
        model: what is to be trained.
        scores: of which model.
        download: whether the hub is asked for what is not here; a plan is made without.

    Raises:
        ModelError: the text names both.
    """
    looks_local = model.name.startswith((".", "/", "~")) or model.name.count("/") > 1
    if looks_local and not Path(model.name).is_dir():
        raise ModelError(
            f"The model folder {model.name} is not there. Give the folder or the hub id of the "
            f"scored model ({scores.model.architecture}) with --model."
        )
    config = read_config(model, download=download)
    if config is None:
        return
    scored = scores.model.config or {}
    found, wanted = config.get("model_type"), scored.get("model_type")
    if found and wanted and found != wanted:
        raise ModelError(
            f"{model.name} is a {found} model, but the scores are of {scores.model.name}, a "
            f"{wanted} model: a placement is for the model that was scored. Score {model.name} "
            "first, or leave --model out."
        )


def check_weights_fit(model: TrainedModel, placements: Iterable[Placement]) -> None:
    """Refuse a model that lacks a placed weight, or has it in another shape.

    Raises:
        ModelError: the weight is named.
    """
    from plop_lora.models.loading import load_skeleton
    from plop_lora.training.adapters import retarget

    skeleton = load_skeleton(model.name, Origin(model.revision))
    for placement in placements:
        placed = retarget(placement, skeleton)
        hosts = {host.name: host for host in placed.hosts}
        for site in placed.sites:
            if (host := hosts.get(site.name)) is not None:
                _check_size(host, skeleton, model.name)


def _check_size(host: Host, skeleton: PreTrainedModel, name: str) -> None:
    wanted = host.copies * host.in_features * host.out_features
    if host.is_parameter:
        found = skeleton.get_parameter(host.name).numel()
    else:
        found = getattr(skeleton.get_submodule(host.name), "weight", None)
        found = wanted if found is None else found.numel()
    if found != wanted:
        raise ModelError(
            f"{name} has {found:,} numbers in {host.name}, where the scored model has {wanted:,}: "
            "it is another model. Score it first, or leave --model out."
        )
