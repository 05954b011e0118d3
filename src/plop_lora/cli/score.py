"""`plop score`: a model and data in, scores out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    OutputOption,
    check,
    finish,
    waiting,
)
from plop_lora.cli.words import DATA, ENGINE, MODEL, STOPPING, among, indicators, with_examples
from plop_lora.data.lines import STDIN
from plop_lora.data.reading import open_rows
from plop_lora.data.texts import NoTemplateError
from plop_lora.errors import UsageError
from plop_lora.models.folders import check_reach, expanded, model_name
from plop_lora.models.origin import Origin
from plop_lora.options import BASELINES, DEVICES, DTYPES, ENGINES, MODES, check_choices


@with_examples(
    ("Score a model on texts", "plop score Qwen/Qwen3-0.6B --data texts.jsonl -o scores.json"),
    (
        "Join two fields of a data set of the hub",
        'plop score ./model --data openai/gsm8k:main:train --template "{question} {answer}"',
    ),
    ("Score every text, as a paper needs it", "plop score ./model --data t.csv --stop fixed"),
)
def score(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The hub id of a model, or its local folder.")],
    data: Annotated[
        str,
        typer.Option(
            help="Read texts from a .jsonl, .json, .csv, .tsv, .parquet or .txt file, also as "
            ".gz; from standard input, written -; from a folder of save_to_disk; or from a data "
            "set of the hub, written name:config:split.",
            rich_help_panel=DATA,
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(help="Take the text from this field.", rich_help_panel=DATA),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help='Join fields, which stand in braces: "{question}\\n{answer}".',
            rich_help_panel=DATA,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Give every value of this field its share of the texts.", rich_help_panel=DATA
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="Draw at most this many texts; about 200 is plenty.",
            callback=bounded(1),
            rich_help_panel=DATA,
        ),
    ] = 200,
    max_length: Annotated[
        int,
        typer.Option(
            help="Keep this many tokens of each text.", callback=bounded(1), rich_help_panel=DATA
        ),
    ] = 512,
    seed: Annotated[
        int,
        typer.Option(help="Set the seed of the sample and of the baseline.", rich_help_panel=DATA),
    ] = 0,
    dtype: Annotated[
        str,
        typer.Option(
            help="Load the weights as auto (the checkpoint's own), float32, bfloat16 or float16.",
            autocompletion=among(lambda: DTYPES),
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Score only modules or types that match this pattern; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out modules or types that match this pattern; repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            help="Compute the expected norm in closed form (analytic), or draw it (monte_carlo).",
            autocompletion=among(lambda: BASELINES),
            rich_help_panel=MODEL,
        ),
    ] = "analytic",
    indicator: Annotated[
        list[str] | None,
        typer.Option(
            help="Record this indicator beside NFN, in the same forward pass: response-gain, "
            "rank-of-weights or parameter-share; repeatable.",
            autocompletion=among(indicators),
            rich_help_panel=MODEL,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Read the section score of this YAML file; options go before it.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    stop: Annotated[
        str,
        typer.Option(
            help="Stop as soon as the choice is known (adaptive), or score every text (fixed).",
            autocompletion=among(lambda: MODES),
            rich_help_panel=STOPPING,
        ),
    ] = "adaptive",
    tolerance: Annotated[
        float,
        typer.Option(
            help="Tolerate that a type left out is better by this much NFN.",
            callback=bounded(0),
            rich_help_panel=STOPPING,
        ),
    ] = 0.03,
    top: Annotated[
        int,
        typer.Option(
            help="Stop when this many types of the choice are known.",
            callback=bounded(1),
            rich_help_panel=STOPPING,
        ),
    ] = 3,
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference",
            help="Leave out the random tokens that tell whether the choice needs these texts.",
            rich_help_panel=STOPPING,
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="Hold the model in memory, stream it block by block from disk, or spread the "
            "texts over a cluster (ray); auto streams what does not fit.",
            autocompletion=among(lambda: ENGINES),
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
    device: Annotated[
        str,
        typer.Option(
            help="Run on auto, cpu, cuda, cuda:1 or mps.",
            autocompletion=among(lambda: DEVICES),
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
    batch_size: Annotated[
        str,
        typer.Option(
            help="Put this many texts into a batch; auto fills one by tokens. It never changes "
            "the scores.",
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Use the Ray cluster at this address instead of RAY_ADDRESS.",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache", help="Compute the baseline of every weight anew.", rich_help_panel=ENGINE
        ),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Take this branch, tag or commit of the model on the hub.", rich_help_panel=MODEL
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Take the tokenizer from this hub id or folder, where it lies elsewhere.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Use this access token of the hub, which is never recorded; HF_TOKEN works as "
            "well.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Run the Python code that lies beside the weights.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Score every module type of MODEL on unlabelled texts, with forward passes only.

    A low score (NFN near 1) means that the type responds to these texts little more than to
    noise, so that an adapter has room there.
    """
    processes = context.obj
    if processes is None or processes.first:
        check(output, data, recipe, force=force)
    size = _batch_size(batch_size)
    indicators = _indicators(recipe, indicator)
    check_choices(baseline=baseline, dtype=dtype, stop=stop, engine=engine, device=device)
    model = _found(model, revision, data, processes)
    origin = Origin(revision, trust_remote_code, token)
    load = functools.cache(functools.partial(_tokenizer, model, tokenizer, origin))
    # The data are read before torch is loaded, so that their faults are told at once.
    from plop_lora.data.documents import load_documents

    with waiting(f"reading {data}", form):
        documents = load_documents(
            data,
            text=text,
            template=None if template is None else template.replace("\\n", "\n"),
            chat=functools.partial(_chat, tokenizer or model, load),
            group=group,
            samples=samples,
            seed=seed,
            token=token,
        )
    with waiting(f"loading torch, transformers and the tokenizer of {model}", form):
        from plop_lora.scoring import score as run

        loaded = load()
    scores = run(
        model, loaded, documents,
        max_length=max_length, batch_size=size, device=device, dtype=dtype, seed=seed,
        include=include or (), exclude=exclude or (), baseline=baseline,
        stop=stop, tolerance=tolerance, top=top,
        engine=engine, ray_address=ray_address, cache=not no_cache,
        revision=revision, token=token, trust_remote_code=trust_remote_code,
        processes=processes, progress=form is not Format.quiet, reference=not no_reference,
        indicators=indicators,
    )  # fmt: skip
    if processes is None or processes.first:
        finish(scores, output, form)


def _indicators(recipe: Path | None, given: list[str] | None) -> tuple[str, ...]:
    """Return the indicators that the line names, else those of the recipe."""
    from plop_lora.indicators import recorded_indicator
    from plop_lora.recipe import ScoreRecipe

    options = {"score": {"indicators": given}} if given else {}
    names = ScoreRecipe.read(recipe, options).score.indicators
    return tuple(recorded_indicator(name).name for name in names)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not possible; give auto or 1 and more.")
    return int(text)


def _found(model: str, revision: str | None, data: str, processes: Any) -> str:
    """Return the name to load the model by; what is not there is told before torch is loaded."""
    if data == STDIN and processes is not None:
        raise UsageError(
            "--data - can be read by one process only, and a launcher started several. Give a file."
        )
    name = model_name(model)
    open_rows(data)
    check_reach(name, "model", revision)
    return name


def _tokenizer(model: str, tokenizer: str | None, origin: Origin) -> Any:
    """Load the tokenizer of a model, or another one that was named."""
    from plop_lora.models.loading import load_tokenizer, quiet_loading

    quiet_loading()
    if tokenizer is not None:
        return load_tokenizer(expanded(tokenizer), origin.elsewhere())
    return load_tokenizer(model, origin)


def _chat(name: str, load: Callable[[], Any], messages: list[Any], **tools: Any) -> str:
    """Render a chat; the first one that is met loads the tokenizer."""
    from plop_lora.scoring.inputs import chat_of

    render = chat_of(load())
    if render is None:
        raise NoTemplateError(f"the tokenizer of {name}")
    return render(messages, **tools)
