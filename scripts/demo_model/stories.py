"""Generated short stories: a character, a wish, an obstacle, a helper, and how it ends.

The grammar keeps pronouns, objects and places consistent through a story, so that there is
something to learn beyond single words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CHARACTERS = (
    ("Mila", "she"), ("Oskar", "he"), ("the old sailor", "he"), ("the young baker", "she"),
    ("a small fox", "it"), ("Tomas", "he"), ("Ines", "she"), ("the night watchman", "he"),
    ("a quiet girl", "she"), ("the postman", "he"), ("a grey cat", "it"), ("Nora", "she"),
    ("the clockmaker", "he"), ("a young crow", "it"), ("the teacher", "she"), ("Emil", "he"),
    ("a tired horse", "it"), ("the ferry woman", "she"), ("Anton", "he"), ("Selma", "she"),
)  # fmt: skip
OBJECTS = (
    "red kite", "silver key", "wooden boat", "map", "blue lantern", "broken violin", "letter",
    "golden ring", "clay pot", "warm coat", "paper crown", "little drum", "glass marble",
    "box of seeds", "long rope", "mirror", "bell", "painted egg", "brass compass", "book of songs",
)  # fmt: skip
PLACES = (
    "forest", "harbour", "mill", "market", "old bridge", "lighthouse", "meadow", "station",
    "library", "mountain village", "river bank", "empty house", "castle garden", "frozen lake",
    "narrow street", "barn", "island", "desert camp",
)  # fmt: skip
WEATHER = (
    "The rain fell without a pause.", "A cold wind came from the north.", "The sun was warm.",
    "Snow covered every roof.", "Fog lay over the fields.", "The sky was clear and full of stars.",
    "Thunder rolled far away.", "It was the first mild day of the year.",
)  # fmt: skip
FEELINGS = (
    "tired", "hopeful", "afraid", "curious", "lonely", "proud", "calm", "angry", "cheerful",
    "worried",
)  # fmt: skip
HELPERS = (
    "an old woman with a basket", "a talking owl", "a boy on a bicycle", "a friendly dog",
    "two fishermen", "a travelling singer", "a soldier far from home", "a girl with a candle",
    "the keeper of the gate", "a shepherd and his sheep",
)  # fmt: skip
OBSTACLES = (
    "the bridge was broken", "the door was locked", "the road was under water",
    "a tree lay across the path", "nobody knew the way", "the lamp went out",
    "the boat had a hole", "the guard was asleep", "the wall was too high",
    "the map was torn in two",
)  # fmt: skip
REMEDIES = (
    "built a small raft", "climbed through a window", "waited until the morning",
    "asked for help", "tied two ropes together", "followed the sound of the bells",
    "lit a fire", "sang a song so loud that everyone woke up", "drew a new map",
    "dug a tunnel under the stones",
)  # fmt: skip
LESSONS = (
    "From then on {name} never went out alone.", "They stayed friends for many years.",
    "Nobody in the village forgot that day.", "And the {object} has its place by the window now.",
    "{Pronoun} slept well that night.", "The next morning everything looked new.",
    "{Name} laughed, because the way home was short.", "It was the best gift of all.",
)  # fmt: skip
TIMES = (
    "One morning", "Late in the evening", "On the last day of the summer", "Before the feast",
    "Long ago", "On a quiet Sunday", "In the middle of the night", "After the harvest",
)  # fmt: skip
_POSSESSIVE = {"she": "her", "he": "his", "it": "its"}
_OBJECT_CASE = {"she": "her", "he": "him", "it": "it"}


@dataclass(frozen=True)
class Cast:
    """What stays the same through one story."""

    name: str
    pronoun: str
    object: str
    place: str
    other_place: str
    helper: str

    def fill(self, template: str, **extra: str) -> str:
        """Return the template with names, pronouns and things in place."""
        words = {
            "name": self.name,
            "Name": _capital(self.name),
            "pronoun": self.pronoun,
            "Pronoun": _capital(self.pronoun),
            "possessive": _POSSESSIVE[self.pronoun],
            "them": _OBJECT_CASE[self.pronoun],
            "object": self.object,
            "place": self.place,
            "other_place": self.other_place,
            "helper": self.helper,
            "Helper": _capital(self.helper),
        }
        return template.format(**words, **extra)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


OPENINGS = (
    "{time} {name} went to the {place} to look for a {object}.",
    "{time} {name} lost a {object} near the {place}.",
    "{time} {name} found a {object} in the {place} and did not know whose it was.",
    "{time} {name} promised to carry a {object} from the {place} to the {other_place}.",
    "{time} {name} heard that somebody at the {place} had hidden a {object}.",
)
MIDDLES = (
    "{Name} was {feeling}, but {pronoun} did not turn back.",
    "For an hour {pronoun} walked from the {place} to the {other_place}.",
    '"Where is the {object}?" {name} asked, and only the wind answered.',
    "{Pronoun} held the {object} close and felt {feeling}.",
    "In {possessive} mind {pronoun} was already at the {other_place}.",
    "Then {name} saw a light behind the {other_place}.",
    "The people of the {other_place} looked at {them} and said nothing.",
    "{Name} counted to ten and took one more step.",
)
DIALOGUES = (
    '"Take this path," said {helper}, "and do not be {feeling}."',
    '{Helper} smiled at {name} and asked, "Is this your {object}?"',
    '"I can help you," said {helper}, "if you tell me a story."',
    '"You look {feeling}," said {helper}. "Come, we will go together."',
)


def make_story(rng: random.Random) -> str:
    """Return a story of five to eleven sentences as one paragraph."""
    name, pronoun = rng.choice(CHARACTERS)
    place, other_place = rng.sample(PLACES, 2)
    cast = Cast(name, pronoun, rng.choice(OBJECTS), place, other_place, rng.choice(HELPERS))
    sentences = [cast.fill(rng.choice(OPENINGS), time=rng.choice(TIMES))]
    if rng.random() < 0.6:
        sentences.append(rng.choice(WEATHER))
    for template in rng.sample(MIDDLES, rng.randint(1, 3)):
        sentences.append(cast.fill(template, feeling=rng.choice(FEELINGS)))
    sentences.append(f"But {rng.choice(OBSTACLES)}.")
    if rng.random() < 0.8:
        sentences.append(cast.fill(rng.choice(DIALOGUES), feeling=rng.choice(FEELINGS)))
    sentences.append(cast.fill("So {name} {deed}.", deed=rng.choice(REMEDIES)))
    if rng.random() < 0.5:
        template = "At last {pronoun} reached the {other_place} with the {object}, {feeling}."
        sentences.append(cast.fill(template, feeling=rng.choice(FEELINGS)))
    sentences.append(cast.fill(rng.choice(LESSONS)))
    return " ".join(sentences)
