"""`plop place`: make a placement from scores. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plop_lora.cli.keys import Key, takes_recipe
from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import (
    ADAPTERS,
    PLACEMENT,
    RUN,
    among,
    indicators,
    inits,
    strategies,
    with_examples,
)
from plop_lora.recipe import PlaceRecipe

KEYS = (
    Key("place.strategy", PLACEMENT, among(strategies)),
    Key("place.indicator", PLACEMENT, among(indicators)),
    Key("place.top", PLACEMENT),
    Key("place.rank", PLACEMENT),
    Key("place.budget", PLACEMENT),
    Key("place.types", PLACEMENT),
    Key("place.learned", PLACEMENT),
    Key("place.layers", PLACEMENT),
    Key("place.seed", PLACEMENT),
    Key("place.scaling", ADAPTERS),
    Key("place.rslora", ADAPTERS),
    Key("place.loraplus_ratio", ADAPTERS),
    Key("place.init", ADAPTERS, among(inits)),
    Key("place.dropout", ADAPTERS),
)


@with_examples(
    ("Choose the three lowest types at rank 16", "plop place scores.json -o placement.json"),
    ("Train at most 0.5 % as many parameters as the model has", "plop place s.json --budget 0.5%"),
    (
        "Name the types yourself",
        "plop place scores.json --strategy custom --types q_proj,v_proj --rank 8",
    ),
    (
        "Ask what plop learn has made of finished trials",
        "plop place scores.json --strategy learned --learned learned.json",
    ),
)
@takes_recipe(PlaceRecipe, KEYS, example="place.rank=8")
def place(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    given: dict[str, Any],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Read the section place of this YAML file; options take precedence over it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Choose module types and ranks from SCORES, and report how certain the choice is."""
    check(output, scores, recipe, force=force)
    asked = PlaceRecipe.read(recipe, given).place
    from plop_lora.placement import place as step
    from plop_lora.records import Scores

    finish(step(Scores.load(scores), asked), output, form)
