"""Generated English word problems with worked answers, in the form of GSM8K rows.

Each structure is a function of a seeded `random.Random` that returns the question, the steps of
its solution and the result. A step is written `a op b = c`, so that `check_answer` can evaluate
every line again: the arithmetic is right or the generator fails.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

NAMES = [
    "Ada",
    "Amir",
    "Anna",
    "Bruno",
    "Carla",
    "Chen",
    "Dara",
    "Diego",
    "Elif",
    "Emma",
    "Farid",
    "Fiona",
    "George",
    "Grace",
    "Hana",
    "Hugo",
    "Ines",
    "Ivan",
    "Jana",
    "Jonas",
    "Kaya",
    "Karim",
    "Lena",
    "Leo",
    "Lucia",
    "Malik",
    "Maria",
    "Mateo",
    "Mina",
    "Nadia",
    "Nils",
    "Noor",
    "Olga",
    "Omar",
    "Paula",
    "Pedro",
    "Priya",
    "Quinn",
    "Rosa",
    "Ravi",
    "Sara",
    "Simon",
    "Tara",
    "Theo",
    "Uma",
    "Vera",
    "Viktor",
    "Wanda",
    "Yara",
    "Zoe",
]
THINGS = [
    "apples",
    "pencils",
    "marbles",
    "stickers",
    "cookies",
    "books",
    "shells",
    "coins",
    "buttons",
    "stamps",
    "balloons",
    "ribbons",
    "tickets",
    "peaches",
    "lemons",
    "candles",
    "beads",
    "toys",
    "cards",
    "bottles",
    "eggs",
    "muffins",
    "flowers",
    "seeds",
    "bricks",
    "postcards",
    "crayons",
    "oranges",
    "kites",
    "spoons",
]
GOODS = [
    "notebook",
    "lamp",
    "scarf",
    "kettle",
    "umbrella",
    "backpack",
    "chair",
    "clock",
    "basket",
    "blanket",
    "hammer",
    "teapot",
    "helmet",
    "radio",
    "jacket",
    "mug",
    "puzzle",
    "wallet",
]
CONTAINERS = [
    "boxes",
    "bags",
    "baskets",
    "jars",
    "crates",
    "shelves",
    "trays",
    "drawers",
    "cartons",
]
PLACES = [
    "market",
    "library",
    "garden",
    "school",
    "bakery",
    "harbour",
    "farm",
    "museum",
    "workshop",
    "station",
    "park",
    "village",
    "orchard",
    "theatre",
    "kitchen",
]
WORKERS = [
    "baker",
    "painter",
    "tailor",
    "gardener",
    "printer",
    "carpenter",
    "potter",
    "farmer",
    "weaver",
    "builder",
]
PRODUCTS = [
    "loaves",
    "panels",
    "shirts",
    "hedges",
    "posters",
    "stools",
    "bowls",
    "rows",
    "scarves",
    "walls",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
VEHICLES = ["bus", "train", "ferry", "truck", "cyclist", "runner", "tram", "boat"]


class Solution(NamedTuple):
    """A question, the sentences that solve it, and the integer result."""

    question: str
    steps: list[str]
    result: int


Structure = Callable[[random.Random], Solution]


def _two_names(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(NAMES, 2)
    return first, second


def gain_then_lose(rng: random.Random) -> Solution:
    """Start, gain, lose."""
    name, friend = _two_names(rng)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    start, gain = rng.randint(5, 60), rng.randint(3, 40)
    loss = rng.randint(1, start + gain - 1)
    question = (
        f"{name} has {start} {thing}. At the {place}, {name} gets {gain} more and then gives "
        f"{loss} to {friend}. How many {thing} does {name} have now?"
    )
    total = start + gain
    steps = [
        f"After the {place} there are {start} + {gain} = {total} {thing}.",
        f"After the gift there are {total} - {loss} = {total - loss} {thing}.",
    ]
    return Solution(question, steps, total - loss)


def groups(rng: random.Random) -> Solution:
    """Equal groups and some extra."""
    name, thing, container = rng.choice(NAMES), rng.choice(THINGS), rng.choice(CONTAINERS)
    count, size, extra = rng.randint(2, 12), rng.randint(2, 15), rng.randint(1, 20)
    question = (
        f"{name} fills {count} {container} with {size} {thing} each and keeps {extra} {thing} "
        f"on the table. How many {thing} are there in all?"
    )
    product = count * size
    steps = [
        f"The {container} hold {count} * {size} = {product} {thing}.",
        f"With the table it makes {product} + {extra} = {product + extra}.",
    ]
    return Solution(question, steps, product + extra)


def share_equally(rng: random.Random) -> Solution:
    """Exact division among friends."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    friends, each, eaten = rng.randint(2, 9), rng.randint(2, 15), rng.randint(1, 12)
    start = friends * each + eaten
    question = (
        f"{name} buys {start} {thing}. {eaten} of them are lost on the way, and the rest is "
        f"shared equally among {friends} friends. How many {thing} does each friend get?"
    )
    left = start - eaten
    steps = [
        f"There are {start} - {eaten} = {left} {thing} left.",
        f"Each friend gets {left} / {friends} = {each}.",
    ]
    return Solution(question, steps, each)


def compare_more(rng: random.Random) -> Solution:
    """One has more than the other; the total."""
    first, second = _two_names(rng)
    thing, base, more = rng.choice(THINGS), rng.randint(4, 50), rng.randint(2, 30)
    question = (
        f"{first} collects {base} {thing}. {second} collects {more} more than {first}. "
        f"How many {thing} do they collect together?"
    )
    other = base + more
    steps = [
        f"{second} collects {base} + {more} = {other}.",
        f"Together they collect {base} + {other} = {base + other}.",
    ]
    return Solution(question, steps, base + other)


def times_as_many(rng: random.Random) -> Solution:
    """One has a multiple of the other; the difference."""
    first, second = _two_names(rng)
    thing, base, factor = rng.choice(THINGS), rng.randint(3, 25), rng.randint(2, 6)
    words = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}
    question = (
        f"{first} owns {base} {thing}, and {second} owns {words[factor]} as many. "
        f"How many more {thing} does {second} own?"
    )
    other = base * factor
    steps = [
        f"{second} owns {base} * {factor} = {other} {thing}.",
        f"The difference is {other} - {base} = {other - base}.",
    ]
    return Solution(question, steps, other - base)


def shopping_change(rng: random.Random) -> Solution:
    """Buy several of one good and get change."""
    name, good = rng.choice(NAMES), rng.choice(GOODS)
    count, price = rng.randint(2, 7), rng.randint(2, 18)
    cost = count * price
    paid = cost + rng.randint(1, 30)
    question = (
        f"A {good} costs {price} dollars. {name} buys {count} of them and pays with {paid} "
        f"dollars. How much change does {name} get back?"
    )
    steps = [
        f"The cost is {count} * {price} = {cost} dollars.",
        f"The change is {paid} - {cost} = {paid - cost} dollars.",
    ]
    return Solution(question, steps, paid - cost)


def two_goods(rng: random.Random) -> Solution:
    """The bill for two kinds of goods."""
    name, (first, second) = rng.choice(NAMES), rng.sample(GOODS, 2)
    price_one, price_two = rng.randint(2, 20), rng.randint(2, 20)
    count_one, count_two = rng.randint(1, 6), rng.randint(2, 6)
    question = (
        f"At the {rng.choice(PLACES)} shop a {first} costs {price_one} dollars and a {second} "
        f"costs {price_two} dollars. How many dollars does {name} spend on {count_one} of the "
        f"first and {count_two} of the second?"
    )
    one, two = count_one * price_one, count_two * price_two
    steps = [
        f"The {first} part costs {count_one} * {price_one} = {one} dollars.",
        f"The {second} part costs {count_two} * {price_two} = {two} dollars.",
        f"Together {one} + {two} = {one + two} dollars.",
    ]
    return Solution(question, steps, one + two)


def rate_of_work(rng: random.Random) -> Solution:
    """A worker's rate over hours and days."""
    worker, product = rng.choice(WORKERS), rng.choice(PRODUCTS)
    rate, hours, days = rng.randint(2, 12), rng.randint(2, 8), rng.randint(2, 6)
    question = (
        f"A {worker} finishes {rate} {product} an hour and works {hours} hours a day. "
        f"How many {product} are finished after {days} days?"
    )
    daily = rate * hours
    steps = [
        f"In a day it is {rate} * {hours} = {daily} {product}.",
        f"In {days} days it is {daily} * {days} = {daily * days}.",
    ]
    return Solution(question, steps, daily * days)


def distance(rng: random.Random) -> Solution:
    """Two legs at two speeds."""
    vehicle = rng.choice(VEHICLES)
    speed_one, speed_two = rng.randint(4, 60), rng.randint(4, 60)
    hours_one, hours_two = rng.randint(1, 6), rng.randint(1, 6)
    question = (
        f"A {vehicle} moves at {speed_one} km per hour for {hours_one} hours and then at "
        f"{speed_two} km per hour for {hours_two} hours. How many km is that in all?"
    )
    one, two = speed_one * hours_one, speed_two * hours_two
    steps = [
        f"The first part is {speed_one} * {hours_one} = {one} km.",
        f"The second part is {speed_two} * {hours_two} = {two} km.",
        f"In all it is {one} + {two} = {one + two} km.",
    ]
    return Solution(question, steps, one + two)


def fraction_of(rng: random.Random) -> Solution:
    """A unit fraction leaves; how many stay."""
    part = rng.choice([2, 3, 4, 5])
    word = {2: "Half", 3: "A third", 4: "A quarter", 5: "A fifth"}[part]
    start, thing = part * rng.randint(3, 24), rng.choice(THINGS)
    question = (
        f"There are {start} {thing} in the {rng.choice(PLACES)}. {word} of them are sold on "
        f"{rng.choice(DAYS)}. How many {thing} are left?"
    )
    gone = start // part
    steps = [
        f"The part sold is {start} / {part} = {gone}.",
        f"What is left is {start} - {gone} = {start - gone}.",
    ]
    return Solution(question, steps, start - gone)


def percent_off(rng: random.Random) -> Solution:
    """A discount in percent with an integer result."""
    good, percent = rng.choice(GOODS), rng.choice([10, 20, 25, 50])
    price = 100 // percent * rng.randint(2, 15) if percent != 20 else 5 * rng.randint(2, 20)
    part = 100 // percent
    question = (
        f"A {good} costs {price} dollars. On {rng.choice(DAYS)} it is {percent} percent cheaper. "
        f"How much does {rng.choice(NAMES)} pay for it on that day?"
    )
    saved = price // part
    steps = [
        f"The saving is {price} / {part} = {saved} dollars.",
        f"The price is {price} - {saved} = {price - saved} dollars.",
    ]
    return Solution(question, steps, price - saved)


def ages(rng: random.Random) -> Solution:
    """The sum of two ages some years from now."""
    first, second = _two_names(rng)
    age, older, years = rng.randint(5, 40), rng.randint(2, 20), rng.randint(2, 12)
    question = (
        f"{first} is {age} years old and {second} is {older} years older. "
        f"What will be the sum of their ages in {years} years?"
    )
    other, later = age + older, age + years
    steps = [
        f"{second} is {age} + {older} = {other} now.",
        f"In {years} years {first} is {age} + {years} = {later}.",
        f"Then {second} is {other} + {years} = {other + years}.",
        f"The sum is {later} + {other + years} = {later + other + years}.",
    ]
    return Solution(question, steps, later + other + years)


def saving_up(rng: random.Random) -> Solution:
    """How many weeks of saving buy a good."""
    name, good = rng.choice(NAMES), rng.choice(GOODS)
    weekly, weeks, start = rng.randint(2, 12), rng.randint(2, 12), rng.randint(1, 25)
    price = start + weekly * weeks
    question = (
        f"{name} wants a {good} for {price} dollars, has {start} dollars and saves {weekly} "
        f"dollars a week. How many weeks does it take?"
    )
    missing = price - start
    steps = [
        f"{name} still needs {price} - {start} = {missing} dollars.",
        f"It takes {missing} / {weekly} = {weeks} weeks.",
    ]
    return Solution(question, steps, weeks)


def minutes(rng: random.Random) -> Solution:
    """Minutes in some hours and a rest."""
    name, hours, rest = rng.choice(NAMES), rng.randint(2, 9), rng.randint(5, 55)
    verb = rng.choice(["reads", "paints", "practises", "walks", "sleeps", "travels", "writes"])
    question = (
        f"On {rng.choice(DAYS)} {name} {verb} for {hours} hours and {rest} minutes. "
        "How many minutes is that?"
    )
    whole = hours * 60
    steps = [
        f"The hours make {hours} * 60 = {whole} minutes.",
        f"All together it is {whole} + {rest} = {whole + rest} minutes.",
    ]
    return Solution(question, steps, whole + rest)


def rows_and_seats(rng: random.Random) -> Solution:
    """Free seats in rows."""
    rows, seats = rng.randint(3, 15), rng.randint(4, 14)
    total = rows * seats
    taken = rng.randint(1, total - 1)
    question = (
        f"The {rng.choice(PLACES)} hall has {rows} rows of {seats} seats. {taken} seats are "
        "taken. How many seats are free?"
    )
    steps = [
        f"There are {rows} * {seats} = {total} seats.",
        f"Free are {total} - {taken} = {total - taken} seats.",
    ]
    return Solution(question, steps, total - taken)


def harvest(rng: random.Random) -> Solution:
    """Three days, each in relation to the one before."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    first, more = rng.randint(4, 30), rng.randint(2, 15)
    second = first + more
    question = (
        f"{name} gathers {first} {thing} on the first day, {more} more than that on the second "
        f"day, and twice as many as on the second day on the third. How many {thing} is that "
        "over the three days?"
    )
    third = second * 2
    both = first + second
    steps = [
        f"The second day gives {first} + {more} = {second}.",
        f"The third day gives {second} * 2 = {third}.",
        f"The first two days give {first} + {second} = {both}.",
        f"All three give {both} + {third} = {both + third}.",
    ]
    return Solution(question, steps, both + third)


def recipe(rng: random.Random) -> Solution:
    """Scale a recipe."""
    name, needed = rng.choice(NAMES), rng.randint(2, 9)
    people, factor = rng.randint(2, 6), rng.randint(2, 6)
    thing = rng.choice(["eggs", "lemons", "spoons of sugar", "cups of flour", "tomatoes"])
    guests = people * factor
    question = (
        f"A recipe for {people} people needs {needed} {thing}. {name} cooks for {guests} guests. "
        f"How many {thing} does {name} need?"
    )
    steps = [
        f"The recipe is made {guests} / {people} = {factor} times.",
        f"It needs {needed} * {factor} = {needed * factor} {thing}.",
    ]
    return Solution(question, steps, needed * factor)


def perimeter(rng: random.Random) -> Solution:
    """The fence around a rectangle."""
    length, width, price = rng.randint(3, 30), rng.randint(2, 20), rng.randint(2, 6)
    question = (
        f"The {rng.choice(WORKERS)} builds a fence around a {rng.choice(PLACES)} that is "
        f"{length} metres long and {width} metres wide. A metre of fence costs {price} dollars. "
        "How many dollars does the fence cost?"
    )
    half = length + width
    around = half * 2
    steps = [
        f"Two sides make {length} + {width} = {half} metres.",
        f"The whole fence is {half} * 2 = {around} metres.",
        f"It costs {around} * {price} = {around * price} dollars.",
    ]
    return Solution(question, steps, around * price)


STRUCTURES: tuple[Structure, ...] = (
    gain_then_lose, groups, share_equally, compare_more, times_as_many, shopping_change,
    two_goods, rate_of_work, distance, fraction_of, percent_off, ages, saving_up, minutes,
    rows_and_seats, harvest, recipe, perimeter,
)  # fmt: skip

_STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_EVALUATE = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b if a % b == 0 else None,
}


def check_answer(answer: str) -> bool:
    """Whether every `a op b = c` of the answer holds and the last one is its `#### N`."""
    steps = _STEP.findall(answer)
    right = all(_EVALUATE[op](int(a), int(b)) == int(c) for a, op, b, c in steps)
    return bool(steps) and right and answer.endswith(f"#### {steps[-1][3]}")


def make_problem(rng: random.Random) -> dict[str, str]:
    """Return one row: `question`, and `answer` with its steps, ending in `#### N`."""
    solution = rng.choice(STRUCTURES)(rng)
    answer = "\n".join([*solution.steps, f"#### {solution.result}"])
    return {"question": solution.question, "answer": answer}
