"""What the exports to trainers with a single rank share: the rank, the losses, the YAML. Pure.

torchtune, mlx-lm, NeMo Automodel and litgpt initialise A uniformly with bound 1/sqrt(in) and B
with zeros, as PEFT does by default, and scale B·A by one factor. So the default initialisation and
rsLoRA are expressed exactly, the latter by writing out the factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from plop_lora.errors import ExportError
from plop_lora.exports.target import Loss, as_comments, as_yaml
from plop_lora.records import Placement


def one_rank(placement: Placement, parameters_per_rank: int) -> int:
    """Return the single rank that replaces all ranks of a placement.

    If all adapters have the same rank and no budget was given, it is that rank. Otherwise it is the
    largest rank with which the file trains no more parameters than the placement, at least 1 and
    at most the highest rank of the placement (a file that drops weights could afford more).

    Args:
        placement: Placement to export.
        parameters_per_rank: Parameters of one rank unit of all weights that the file adapts.
    """
    ranks = {site.rank for site in placement.sites}
    if len(ranks) == 1 and placement.budget is None:
        return ranks.pop()
    affordable = placement.trainable_parameters // parameters_per_rank
    return min(max(1, affordable), max(ranks))


def rank_losses(placement: Placement, rank: int) -> tuple[Loss, ...]:
    """Return the loss that replacing the ranks of a placement by a single rank causes."""
    ranks = sorted({site.rank for site in placement.sites})
    if ranks == [rank]:
        return ()
    wanted = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return (Loss(wanted, f"every adapter gets rank {rank}"),)


def settings_losses(placement: Placement) -> tuple[Loss, ...]:
    """Return the losses of settings that none of these trainers has."""
    settings = placement.settings
    losses = []
    if settings.init != "default":
        losses.append(Loss(f"the init {settings.init}", "A starts uniform at random and B at zero"))
    if settings.loraplus_ratio is not None:
        losses.append(
            Loss(f"the LoRA+ ratio {settings.loraplus_ratio:g}", "A and B train at one rate")
        )
    return tuple(losses)


def model_type(placement: Placement, trainer: str) -> str:
    """Return the transformers `model_type` of a placement.

    Raises:
        ExportError: The model is not from transformers, so the trainer cannot load it.
    """
    config = placement.model.config
    if config is None or "model_type" not in config:
        raise ExportError(
            f"{trainer} loads models by their transformers configuration, and "
            f"{placement.model.name} has none. Train it with PEFT: placement.to_peft(model)."
        )
    return str(config["model_type"])


def require_family(placement: Placement, trainer: str, families: Iterable[str]) -> str:
    """Return the `model_type` of a placement, which the trainer must support.

    Raises:
        ExportError: The trainer does not support it. The text lists the supported ones.
    """
    family = model_type(placement, trainer)
    if family not in families:
        raise ExportError(
            f"{trainer} does not support models of the family {family!r}; it supports: "
            f"{', '.join(sorted(families))}. Export to another trainer: --to peft."
        )
    return family


def nothing_left(trainer: str, why: str) -> ExportError:
    """Return the error for a placement of which a trainer can adapt no part."""
    return ExportError(
        f"{trainer} cannot adapt any weight of this placement: {why}. Place other types "
        "(plop place --strategy custom --types NAME,NAME), or export to another trainer: --to peft."
    )


def document(
    placement: Placement, usage: Sequence[str], fields: Mapping[str, object], losses: Iterable[Loss]
) -> str:
    """Return a YAML file with comments on its origin, its use and its losses, and the fields."""
    head = [f"LoRA placement for {placement.model.name} (plop-lora {placement.plop_version})"]
    head += usage
    head += [f"Lost: {loss.what}: {loss.effect}" for loss in losses]
    return as_comments(head) + as_yaml(fields, width=100)
