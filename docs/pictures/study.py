"""The pictures of the study, drawn from the records of its trials.

The scripts of the experiments are on the path when this is imported.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import by_further
import by_indicator
import evidence
from evidence import Outcome
from networks import described

from pictures import forest, heat, scatter
from pictures.picture import Picture
from pictures.svg import signed

RIVALS = ("plop-inverse", "all-linear", "attention", "mlp")
"""Rules that the picture of the differences compares with: the opposite, and what is usual."""
WORST = 0.18
"""Regret at which a cell has its strongest colour."""


@functools.cache
def pairs() -> tuple[Outcome, ...]:
    """Return the complete pairs that can tell something."""
    outcomes, _ = evidence.collect(evidence.RESULTS)
    return tuple(outcome for outcome in outcomes if outcome.excluded is None)


SCALE = forest.Scale(
    title="rho of NFN and gain, over module types", left="as the method predicts",
    right="opposite",
)  # fmt: skip
ASKED = "Does the score predict the gain?"


def _pooled() -> tuple[forest.Row, str]:
    """Return the row of the mean over all pairs, and the words for it."""
    low, high = evidence.network_interval(pairs())
    mean = fmean(map(evidence.correlation, pairs()))
    row = forest.Row(label="mean, 95 %", value=mean, low=low, high=high, role="second", pooled=True)
    bounds = "" if low is None or high is None else (
        f" with a 95 % interval from {signed(low)} to {signed(high)}, networks taken as clusters"
    )  # fmt: skip
    return row, f"The mean is {signed(mean)}{bounds}."


def correlations() -> Picture:
    """Draw the correlation of NFN and gain in every pair of the study, and their mean."""
    rows = [
        forest.Row(label=each.name, value=evidence.correlation(each))
        for each in sorted(pairs(), key=evidence.correlation)
    ]
    pooled, said = _pooled()
    svg = forest.forest(ASKED, [forest.Panel(heading="", rows=[*rows, pooled])], SCALE)
    alt = (
        f"Forest plot of the correlation of NFN and gain in {len(rows)} pairs of network and task, "
        "below zero as the method predicts: "
        f"{'; '.join(f'{row.label} {signed(row.value)}' for row in rows)}. {said}"
    )
    return Picture(svg, alt)


def by_network() -> Picture:
    """Draw the mean correlation of every network of the study, from its lowest to its highest."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in pairs():
        found[described(each.network)[0]].append(evidence.correlation(each))
    rows = [
        forest.Row(label=name, value=fmean(rhos), low=min(rhos), high=max(rhos))
        for name, rhos in sorted(found.items(), key=lambda item: fmean(item[1]))
    ]
    pooled, said = _pooled()
    svg = forest.forest(ASKED, [forest.Panel(heading="", rows=[*rows, pooled])], SCALE)
    each = "; ".join(f"{row.label} {signed(row.value)} ({len(found[row.label])})" for row in rows)
    alt = (
        f"Forest plot of the correlation of NFN and gain in {len(rows)} networks, below zero as "
        "the method predicts, each from its lowest to its highest task. The mean over tasks is, "
        f"with the number of tasks: {each}. {said}"
    )
    return Picture(svg, alt)


def differences() -> Picture:
    """Draw the gain of plop minus that of four rules in every pair of the study."""
    used = pairs()
    panels, said = [], []
    for rival in RIVALS:
        found = {
            outcome.name: row
            for outcome in used
            for row in evidence.comparisons(outcome)
            if row.rule == rival
        }
        rows = [
            forest.Row(label=name, value=row.difference, low=row.low, high=row.high)
            for name, row in found.items()
        ]
        panels.append(forest.Panel(heading=f"plop minus {rival}", rows=rows))
        ties = sum(row.verdict == "tie" for row in found.values())
        values = [row.difference for row in found.values()]
        said.append(
            f"against {rival} from {signed(min(values), 3)} to {signed(max(values), 3)}, {ties} of "
            f"{len(found)} a tie by the protocol"
        )
    units = sorted({each.unit for each in used})
    scale = forest.Scale(
        title=f"difference of gains, {' or '.join(units)}", left="rule better",
        right="plop better", digits=3,
    )  # fmt: skip
    svg = forest.forest("Gain of plop minus that of four rules", panels, scale)
    alt = (
        "Forest plot of the gain of plop minus that of four rules in each pair of network and "
        f"task, with 95 % intervals: {'; '.join(said)}."
    )
    return Picture(svg, alt)


def regrets() -> Picture:
    """Draw what each rule leaves of the best single type's gain in every pair of the study."""
    used = pairs()
    rules = (*evidence.RULES, "random", evidence.LOWEST)
    means = {rule: fmean(each.regret(rule) for each in used) for rule in rules}
    ordered = sorted(rules, key=means.__getitem__)
    labels = {rule: "lowest" if rule == evidence.LOWEST else rule for rule in rules}
    values = {(each.name, labels[rule]): each.regret(rule) for rule in rules for each in used}
    values |= {("mean", labels[rule]): means[rule] for rule in rules}
    cells = heat.Cells(
        rows=[*(each.name for each in used), "mean"],
        columns=[labels[rule] for rule in ordered],
        values=values,
        opacity=lambda value: round(min(1.0, max(0.0, value) / WORST) * 0.6, 3),
        shown=lambda value: f"{100 * value + 0.0:.0f}".replace("-0", "0").replace("-", "−"),
        role="loss",
        bold=("mean",),
    )
    svg = heat.heat_map(
        "Regret of each rule in each pair", cells, left=140, heading="",
        legend="Percent of the best single type's gain that a rule leaves",
    )  # fmt: skip
    said = ", ".join(f"{labels[rule]} {means[rule]:.1%}" for rule in ordered)
    worst = max(used, key=lambda each: fmean(each.regret(rule) for rule in rules))
    alt = (
        f"Heat map of the regret of {len(rules)} rules in {len(used)} pairs. The means over pairs "
        f"are {said}. The row {worst.name} stands out."
    )
    return Picture(svg, alt)


def gains() -> Picture:
    """Draw the gain of every type alone against its NFN, in a panel for each network."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for each in pairs():
        best = each.best_type()
        found[described(each.network)[0]] += [
            (each.nfn[arm], each.arms[arm].gain / best) for arm in each.types()
        ]
    panels = [scatter.Panel(heading=name, points=points) for name, points in sorted(found.items())]
    svg = scatter.scatter(
        "Gain of every module type alone against its NFN", panels, across="NFN of the module type",
        up="gain, as a share of the best single type",
    )  # fmt: skip
    least = {name: min(gain for _, gain in points) for name, points in sorted(found.items())}
    said = "; ".join(f"{name} {share:.2f}" for name, share in least.items())
    alt = (
        f"Points of {sum(map(len, found.values()))} module types in {len(panels)} networks: the "
        "gain of the type alone, as a share of the best one's, against its NFN. The least share "
        f"in each network is: {said}."
    )
    return Picture(svg, alt)


Known = dict[str, by_indicator.Preferences]
"""What is known of the types, by pair."""


@functools.cache
def _measured() -> tuple[list[Outcome], Known, list[str]]:
    """Return the pairs with most indicators, what is known of their types, and the indicators."""
    used = by_indicator.fully_measured(pairs(), evidence.RESULTS)
    known = {each.name: by_indicator.preferences(each, evidence.RESULTS) for each in used}
    return used, known, list(dict.fromkeys(name for held in known.values() for name in held))


def indicators() -> Picture:
    """Draw how well every indicator orders the types of a pair."""
    used, known, names = _measured()
    found = {
        name: by_indicator.over_networks(
            by_indicator.correlations(used, known, name), used, most=1.0
        )
        for name in names
    }
    ordered = sorted(found, key=lambda name: -found[name].mean)
    scale = forest.Scale(
        title="rho of the order and the gain", left="opposite", right="predicts the gain"
    )
    svg = _forest("How well indicators order module types", found, ordered, scale)
    alt = (
        f"Forest plot of {len(found)} indicators in {len(used)} pairs: the mean "
        "correlation of their order of the types with the gain of each type alone, with 95 % "
        "intervals over networks. "
        f"{'; '.join(f'{_short(name)} {signed(found[name].mean)}' for name in ordered)}."
    )
    return Picture(svg, alt)


def firsts() -> Picture:
    """Draw what the type that an indicator puts first leaves of the best type's gain."""
    used, known, names = _measured()
    found = {name: by_indicator.first_regret(used, known, name) for name in names}
    found[by_indicator.AT_RANDOM] = by_indicator.over_networks(
        by_indicator.random_regrets(used), used
    )
    ordered = sorted(found, key=lambda name: found[name].mean)
    scale = forest.Scale(title="share of the best gain that is left", digits=3, plus=False)
    svg = _forest("What the first type of each indicator leaves", found, ordered, scale)
    alt = (
        "Forest plot of the share of the best single type's gain that is left by the type that an "
        f"indicator puts first, the mean over {len(used)} pairs with 95 % intervals over "
        f"networks: {'; '.join(f'{_short(name)} {found[name].mean:.1%}' for name in ordered)}."
    )
    return Picture(svg, alt)


def triples() -> Picture:
    """Draw how well the mean of every indicator orders arms of three types."""
    having = [each for each in pairs() if each.further]
    found = by_further.triples_among(having, evidence.RESULTS)
    spreads = {name: found.correlations(name) for name in found.means}
    ordered = sorted(spreads, key=lambda name: -spreads[name].mean)
    scale = forest.Scale(
        title="rho of the mean and the gain", left="opposite", right="predicts the gain"
    )  # fmt: skip
    svg = _forest("How well indicators order three types at a time", spreads, ordered, scale)
    alt = (
        f"Forest plot of {len(spreads)} indicators in {len(found.shown)} pairs: the mean "
        "correlation of their mean over three module types with the gain of adapting the three "
        "together, with 95 % intervals over networks. "
        f"{'; '.join(f'{_short(name)} {signed(spreads[name].mean)}' for name in ordered)}."
    )
    return Picture(svg, alt)


def costs() -> Picture:
    """Draw which share of the hours of all trials of a pair the trials of one arm take."""
    shares = {each.name: each.spent.one / each.spent.hours for each in pairs()}
    ordered = sorted(shares, key=shares.__getitem__)
    rows = [forest.Row(label=name, value=shares[name]) for name in ordered]
    scale = forest.Scale(title="share of the hours", marks=(0.0, 0.2), digits=2, plus=False)
    svg = forest.forest(
        "Hours of one arm, as a share of those of all trials",
        [forest.Panel(heading="", rows=rows)], scale,
    )  # fmt: skip
    said = "; ".join(f"{name} {shares[name]:.2f}" for name in ordered)
    alt = (
        "Plot of the hours that all trials of the arm plop took, as a share of the hours of all "
        f"trials, in {len(rows)} pairs: {said}."
    )
    return Picture(svg, alt)


def _forest(
    title: str,
    found: Mapping[str, by_indicator.Spread],
    ordered: Sequence[str],
    scale: forest.Scale,
) -> str:
    """Return the means and intervals by name, the first of the order on top."""
    rows = [
        forest.Row(
            label=_short(name), value=found[name].mean, low=found[name].low, high=found[name].high
        )
        for name in ordered
    ]
    return forest.forest(title, [forest.Panel(heading="", rows=rows)], scale)


def _short(name: str) -> str:
    """Return the name of an indicator as a row of a picture has room for it."""
    return {by_indicator.TRIALS_NFN: "nfn of trials", "nfn-special-tokens": "nfn, all tokens",
            by_indicator.AT_RANDOM: "a random type"}.get(name, name)  # fmt: skip


def forgetting() -> Picture:
    """Draw how far the loss on general text rises with every rule."""
    used = [each for each in pairs() if each.arms[evidence.PLOP].general is not None]
    found = {
        rule: by_indicator.over_networks(
            {each.name: each.arms[rule].general or 0.0 for each in used}, used
        )
        for rule in evidence.RULES
    }
    ordered = sorted(found, key=lambda rule: found[rule].mean)
    scale = forest.Scale(
        title="rise of the loss on general text, nats", left="less", right="more forgotten",
        plus=True,
    )  # fmt: skip
    svg = _forest("Forgetting by rule", found, ordered, scale)
    said = "; ".join(f"{rule} {signed(found[rule].mean)}" for rule in ordered)
    alt = (
        f"Forest plot of how far the loss on general text rises in {len(used)} pairs of decoders, "
        f"with 95 % intervals over networks. The means in nats are: {said}."
    )
    return Picture(svg, alt)


def share_of_data() -> Picture:
    """Draw which share of the ranking of the weights the task's texts explain, by pair."""
    found: dict[str, Mapping[str, float]] = {}
    for each in pairs():
        path = evidence.RESULTS / each.name / by_indicator.FILE
        held = json.loads(path.read_text(encoding="utf-8")).get("reference")
        if held is not None:
            found[each.name] = held
    ordered = sorted(found, key=lambda name: found[name]["share"])
    rows = [
        forest.Row(
            label=name, value=found[name]["share"], low=found[name]["low"],
            high=found[name]["high"],
        )
        for name in ordered
    ]  # fmt: skip
    scale = forest.Scale(
        title="share that the texts explain", left="the model's part", right="the texts' part",
        marks=(0.0, 1.0), plus=False,
    )  # fmt: skip
    svg = forest.forest(
        "How much of the ranking comes from the data", [forest.Panel(heading="", rows=rows)], scale
    )
    same = sum(bool(held["same_choice"]) for held in found.values())
    alt = (
        f"Forest plot of the share of the ranking of weights by NFN that the task's texts explain, "
        f"with 95 % intervals over weights, in {len(rows)} pairs: "
        f"{'; '.join(f'{row.label} {row.value:.2f}' for row in rows)}. In {same} of them the three "
        "types of lowest NFN are the same on general English text."
    )
    return Picture(svg, alt)
