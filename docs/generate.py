"""Generate the command-line reference from the help texts: `python docs/generate.py`."""

from __future__ import annotations

from pathlib import Path

import typer.main

from plop_lora.cli import VERBS, app, verb_name

PAGE = Path(__file__).parent / "reference" / "cli.md"


def cli_page() -> str:
    """Return the page: one section per verb, one row per argument and option."""
    command = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Data goes to stdout, all else to stderr. Exit codes: 0 ok, 1 error, 2 usage.",
        "`plop --debug VERB …` shows the traceback of an error; `plop --install-completion`",
        "installs shell completion; `python -m plop_lora` is the same command.",
    ]
    for verb in VERBS:
        sub = command.commands[verb_name(verb)]
        lines += [
            "",
            f"## plop {verb_name(verb)}",
            "",
            sub.help or "",
            "",
            "| | | |",
            "|---|---|---|",
        ]
        for parameter in sub.params:
            names = ", ".join(f"`{name}`" for name in parameter.opts + parameter.secondary_opts)
            default = parameter.default
            plain = default is not None and type(default) in (int, float, str, bool)
            needed = "required" if parameter.required else f"default `{default}`" if plain else ""
            lines.append(f"| {names} | {getattr(parameter, 'help', '') or ''} | {needed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
