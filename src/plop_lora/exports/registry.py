"""The trainers to which placements are exported, and how their files are made and checked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import ExportError, UsageError, nearest
from plop_lora.exports.caveats import Applied, caveats_of
from plop_lora.exports.serving.checks import lint
from plop_lora.exports.serving.findings import Finding, rejections
from plop_lora.exports.target import Loss, Rendered, Target, check_placed
from plop_lora.exports.trainers import (
    axolotl,
    litgpt,
    llama_factory,
    mlx_lm,
    ms_swift,
    nemo_automodel,
    peft,
    torchtune,
    trl,
    unsloth,
)
from plop_lora.records import Placement

TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        peft.TARGET,
        axolotl.TARGET,
        litgpt.TARGET,
        llama_factory.TARGET,
        mlx_lm.TARGET,
        ms_swift.TARGET,
        nemo_automodel.TARGET,
        torchtune.TARGET,
        trl.TARGET,
        unsloth.TARGET,
    )
}
"""Name → target of `plop export --to NAME`."""


def targets() -> tuple[str, ...]:
    """Return the names of the trainers."""
    return tuple(TARGETS)


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export: the file, its losses and costs, and whether it was checked."""

    path: Path
    target: Target
    rendered: Rendered
    checked: bool
    adapters: int
    findings: tuple[Finding, ...] = ()
    caveats: tuple[Applied, ...] = ()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The parts of the placement that the file cannot express."""
        return self.rendered.losses

    @property
    def text(self) -> str:
        """The content of the file."""
        return self.rendered.text

    @property
    def messages(self) -> tuple[str, ...]:
        """Further messages for the user, one per line."""
        lost = [f"Lost: {loss.what}: {loss.effect}." for loss in self.losses]
        return (*lost, *map(str, self.findings), *map(str, self.caveats))

    @property
    def summary(self) -> str:
        """One line that names the file and says whether it was checked."""
        reader = self.target.read_by or f"from {self.target.name}"
        checked = f"read back {reader}" if self.checked else "not read back"
        return f"{self.path}: {self.adapters} adapters, {checked}"

    @property
    def description(self) -> str:
        """How to use the file, with its name quoted for the shell."""
        file = shlex.quote(str(self.path))
        return self.target.description.format(file=file, folder=str(self.path.parent))


def prepare(
    placement: Placement,
    *,
    to: str = "peft",
    dry_run: bool = True,
    allow_loss: bool = False,
    serve: str | None = None,
) -> Exported:
    """Return the result of `plop_lora.export` without writing it; its path is the file name.

    Raises:
        ExportError: The export is rejected; see `plop_lora.export`.
        UsageError: The target is unknown.
    """
    target = find_target(to)
    check_placed(placement)
    if dry_run:
        placement = _with_every_module(placement)
    rendered = target.render(placement)
    if rendered.losses and not allow_loss:
        raise ExportError(_refusal(target, placement, rendered))
    findings = lint(placement, serve) if serve is not None else ()
    if rejections(findings) and not allow_loss:
        lines = " ".join(map(str, rejections(findings)))
        raise ExportError(
            f"{serve} would refuse the trained adapter. {lines} Nothing was written. "
            "Accept it with --allow-loss."
        )
    if dry_run:
        target.check(placement, rendered)
    path = Path(target.file_name)
    caveats = caveats_of(placement, to=target.name, serve=serve)
    return Exported(path, target, rendered, dry_run, len(placement.sites), findings, caveats)


def _with_every_module(placement: Placement) -> Placement:
    """Return the placement with all other modules of its model, if the model can be built.

    If it cannot, the check after rendering reports why.
    """
    from plop_lora.exports.dryrun import with_every_module

    try:
        return with_every_module(placement)
    except ExportError:
        return placement


def find_target(to: str) -> Target:
    """Return the target of this name.

    Raises:
        UsageError: There is no such target.
    """
    if to not in TARGETS:
        raise UsageError(
            f"There is no export of a placement to {to!r}.{nearest(to, TARGETS)} Allowed: "
            f"{', '.join(TARGETS)}; and vllm for the folder of a trained adapter."
        )
    return TARGETS[to]


def _refusal(target: Target, placement: Placement, rendered: Rendered) -> str:
    lost = "; ".join(f"{loss.what} ({loss.effect})" for loss in rendered.losses)
    change = ""
    if rendered.trainable_parameters != placement.trainable_parameters:
        change = (
            f" It would train {rendered.trainable_parameters:,} parameters instead of "
            f"{placement.trainable_parameters:,}."
        )
    return (
        f"{target.name} cannot express all of this placement. Lost: {lost}.{change} "
        "Nothing was written. Accept it with --allow-loss, or export to another trainer."
    )
