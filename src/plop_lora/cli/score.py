"""`plop score`: score the module types of a model on a sample of texts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    OutputOption,
    check,
    finish,
    waiting,
)
from plop_lora.cli.words import DATA, ENGINE, MODEL, RUN, STOPPING, among, indicators, with_examples
from plop_lora.data.lines import STDIN
from plop_lora.data.reading import open_rows
from plop_lora.data.texts import NoTemplateError
from plop_lora.errors import UsageError
from plop_lora.models.folders import check_reach, expanded, model_name
from plop_lora.models.gguf import check_engine, locate, path_of, read_header
from plop_lora.models.origin import Origin
from plop_lora.options import DENOMINATORS, DEVICES, DTYPES, ENGINES, MODES, check_choices
from plop_lora.recipe import ScoreRecipe, ScoringSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEYS = (
    Key("score.max_length", DATA),
    Key("score.special_tokens", DATA),
    Key("score.seed", DATA),
    Key("score.dtype", MODEL, among(lambda: DTYPES)),
    Key("score.revision", MODEL),
    Key("score.gguf", MODEL),
    Key("score.denominator", MODEL, among(lambda: DENOMINATORS)),
    Key("score.denominator", MODEL, hidden=True, former="--baseline"),
    Key("score.stop", STOPPING, among(lambda: MODES)),
    Key("score.tolerance", STOPPING),
    Key("score.top", STOPPING),
    Key("score.engine", ENGINE, among(lambda: ENGINES)),
    Key("score.device", ENGINE, among(lambda: DEVICES)),
    Key("score.ray_address", ENGINE),
)


@with_examples(
    ("Score a model on texts", "plop score Qwen/Qwen3-0.6B --data texts.jsonl -o scores.json"),
    (
        "Join two fields of a data set of the hub",
        'plop score ./model --data openai/gsm8k:main:train --template "{question} {answer}"',
    ),
    ("Score every text, for numbers to publish", "plop score ./model --data t.csv --stop fixed"),
)
@takes_recipe(ScoreRecipe, KEYS, example="score.seed=1")
def score(
    context: typer.Context,
    model: ModelArgument,
    data: Annotated[
        str,
        typer.Option(
            help="The texts: a .jsonl, .json, .csv, .tsv, .parquet or .txt file, also compressed "
            "as .gz; - for standard input; a folder written by save_to_disk; or a data set of the "
            "Hugging Face Hub, written as name:config:split.",
            rich_help_panel=DATA,
        ),
    ],
    given: dict[str, Any],
    text: TextOption = None,
    template: TemplateOption = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="A field whose values divide the rows into groups. Each group is sampled in "
            "proportion to its size, and a small one with at least 8 texts.",
            rich_help_panel=DATA,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            help="The largest number of texts to sample; about 200 are enough.",
            callback=bounded(1),
            rich_help_panel=DATA,
        ),
    ] = 200,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Score only modules or module types that match this pattern, in which `*` stands "
            "for any text, such as `*.mlp.*`. Repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out modules or module types that match this pattern, in which `*` stands "
            "for any text. Repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    indicator: Annotated[
        list[str] | None,
        typer.Option(
            help="A further indicator to record beside NFN in the same forward pass: contrast, "
            "depth, log-condition, mean-share, nfn-special-tokens, parameter-share, "
            "rank-of-inputs, rank-of-outputs, rank-of-weights, response-gain, stable-rank or "
            "token-spread. Repeatable.",
            autocompletion=among(indicators),
            rich_help_panel=MODEL,
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Read the section score of this YAML file; options take precedence over it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference",
            help="Do not score a general English text as well, which shows how much of the ranking "
            "comes from your texts.",
            rich_help_panel=STOPPING,
        ),
    ] = False,
    batch_size: Annotated[
        str,
        typer.Option(
            help="The number of texts per batch; auto fills each batch up to a number of tokens. "
            "The scores do not depend on it.",
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Compute the expected norm of every weight again instead of reading the cache.",
            rich_help_panel=ENGINE,
        ),
    ] = False,
    tokenizer: TokenizerOption = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="An access token of the hub, which is never recorded. The environment variable "
            "HF_TOKEN works as well.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Score every module type of MODEL on unlabelled texts, with forward passes only.

    The score is NFN, the Normalized Feature Norm: the response of a weight to these texts relative
    to its response to noise. Near 1 the weight is not aligned with the texts, so that an adapter
    there can learn most: lower is better.
    """
    processes = context.obj
    if processes is None or processes.first:
        check(output, data, recipe, force=force)
    own = {
        "batch_size": _batch_size(batch_size), "include": include, "exclude": exclude,
        "indicators": indicator, "cache": False if no_cache else None, "token": token,
        "reference": False if no_reference else None,
        "trust_remote_code": trust_remote_code or None,
    }  # fmt: skip
    asked = asked_settings(recipe, given, own)
    name, origin = found_model(model, asked, data, processes)
    load = functools.cache(functools.partial(tokenizer_of, name, tokenizer, origin))
    # The data are read before torch is loaded, so that errors in them are reported at once.
    from plop_lora.data.documents import load_documents

    with waiting(f"reading {data}", form):
        documents = load_documents(
            data,
            text=text,
            template=None if template is None else template.replace("\\n", "\n"),
            chat=functools.partial(chat_through, tokenizer or name, load),
            group=group,
            samples=samples,
            seed=asked.seed,
            token=asked.token,
        )
    with waiting(f"loading torch, transformers and the tokenizer of {model}", form):
        from plop_lora.scoring import score as run

        loaded = load()
    scores = run(
        model, loaded, documents, settings=asked, processes=processes,
        progress=form is not Format.quiet,
    )  # fmt: skip
    if processes is None or processes.first:
        finish(scores, output, form)


def asked_settings(
    recipe: Path | None, given: dict[str, Any], own: Mapping[str, object]
) -> ScoringSettings:
    """Return the settings of the recipe, updated by the command line and checked."""
    from plop_lora.indicators import recorded_indicators

    there = {key: value for key, value in own.items() if value is not None}
    options = {**given, "score": given.get("score", {}) | there}
    asked = ScoreRecipe.read(recipe, options).score
    check_choices(
        denominator=asked.denominator, dtype=asked.dtype, stop=asked.stop, engine=asked.engine,
        device=asked.device,
    )  # fmt: skip
    recorded_indicators(asked.indicators, reference=asked.reference)
    return asked


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--batch-size {text} is not possible; give auto or 1 and more.")
    return int(text)


def found_model(
    model: str, asked: ScoringSettings, data: str, processes: object
) -> tuple[str, Origin]:
    """Return the name to load the model by, and how its files are requested.

    Missing and damaged files are reported before torch is loaded.
    """
    if data == STDIN and processes is not None:
        raise UsageError(
            "--data - can be read by one process only, and a launcher has started several. Give a "
            "file."
        )
    folder, gguf = locate(model, asked.gguf)
    check_engine(asked.engine, gguf)
    name = model_name(folder, gguf=gguf)
    origin = Origin(asked.revision, asked.trust_remote_code, asked.token, gguf)
    if gguf is not None and Path(name).is_dir():
        read_header(path_of(name, origin))
    open_rows(data)
    check_reach(name, "model", asked.revision)
    return name, origin


def tokenizer_of(model: str, tokenizer: str | None, origin: Origin) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, or another one that was named."""
    from plop_lora.models.loading import load_tokenizer, quiet_loading

    quiet_loading()
    if tokenizer is not None:
        return load_tokenizer(expanded(tokenizer), origin.elsewhere())
    return load_tokenizer(model, origin)


def chat_through(
    name: str, load: Callable[[], PreTrainedTokenizerBase], messages: list[object], **tools: object
) -> str:
    """Render a chat. The tokenizer is loaded at the first call."""
    from plop_lora.scoring.inputs import chat_of

    render = chat_of(load())
    if render is None:
        raise NoTemplateError(f"the tokenizer of {name}")
    return render(messages, **tools)
