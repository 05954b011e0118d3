"""What a search may choose from, and which choices the budget allows. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.errors import UsageError, nearest
from plop_lora.placement import PLOP, STRATEGIES, place, with_rank
from plop_lora.placement.inits import TRIAL_INITS, is_trial_init
from plop_lora.placement.place import check_settings
from plop_lora.recipe import TuneDesign
from plop_lora.records import AdapterSettings, Placement
from plop_lora.records.tuning import Configuration
from plop_lora.study.study import Study
from plop_lora.study.usual_rate import rounded

USUAL = (PLOP, "all-linear", "mlp", "attention")

Table = Mapping[tuple[str, int], Placement]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The choices; `table` holds the placement of every pair of name and rank.

    `rate` lies within `low` and `high` and is where the default stands.
    """

    names: tuple[str, ...]
    ranks: tuple[int, ...]
    inits: tuple[str, ...]
    ratios: tuple[float, ...]
    low: float
    high: float
    rate: float
    budget: int
    table: Table
    notes: tuple[str, ...]

    @property
    def default(self) -> Configuration:
        """The shortlist at the middle rank, or at the next below that the budget allows."""
        rank = self.largest_rank(PLOP, self.ranks[len(self.ranks) // 2])
        assert rank is not None, "build_space refuses a budget below the shortlist"
        return Configuration(PLOP, rank, "default", rounded(self.rate))

    def largest_rank(self, name: str, limit: int) -> int | None:
        """Return the largest rank up to `limit` at which a placement fits, None without one."""
        fits = (rank for rank in self.ranks if rank <= limit and self.excess(name, rank) <= 0)
        return max(fits, default=None)

    def excess(self, name: str, rank: int) -> int:
        """Return the adapter parameters above the budget; 0 or less is within it."""
        return self.table[name, rank].trainable_parameters - self.budget

    def placement(self, point: Configuration) -> Placement:
        """Return the placement of a configuration, with its initialisation and LoRA+ ratio."""
        base = self.table[point.placement, point.rank]
        ratio = None if point.loraplus_ratio == 1 else point.loraplus_ratio
        settings = replace(base.settings, init=point.init, loraplus_ratio=ratio)
        return replace(base, settings=settings)

    def around(self, rate: float, width: float) -> Space:
        """Return the space narrowed to a factor of `width` on both sides of a rate."""
        low, high = max(self.low, rate / width), min(self.high, rate * width)
        return replace(self, low=low, high=high, rate=min(max(rate, low), high))


def build_space(study: Study, wanted: TuneDesign) -> Space:
    """Return the choices of a search; the default configuration is always among them.

    Args:
        study: its scores, budget and task.
        wanted: what to choose from, as the user wrote it.

    Raises:
        UsageError: an unknown placement or initialisation, a file for another model, a number out
            of range, or a budget that not even the default fits.
    """
    notes: list[str] = []
    ranks = _ranks(study, wanted, notes)
    low, high = _rates(study, wanted)
    table = _table(study, wanted, ranks, notes)
    space = Space(
        names=tuple(dict.fromkeys(name for name, _ in table)),
        ranks=ranks,
        inits=_inits(wanted),
        ratios=_ratios(wanted),
        low=low,
        high=high,
        rate=min(max(study.usual_rate, low), high),
        budget=study.budget,
        table=table,
        notes=tuple(notes),
    )
    if space.largest_rank(PLOP, ranks[len(ranks) // 2]) is None:
        least = table[PLOP, ranks[0]].trainable_parameters
        raise UsageError(
            f"The budget of {space.budget:,} adapter parameters is below the shortlist at rank "
            f"{ranks[0]}, which has {least:,}. Give --budget {least}, or smaller ranks in the "
            "recipe."
        )
    return space


def ladder_rates(space: Space, trials: int) -> tuple[float, ...]:
    """Return the rates of the ladder over the whole range: 5, 3 with few trials, else none."""
    steps = 5 if trials >= 20 else 3 if trials >= 10 else 0
    if not steps or space.low == space.high:
        return ()
    ratio = (space.high / space.low) ** (1 / (steps - 1))
    return tuple(rounded(space.low * ratio**step) for step in range(steps))


def _ranks(study: Study, wanted: TuneDesign, notes: list[str]) -> tuple[int, ...]:
    ranks = sorted(set(wanted.ranks))
    if not ranks or ranks[0] < 1:
        raise UsageError(f"ranks: {list(wanted.ranks)} is not possible; give ranks of 1 and more.")
    most = study.task.largest_rank
    kept = [rank for rank in ranks if most is None or rank <= most]
    if not kept:
        raise UsageError(
            f"ranks: {ranks} are all above {most}, beyond which {study.task.name} collapses. Give "
            "smaller ones, such as [4, 8, 16, 32]."
        )
    if kept != ranks:
        left = ", ".join(str(rank) for rank in ranks if rank not in kept)
        notes.append(f"ranks {left} left out, since {study.task.name} collapses above {most}")
    return tuple(kept)


def _inits(wanted: TuneDesign) -> tuple[str, ...]:
    for name in wanted.inits:
        if not is_trial_init(name):
            raise UsageError(
                f"inits: a trial cannot carry out {name!r}.{nearest(name, TRIAL_INITS)} "
                f"Allowed: {', '.join(TRIAL_INITS)}."
            )
    return tuple(dict.fromkeys(("default", *wanted.inits)))


def _ratios(wanted: TuneDesign) -> tuple[float, ...]:
    for ratio in wanted.loraplus:
        check_settings(1.0, AdapterSettings(loraplus_ratio=ratio))
    return tuple(dict.fromkeys((1.0, *wanted.loraplus)))


def _rates(study: Study, wanted: TuneDesign) -> tuple[float, float]:
    """Return the lowest and the highest learning rate."""
    key, (low, high), unit = "rates", wanted.rates, study.usual_rate
    if wanted.learning_rates is not None:
        key, (low, high), unit = "learning_rates", wanted.learning_rates, 1.0
    if not 0 < low <= high:
        raise UsageError(
            f"{key}: {low:g} to {high:g} is no range; give two numbers above 0, the lower first, "
            f"such as {'[0.1, 10]' if unit != 1.0 else '[1e-5, 1e-3]'}."
        )
    return low * unit, high * unit


def _table(
    study: Study, wanted: TuneDesign, ranks: tuple[int, ...], notes: list[str]
) -> dict[tuple[str, int], Placement]:
    """Place everything once: a search asks for the same few placements again and again."""
    table: dict[tuple[str, int], Placement] = {}
    for name in dict.fromkeys((PLOP, *(wanted.placements or USUAL))):
        try:
            made = [_placed(study, name, rank) for rank in ranks]
        except UsageError as error:
            if wanted.placements or name == PLOP:
                raise
            notes.append(f"{name} left out: {str(error).partition('.')[0]}")
            continue
        table |= {(name, rank): one for rank, one in zip(ranks, made, strict=True)}
    return table


def _placed(study: Study, name: str, rank: int) -> Placement:
    if name in STRATEGIES and not STRATEGIES[name].by_name:
        top = study.top if STRATEGIES[name].uses_top else None
        return place(study.scores, strategy=name, top=top, rank=rank, seed=study.seed)
    if not Path(name).is_file():
        allowed = [row.name for row in STRATEGIES.values() if not row.by_name]
        raise UsageError(
            f"placements: {name!r} is neither a strategy nor a file.{nearest(name, allowed)} "
            f"Allowed: {', '.join(allowed)}, or a file written by plop place."
        )
    placement = Placement.load(name)
    known = {host.name for host in study.scores.hosts}
    strange = sorted(site.name for site in placement.sites if site.name not in known)
    if strange:
        raise UsageError(
            f"placements: {name} adapts {strange[0]}, which the scored model "
            f"{study.scores.model.name} does not have. Place it from these scores."
        )
    return with_rank(placement, rank)
