"""`plop robustness`: does the choice survive other texts, weights and checkpoints?"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from plop_lora.cli import score as scoring
from plop_lora.cli.inputs import (
    ModelArgument,
    TemplateOption,
    TextOption,
    TokenizerOption,
    TrustOption,
)
from plop_lora.cli.keys import Key, takes_recipe
from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    check,
    finish,
    waiting,
)
from plop_lora.cli.words import DATA, ENGINE, MODEL, OUTPUT, RUN, STOPPING, among, with_examples
from plop_lora.errors import UsageError
from plop_lora.options import DEVICES, DTYPES
from plop_lora.recipe import ScoreRecipe


def _variants() -> list[str]:
    """Return the names of the variants."""
    from plop_lora.variants.catalogue import VARIANTS

    return list(VARIANTS)


KEYS = (
    Key("score.max_length", DATA),
    Key("score.seed", DATA),
    Key("score.top", STOPPING),
    Key("score.tolerance", STOPPING),
    Key("score.dtype", MODEL, among(lambda: DTYPES)),
    Key("score.revision", MODEL),
    Key("score.gguf", MODEL),
    Key("score.device", ENGINE, among(lambda: DEVICES)),
)


@with_examples(
    (
        "Every variant that needs nothing else",
        "plop robustness ./model --data task.jsonl -o robustness.json",
    ),
    (
        "Another checkpoint of the family, and a trained adapter merged",
        "plop robustness ./model --data task.jsonl --against ./model-instruct --adapter adapter",
    ),
    (
        "Some variants, in Markdown",
        "plop robustness ./model --data task.jsonl --variants bootstrap,typos,4-bit -o r.md",
    ),
)
@takes_recipe(ScoreRecipe, KEYS, example="score.seed=1")
def robustness(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Option(help="The texts, as for plop score; at least 16.", rich_help_panel=DATA),
    ],
    given: dict[str, Any],
    text: TextOption = None,
    template: TemplateOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="A field whose values divide the rows into groups, such as a label or a source, "
            "which the variant imbalance needs.",
            rich_help_panel=DATA,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="The largest number of texts to sample; all of them are scored.",
            callback=bounded(1),
            rich_help_panel=DATA,
        ),
    ] = 200,
    variants: Annotated[
        str | None,
        typer.Option(
            help="The names of the variants, with commas between them. By default all of them: "
            "those that cannot be had are named with the reason.",
            autocompletion=among(_variants),
            rich_help_panel=RUN,
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another checkpoint of the family, or its scores as saved by plop score. "
            "Repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="The folder of a trained LoRA adapter, which is merged into a copy of the model.",
            rich_help_panel=RUN,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help='A prompt to put around every text, such as "Question: {text}\\nAnswer:".',
            rich_help_panel=RUN,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Read the section score of this YAML file; options take precedence over it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    trust_remote_code: TrustOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the result to this file: a JSON record, or Markdown if it ends in .md; - "
            "is stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Ask whether the choice of plop score survives other texts, weights and checkpoints.

    The texts are scored once. Other samples and mixtures of them are computed from that, and every
    other variant takes one forward pass. The model is not changed.
    """
    if context.obj is not None:
        raise UsageError("plop robustness runs in one process; run it without a launcher.")
    check(output, data, recipe, *(against or ()), force=force)
    own = {"trust_remote_code": trust_remote_code or None}
    asked = scoring.asked_settings(recipe, given, own)
    # Names are checked before torch is loaded, so that errors in them are reported at once.
    from plop_lora.variants.catalogue import chosen_variants

    names = None if variants is None else [word.strip() for word in variants.split(",")]
    options = {"against": against, "merged": adapter, "prompt": prompt}
    chosen_variants(names, [name for name, value in options.items() if value])
    if adapter is not None:
        from plop_lora.exports.adapters import read_adapter

        read_adapter(adapter)
    name, origin = scoring.found_model(model, asked, data, None)
    load = functools.cache(functools.partial(scoring.tokenizer_of, name, tokenizer, origin))
    from plop_lora.data.documents import load_documents

    with waiting(f"reading {data}", form):
        documents = load_documents(
            data,
            text=text,
            template=None if template is None else template.replace("\\n", "\n"),
            chat=functools.partial(scoring.chat_through, tokenizer or name, load),
            group=group,
            samples=samples,
            seed=asked.seed,
            token=asked.token,
        )
    with waiting(f"loading torch, transformers and the tokenizer of {model}", form):
        from plop_lora.variants.run import robustness as step

        loaded = load()
    others = [*(against or ()), *([] if adapter is None else [adapter])]
    record = step(
        model, loaded, documents, variants=names, against=others,
        prompt=None if prompt is None else prompt.replace("\\n", "\n"), settings=asked,
        progress=form is not Format.quiet,
    )  # fmt: skip
    from plop_lora.reports.robustness import robustness_markdown

    finish(record, output, form, markdown=robustness_markdown)
