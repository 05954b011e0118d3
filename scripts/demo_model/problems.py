"""Seeded grammar of English arithmetic word problems with worked solutions.

Every problem is a record ``{"question": ..., "answer": ...}``. The answer is a few short
sentences with the arithmetic written out (``3 * 4 = 12``) and a last line ``#### N``.
`check_answer` re-evaluates all written arithmetic, so a wrong template cannot go unnoticed.
Depends on the standard library only. Does not cover negative or fractional results.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Problem = dict[str, str]

GIRLS = (
    "Anna Maria Lena Sofia Priya Mei Fatima Grace Olivia Zoe Ines Clara Nora Ruth Amara Yuki "
    "Elena Hana Carmen Leila Rosa Ada Ivy Stella Joan Tessa"
).split()
BOYS = (
    "Tom Ben Omar Luis Kofi Ravi Peter Jack Noah Leo Sam Hugo Ivan Amir Felix Oscar Daniel Emil "
    "Marco Theo Kenji Paul Victor Adam Simon Eric"
).split()
THINGS = (
    "apples pears marbles stickers books pencils buttons shells coins stamps cards crayons "
    "beads oranges cookies candles ribbons postcards balloons walnuts plums magnets badges"
).split()
GOODS = (
    "notebook lamp scarf mug puzzle basket kite hat plant bottle umbrella brush blanket poster "
    "candle jar pillow drum"
).split()
CONTAINERS = "box bag crate basket drawer tray packet jar shelf bucket".split()
PLACES = (
    "market library school farm harbor museum bakery garden station park fair workshop "
    "bookshop kitchen"
).split()
FRUIT = "apple pear plum cherry peach orange lemon fig".split()
ANIMALS = "hens ducks goats sheep rabbits ponies geese pigs".split()
WORKERS = "baker carpenter tailor gardener painter printer potter cook".split()
PRODUCTS = "loaves chairs shirts baskets fences posters bowls pies".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
VEHICLES = "train bus car truck boat bicycle van tram".split()


def person(rng: random.Random) -> tuple[str, str, str]:
    """Draw a name with its subject and possessive pronouns."""
    if rng.random() < 0.5:
        return rng.choice(GIRLS), "she", "her"
    return rng.choice(BOYS), "he", "his"


def two_names(rng: random.Random) -> list[str]:
    """Draw two different names."""
    return rng.sample(GIRLS + BOYS, 2)


def plural(noun: str) -> str:
    """Return the plural of one of this file's countable nouns."""
    if noun == "shelf":
        return "shelves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("x", "sh", "ch", "s")) else "s")


def article(noun: str) -> str:
    """Put the fitting indefinite article before a noun."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def record(question: str, steps: list[str], result: int) -> Problem:
    """Join the worked steps and the final line to one record."""
    return {"question": question, "answer": " ".join(steps) + f"\n#### {result}"}


def give_and_get(rng: random.Random) -> Problem:
    """Start, gain, lose: two steps."""
    name, she, _ = person(rng)
    thing, start, gain = rng.choice(THINGS), rng.randint(5, 60), rng.randint(3, 40)
    loss = rng.randint(2, start + gain - 1)
    verb = rng.choice(["finds", "buys", "collects", "wins", "is given"])
    out = rng.choice(["gives away", "loses", "sells", "lends a friend"])
    question = (
        f"{name} has {start} {thing}. On {rng.choice(DAYS)} {she} {verb} {gain} more and then "
        f"{out} {loss}. How many {thing} does {name} have now?"
    )
    middle = start + gain
    steps = [
        f"First {name} has {start} + {gain} = {middle} {thing}.",
        f"Then {middle} - {loss} = {middle - loss} are left.",
    ]
    return record(question, steps, middle - loss)


def shopping_total(rng: random.Random) -> Problem:
    """Two goods with prices: two products and a sum."""
    name, she, _ = person(rng)
    first, second = rng.sample(GOODS, 2)
    n, m, p, q = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 15), rng.randint(2, 15)
    question = (
        f"At the {rng.choice(PLACES)} {name} buys {n} {plural(first)} for ${p} each and {m} "
        f"{plural(second)} for ${q} each. How many dollars does {she} spend?"
    )
    steps = [
        f"The {plural(first)} cost {n} * {p} = {n * p} dollars.",
        f"The {plural(second)} cost {m} * {q} = {m * q} dollars.",
        f"Together that is {n * p} + {m * q} = {n * p + m * q} dollars.",
    ]
    return record(question, steps, n * p + m * q)


def shopping_change(rng: random.Random) -> Problem:
    """Change from a banknote."""
    name, _, _ = person(rng)
    good, n, price = rng.choice(GOODS), rng.randint(2, 8), rng.randint(2, 12)
    cost = n * price
    paid = next(note for note in (20, 50, 100) if note > cost)
    question = (
        f"{name} wants {n} {plural(good)}. Each {good} costs ${price}. {name} pays with "
        f"${paid}. How much change, in dollars, does the seller return?"
    )
    steps = [
        f"The price of {n} {plural(good)} is {n} * {price} = {cost} dollars.",
        f"The change is {paid} - {cost} = {paid - cost} dollars.",
    ]
    return record(question, steps, paid - cost)


def packing(rng: random.Random) -> Problem:
    """Exact division into containers after a gain or loss."""
    thing, container = rng.choice(THINGS), rng.choice(CONTAINERS)
    size, count, extra = rng.randint(3, 12), rng.randint(3, 15), rng.randint(2, 20)
    total = size * count
    place = rng.choice(PLACES)
    question = (
        f"The {place} receives {total + extra} {thing}, but {extra} of them are broken. The good "
        f"ones are packed with {size} in every {container}. How many {plural(container)} are "
        "filled?"
    )
    steps = [
        f"There are {total + extra} - {extra} = {total} good {thing}.",
        f"They fill {total} / {size} = {count} {plural(container)}.",
    ]
    return record(question, steps, count)


def sharing(rng: random.Random) -> Problem:
    """Equal shares after eating or giving some."""
    first, second = two_names(rng)
    thing, people, share = rng.choice(THINGS), rng.randint(3, 9), rng.randint(2, 14)
    mine = rng.randint(2, 15)
    theirs = people * share - mine
    if theirs < 2:
        mine, theirs = 2, people * share - 2
    question = (
        f"{first} brings {mine} {thing} and {second} brings {theirs} {thing}. They share all of "
        f"them equally among {people} children. How many {thing} does each child get?"
    )
    steps = [
        f"Together they bring {mine} + {theirs} = {people * share} {thing}.",
        f"Each child gets {people * share} / {people} = {share} {thing}.",
    ]
    return record(question, steps, share)


def comparison_more(rng: random.Random) -> Problem:
    """One has some more than another; ask for the sum."""
    first, second = two_names(rng)
    thing, base, more = rng.choice(THINGS), rng.randint(8, 60), rng.randint(3, 30)
    question = (
        f"{first} has {base} {thing}. {second} has {more} more {thing} than {first}. How many "
        f"{thing} do they have together?"
    )
    steps = [
        f"{second} has {base} + {more} = {base + more} {thing}.",
        f"Together they have {base} + {base + more} = {base * 2 + more} {thing}.",
    ]
    return record(question, steps, base * 2 + more)


def comparison_times(rng: random.Random) -> Problem:
    """One has several times as many; ask for the difference or the sum."""
    first, second = two_names(rng)
    thing, base, factor = rng.choice(THINGS), rng.randint(4, 30), rng.randint(2, 6)
    large = base * factor
    words = "twice" if factor == 2 else f"{factor} times"
    head = f"{first} has {base} {thing}. {second} has {words} as many {thing} as {first}. "
    steps = [f"{second} has {factor} * {base} = {large} {thing}."]
    if rng.random() < 0.5:
        steps.append(f"The difference is {large} - {base} = {large - base} {thing}.")
        return record(
            head + f"How many more {thing} does {second} have?", steps, large - base
        )
    steps.append(f"Together they have {large} + {base} = {large + base} {thing}.")
    return record(head + f"How many {thing} are there in all?", steps, large + base)


def speed(rng: random.Random) -> Problem:
    """Distance in two legs of constant speed."""
    vehicle = rng.choice(VEHICLES)
    a, b, s, t = rng.randint(2, 6), rng.randint(2, 5), rng.randint(10, 60), rng.randint(10, 60)
    question = (
        f"{article(vehicle).capitalize()} travels for {a} hours at {s} km per hour and then for "
        f"{b} hours at {t} km per hour. How many kilometers does it travel in total?"
    )
    steps = [
        f"The first part is {a} * {s} = {a * s} km.",
        f"The second part is {b} * {t} = {b * t} km.",
        f"The whole trip is {a * s} + {b * t} = {a * s + b * t} km.",
    ]
    return record(question, steps, a * s + b * t)


def travel_time(rng: random.Random) -> Problem:
    """Hours for a distance with a stop on the way."""
    name, she, _ = person(rng)
    rate, hours, stop = rng.randint(8, 60), rng.randint(2, 9), rng.randint(1, 3)
    distance = rate * hours
    question = (
        f"{name} goes {distance} km by {rng.choice(VEHICLES)} at {rate} km per hour and rests "
        f"{stop} {'hour' if stop == 1 else 'hours'} on the way. How many hours pass until {she} "
        "arrives?"
    )
    steps = [
        f"The ride takes {distance} / {rate} = {hours} hours.",
        f"With the rest it takes {hours} + {stop} = {hours + stop} hours.",
    ]
    return record(question, steps, hours + stop)


def production(rng: random.Random) -> Problem:
    """Work rate over days, some sold."""
    index = rng.randrange(len(WORKERS))
    worker, product = WORKERS[index], PRODUCTS[index]
    rate, days = rng.randint(3, 20), rng.randint(3, 12)
    made = rate * days
    sold = rng.randint(2, made - 1)
    question = (
        f"{article(worker).capitalize()} makes {rate} {product} a day. After {days} days "
        f"{sold} of the {product} are sold. How many {product} remain?"
    )
    steps = [
        f"In {days} days there are {rate} * {days} = {made} {product}.",
        f"After the sale {made} - {sold} = {made - sold} remain.",
    ]
    return record(question, steps, made - sold)


def fraction_of(rng: random.Random) -> Problem:
    """A unit fraction is used; ask for what is left."""
    name, she, _ = person(rng)
    word, part = rng.choice(
        [("half", 2), ("a third", 3), ("a quarter", 4), ("a fifth", 5), ("a tenth", 10)]
    )
    share, thing = rng.randint(2, 20), rng.choice(THINGS)
    total = share * part
    place = rng.choice(PLACES)
    question = (
        f"{name} carries {total} {thing} to the {place} and leaves {word} of them there. How "
        f"many {thing} does {she} take home?"
    )
    steps = [
        f"{name} leaves {total} / {part} = {share} {thing}.",
        f"{she.capitalize()} takes home {total} - {share} = {total - share} {thing}.",
    ]
    return record(question, steps, total - share)


def percent_off(rng: random.Random) -> Problem:
    """A discount in percent on one price."""
    good, percent = rng.choice(GOODS), rng.choice([10, 20, 25, 30, 40, 50, 75])
    price = rng.randint(1, 10) * 20
    off = price * percent // 100
    count = rng.randint(2, 4)
    new = price - off
    question = (
        f"{article(good).capitalize()} costs ${price}. In the sale the price falls by {percent} "
        f"percent. How many dollars do {count} {plural(good)} cost in the sale?"
    )
    steps = [
        f"The discount is {price} * {percent} / 100 = {off} dollars.",
        f"One {good} now costs {price} - {off} = {new} dollars.",
        f"So {count} of them cost {count} * {new} = {count * new} dollars.",
    ]
    return record(question, steps, count * new)


def ages(rng: random.Random) -> Problem:
    """Ages now and later."""
    first, second = two_names(rng)
    young, gap, later = rng.randint(3, 15), rng.randint(2, 20), rng.randint(2, 12)
    question = (
        f"{first} is {young} years old. {second} is {gap} years older. How old will {second} be "
        f"in {later} years?"
    )
    steps = [
        f"Today {second} is {young} + {gap} = {young + gap} years old.",
        f"In {later} years that is {young + gap} + {later} = {young + gap + later}.",
    ]
    return record(question, steps, young + gap + later)


def age_sum(rng: random.Random) -> Problem:
    """The sum of two ages when one is a multiple of the other."""
    first, second = two_names(rng)
    young, factor, ago = rng.randint(4, 12), rng.randint(2, 4), rng.randint(1, 3)
    question = (
        f"{second} is {factor} times as old as {first}, who is {young}. What was the sum of their "
        f"ages {ago} {'year' if ago == 1 else 'years'} ago?"
    )
    old = young * factor
    steps = [
        f"{second} is {factor} * {young} = {old} years old.",
        f"Back then {second} was {old} - {ago} = {old - ago} and {first} was "
        f"{young} - {ago} = {young - ago}.",
        f"The sum was {old - ago} + {young - ago} = {old + young - 2 * ago}.",
    ]
    return record(question, steps, old + young - 2 * ago)


def farm_legs(rng: random.Random) -> Problem:
    """Count of animals over several fields."""
    first, second = rng.sample(ANIMALS, 2)
    fields, a, b = rng.randint(2, 8), rng.randint(3, 15), rng.randint(3, 15)
    question = (
        f"A farm has {fields} fields. In every field there are {a} {first} and {b} {second}. How "
        "many animals live on the farm?"
    )
    steps = [
        f"Each field has {a} + {b} = {a + b} animals.",
        f"In {fields} fields there are {fields} * {a + b} = {fields * (a + b)} animals.",
    ]
    return record(question, steps, fields * (a + b))


def saving(rng: random.Random) -> Problem:
    """Weeks of saving needed for a price."""
    name, she, her = person(rng)
    good, weekly, weeks, have = (
        rng.choice(GOODS), rng.randint(2, 12), rng.randint(3, 12), rng.randint(2, 30),
    )
    price = weekly * weeks + have
    question = (
        f"{name} wants {article(good)} that costs ${price}. {she.capitalize()} already has ${have} "
        f"and puts ${weekly} into {her} box every week. After how many weeks can {she} buy it?"
    )
    steps = [
        f"{name} still needs {price} - {have} = {price - have} dollars.",
        f"That takes {price - have} / {weekly} = {weeks} weeks.",
    ]
    return record(question, steps, weeks)


def earnings(rng: random.Random) -> Problem:
    """Hourly wage, bonus and a cost: three steps."""
    name, she, _ = person(rng)
    wage, hours, bonus = rng.randint(8, 25), rng.randint(3, 9), rng.randint(5, 30)
    pay = wage * hours
    fare = rng.randint(2, 12)
    question = (
        f"{name} works {hours} hours at the {rng.choice(PLACES)} for ${wage} an hour and gets a "
        f"bonus of ${bonus}. The ride home costs ${fare}. How many dollars does {she} keep?"
    )
    steps = [
        f"The work pays {hours} * {wage} = {pay} dollars.",
        f"With the bonus it is {pay} + {bonus} = {pay + bonus} dollars.",
        f"After the ride {pay + bonus} - {fare} = {pay + bonus - fare} dollars stay.",
    ]
    return record(question, steps, pay + bonus - fare)


def reading(rng: random.Random) -> Problem:
    """Pages of a book read over days at two speeds."""
    name, she, _ = person(rng)
    fast, days, slow, more = (
        rng.randint(10, 40), rng.randint(2, 7), rng.randint(5, 20), rng.randint(2, 6),
    )
    left = rng.randint(5, 80)
    done = fast * days + slow * more
    question = (
        f"A book has {done + left} pages. {name} reads {fast} pages a day for {days} days and "
        f"then {slow} pages a day for {more} days. How many pages must {she} still read?"
    )
    steps = [
        f"At first {name} reads {fast} * {days} = {fast * days} pages.",
        f"Then {she} reads {slow} * {more} = {slow * more} pages.",
        f"That makes {fast * days} + {slow * more} = {done} pages.",
        f"There are {done + left} - {done} = {left} pages left.",
    ]
    return record(question, steps, left)


def minutes(rng: random.Random) -> Problem:
    """Time from hours to minutes, with tasks taken away."""
    name, she, her = person(rng)
    hours, task, count = rng.randint(2, 5), rng.randint(5, 25), rng.randint(2, 4)
    total, used = hours * 60, task * count
    question = (
        f"{name} has {hours} hours before the {rng.choice(VEHICLES)} leaves. {she.capitalize()} "
        f"writes {count} letters to {her} friends, and each takes {task} minutes. How many minutes "
        "are left?"
    )
    steps = [
        f"{hours} hours are {hours} * 60 = {total} minutes.",
        f"The letters take {count} * {task} = {used} minutes.",
        f"So {total} - {used} = {total - used} minutes are left.",
    ]
    return record(question, steps, total - used)


def rows_of_trees(rng: random.Random) -> Problem:
    """A grid of trees and the yield of one tree."""
    tree, rows, columns, fruit = (
        rng.choice(FRUIT), rng.randint(2, 9), rng.randint(2, 9), rng.randint(5, 30),
    )
    trees = rows * columns
    question = (
        f"A garden has {rows} rows of {tree} trees with {columns} trees in each row. Every tree "
        f"gives {fruit} kg of fruit. How many kilograms does the garden give?"
    )
    steps = [
        f"There are {rows} * {columns} = {trees} trees.",
        f"They give {trees} * {fruit} = {trees * fruit} kg.",
    ]
    return record(question, steps, trees * fruit)


def three_days(rng: random.Random) -> Problem:
    """Sales on three days related to each other."""
    first = rng.randrange(5)
    one, two, three = DAYS[first : first + 3]
    good, base, less, factor = (
        rng.choice(GOODS), rng.randint(10, 40), rng.randint(2, 9), rng.randint(2, 4),
    )
    second, third = base - less, base * factor
    many = plural(good)
    question = (
        f"A shop sells {base} {many} on {one}, {less} fewer on {two}, and {factor} times as many "
        f"on {three} as on {one}. How many {many} does it sell on the three days?"
    )
    steps = [
        f"On {two} it sells {base} - {less} = {second} {many}.",
        f"On {three} it sells {factor} * {base} = {third} {many}.",
        f"The total is {base} + {second} + {third} = {base + second + third}.",
    ]
    return record(question, steps, base + second + third)


def seats(rng: random.Random) -> Problem:
    """Free seats from vehicles and passengers."""
    vehicle, count, size = rng.choice(["bus", "tram", "boat", "van"]), rng.randint(2, 9), 0
    size = rng.randint(6, 40)
    total = count * size
    people = rng.randint(total // 2, total - 1)
    question = (
        f"A school rents {count} {plural(vehicle)} with {size} seats each for a trip to the "
        f"{rng.choice(PLACES)}. {people} people come along. How many seats stay empty?"
    )
    steps = [
        f"There are {count} * {size} = {total} seats.",
        f"{total} - {people} = {total - people} seats stay empty.",
    ]
    return record(question, steps, total - people)


def rectangle(rng: random.Random) -> Problem:
    """Area or fence of a rectangle."""
    long, wide = rng.randint(6, 40), rng.randint(2, 20)
    place = rng.choice(["garden", "yard", "field", "playground", "hall"])
    head = f"A {place} is {long} meters long and {wide} meters wide. "
    if rng.random() < 0.5:
        price = rng.randint(2, 9)
        area = long * wide
        steps = [
            f"The area is {long} * {wide} = {area} square meters.",
            f"The grass costs {area} * {price} = {area * price} dollars.",
        ]
        ask = f"New grass costs ${price} per square meter. How many dollars does all the grass cost?"
        return record(head + ask, steps, area * price)
    side = long + wide
    steps = [
        f"One long and one short side are {long} + {wide} = {side} meters.",
        f"The whole fence is 2 * {side} = {2 * side} meters.",
    ]
    return record(head + "How many meters of fence go around it?", steps, 2 * side)


def mean_score(rng: random.Random) -> Problem:
    """Mean of three numbers."""
    name, _, _ = person(rng)
    mean, shift, other = rng.randint(10, 60), rng.randint(1, 8), rng.randint(1, 8)
    a, b, c = mean + shift, mean - other, mean - shift + other
    game = rng.choice(["darts", "chess", "archery", "bowling", "quiz"])
    question = (
        f"In three {game} rounds {name} scores {a}, {b} and {c} points. What is the average score "
        "per round?"
    )
    steps = [
        f"The sum is {a} + {b} + {c} = {3 * mean} points.",
        f"The average is {3 * mean} / 3 = {mean} points.",
    ]
    return record(question, steps, mean)


TEMPLATES: tuple[Callable[[random.Random], Problem], ...] = (
    give_and_get, shopping_total, shopping_change, packing, sharing, comparison_more,
    comparison_times, speed, travel_time, production, fraction_of, percent_off, ages, age_sum,
    farm_legs, saving, earnings, reading, minutes, rows_of_trees, three_days, seats, rectangle,
    mean_score,
)  # fmt: skip


def make_problem(rng: random.Random) -> Problem:
    """Draw one problem.

    Args:
        rng: the only source of randomness.

    Returns:
        A record with ``question`` and ``answer``.
    """
    return rng.choice(TEMPLATES)(rng)


EQUATION = re.compile(r"(\d+(?: [-+*/] \d+)+) = (\d+)")
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def evaluate(expression: str) -> int:
    """Evaluate integers joined by one kind of precedence, from left to right.

    The templates never mix a sum with a product, so left to right is the usual order.

    Raises:
        ValueError: a sum is mixed with a product, or a division has a remainder.
    """
    words = expression.split()
    signs = set(words[1::2])
    if signs & set("+-") and signs & set("*/"):
        raise ValueError(f"{expression!r} mixes sums and products")
    value = int(words[0])
    for sign, word in zip(words[1::2], words[2::2], strict=True):
        if sign == "/":
            if value % int(word):
                raise ValueError(f"{expression!r} has a remainder")
            value //= int(word)
        else:
            value = OPERATORS[sign](value, int(word))
    return value


def check_answer(answer: str) -> bool:
    """Tell whether all written arithmetic holds and the last result is the final line.

    Returns:
        False when an equation is wrong, none is written, or ``#### N`` is missing or is not
        the value of the last equation.
    """
    body, _, final = answer.rpartition("\n#### ")
    equations = EQUATION.findall(body)
    if not equations or not final.isdigit():
        return False
    try:
        correct = all(evaluate(left) == int(right) for left, right in equations)
    except ValueError:
        return False
    return correct and int(equations[-1][1]) == int(final) and body.count("=") == len(equations)
