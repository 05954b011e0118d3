"""Generate what the documentation says about the code: `python docs/generate.py`.

The command-line reference comes from the help texts, the table of architectures from building,
scoring, placing and exporting every family of the tests.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import typer.main

from plop_lora.cli import VERBS, app, verb_name

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference" / "cli.md"
ARCHITECTURES = DOCS / "architectures.md"
MARK = "<!-- table -->\n"
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def cli_page() -> str:
    """Return the reference: one section per verb, one row per argument and option."""
    command = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Data goes to stdout, all else to stderr. Exit codes: 0 ok, 1 error, 2 usage, 130 Ctrl-C.",
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


def architectures_page() -> str:
    """Return the page with its table: one row per family."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    import families

    from plop_lora.export import TARGETS

    head = f"| family | measured | by seven names | types | {' | '.join(TARGETS)} |"
    lines = [head, "|---" * (4 + len(TARGETS)) + "|"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines += [family_row(name) for name in families.FAMILIES]
    before = ARCHITECTURES.read_text(encoding="utf-8").partition(MARK)[0]
    return before + MARK + "\n" + "\n".join(lines) + "\n"


def family_row(name: str) -> str:
    """Score, place and export one family; return its row."""
    import families

    import plop_lora as plop
    from plop_lora.export import TARGETS

    model = families.build(name)
    scores = plop.score(model, batches=[families.batch_of(name)], progress=False)
    named = share_by_names(model) / scores.coverage.block_parameters
    placement = plop.place(scores, rank=2)
    slices: dict[str, list[str]] = {}
    for row in sorted(scores.types, key=lambda row: row.type):
        part = row.type.removeprefix(row.host_type).strip("[]")
        slices.setdefault(row.host_type, []).extend([part] if part else [])
    types = [f"{host}[{' '.join(parts)}]" if parts else host for host, parts in slices.items()]
    marks = [export_mark(placement, target) for target in TARGETS.values()]
    listed = ", ".join(f"`{entry}`" for entry in types)
    shares = f"{scores.coverage.share:.0%} | {named:.0%}"
    return f"| {name} | {shares} | {listed} | {' | '.join(marks)} |"


def share_by_names(model: object) -> int:
    """Return the parameters that a list of seven leaf names finds: linear layers in the blocks."""
    from torch import nn

    from plop_lora.scoring.sites import find_sites

    hosts = {site.host.name: site.host for site in find_sites(model).sites}
    return sum(
        host.in_features * host.out_features
        for name, host in hosts.items()
        if not host.is_parameter
        and isinstance(model.get_submodule(name), nn.Linear)
        and name.rsplit(".", 1)[-1] in SEVEN
    )


def export_mark(placement: object, target: object) -> str:
    """Return ✓, ~ or – for one family and one trainer; a failed check is an error here too."""
    from plop_lora.errors import ExportError

    try:
        rendered = target.render(placement)
    except ExportError:
        return "–"
    if target.check is not None:
        target.check(placement, rendered)
    return "~" if rendered.losses else "✓"


if __name__ == "__main__":
    REFERENCE.write_text(cli_page(), encoding="utf-8")
    ARCHITECTURES.write_text(architectures_page(), encoding="utf-8")
