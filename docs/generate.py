"""Generate the command-line reference from the help texts: `python docs/generate.py`."""

from __future__ import annotations

from pathlib import Path

import typer.main

from plop_lora.cli import VERBS, app

PAGE = Path(__file__).parent / "reference" / "cli.md"


def cli_page() -> str:
    """Return the page: one section per verb, one row per argument and option."""
    command = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Data goes to stdout, all else to stderr. Exit codes: 0 ok, 1 error, 2 usage, 130 Ctrl-C.",
        "`plop --debug VERB …` shows the traceback of an error; `plop --install-completion`",
        "installs shell completion; `python -m plop_lora` is the same command.",
    ]
    for verb in VERBS:
        sub = command.commands[verb.__name__]
        lines += [
            "",
            f"## plop {verb.__name__}",
            "",
            sub.help or "",
            "",
            "| argument or option | meaning | |",
            "|---|---|---|",
        ]
        for parameter in sub.params:
            names = ", ".join(f"`{name}`" for name in parameter.opts + parameter.secondary_opts)
            default = getattr(parameter.default, "value", parameter.default)
            plain = isinstance(default, int | float | str | Path) and default is not False
            needed = "required" if parameter.required else f"default `{default}`" if plain else ""
            lines.append(f"| {names} | {getattr(parameter, 'help', '') or ''} | {needed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
