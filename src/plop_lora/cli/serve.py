"""`plop serve`: a base and its adapters behind a small OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import say
from plop_lora.cli.words import ADAPTERS, ENGINE, RUN, with_examples
from plop_lora.errors import UsageError


@with_examples(
    (
        "Serve a model with two adapters of it",
        "plop serve Qwen/Qwen3-0.6B --adapter now=adapters/now --adapter next=adapters/next",
    ),
    ("Give the base a short name", "plop serve models/base --name base --port 8001"),
)
def serve(
    model: Annotated[str, typer.Argument(help="The base model: a hub id or a local folder.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=DIR",
            help="The name of an adapter in requests, and its folder as PEFT saved it. Repeat it "
            "for more adapters.",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="The name of the base in requests. By default MODEL.",
            rich_help_panel=ADAPTERS,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="The address to listen on. One that other machines can reach needs a token in "
            "the environment variable PLOP_SERVE_TOKEN.",
            rich_help_panel=RUN,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            callback=bounded(0, 65535),
            help="The port to listen on; 0 takes a free one.",
            rich_help_panel=RUN,
        ),
    ] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            callback=bounded(0),
            help="The number of requests that may wait; further ones are refused at once.",
            rich_help_panel=RUN,
        ),
    ] = 32,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="The device on which the model runs: auto, cpu, cuda, cuda:1 or mps.",
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="The dtype of the base: auto, float32, bfloat16 or float16.",
            rich_help_panel=ENGINE,
        ),
    ] = "auto",
) -> None:
    """Serve MODEL and its adapters with an OpenAI-compatible API, to try them on one machine."""
    from plop_lora.local_server.serve import ServeSettings
    from plop_lora.local_server.serve import serve as run

    adapters = _adapters(adapter or [])
    settings = ServeSettings(host=host, port=port, device=device, dtype=dtype, queue=queue)
    try:
        run(model, adapters, settings, name=name, told=lambda line: say(line, err=True))
    except KeyboardInterrupt:
        say("Stopped.", err=True)
        raise typer.Exit(130) from None


def _adapters(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word in given:
        name, is_pair, folder = word.partition("=")
        if not (name and is_pair and folder):
            raise UsageError(f"--adapter {word!r} is not NAME=DIR, such as next=adapters/next.")
        if name in found:
            raise UsageError(
                f"--adapter names {name!r} twice. Give each adapter a name of its own."
            )
        found[name] = Path(folder).expanduser()
    return found
