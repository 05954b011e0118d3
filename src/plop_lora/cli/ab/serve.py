"""`plop ab serve`: send each request to the adapter of its unit, in front of a model server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, database_of
from plop_lora.cli.numbers import bounded
from plop_lora.cli.output import say
from plop_lora.cli.words import DATA, RUN, TARGET, with_examples
from plop_lora.errors import UsageError, check_installed

if TYPE_CHECKING:
    from plop_lora.ab.events import EventSink
    from plop_lora.ab.router import Secrets, Settings
    from plop_lora.ab.running import ExperimentRun
    from plop_lora.records import Experiment

ADMIN = "PLOP_ADMIN_TOKEN"
TRAFFIC = "PLOP_TRAFFIC_TOKEN"
UPSTREAM = "PLOP_UPSTREAM_KEY"
_SECURITY = "Who may do what"
_LIMITS = "Limits"
_DRAIN = 30.0
"""Seconds in which the events that the database has not seen yet are sent to it at the end."""


@with_examples(
    (
        "Route to the adapters that vLLM serves as `now` and `next`",
        "plop ab serve -e support.json --upstream http://127.0.0.1:8000",
    ),
    (
        "The control is the base model, and clients ask for the model they always asked for",
        "plop ab serve -e support.json --upstream http://127.0.0.1:8000 "
        "--model now=Qwen/Qwen3-8B --public-model Qwen/Qwen3-8B",
    ),
    (
        "For other machines, with a token of the clients in PLOP_TRAFFIC_TOKEN",
        "plop ab serve -e support.json --upstream http://127.0.0.1:8000 --host 0.0.0.0",
    ),
)
def serve(
    experiment: ExperimentOption,
    upstream: Annotated[
        str,
        typer.Option(
            "--upstream",
            help="The address of the model server, such as http://127.0.0.1:8000. Its key, if it "
            f"needs one, is taken from {UPSTREAM}.",
            rich_help_panel=TARGET,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ARM=NAME",
            help="The name under which the server serves an arm, by default that of the arm. "
            "Repeat it for each arm.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    public_model: Annotated[
        list[str] | None,
        typer.Option(
            "--public-model",
            help="The name that clients ask for, by default that of the experiment. Other names "
            "are refused, because a client could pick its arm.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            help="A path that is passed on, in place of /v1/chat/completions and /v1/completions.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    unit_header: Annotated[
        str,
        typer.Option(
            "--unit-header",
            help="The header with the id of the unit. Without it the field `user` is taken.",
            rich_help_panel=DATA,
        ),
    ] = "X-Unit-Id",
    store_prompts: Annotated[
        Path | None,
        typer.Option(
            "--store-prompts",
            help="Keep prompts and answers in this file, as JSON lines. They are kept nowhere "
            "else.",
            rich_help_panel=DATA,
        ),
    ] = None,
    database: DatabaseOption = None,
    spill: Annotated[
        Path | None,
        typer.Option(
            "--spill",
            help="The folder that events are written to before the database takes them, by "
            "default beside the experiment. Routers of one machine may share it.",
            rich_help_panel=RUN,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen on.", rich_help_panel=RUN),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            callback=bounded(0, 65535),
            help="The port to listen on; 0 takes a free one.",
            rich_help_panel=RUN,
        ),
    ] = 8080,
    poll: Annotated[
        float,
        typer.Option(
            "--poll",
            help="Seconds between two looks at the coverage and the arms that are off.",
            rich_help_panel=RUN,
        ),
    ] = 5.0,
    watch: Annotated[
        float,
        typer.Option(
            "--watch",
            help="Seconds between two analyses, after which a harmful arm is switched off; 0 for "
            "none.",
            rich_help_panel=RUN,
        ),
    ] = 60.0,
    access_log: Annotated[
        bool,
        typer.Option("--access-log", help="Log each request.", rich_help_panel=RUN),
    ] = False,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            "--admin-token-file",
            help=f"A file with the token of the administration, in place of {ADMIN}. Without a "
            "token the administration is off.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    open_: Annotated[
        bool,
        typer.Option(
            "--open",
            help=f"Listen beyond this machine although clients need no token. With {TRAFFIC} they "
            "need one.",
            rich_help_panel=_SECURITY,
        ),
    ] = False,
    max_body: Annotated[
        int,
        typer.Option(
            "--max-body",
            callback=bounded(1, 4096),
            help="The largest request, in MiB.",
            rich_help_panel=_LIMITS,
        ),
    ] = 16,
    max_requests: Annotated[
        int,
        typer.Option(
            "--max-requests",
            callback=bounded(1),
            help="How many requests are answered at the same time.",
            rich_help_panel=_LIMITS,
        ),
    ] = 1000,
    first_byte: Annotated[
        float,
        typer.Option(
            "--first-byte",
            help="Seconds until the server has to begin its answer.",
            rich_help_panel=_LIMITS,
        ),
    ] = 300.0,
    idle: Annotated[
        float,
        typer.Option(
            "--idle", help="Seconds between two parts of an answer.", rich_help_panel=_LIMITS
        ),
    ] = 120.0,
    total: Annotated[
        float,
        typer.Option(
            "--total", help="Seconds until the end of an answer.", rich_help_panel=_LIMITS
        ),
    ] = 3600.0,
    shutdown: Annotated[
        float,
        typer.Option(
            "--shutdown",
            help="Seconds in which running answers may end after a SIGTERM.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
) -> None:
    """Route requests between the adapters of a running experiment, until SIGTERM or Ctrl-C."""
    check_installed("uvicorn")
    from plop_lora.ab.router import Limits, Settings
    from plop_lora.ab.router.settings import CHAT, COMPLETIONS, check_exposed, models_of
    from plop_lora.ab.store.writer import spill_folder
    from plop_lora.records import Experiment

    limits = Limits(
        body=max_body * 2**20, requests=max_requests, first_byte=first_byte, idle=idle,
        total=total, shutdown=shutdown,
    )  # fmt: skip
    secrets = _secrets(admin_token_file)
    check_exposed(host, secrets, allowed=open_)
    loaded = Experiment.load(experiment)
    settings = Settings(
        upstream=upstream,
        models=models_of(loaded, _pairs(model or [])),
        public=tuple(public_model or [loaded.name]),
        unit_header=unit_header,
        paths=tuple(path or (CHAT, COMPLETIONS)),
        limits=limits,
        secrets=secrets,
        poll=poll,
        watch=watch,
        prompts=store_prompts,
        access_log=access_log,
    )
    _serve(
        settings,
        loaded,
        database_of(experiment, database),
        spill or spill_folder(experiment),
        host,
        port,
    )


def _serve(
    settings: Settings, experiment: Experiment, url: str, spill: Path, host: str, port: int
) -> None:
    """Run the router on the store of an experiment, and send the last events to it at the end."""
    from plop_lora.ab.router import serve as run_router
    from plop_lora.ab.router.logs import set_up

    if settings.prompts is not None:
        say(
            f"Prompts and answers are kept in {settings.prompts}. They are of persons: say so to "
            "them, and delete the file when it is no longer needed.",
            err=True,
        )
    with _stored(experiment, url, spill) as (run, writer):
        set_up()
        run_router(settings, run, writer, host=host, port=port)


@contextlib.contextmanager
def _stored(
    experiment: Experiment, url: str, spill: Path
) -> Iterator[tuple[ExperimentRun, EventSink]]:
    """Yield the run in the store, and the writer of its events, which is drained at the end."""
    from plop_lora.ab.store import Store, Writer

    with Store.open(url) as store:
        run = store.run(experiment)
        run.state().ramp.check(experiment)
        with Writer(spill, url, experiment) as writer:
            try:
                yield run, writer
            finally:
                writer.drain(_DRAIN)
                left = writer.pending
    if left:
        say(
            f"{left:,} events wait in {spill}, because the database did not take them in time. The "
            "next plop ab serve or plop ab status of this experiment sends them.",
            err=True,
        )


def _pairs(given: list[str]) -> dict[str, str]:
    """Return the arms and names of `--model ARM=NAME`."""
    pairs: dict[str, str] = {}
    for text in given:
        arm, equals, name = text.partition("=")
        if not (arm and equals and name):
            raise UsageError(f"--model is {text!r}; write it as ARM=NAME, such as now=my-adapter.")
        if arm in pairs:
            raise UsageError(f"--model is given twice for the arm {arm!r}. Leave one out.")
        pairs[arm] = name
    return pairs


def _secrets(admin_file: Path | None) -> Secrets:
    """Return the tokens, from the environment and a file; never from the command line."""
    from plop_lora.ab.router import Secrets

    admin = os.environ.get(ADMIN, "")
    if admin_file is not None:
        try:
            admin = admin_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(
                f"Cannot read the token in {admin_file}: {reason}. Give another --admin-token-file."
            ) from error
        if not admin:
            raise UsageError(
                f"{admin_file} is empty. Write a token of 16 characters or more into it."
            )
    return Secrets(
        admin=admin,
        traffic=os.environ.get(TRAFFIC, ""),
        upstream=os.environ.get(UPSTREAM, ""),
    )
