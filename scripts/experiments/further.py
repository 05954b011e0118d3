"""The further arms of a pair: triples, constants and layers that its own arms leave open.

They are run after a pair's own arms, at the same budget, rates and seeds, where `study.py` is asked
for them with `--further`. `docs/study-protocol.md` says what each of them is for.

- `lowest-2`, `lowest-4`: as many types of lowest NFN; `plop` has three.
- `triple-01` …: up to twelve triples of types that no other arm has, by lot.
- `rank-of-weights`: the three types of the highest effective rank, which sees no data.
- `plop-random-words`: the three types of lowest NFN on texts of random words.
- `lowest-sites`: as many weights as `plop` adapts, those of lowest NFN of all types.
- `shuffled-layers`: as many weights of each type as `lowest-sites`, in layers by lot.
- `nfn-ranks`: the types of `plop`, with ranks in proportion to one over NFN.
- `layer-0` …: every linear weight of one block, in networks of up to twelve blocks.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from arms import TOP, aliases, distinct, drafts_of, equal, key_of
from pairs import SEED, Pair, Row, text_of

from plop_lora.indicators import INDICATORS
from plop_lora.placement import groups_of, place, with_ranks
from plop_lora.records import Placement, Scores

TRIPLES = 12
"""At most."""
BY_WEIGHTS = "rank-of-weights"
"""An indicator that sees no data, and the arm of its first types."""
MOST_LAYERS = 12
"""Blocks of a network of which each is an arm."""
FINEST = 1000
"""Ranks in proportion are fractions of this before a budget makes whole numbers of them."""


@dataclass(frozen=True)
class Further:
    """Further arms: those of module types, those whose weights or ranks are chosen one by one.

    `aliases` has the arms that have the types of another arm of the pair, with its name.
    """

    by_type: Mapping[str, Placement]
    by_weight: Mapping[str, Placement]
    aliases: Mapping[str, str]

    @property
    def arms(self) -> dict[str, Placement]:
        """Return all that are trained."""
        return {**self.by_type, **self.by_weight}

    def told(self) -> dict[str, Any]:
        """Return what a record says of them: their types, or the ranks of their weights."""
        return {
            "arms": {
                name: sorted({site.type for site in arm.sites})
                for name, arm in self.by_type.items()
            },
            "weights": {
                name: {site.name: site.rank for site in arm.sites}
                for name, arm in self.by_weight.items()
            },
            "aliases": dict(self.aliases),
        }


def random_words(rows: Sequence[Row]) -> list[str]:
    """Return texts of as many words as those of the rows, each drawn from all words of them."""
    rng = random.Random(f"{SEED} random words")
    texts = [text_of(row).split() for row in rows]
    known = sorted({word for words in texts for word in words})
    return [" ".join(rng.choices(known, k=len(words))) for words in texts]


def further_arms(pair: Pair, scores: Scores, of_words: Scores) -> Further:
    """Return the further arms of a pair that differ from its own and from each other.

    Args:
        pair: pair of the study.
        scores: scores on the pair's texts.
        of_words: scores on random words, which hold the effective rank of the weights.
    """
    own = drafts_of(pair, scores)
    chosen = own | {
        name: place(scores, strategy="custom", types=types, rank=1)
        for name, types in type_lists(pair, own, scores, of_words).items()
    }
    differing = {name: arm for name, arm in distinct(chosen).items() if name not in own}
    every = own["all-linear"]
    return Further(
        equal(every, differing),
        equal(every, by_layer(pair, scores)),
        {name: other for name, other in aliases(chosen).items() if name not in own},
    )


def type_lists(
    pair: Pair, own: Mapping[str, Placement], scores: Scores, of_words: Scores
) -> dict[str, tuple[str, ...]]:
    """Return the further arms that are a list of module types, those that are alike included.

    Triples leave out those that an arm of the pair itself, `own`, has.
    """
    types = lowest(scores)
    named = {
        "lowest-2": types[:2],
        "lowest-4": types[:4],
        BY_WEIGHTS: lowest(of_words, BY_WEIGHTS)[:TOP],
        "plop-random-words": lowest(of_words)[:TOP],
    }
    taken = {key_of(arm) for arm in own.values()}
    taken |= {frozenset(names) for names in named.values()}
    triples = [
        triple
        for triple in itertools.combinations(sorted(types), TOP)
        if frozenset(triple) not in taken
    ]
    random.Random(f"{SEED} {pair.network} triples").shuffle(triples)
    return named | {
        f"triple-{number:02}": triple for number, triple in enumerate(triples[:TRIPLES], start=1)
    }


def lowest(scores: Scores, indicator: str = "nfn") -> tuple[str, ...]:
    """Return the types that a placement may choose, in the order of an indicator."""
    groups = groups_of(scores, INDICATORS[indicator])
    return tuple(group.type for group in groups if group.eligible)


def by_layer(pair: Pair, scores: Scores) -> dict[str, Placement]:
    """Return the arms whose weights or ranks are chosen one by one, with ranks to share out."""
    every = place(scores, strategy="all-linear", rank=1)
    shortlist = place(scores, strategy="plop", top=TOP, rank=1)
    nfn = nfn_of_weights(scores)
    sites = sorted((site.name for site in every.sites), key=lambda name: (nfn[name], name))
    first = sites[: len(shortlist.sites)]
    layers: dict[int, list[str]] = defaultdict(list)
    for host in scores.hosts:
        if host.layer is not None and host.name in nfn:
            layers[host.layer].append(host.name)
    alone = layers if len(layers) <= MOST_LAYERS else {}
    return {
        "lowest-sites": with_ranks(every, dict.fromkeys(first, 1)),
        "shuffled-layers": with_ranks(every, dict.fromkeys(_shuffled(pair, every, first), 1)),
        "nfn-ranks": with_ranks(
            shortlist,
            {site.name: max(1, round(FINEST / nfn[site.name])) for site in shortlist.sites},
        ),
        **{
            f"layer-{layer}": with_ranks(every, dict.fromkeys(names, 1))
            for layer, names in sorted(alone.items())
        },
    }


def _shuffled(pair: Pair, every: Placement, names: Iterable[str]) -> list[str]:
    """Return as many weights of each type as are named, in layers by lot."""
    type_of = {site.name: site.type for site in every.sites}
    of_type: dict[str, list[str]] = defaultdict(list)
    for name, type_name in sorted(type_of.items()):
        of_type[type_name].append(name)
    rng = random.Random(f"{SEED} {pair.network} layers")
    wanted = Counter(type_of[name] for name in names)
    return [
        name
        for type_name, number in sorted(wanted.items())
        for name in rng.sample(of_type[type_name], number)
    ]


def nfn_of_weights(scores: Scores) -> dict[str, float]:
    """Return the NFN of every weight; that of a fused one is the mean over its projections."""
    values: dict[str, list[float]] = defaultdict(list)
    for site in scores.sites:
        values[site.host].append(site.nfn)
    return {name: fmean(found) for name, found in values.items()}
