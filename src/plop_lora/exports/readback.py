"""Check a file for a trainer with its own LoRA by the trainer's rules.

torchtune, litgpt, mlx-lm and NeMo Automodel cannot be installed beside plop-lora. The export of
each computes which weights of the model the written fields adapt, and here these are compared with
the intended ones. The model is built without weights and has all modules, also unscored ones.
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
        ExportError: The model cannot be built from the configuration in the record.
    """
    every = find_sites(skeleton(placement.model), include=["*"]).sites
    return list({site.host.name: site for site in every}.values())


def compare(
    rendered: Rendered,
    meant: Collection[str],
    reached: Sequence[Host],
    count: Callable[[Sequence[Host]], int],
) -> None:
    """Compare the weights that a file adapts with those that the export intends.

    Args:
        rendered: Export, of which the number of trainable parameters is compared as well.
        meant: Names of the weights that the file should adapt, after the losses.
        reached: Weights that the written fields match by the trainer's rules.
        count: Function that returns the number of LoRA parameters of such weights.

    Raises:
        ExportError: A weight is missing or extra, or the numbers of parameters differ.
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
