"""`plop ab replay`: logged prompts through all arms, before any traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import (
    STDOUT,
    ForceOption,
    Format,
    FormatOption,
    MarkdownOutputOption,
    check,
    finish,
    say,
)
from plop_lora.cli.words import DATA, MODEL, RUN, STOPPING, with_examples
from plop_lora.errors import UsageError

if TYPE_CHECKING:
    from plop_lora.ab.replay import ReplaySettings
    from plop_lora.evaluation.judges import Judge
    from plop_lora.records import Replay


@with_examples(
    (
        "Compare the arms of an experiment, served under their own names",
        "plop ab replay prompts.jsonl -e support.json --upstream http://localhost:8000/v1",
    ),
    (
        "Compare two models, the control first, and keep the outcome",
        "plop ab replay prompts.jsonl --upstream http://localhost:8000/v1 --model now=base "
        "--model next=next -o replay.json",
    ),
    (
        "Exit with 3 if the answers may be 50 tokens longer or more",
        "plop ab replay prompts.jsonl -e support.json --upstream http://localhost:8000/v1 "
        "--margin tokens_out=50",
    ),
)
def replay(
    prompts: Annotated[
        Path, typer.Argument(help="JSON Lines with messages or a prompt in each row.")
    ],
    upstream: Annotated[
        str,
        typer.Option(
            "--upstream",
            help="The address of the OpenAI-compatible endpoint that serves the arms.",
            rich_help_panel=MODEL,
        ),
    ],
    experiment: Annotated[
        Path | None,
        typer.Option(
            "--experiment",
            "-e",
            help="The file of the experiment whose arms are compared.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ARM=NAME",
            help="The name under which an arm is served; its own if left out. Without an "
            "experiment these are all arms, the control first.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            "--key",
            help="The environment variable that holds the key of the endpoint.",
            rich_help_panel=MODEL,
        ),
    ] = "OPENAI_API_KEY",
    max_tokens: Annotated[
        int,
        typer.Option(
            callback=bounded(1), help="The most tokens of an answer.", rich_help_panel=RUN
        ),
    ] = 256,
    temperature: Annotated[
        float,
        typer.Option(
            callback=bounded(0, 2),
            help="The temperature of the answers, from 0 to 2.",
            rich_help_panel=RUN,
        ),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(help="A seed that is sent with each request.", rich_help_panel=RUN),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            callback=bounded(1),
            help="The number of prompts that are asked at the same time.",
            rich_help_panel=RUN,
        ),
    ] = 4,
    timeout: Annotated[
        float, typer.Option(help="The seconds that each try may take.", rich_help_panel=RUN)
    ] = 120.0,
    retries: Annotated[
        int,
        typer.Option(
            callback=bounded(0),
            help="The number of further tries after a failure that may pass.",
            rich_help_panel=RUN,
        ),
    ] = 4,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers",
            help="Keep the answers in this file, from which an interrupted replay goes on. By "
            "default it stands beside the output, or is named after PROMPTS.",
            rich_help_panel=DATA,
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Ask prompts again that are known to have failed at an arm.",
            rich_help_panel=RUN,
        ),
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            help="A judge of unsafe answers: module:function, or the address of an endpoint.",
            rich_help_panel=DATA,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(help="The name of the judge's model at its endpoint.", rich_help_panel=DATA),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="A function of yours that gives each answer a number, as module:function.",
            rich_help_panel=DATA,
        ),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            metavar="METRIC=NUMBER",
            help="By how much an arm may be worse than the control; exit 3 if it is worse by "
            "more, and 4 if that is not decided.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    output: MarkdownOutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Send logged PROMPTS to all arms, and compare the answers pair by pair."""
    from plop_lora.ab.replay import settings_of

    check(output, prompts, experiment, force=force)
    kept = answers or _beside(prompts, output)
    settings = settings_of(
        upstream,
        _pairs(model, "--model", "now=base"),
        experiment,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        key_variable=key,
        margins={
            name: _number(number)
            for name, number in _pairs(margin, "--margin", "failed=0.02").items()
        },
        judge=None if judge is None else _judge(judge, judge_model, kept),
        metric=metric,
    )
    found = _run(prompts, settings, kept, again=again, form=form)
    _finish(found, output, form)
    raise typer.Exit(found.exit_code)


def _run(
    prompts: Path, settings: ReplaySettings, answers: Path, *, again: bool, form: Format
) -> Replay:
    from plop_lora.ab.replay import replay as run
    from plop_lora.reports.measuring import measuring

    try:
        with measuring(wanted=form is not Format.quiet) as watch:
            return run(prompts, settings, answers=answers, again=again, watch=watch)
    except KeyboardInterrupt:
        say(f"Stopped. {answers} is kept; to go on, run the same command again.", err=True)
        raise typer.Exit(130) from None


def _judge(word: str, model: str | None, answers: Path) -> Judge:
    from plop_lora.evaluation.judges import judge_of

    return judge_of(word, model=model, cache=answers.with_suffix(".judged.jsonl"))


def _beside(prompts: Path, output: Path | None) -> Path:
    """Return the path of the answers: beside the output, else named after the prompts, here."""
    if output is not None and output != STDOUT:
        return output.with_suffix(".answers.jsonl")
    return Path(f"{prompts.name.partition('.')[0] or 'prompts'}.answers.jsonl")


def _pairs(words: list[str] | None, option: str, example: str) -> dict[str, str]:
    """Return what an option that is repeated gives to each name."""
    found: dict[str, str] = {}
    for word in words or []:
        name, is_pair, value = word.partition("=")
        if not (name and is_pair and value):
            raise UsageError(f"{option} {word!r} is not NAME=VALUE, such as {example}.")
        if name in found:
            raise UsageError(f"{option} gives {name!r} twice. Leave one of them out.")
        found[name] = value
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--margin gives {text!r}, which is no number.") from None


def _finish(found: Replay, output: Path | None, form: Format) -> None:
    """Print the outcome and save it, as Markdown where the path ends in .md."""
    if output is None or output.suffix != ".md":
        finish(found, output, form)
        return
    from plop_lora.files import atomic_file
    from plop_lora.reports.replay import replay_markdown

    with atomic_file(output) as file:
        file.write(replay_markdown(found))
    finish(found, None, form)
    say(f"Wrote {output}", err=True)
