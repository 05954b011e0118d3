"""`plop place`: scores in, a placement out. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish


def place(
    scores: Annotated[Path, typer.Argument(help="File written by plop score.")],
    output: OutputOption = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="plop, plop-inverse, attention, mlp, all-linear, random, query-value, custom."
        ),
    ] = "plop",
    top: Annotated[int | None, typer.Option(help="Types to choose; 3 by default.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank; 16 by default.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Trainable parameters: 10M, or 0.5% of the model's.")
    ] = None,
    types: Annotated[
        str | None, typer.Option(help="Types of the strategy custom, with commas.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Only these blocks, from 0: 0-11 or 0,2,4.")
    ] = None,
    scaling: Annotated[
        float, typer.Option(help="Factor of every adapter: alpha / rank, or alpha / sqrt(rank).")
    ] = 2.0,
    rslora: Annotated[bool, typer.Option("--rslora", help="Scale by alpha / sqrt(rank).")] = False,
    loraplus_ratio: Annotated[
        float | None, typer.Option(help="LoRA+: learning rate of B over that of A.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="PEFT's init: default, gaussian, orthogonal, pissa, olora, eva …")
    ] = "default",
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the strategy random.")] = 0,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Choose module types and ranks from SCORES, and say how sure the choice is."""
    check(output, scores, force=force)
    from plop_lora.placement import parse_layers
    from plop_lora.placement import place as run
    from plop_lora.records import AdapterSettings, Scores

    placement = run(
        Scores.load(scores),
        strategy=strategy,
        top=top,
        rank=rank,
        budget=budget,
        types=[name.strip() for name in types.split(",")] if types else (),
        layers=None if layers is None else parse_layers(layers),
        scaling=scaling,
        seed=seed,
        settings=AdapterSettings(rslora, loraplus_ratio, init, dropout),
    )
    finish(placement, output, form)
