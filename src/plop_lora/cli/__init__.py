"""The command line: one file per verb. Data on stdout, all else on stderr.

Exit codes: 0 success, 1 error, 2 usage error, 130 stopped with Ctrl-C. `acquire` also uses 3
(refused), `verify`, `tune`, `finetune`, `gate` and `ab analyze` 3 (rejected) and 4 (inconclusive),
and `run` these and 5 (beaten). Importing this package imports no torch; every verb imports its step
when it runs.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer
import typer.main

from plop_lora._version import __version__
from plop_lora.cli import ab, ci
from plop_lora.cli.acquire import acquire
from plop_lora.cli.compare import compare
from plop_lora.cli.demo import demo
from plop_lora.cli.doctor import doctor
from plop_lora.cli.export import export
from plop_lora.cli.finetune import finetune
from plop_lora.cli.gate import gate
from plop_lora.cli.import_ import import_
from plop_lora.cli.init import init
from plop_lora.cli.learn import learn
from plop_lora.cli.output import say
from plop_lora.cli.place import place
from plop_lora.cli.registering import HELP, register, show_help, verb_name
from plop_lora.cli.report import report
from plop_lora.cli.robustness import robustness
from plop_lora.cli.run import run, status
from plop_lora.cli.score import score
from plop_lora.cli.serve import serve
from plop_lora.cli.trial import trial
from plop_lora.cli.tune import tune
from plop_lora.cli.verify import verify
from plop_lora.errors import PlopError
from plop_lora.launcher import world_size
from plop_lora.quiet import NOISY

# The base class of all usage errors, which typer does not export, is the parent of BadParameter.
UsageProblem: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Where should LoRA adapters go? Score a model, place adapters, export for your trainer."
    "\n\nBegin with `plop demo`, which needs no model, data or network, and go on with "
    "`plop init`, which writes a recipe: a YAML file with the settings of all commands. "
    "`plop COMMAND --help` explains each command and ends in examples.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=HELP,
)
STEPS, MORE = "The steps, in their order", "What else there is"
PANELS = {
    "All steps from one recipe": (init, run, status),
    STEPS: (acquire, score, robustness, place, export, verify, tune, finetune, gate, report),
    MORE: (compare, learn, import_, trial, serve, demo, doctor),
}
"""Headings of `plop --help` → the verbs under them."""
VERBS = tuple(itertools.chain(*PANELS.values()))
COMMANDS: Mapping[str, Callable[..., None]] = {
    **{verb_name(verb): verb for verb in VERBS},
    **{f"ab {verb_name(verb)}": verb for verb in ab.VERBS},
    **{f"ci {verb_name(verb)}": verb for verb in ci.VERBS},
}
"""What the user types after `plop` → the function of the verb."""

for panel, verbs in PANELS.items():
    for verb in verbs:
        register(app, verb, rich_help_panel=panel)
app.add_typer(ab.app, name="ab", rich_help_panel=STEPS)
app.add_typer(ci.app, name="ci", rich_help_panel=MORE)


def command_of(words: str) -> Any:
    """Return the parser's command of a verb, by what the user types after `plop`."""
    found: Any = typer.main.get_command(app)
    for word in words.split():
        found = found.commands[word]
    return found


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plop-lora {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Read the options that stand before the verb."""
    show_help(context)


def main() -> None:
    """Run the command line; turn every error into one line and an exit code."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    _survive_narrow_encodings()
    if not debug:
        hush()
    with contextlib.nullcontext() if debug else _one_line():
        with _processes() as processes:
            code = app(prog_name="plop", standalone_mode=False, obj=processes)
            sys.stdout.flush()
    raise SystemExit(code if isinstance(code, int) else 0)


def _processes() -> contextlib.AbstractContextManager[object]:
    """Join the other processes where a launcher such as torchrun started several to score."""
    if sys.argv[1:2] != ["score"] or world_size() == 1:
        return contextlib.nullcontext()
    from plop_lora.scoring.engines.processes import together

    return together()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except PlopError as error:
        _fail(str(error), error.exit_code)
    except UsageProblem as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else _typed_verb()
        text = _usage_text(error)
        end = "" if text.endswith("?") else "."
        _fail(f"{text}{end} Type {command} --help for more.", 2)
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe; Python would report it again at exit.
        sys.stdout = io.StringIO()
        raise SystemExit(1) from None
    except OSError as error:
        _fail(f"{error}. Check the disk, the path and your permissions.", 1)
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        _fail(
            f"unexpected {type(error).__name__}: {first} "
            "This is a bug in plop-lora: run the command again with plop --debug and report its "
            "output.",
            1,
        )


_WRONG_VALUE = re.compile(r"Invalid value for '(--?[\w-]+)'.*?: (.*)", re.DOTALL)


def _usage_text(error: Any) -> str:
    """Return the parser's message; for an invalid number it names the option and the value."""
    message: str = error.format_message().strip().rstrip(".").replace(": Value error, ", ": ")
    found = _WRONG_VALUE.match(message)
    # "a valid int" or "a valid integer", depending on the release of typer.
    if found is None or not re.search(r"\bint(eger)?\b|number|float", found[2]):
        return message
    kind = "a whole number" if re.search(r"\bint(eger)?\b", found[2]) else "a number"
    return f"{found[1]} cannot be {_typed_value(found[1])!r}: give {kind}"


def _typed_value(option: str) -> str:
    """Return the value that was typed after an option."""
    for word, following in itertools.pairwise((*sys.argv[1:], "")):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def _typed_verb() -> str:
    """Return the command up to the verb, for errors in which the parser does not name the verb."""
    typed = (" ".join(sys.argv[1 : 1 + length]) for length in (2, 1))
    verbs = (words for words in typed if words in COMMANDS)
    return f"plop {next(verbs, '')}".rstrip()


def _fail(message: str, code: int) -> None:
    say(f"Error: {' '.join(message.split())}", err=True)
    raise SystemExit(code) from None


def hush() -> None:
    """Keep the log messages of other libraries off stderr.

    Examples are retries of the hub and kernels that do not load. Where one of them matters, the
    error that follows says so.
    """
    # Both libraries set the level of their logger when they are imported, from these variables.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _survive_narrow_encodings() -> None:
    """Print "?" for characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
