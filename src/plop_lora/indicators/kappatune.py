"""PEFT's KappaTune: the condition number of each weight. Imports peft lazily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plop_lora.errors import ModelError
from plop_lora.indicators.kinds import Inputs
from plop_lora.records import Host

if TYPE_CHECKING:
    from torch import nn


def kappa_order(
    model: nn.Module, batches: Sequence[Inputs], hosts: Sequence[Host], rank: int = 16
) -> dict[str, float]:
    """Return the position of each weight in PEFT's order of condition numbers, lowest first.

    PEFT orders modules and stacks of experts separately and selects the same share of both. The
    value is therefore minus the position in its list divided by the length of that list: the
    weight that PEFT selects first has the value 0.

    Raises:
        ModelError: PEFT's selector supports none of the hosts.
    """
    from peft.helpers import KappaTuneSelector

    at_home(model, "kappa")
    stacks = {host.name for host in hosts if host.is_parameter}
    suffixes = tuple(sorted({"." + name.rsplit(".", 1)[-1] for name in stacks}))
    selector = KappaTuneSelector(
        model,
        # The default skips wide projections; this covers all hosts, but not the output head.
        max_dim_size_to_analyze=max(max(h.in_features, h.out_features) for h in hosts),
        moe_param_suffixes=suffixes or None,
        show_progress=False,
    )
    modules = {host.name for host in hosts} - stacks
    values: dict[str, float] = {}
    for names, wanted in (
        (selector.get_best_targets(), modules),
        (selector.get_best_target_parameters(), stacks),
    ):
        listed = [name for name in names if name in wanted]
        values |= {name: -index / len(listed) for index, name in enumerate(listed)}
    if not values:
        raise ModelError(
            "PEFT's KappaTune reads torch.nn.Linear and stacks of experts, and this model's "
            "weights are none of them. Leave out the arm 'kappa'."
        )
    return values


def at_home(model: nn.Module, name: str) -> None:
    """Refuse a model with offloaded weights.

    Raises:
        ModelError: Some weights are on the meta device.
    """
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ModelError(
            f"The indicator {name!r} needs every weight in memory, and some are offloaded. Load "
            f"the whole model on one device, or leave out the arm {name!r}."
        )
