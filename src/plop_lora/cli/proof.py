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

from plop_lora.cli.output import Format, say

if TYPE_CHECKING:
    from plop_lora.recipe import Proof
    from plop_lora.training.events import Watch

TrainOption = Annotated[
    str | None, typer.Option("--train", help="Training rows: a file, or name:config:split.")
]
EvalOption = Annotated[str | None, typer.Option("--eval", help="Rows of the report alone.")]
TaskOption = Annotated[str | None, typer.Option(help="sft, classify or grpo.")]
RecipeOption = Annotated[
    Path | None, typer.Option(help="YAML with all of this and more; options go before it.")
]
ModelOption = Annotated[
    str | None, typer.Option(help="Hub id or folder, instead of the scored model.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print what would run, how long, what it can tell.")
]
MetricOption = Annotated[
    str | None,
    typer.Option(help="loss, exact, numeric, accuracy, macro-f1, pass@1, lm-eval:TASK …"),
]
RewardsOption = Annotated[
    str | None, typer.Option(help="For grpo: number, format, module:function; commas.")
]
PromptOption = Annotated[
    str | None, typer.Option(help='Template of the prompt: "Q: {question}\\nA:".')
]
CompletionOption = Annotated[str | None, typer.Option(help='Template of the answer: " {answer}".')]
TextOption = Annotated[str | None, typer.Option(help="Field of the text or of the chat.")]
LabelOption = Annotated[str | None, typer.Option(help="Field of the class, for classify.")]
PriceOption = Annotated[float | None, typer.Option(help="Money a device-hour.")]
WorkersOption = Annotated[int | None, typer.Option(help="Trials at once.")]
RunnerOption = Annotated[str | None, typer.Option(help="local or ray.")]


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
    """Return the names between commas."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _unescaped(template: str | None) -> str | None:
    return None if template is None else template.replace("\\n", "\n")


def _present(options: dict[str, Any]) -> dict[str, Any]:
    kept = {
        key: _present(value) if isinstance(value, dict) else value for key, value in options.items()
    }
    return {key: value for key, value in kept.items() if value not in (None, {})}


@contextlib.contextmanager
def watched(recipe: Proof, folder: Path, form: Format) -> Iterator[Watch]:
    """Show trials on stderr while they run; on Ctrl-C say how to go on."""
    from plop_lora.report.live import live
    from plop_lora.training.events import ignore

    quiet = form is Format.quiet
    try:
        with contextlib.nullcontext(ignore) if quiet else live(price=recipe.price) as watch:
            yield watch
    except KeyboardInterrupt:
        again = f"--folder {shlex.quote(str(folder))}"
        say(f"Stopped. Finished trials are kept; the same command with {again} goes on.", err=True)
        raise typer.Exit(130) from None
