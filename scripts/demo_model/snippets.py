"""Generated Python snippets: small functions and classes with docstrings, all of which compile.

Templates hold the shape, and names, numbers and conditions vary. `make_snippet` compiles every
text that it returns.
"""

from __future__ import annotations

import random

NOUNS = [
    "value",
    "item",
    "record",
    "line",
    "word",
    "name",
    "price",
    "score",
    "user",
    "order",
    "node",
    "edge",
    "token",
    "row",
    "column",
    "event",
    "message",
    "path",
    "key",
    "count",
    "total",
    "size",
    "weight",
    "label",
    "parcel",
    "ticket",
    "page",
    "sample",
    "reading",
    "point",
]
VERBS = [
    "collect",
    "find",
    "select",
    "merge",
    "count",
    "group",
    "update",
    "filter",
    "compute",
    "parse",
    "build",
    "check",
]
FIELDS = [
    "name",
    "size",
    "price",
    "colour",
    "age",
    "city",
    "title",
    "weight",
    "rank",
    "status",
    "owner",
    "score",
    "length",
]
TYPES = ("int", "float", "str")
CONDITIONS = (
    "{v} > {n}", "{v} < {n}", "{v} % {n} == 0", "{v} is not None", "{v} != {n}", "{v} >= {n}",
)  # fmt: skip
OPERATIONS = ("{v} * {n}", "{v} + {n}", "{v} - {n}", "{v} ** 2", "abs({v})", "{v} // {n}")

TEMPLATES = (
    '''def {verb}_{noun}s({noun}s):
    """Return the {noun}s for which {condition}."""
    return [{v} for {v} in {noun}s if {condition}]
''',
    '''def {verb}_{noun}s({noun}s: list[{type}]) -> dict[{type}, int]:
    """Count how often each {noun} occurs."""
    counts = {{}}
    for {v} in {noun}s:
        counts[{v}] = counts.get({v}, 0) + 1
    return counts
''',
    '''def {verb}_{noun}({noun}s, default={n}):
    """Return the largest {noun}, or the default if there is none."""
    best = default
    for {v} in {noun}s:
        if {v} > best:
            best = {v}
    return best
''',
    '''class {Noun}:
    """A {noun} with a {field} and a {other}."""

    def __init__(self, {field}, {other}={n}):
        self.{field} = {field}
        self.{other} = {other}

    def __repr__(self):
        return f"{Noun}({{self.{field}!r}}, {{self.{other}!r}})"
''',
    '''from dataclasses import dataclass


@dataclass(frozen=True)
class {Noun}:
    """One {noun} as it is stored."""

    {field}: str
    {other}: {type}

    def {verb}(self, limit={n}):
        return len(self.{field}) > limit
''',
    '''def read_{noun}s(path):
    """Read one {noun} a line and skip empty lines."""
    {noun}s = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.strip()
            if line:
                {noun}s.append(line)
    return {noun}s
''',
    '''def {verb}_{noun}(text):
    """Turn the text into a {noun}; return {n} if it is not a number."""
    try:
        return int(text)
    except ValueError:
        return {n}
''',
    '''def total_{field}({noun}s):
    """Add up the {field} of all {noun}s."""
    total = 0
    for {v} in {noun}s:
        total += {v}["{field}"]
    return total
''',
    '''def {verb}_until({noun}s, limit={n}):
    """Yield {noun}s until one of them reaches the limit."""
    for {v} in {noun}s:
        if {v} >= limit:
            return
        yield {operation}
''',
    '''def depth_of_{noun}({noun}):
    """Return how deep the {noun} is nested."""
    if not isinstance({noun}, list):
        return 0
    return 1 + max((depth_of_{noun}(child) for child in {noun}), default=0)
''',
    '''def sort_by_{field}({noun}s, reverse=False):
    """Return the {noun}s in the order of their {field}."""
    return sorted({noun}s, key=lambda {v}: {v}.{field}, reverse=reverse)
''',
    '''def group_by_{field}({noun}s):
    """Return a dictionary from {field} to the {noun}s that have it."""
    groups = {{}}
    for {v} in {noun}s:
        groups.setdefault({v}.{field}, []).append({v})
    return groups
''',
    '''def mean_{noun}({noun}s):
    """Return the mean of the {noun}s, or zero if there is none."""
    if not {noun}s:
        return 0.0
    return sum({noun}s) / len({noun}s)
''',
    '''def {verb}_pairs({noun}s, {other}s):
    """Pair each {noun} with the {other} at the same position."""
    return [({v}, other) for {v}, other in zip({noun}s, {other}s) if {condition}]
''',
    '''def clean_{noun}({noun}):
    """Strip the {noun}, lower its letters and join its words with a dash."""
    words = {noun}.strip().lower().split()
    return "-".join(word for word in words if len(word) > {n})
''',
    '''class {Noun}Queue:
    """A queue of {noun}s that holds at most {n} of them."""

    def __init__(self):
        self.{noun}s = []

    def push(self, {noun}):
        if len(self.{noun}s) >= {n}:
            raise OverflowError("the queue is full")
        self.{noun}s.append({noun})

    def pop(self):
        return self.{noun}s.pop(0)
''',
    '''def search_{noun}({noun}s, wanted):
    """Return the position of a {noun} in a sorted list, or -1."""
    low, high = 0, len({noun}s) - 1
    while low <= high:
        middle = (low + high) // 2
        if {noun}s[middle] == wanted:
            return middle
        if {noun}s[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    return -1
''',
    '''def {verb}_numbers(limit={n}):
    """Return the results of the rule for all numbers below the limit."""
    results = []
    for {v} in range(1, limit):
        if {condition}:
            results.append({operation})
    return results
''',
    '''def merge_{noun}s(first, second):
    """Merge two dictionaries of {noun}s and add what they share."""
    merged = dict(first)
    for key, {v} in second.items():
        merged[key] = merged.get(key, 0) + {v}
    return merged
''',
    '''def validate_{noun}({noun}):
    """Raise an error unless the {noun} has a {field} and a {other}."""
    for field in ("{field}", "{other}"):
        if field not in {noun}:
            raise KeyError(f"the {noun} has no {{field}}")
    return {noun}
''',
    '''import json


def save_{noun}s({noun}s, path):
    """Write the {noun}s as JSON with an indent of {n}."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({noun}s, file, indent={n})
''',
    '''def factorial_of_{noun}({noun}):
    """Return the factorial of a {noun} by recursion."""
    if {noun} <= 1:
        return 1
    return {noun} * factorial_of_{noun}({noun} - 1)
''',
)


def make_snippet(rng: random.Random) -> dict[str, str]:
    """Return one row with its source under `text`."""
    noun = rng.choice(NOUNS)
    field, other = rng.sample([name for name in FIELDS if name != noun], 2)
    number = rng.randint(2, 60)
    variable = rng.choice([noun[0], "x", "item", "entry", "current"])
    variable = variable if variable != noun else "x"
    source = rng.choice(TEMPLATES).format(
        noun=noun,
        Noun=noun.capitalize(),
        verb=rng.choice(VERBS),
        field=field,
        other=other,
        type=rng.choice(TYPES),
        n=number,
        v=variable,
        condition=rng.choice(CONDITIONS).format(v=variable, n=number),
        operation=rng.choice(OPERATIONS).format(v=variable, n=number),
    )
    compile(source, "<snippet>", "exec")
    return {"text": source}
