"""What trainers that know one rank have in common: the rank, the losses, the YAML. Pure.

torchtune, mlx-lm, NeMo Automodel and litgpt start A uniform at random with bound 1/sqrt(in) and B
at zero, as PEFT does by default, and scale B·A by one factor. So the default initialisation and
rsLoRA are said exactly: the factor is written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from plop_lora.errors import ExportError
from plop_lora.exports.target import Loss, as_comments, as_yaml
from plop_lora.records import Placement


def one_rank(placement: Placement, parameters_per_rank: int) -> int:
    """Return the one rank that stands for all ranks of a placement.

    Where all adapters have the same rank and no budget was given, that rank; otherwise the largest
    with which the file trains no more parameters than the placement: at least 1, and never above
    the highest of the placement, which matters where the file drops weights.

    Args:
        placement: what is exported.
        parameters_per_rank: what one rank unit of everything the file adapts costs.
    """
    ranks = {site.rank for site in placement.sites}
    if len(ranks) == 1 and placement.budget is None:
        return ranks.pop()
    affordable = placement.trainable_parameters // parameters_per_rank
    return min(max(1, affordable), max(ranks))


def rank_losses(placement: Placement, rank: int) -> tuple[Loss, ...]:
    """Return the loss of ranks that the file's one rank replaces."""
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
        ExportError: the model is not from transformers, so the trainer cannot load it.
    """
    config = placement.model.config
    if config is None or "model_type" not in config:
        raise ExportError(
            f"{trainer} loads models by their transformers configuration, which "
            f"{placement.model.name} has not. Train it with PEFT: placement.to_peft(model)."
        )
    return str(config["model_type"])


def require_family(placement: Placement, trainer: str, families: Iterable[str]) -> str:
    """Return the `model_type`, which must be one that the trainer has a model for.

    Raises:
        ExportError: it has none; the text lists those it has.
    """
    family = model_type(placement, trainer)
    if family not in families:
        raise ExportError(
            f"{trainer} has no model of the family {family!r}; it has: "
            f"{', '.join(sorted(families))}. Export to another trainer: --to peft."
        )
    return family


def nothing_left(trainer: str, why: str) -> ExportError:
    """Return the error for a placement of which a trainer can say nothing."""
    return ExportError(
        f"{trainer} can adapt nothing of this placement: {why}. Place other types "
        "(plop place --strategy custom --types NAME,NAME), or export to another trainer: --to peft."
    )


def document(
    placement: Placement, usage: Sequence[str], fields: Mapping[str, object], losses: Iterable[Loss]
) -> str:
    """Return a YAML file: where it comes from, how to use it, what it loses, the fields."""
    head = [f"LoRA placement for {placement.model.name} (plop-lora {placement.plop_version})"]
    head += usage
    head += [f"Lost: {loss.what}: {loss.effect}" for loss in losses]
    return as_comments(head) + as_yaml(fields, width=100)
