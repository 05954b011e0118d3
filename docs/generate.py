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
MARKS = ("<!-- measured -->", "<!-- exports -->")
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
    """Return the page with its two tables, of one row per family."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    import families

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [family_rows(name) for name in families.FAMILIES]
    page = ARCHITECTURES.read_text(encoding="utf-8")
    for order, head in enumerate(
        (
            ("family", "measured", "by seven names", "types"),
            ("family", "says all", "with a loss", "cannot"),
        )
    ):
        lines = [head, ("---",) * len(head), *(row[order] for row in rows)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        before, mark, rest = page.partition(MARKS[order])
        after = rest[rest.index("\n\n", 2) :] if "\n\n" in rest[2:] else "\n"
        page = f"{before}{mark}\n\n{table}{after}"
    return page


def family_rows(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Score, place and export one family; return its row of each table."""
    import families

    import plop_lora as plop
    from plop_lora.export import TARGETS

    model = families.build(name)
    scores = plop.score(model, batches=[families.batch_of(name)], progress=False)
    named = share_by_names(model) / scores.coverage.block_parameters
    slices: dict[str, list[str]] = {}
    for row in sorted(scores.types, key=lambda row: row.type):
        part = row.type.removeprefix(row.host_type).strip("[]")
        slices.setdefault(row.host_type, []).extend([part] if part else [])
    types = [f"{host}[{' '.join(parts)}]" if parts else host for host, parts in slices.items()]
    placement = plop.place(scores, rank=2)
    marks: dict[str, list[str]] = {"all": [], "loss": [], "none": []}
    for target in TARGETS.values():
        marks[export_mark(placement, target)].append(target.name)
    measured = (name, f"{scores.coverage.share:.0%}", f"{named:.0%}", ", ".join(types))
    return measured, (name, *(", ".join(names) for names in marks.values()))


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
    """Return what a trainer's file says of a placement; a failed check is an error here too."""
    from plop_lora.errors import ExportError

    try:
        rendered = target.render(placement)
    except ExportError:
        return "none"
    if target.check is not None:
        target.check(placement, rendered)
    return "loss" if rendered.losses else "all"


if __name__ == "__main__":
    REFERENCE.write_text(cli_page(), encoding="utf-8")
    ARCHITECTURES.write_text(architectures_page(), encoding="utf-8")
