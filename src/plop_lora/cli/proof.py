"""What `verify` and `tune` share on the command line: options of the recipe, and the live view.

An option that was not given leaves the recipe's value alone.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import Format, say
from plop_lora.cli.words import DATA, ENGINE, MODEL, RUN, TRAINING, among, metrics
from plop_lora.options import words_of

if TYPE_CHECKING:
    from plop_lora.recipe import FinetuneRecipe
    from plop_lora.training.events import Event, Watch

TrainOption = Annotated[
    str | None,
    typer.Option(
        "--train",
        help="Train on these rows: a file, or a data set of the hub, written name:config:split.",
        rich_help_panel=DATA,
    ),
]
EvalOption = Annotated[
    str | None,
    typer.Option(
        "--eval", help="Judge on these rows, which are never trained on.", rich_help_panel=DATA
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Train for the task sft, classify or grpo, or one of yours, written module:NAME.",
        autocompletion=among("training.tasks:TASKS"),
        rich_help_panel=TRAINING,
    ),
]
RecipeOption = Annotated[
    Path | None,
    typer.Option(
        help="Read all of this and more from a YAML file; options go before it.",
        rich_help_panel=RUN,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        help="Train this hub id or local folder instead of the scored model.",
        rich_help_panel=MODEL,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        help="Train this branch, tag or commit of the model on the hub; the scored one by default.",
        rich_help_panel=MODEL,
    ),
]
PlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Only print what would run, how long it takes, and what it can tell.",
        rich_help_panel=RUN,
    ),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="Judge by loss, exact, numeric, accuracy, macro-f1, pass@1, lm-eval:TASK or a "
        "function of yours, written module:function.",
        autocompletion=metrics,
        rich_help_panel=TRAINING,
    ),
]
RewardsOption = Annotated[
    str | None,
    typer.Option(
        help="Reward with number, format or module:function, separated by commas; for grpo.",
        rich_help_panel=TRAINING,
    ),
]
PromptOption = Annotated[
    str | None,
    typer.Option(
        help='Fill this template to make a prompt: "Q: {question}\\nA:".', rich_help_panel=DATA
    ),
]
CompletionOption = Annotated[
    str | None,
    typer.Option(help='Fill this template to make the answer: " {answer}".', rich_help_panel=DATA),
]
TextOption = Annotated[
    str | None,
    typer.Option(help="Take the text or the chat from this field.", rich_help_panel=DATA),
]
LabelOption = Annotated[
    str | None,
    typer.Option(help="Take the class from this field; for classify.", rich_help_panel=DATA),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        help="Reckon with this price of a device-hour.", callback=bounded(0), rich_help_panel=RUN
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Run this many trials at once.", callback=bounded(1), rich_help_panel=ENGINE),
]
RunnerOption = Annotated[
    str | None,
    typer.Option(
        help="Run trials in processes here (local) or on a cluster (ray).",
        autocompletion=among("recipe:RUNNERS"),
        rich_help_panel=ENGINE,
    ),
]


def given(
    *,
    evaluation: str | None = None,
    metric: str | None = None,
    rewards: str | None = None,
    prompt: str | None = None,
    completion: str | None = None,
    price: float | None = None,
    workers: int | None = None,
    runner: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Return what was given on the line by the recipe's keys, section by section."""
    return _present(
        {
            **others,
            "eval": evaluation,
            "prompt": _unescaped(prompt),
            "completion": _unescaped(completion),
            "evaluation": {"metric": metric},
            "training": {"rewards": names(rewards)},
            "price": {"hourly": price},
            "runner": {"workers": workers, "kind": runner},
        }
    )


def names(text: str | None) -> list[str] | None:
    """Return the names between commas, as a recipe holds them."""
    words = words_of(text)
    return None if words is None else list(words)


def _unescaped(template: str | None) -> str | None:
    return None if template is None else template.replace("\\n", "\n")


def _present(options: dict[str, Any]) -> dict[str, Any]:
    kept = {
        key: _present(value) if isinstance(value, dict) else value for key, value in options.items()
    }
    return {key: value for key, value in kept.items() if value not in (None, {})}


def _naming(folder: Path, watch: Watch) -> Watch:
    """Name the folder of the run as soon as its first trial is told, when nothing is at fault."""
    named = False

    def tell(event: Event) -> None:
        nonlocal named
        if not named:
            named = True
            say(f"Folder of the run: {folder}", err=True)
        watch(event)

    return tell


@contextlib.contextmanager
def watched(recipe: FinetuneRecipe, folder: Path, form: Format) -> Iterator[Watch]:
    """Show trials on stderr while they run; on Ctrl-C say how to go on."""
    from plop_lora.report.live import live
    from plop_lora.training.events import ignore

    quiet = form is Format.quiet
    try:
        with contextlib.nullcontext(ignore) if quiet else live(price=recipe.price) as watch:
            yield watch if quiet else _naming(folder, watch)
    except KeyboardInterrupt:
        again = f"--folder {shlex.quote(str(folder))}"
        say(f"Stopped. Finished trials are kept; the same command with {again} goes on.", err=True)
        raise typer.Exit(130) from None
