"""Read back a file for a trainer with a LoRA of its own: its rules, on the model's skeleton.

torchtune, litgpt, mlx-lm and NeMo Automodel cannot be installed beside us. Each says which weights
of a model the written fields reach; here they are compared with those that the export meant to
adapt. The skeleton has every weight, also those that no score lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from plop_lora.exports.dryrun import refuse, skeleton
from plop_lora.exports.target import Rendered
from plop_lora.records import Host, Placement
from plop_lora.scoring.sites.find import Site, find_sites


def weights_of(placement: Placement) -> list[Site]:
    """Return one site for every weight of the placement's model.

    Raises:
        ExportError: the skeleton of the model cannot be built.
    """
    every = find_sites(skeleton(placement.model), include=["*"]).sites
    return list({site.host.name: site for site in every}.values())


def compare(
    rendered: Rendered,
    meant: Collection[str],
    reached: Sequence[Host],
    count: Callable[[Sequence[Host]], int],
) -> None:
    """Compare what a file reaches in the skeleton with what the export meant to adapt.

    Args:
        rendered: the export; its number of trainable parameters is compared as well.
        meant: names of the weights that it should adapt, losses included.
        reached: the weights that the trainer's rules find for the written fields.
        count: number of LoRA parameters that the trainer makes of such weights.

    Raises:
        ExportError: a weight is missing or extra, or the numbers of parameters differ.
    """
    found = {host.name for host in reached}
    problems = [f"{name} gets no adapter" for name in meant if name not in found]
    problems += [f"{name} gets an adapter it should not have" for name in found.difference(meant)]
    trained = count(reached)
    if not problems and trained != rendered.trainable_parameters:
        problems = [
            f"it would train {trained:,} parameters, not {rendered.trainable_parameters:,}, since "
            "weights of this model have other shapes than those that were scored"
        ]
    refuse(problems)
