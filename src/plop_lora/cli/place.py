"""`plop place`: scores in, a placement out. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import (
    ADAPTERS,
    PLACEMENT,
    among,
    indicators,
    inits,
    strategies,
    with_examples,
)
from plop_lora.options import words_of


@with_examples(
    ("Take the three lowest types at rank 16", "plop place scores.json -o placement.json"),
    ("Spend half a percent of the model's parameters", "plop place scores.json --budget 0.5%"),
    (
        "Name the types yourself",
        "plop place scores.json --strategy custom --types q_proj,v_proj --rank 8",
    ),
)
def place(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    strategy: Annotated[
        str,
        typer.Option(
            help="Choose types by plop (lowest NFN), plop-inverse, attention, mlp, all-linear, "
            "random, query-value or custom.",
            autocompletion=among(strategies),
            rich_help_panel=PLACEMENT,
        ),
    ] = "plop",
    indicator: Annotated[
        str,
        typer.Option(
            help="Order the types by this indicator of the scores, for plop and plop-inverse.",
            autocompletion=among(indicators),
            rich_help_panel=PLACEMENT,
        ),
    ] = "nfn",
    top: Annotated[
        int | None,
        typer.Option(
            help="Choose this many types; by default as many as scoring decided for, usually 3.",
            callback=bounded(1),
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="Give every adapter this LoRA rank; 16 by default.",
            callback=bounded(1),
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Spend at most this many trainable parameters: 10M, or 0.5% of the model's.",
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            help="Place these types, separated by commas, with the strategy custom.",
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Use only these blocks, counted from 0: 0-11 or 0,2,4.", rich_help_panel=PLACEMENT
        ),
    ] = None,
    scaling: Annotated[
        float,
        typer.Option(
            help="Multiply B·A of every adapter by this: alpha / rank, or alpha / sqrt(rank).",
            callback=bounded(above=0),
            rich_help_panel=ADAPTERS,
        ),
    ] = 2.0,
    rslora: Annotated[
        bool,
        typer.Option("--rslora", help="Scale by alpha / sqrt(rank).", rich_help_panel=ADAPTERS),
    ] = False,
    loraplus_ratio: Annotated[
        float | None,
        typer.Option(
            help="Train B at this multiple of the learning rate of A (LoRA+).",
            callback=bounded(above=0),
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    init: Annotated[
        str,
        typer.Option(
            help="Initialise adapters as PEFT names it: default, gaussian, orthogonal, pissa, "
            "olora, eva …",
            autocompletion=among(inits),
            rich_help_panel=ADAPTERS,
        ),
    ] = "default",
    dropout: Annotated[
        float,
        typer.Option(
            help="Set the LoRA dropout.", callback=bounded(0, below=1), rich_help_panel=ADAPTERS
        ),
    ] = 0.0,
    seed: Annotated[
        int,
        typer.Option(help="Set the seed of the strategy random.", rich_help_panel=PLACEMENT),
    ] = 0,
    output: OutputOption = None,
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
        indicator=indicator,
        top=top,
        rank=rank,
        budget=budget,
        types=words_of(types) or (),
        layers=None if layers is None else parse_layers(layers),
        scaling=scaling,
        seed=seed,
        settings=AdapterSettings(rslora, loraplus_ratio, init, dropout),
    )
    finish(placement, output, form)
