"""Whether one answer is degenerate: empty, looping, cut off, or in another script than its prompt.

A finetune that breaks a model can do so without a change of any task's metric: the answers loop, or
leave the language of the prompt. Each rule is meant to be sure rather than complete, so that code,
lists, poems and translations pass. Not covered: nonsense in well-formed words, and other languages
of the same script, such as French for English or Chinese for Japanese. Imports no torch.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

GRAM_OF_WORDS = 4
"""Words of an n-gram. Welleck et al. 2020 (arXiv 1908.04319) measure repetition with 4-grams."""
GRAM_OF_CHARACTERS = 8
"""Characters of an n-gram of Japanese, about as long as 4 words; endings of verbs are shorter."""
FEWEST_GRAMS = 12
"""Fewest n-grams to judge: an answer of a few words, such as "no, no, no", is no loop."""
LOOPING = 0.5
"""Share of n-grams that occurred before, above which an answer loops. A song in which a refrain as
long as each of four verses comes four times has 0.34; a sentence of ten words that comes three
times has 0.63."""
TAIL = 120
"""Units at the end that are judged by themselves too: a loop, once begun, seldom ends, and the good
beginning of a long answer would hide it."""
LONGEST_WORD = 10
"""Characters after which a word, or a run of one sign, counts as the next one, so that "aaaa…" is a
loop and not one word."""
FEWEST_LETTERS = 20
"""Fewest letters whose script is judged: a name or a formula is right in any script."""
OWN_SCRIPT = 0.2
"""Least share of letters that makes a script one of the text's own. An answer in Japanese that is
full of product names has more than that in Japanese; an English one that quotes a word has less."""
CODE = 0.05
"""Share of brackets and operators above which a text is code, which is in no language. Of the
bundled general text prose has at most 0.01, and every program has more than 0.05."""

_CHARACTER = "\u3041-\u30ff\u3400-\u9fff々"
_UNIT = re.compile(
    rf"[{_CHARACTER}]|[^\W{_CHARACTER}]{{1,{LONGEST_WORD}}}|([^\w\s])\1{{{LONGEST_WORD - 1}}}"
)
"""A Japanese character, a word, or a long run of one sign. Other signs are not counted, or the
strokes of a table would be a loop."""
_CODE_SIGNS = frozenset("{}[]()<>=;+*/\\|_#$&@`")
_SKIPPED = re.compile(r"```.*?(?:```|$)|`[^`\n]*`|https?://\S+", re.DOTALL)
_NAMES_A_LANGUAGE = re.compile(
    r"translat|english|japanese|hiragana|katakana|kanji|romaji|翻訳|通訳|英|日本語|和訳|ローマ字",
    re.IGNORECASE,
)
_SCRIPTS = {
    "LATIN": "latin", "FULLWIDTH": "latin", "HIRAGANA": "japanese", "KATAKANA": "japanese",
    "KATAKANA-HIRAGANA": "japanese", "HALFWIDTH": "japanese", "CJK": "japanese",
    "IDEOGRAPHIC": "japanese",
}  # fmt: skip
"""First word of a letter's Unicode name → script; others keep that word."""


class Fault(StrEnum):
    """What is wrong with an answer; one without letters, digits and symbols is empty."""

    EMPTY = "empty"
    LOOPING = "looping"
    CUT_OFF = "cut off"
    OTHER_SCRIPT = "other script"


def faults(prompt: str, answer: str, *, cut_off: bool = False) -> tuple[Fault, ...]:
    """Return what is wrong with an answer, in the order of `Fault`; nothing if it is coherent.

    Args:
        prompt: The prompt, which sets the scripts of the answer.
        answer: The answer, without the prompt.
        cut_off: Whether generation ended at the limit of tokens and not at an end of the answer.

    >>> faults("How are you?", "Well, thank you."), faults("How are you?", " ")
    ((), (<Fault.EMPTY: 'empty'>,))
    >>> faults("How are you?", "I am well and " * 30, cut_off=True)
    (<Fault.LOOPING: 'looping'>, <Fault.CUT_OFF: 'cut off'>)
    """
    found = {
        Fault.EMPTY: not any(unicodedata.category(character)[0] in "LNS" for character in answer),
        Fault.LOOPING: repeated_share(answer) > LOOPING,
        Fault.CUT_OFF: cut_off,
        Fault.OTHER_SCRIPT: in_other_script(prompt, answer),
    }
    return tuple(fault for fault, holds in found.items() if holds)


# --------------------------------------------------------------------------- loops


def repeated_share(text: str) -> float:
    """Return the share of n-grams that occurred before, in the text or in its end alone.

    The larger of the two shares is returned, and 0.0 for a text of fewer than `FEWEST_GRAMS`
    n-grams. The n-grams are of words, or of characters where most of the text is Japanese.

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", seq-rep-n.
    They count tokens, and the continuation as a whole only.

    >>> round(repeated_share("one two three four five six seven eight nine ten. " * 3), 2)
    0.63
    """
    units = [found.group() for found in _UNIT.finditer(text.casefold())]
    single = sum(_script(unit) == "japanese" for unit in units if len(unit) == 1)
    size = GRAM_OF_CHARACTERS if 2 * single > len(units) else GRAM_OF_WORDS
    return max(_repeated(units, size), _repeated(units[-TAIL:], size))


def _repeated(units: Sequence[str], size: int) -> float:
    grams = [tuple(units[at : at + size]) for at in range(len(units) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) >= FEWEST_GRAMS else 0.0


# --------------------------------------------------------------------------- scripts


def in_other_script(prompt: str, answer: str) -> bool:
    """Return whether hardly any letter of an answer is in a script that its prompt is written in.

    Code and addresses do not count. Nothing is said, that is, False is returned, where the prompt
    names a language, since it may ask for a translation, and where either text has fewer than
    `FEWEST_LETTERS` letters (a prompt: no letters) or is code.

    >>> in_other_script("Why is the sky blue?", "太陽の光が空気に当たって散らばるからです。")
    True
    """
    prose = _SKIPPED.sub(" ", answer)
    if _NAMES_A_LANGUAGE.search(prompt) or _is_code(prose):
        return False
    letters = _letters(prose)
    asked = script_shares(prompt)
    if letters.total() < FEWEST_LETTERS or not asked:
        return False
    own = {script for script, share in asked.items() if share >= OWN_SCRIPT}
    return sum(letters[script] for script in own) < OWN_SCRIPT * letters.total()


def script_shares(text: str) -> Mapping[str, float]:
    """Return the share of letters in each script; Japanese is kana and Chinese characters.

    >>> script_shares("Tokyo は東京"), script_shares("42")
    ({'latin': 0.625, 'japanese': 0.375}, {})
    """
    letters = _letters(text)
    return {script: count / letters.total() for script, count in letters.items()}


def _letters(text: str) -> Counter[str]:
    return Counter(_script(character) for character in text if character.isalpha())


@functools.lru_cache(maxsize=1 << 14)
def _script(character: str) -> str:
    first = unicodedata.name(character, "UNKNOWN").split()[0]
    return _SCRIPTS.get(first, first.lower())


def _is_code(text: str) -> bool:
    characters = [character for character in text if not character.isspace()]
    return sum(character in _CODE_SIGNS for character in characters) > CODE * len(characters)
