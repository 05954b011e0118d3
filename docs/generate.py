"""Generate what the documentation says: `python docs/generate.py [--pictures | --tables]`.

The command-line reference comes from the help texts, that of the recipe and its JSON schema from
its fields, the table of architectures from building, scoring, placing and exporting every family
of the tests. The pictures come from records, and so do their descriptions in the pages; with
`--pictures` nothing else is generated, and with `--tables` only the parts of pages that `tables.py`
writes from data.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
import warnings
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from plop_lora.cli import COMMANDS, command_of
from plop_lora.cli.words import examples_of

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference" / "cli.md"
RECIPE = DOCS / "reference" / "recipe.md"
SCHEMA = DOCS / "reference" / "recipe.schema.json"
ARCHITECTURES = DOCS / "architectures.md"
MARKS = ("<!-- measured -->", "<!-- exports -->")
HIDDEN = "Short for `--set`, and not in the help"
SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def cli_page() -> str:
    """Return the reference: one section per verb, one row per argument and option."""
    lines = [
        "# Command line",
        "",
        "Data goes to stdout, all else to stderr. Exit codes: 0 ok, 1 error, 2 usage, 130 Ctrl-C;",
        "a verb that judges has 3 for rejected and 4 for cannot tell as well.",
        "`plop --debug VERB …` shows the traceback of an error; `plop --install-completion`",
        "installs shell completion; `python -m plop_lora` is the same command.",
    ]
    for name, verb in COMMANDS.items():
        sub = command_of(name)
        lines += ["", f"## plop {name}", "", sub.help or "", "", "```sh"]
        for what, line in examples_of(verb):
            lines += [f"# {what}", line]
        lines += ["```", "", "| argument or option | meaning | |", "|---|---|---|"]
        group = None
        hidden = [parameter for parameter in sub.params if getattr(parameter, "hidden", False)]
        for parameter in [*(p for p in sub.params if p not in hidden), *hidden]:
            panel = getattr(parameter, "rich_help_panel", None)
            panel = HIDDEN if parameter in hidden else panel
            if panel != group:
                group = panel
                lines.append(f"| **{panel}** | | |")
            typed = parameter.opts + parameter.secondary_opts
            if not typed[0].startswith("-"):
                typed = [parameter.metavar or typed[0]]
            names = ", ".join(f"`{name}`" for name in typed)
            default = getattr(parameter.default, "value", parameter.default)
            plain = isinstance(default, int | float | str | Path) and default is not False
            shown = plain and default != ""
            needed = "required" if parameter.required else f"default `{default}`" if shown else ""
            lines.append(f"| {names} | {getattr(parameter, 'help', '') or ''} | {needed} |")
    return "\n".join(lines) + "\n"


def recipe_page() -> str:
    """Return the reference of the recipe: one table per section, one row per key."""
    from plop_lora import recipe
    from plop_lora.records import EvaluationSettings, TrainingSettings

    shared = set(recipe.FinetuneRecipe.model_fields)
    lines = [
        "# Recipe",
        "",
        "A recipe is YAML. One file may hold the keys of every verb: each verb reads its own, and",
        "checks those of the others. Unknown keys are refused, so a mistyped one is never ignored.",
        "`plop verify` and `plop tune` share what they have in common, `seeds` and",
        "`learning_rates` included; an option gives one of them another value. Options of the",
        "command line go before the values of the file; the recipe as it was resolved is saved in",
        "the folder of the run. Keys of a section stand indented below its name:",
        "",
        "```yaml",
        "score:",
        "  stop: fixed",
        "task: sft",
        "train: train.jsonl",
        "eval: eval.jsonl",
        "training:",
        "  epochs: 2",
        "  batch_size: 16",
        "price:",
        "  hourly: 2.5",
        "```",
    ]
    sections = (
        ("acquire", recipe.AcquireSettings, set()),
        *((f"acquire.{name}", section, set()) for name, section in acquire_sections().items()),
        ("score", recipe.ScoringSettings, set()),
        ("place", recipe.PlacementSettings, set()),
        ("verify, tune and finetune", recipe.FinetuneRecipe, set()),
        ("verify", recipe.VerifyRecipe, shared),
        ("tune", recipe.TuneRecipe, shared),
        ("finetune", recipe.FinetuneSettings, set()),
        ("gate", recipe.GateSettings, set()),
        *((f"gate.{name}", section, set()) for name, section in gate_sections().items()),
        ("run", recipe.RunSettings, set()),
        ("ab", recipe.ExperimentSettings, set()),
        ("ab.arms.NAME", recipe.ArmSettings, set()),
        ("ab.metrics.NAME", recipe.MetricSettings, set()),
        ("training", TrainingSettings, set()),
        ("evaluation", EvaluationSettings, set()),
        ("general", recipe.GeneralRecipe, set()),
        ("runner", recipe.Runner, set()),
        ("price", recipe.Price, set()),
    )
    for title, section, known in sections:
        lines += ["", f"## {title}", "", "| key | meaning | default |", "|---|---|---|"]
        keys = section_keys(section)
        lines += [f"| `{key}` | {row[0]} | {row[1]} |" for key, row in keys.items()
                  if key not in known]  # fmt: skip
    return "\n".join(lines) + "\n"


def schema_file() -> str:
    """Return the JSON schema of a recipe, for editors."""
    from plop_lora.recipe.schema import recipe_schema

    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def acquire_sections() -> dict[str, type]:
    """Return the sections of acquiring by key."""
    from plop_lora.recipe import acquire

    return {
        "split": acquire.SplitSettings, "near": acquire.NearSettings,
        "leakage": acquire.LeakageSettings, "personal": acquire.PersonalSettings,
    }  # fmt: skip


def gate_sections() -> dict[str, type]:
    """Return the sections of the limits of checks by key."""
    from plop_lora.recipe import limits

    return {
        "task": limits.TaskLimits, "forgetting": limits.ForgettingLimits,
        "safety": limits.SafetyLimits, "safety.judge": limits.JudgeSettings,
        "fairness": limits.FairnessLimits, "counterfactual": limits.CounterfactualLimits,
        "memorisation": limits.MemorisationLimits, "harness": limits.HarnessLimits,
        "logs": limits.LogPair, "own": limits.OwnCheck,
    }  # fmt: skip


def section_keys(section: type) -> dict[str, tuple[str, str]]:
    """Return description and default of every key of a section."""
    if dataclasses.is_dataclass(section):
        hints = typing.get_type_hints(section, include_extras=True)
        return {
            field.name: (
                FieldInfo.from_annotation(hints[field.name]).description,
                written(field.default),
            )
            for field in dataclasses.fields(section)
        }
    return {
        key: (
            field.description,
            "required" if field.is_required() else written(field.default),
        )
        for key, field in section.model_fields.items()
    }


def written(default: object) -> str:
    """Return a default as YAML has it; nothing for what is a section or absent."""
    from plop_lora.recipe import Section

    if (
        default in (None, "", PydanticUndefined)
        or isinstance(default, Section)
        or dataclasses.is_dataclass(default)
    ):
        return ""
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


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
    return page.rstrip("\n") + "\n"


def family_rows(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Score, place and export one family; return its row of each table."""
    import families

    import plop_lora as plop
    from plop_lora.exports import TARGETS

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

    from plop_lora.scoring.sites.find import find_sites

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
    target.check(placement, rendered)
    return "loss" if rendered.losses else "all"


def write_pictures() -> None:
    """Draw the pictures, and renew their descriptions."""
    sys.path.insert(0, str(DOCS))
    from pictures import pages

    pages.write()


def write_tables() -> None:
    """Renew the parts of pages that are written from data."""
    sys.path.insert(0, str(DOCS))
    import tables

    tables.write()


if __name__ == "__main__":
    if sys.argv[1:] == ["--tables"]:
        write_tables()
        sys.exit()
    write_pictures()
    if sys.argv[1:] == ["--pictures"]:
        sys.exit()
    write_tables()
    REFERENCE.write_text(cli_page(), encoding="utf-8")
    RECIPE.write_text(recipe_page(), encoding="utf-8")
    SCHEMA.write_text(schema_file(), encoding="utf-8")
    ARCHITECTURES.write_text(architectures_page(), encoding="utf-8")
