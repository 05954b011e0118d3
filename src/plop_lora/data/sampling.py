"""Which documents are drawn, and in which order they are scored. Pure; no torch.

Scoring may stop after any part of the sample, so every beginning of the order must be a fair
sample by itself: the order is random, by a hash of the seed and the text, and groups are
interleaved in proportion to their size.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from plop_lora.errors import UsageError

LEAST_OF_GROUP = 8
"""Least documents of a group in the sample, if it has so many and the sample has room for them."""
MOST_SINGLE_GROUPS = 12
"""Most groups of one document each. If there are more, the field is taken for an id by mistake."""


def draw(groups: Sequence[str | None], samples: int, seed: int) -> list[int]:
    """Draw documents without replacement, a fair share of every group.

    Args:
        groups: Group of each document; all None for a plain sample.
        samples: Number of documents to draw; all of them if there are fewer.
        seed: Seed of the draw.

    Returns:
        The positions of the drawn documents, in order.

    Raises:
        UsageError: There are more groups than samples, or each document has a group of its own.
    """
    members: dict[str | None, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    quotas = shares({group: len(found) for group, found in members.items()}, samples)
    generator = random.Random(seed)
    drawn: list[int] = []
    for group, found in members.items():
        drawn += generator.sample(found, quotas[group])
    return sorted(drawn)


def shares(sizes: dict[str | None, int], samples: int) -> dict[str | None, int]:
    """Return how many documents each group gives.

    Shares are proportional, after every group has had `LEAST_OF_GROUP`, or an equal part of the
    sample where there are more groups than that has room for.

    Raises:
        UsageError: There are more groups than samples, or each document has a group of its own.

    >>> shares({"a": 900, "b": 100, "c": 3}, 50)
    {'a': 39, 'b': 8, 'c': 3}
    """
    if len(sizes) > samples:
        raise UsageError(
            f"--group makes {len(sizes)} groups, more than --samples {samples}. Group by a field "
            f"with fewer values, or give --samples {len(sizes)} or more."
        )
    total = sum(sizes.values())
    if len(sizes) == total > MOST_SINGLE_GROUPS:
        raise UsageError(
            f"--group gives each of the {total} documents a group of its own, so no group can be "
            "sampled. Group by a field with fewer values, such as a language or a source."
        )
    samples = min(samples, total)
    least = min(LEAST_OF_GROUP, samples // len(sizes))
    quotas = {group: min(size, least) for group, size in sizes.items()}
    for _ in range(samples - sum(quotas.values())):
        # The group that lags furthest behind its share gets the next place.
        open_groups = [group for group, size in sizes.items() if quotas[group] < size]
        group = min(open_groups, key=lambda name: (quotas[name] + 0.5) / sizes[name])
        quotas[group] += 1
    return quotas


def scoring_order(names: Sequence[str], groups: Sequence[str | None], seed: int) -> list[int]:
    """Return positions in the order of scoring: random, with groups interleaved.

    The order depends on the names and the seed, not on the order of the file, so that two models
    see the same texts first. A name that occurs twice stands in two places.
    """
    seen: Counter[str] = Counter()
    keys: list[str] = []
    for name in names:
        keys.append(hashlib.sha256(f"{seed} {seen[name]} {name}".encode()).hexdigest())
        seen[name] += 1
    members: dict[str | None, list[int]] = defaultdict(list)
    for position in sorted(range(len(names)), key=keys.__getitem__):
        members[groups[position]].append(position)
    places = {
        position: (index + 0.5) / len(found)
        for found in members.values()
        for index, position in enumerate(found)
    }
    return sorted(places, key=lambda position: (places[position], keys[position]))
