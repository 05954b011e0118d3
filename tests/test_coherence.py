"""Answers that are degenerate, and those that only look it. No torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from plop_lora.data.gate_sets import LANGUAGES, gate_prompts, labelled_answers
from plop_lora.data.general_text import bundled_texts
from plop_lora.evaluation.coherence import (
    CODE,
    LOOPING,
    Fault,
    _is_code,
    faults,
    in_other_script,
    repeated_share,
)

ENGLISH, JAPANESE = "Why do leaves turn red?", "なぜ木の葉は赤くなるのですか。"
IN_ENGLISH = "Because the green pigment breaks down before the leaf falls, and red ones remain."
IN_JAPANESE = "葉が落ちる前に緑の色素が壊れ、赤い色素が残るからです。"
VERSES = [" ".join(f"word{verse}x{n}" for n in range(28)) for verse in range(4)]
REFRAIN = " ".join(f"refrain{n}" for n in range(28))


# --------------------------------------------------------------------------- loops


@pytest.mark.parametrize(
    "answer",
    [
        "I like the sea and " * 20,
        "the " * 40,
        "a" * 400,
        "!" * 400 + "a",
        "Hello" + "!" * 400,
        "これはとても良いことです。" * 6,
        "あ" * 60,
        "1. Wash it.\n" * 15,
        IN_ENGLISH + " " + " ".join(VERSES) + " and then we went home" * 30,
        IN_JAPANESE + "それから家に帰りました。" * 20,
    ],
)
def test_loops(answer: str) -> None:
    assert Fault.LOOPING in faults(ENGLISH, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "No, no, no.",
        "Ha ha ha ha ha!",
        "はいはいはい。",
        "\n".join(f"{n}. Wash the cup number {n}, then dry it." for n in range(1, 12)),
        "\n".join(f"| row{n} | yes | no | yes | no |" for n in range(12)),
        "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 4 | 5 | 6 |\n" + "-" * 60,
        "\n".join(f"{verse}\n{REFRAIN}" for verse in VERSES),
        "\n".join([VERSES[0], REFRAIN, VERSES[1], REFRAIN, REFRAIN]),
        "\n".join(f"    if x == {n}:\n        return names[{n}]" for n in range(12)),
        "<ul>\n" + "\n".join(f"  <li>{name}</li>" for name in VERSES[0].split()) + "\n</ul>",
        "\n".join(f"{n} × 7 = {n * 7}" for n in range(1, 13)),
        "春が来た 春が来た どこに来た 山に来た 里に来た 野にも来た",
    ],
)
def test_repetition_that_is_meant(answer: str) -> None:
    """Code, lists, tables, poems with refrains and short answers repeat themselves."""
    assert Fault.LOOPING not in faults(ENGLISH, answer)


def test_a_loop_at_the_end_of_a_long_answer() -> None:
    """A good beginning would hide the loop in a share over the whole answer."""
    beginning = " ".join(f"word{n}" for n in range(400))
    looped = beginning + " and so on it goes" * 30
    assert 1 - len(set(looped.split())) / len(looped.split()) < LOOPING
    assert repeated_share(looped) > LOOPING
    assert repeated_share(beginning) == 0.0


def test_the_examples_that_explain_the_threshold() -> None:
    song = "\n".join(f"{verse}\n{REFRAIN}" for verse in VERSES)
    assert repeated_share(song) == pytest.approx(0.34, abs=0.005)


# --------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (ENGLISH, IN_JAPANESE),
        (JAPANESE, IN_ENGLISH),
        (ENGLISH, "Потому что зелёный пигмент распадается раньше, чем падает лист."),
        (JAPANESE, "잎이 떨어지기 전에 초록 색소가 먼저 사라지기 때문에 붉게 보입니다."),
        (
            "Explain CPU caches.",
            "キャッシュは、CPUがよく使うデータを近くに置いておく小さなメモリです。",
        ),
    ],
)
def test_another_script(prompt: str, answer: str) -> None:
    assert faults(prompt, answer) == (Fault.OTHER_SCRIPT,)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (ENGLISH, IN_ENGLISH),
        (JAPANESE, IN_JAPANESE),
        (
            ENGLISH,
            "Chlorophyll breaks down; in Kyoto people say 紅葉 (kōyō), red leaves, and travel.",
        ),
        (
            JAPANESE,
            "chlorophyll (クロロフィル) が分解され、anthocyanin と carotenoid の色が見えます。",
        ),
        (JAPANESE, "def color(leaf):\n    return leaf.red if leaf.day > 300 else leaf.green"),
        (JAPANESE, "```python\nprint('leaves are falling, and they are red')\n```"),
        (JAPANESE, "https://example.org/why-do-leaves-turn-red-in-autumn"),
        (JAPANESE, "Quercus rubra"),
        (ENGLISH, "紅葉"),
        (ENGLISH, "42"),
        ("Translate into Japanese: leaves turn red in autumn.", IN_JAPANESE),
        ("次の文を英語にしてください。葉が赤くなる。", IN_ENGLISH),
        ("Continue: 葉が落ちる前に緑の色素が壊れ", IN_JAPANESE),
        ("🍁?", IN_JAPANESE),
    ],
)
def test_scripts_that_are_meant(prompt: str, answer: str) -> None:
    """Quotations, names, code, short answers and translations are in their right script."""
    assert not faults(prompt, answer)


# --------------------------------------------------------------------------- all faults


@pytest.mark.parametrize("answer", ["", " \n\t", "...", "。。。", "?!"])
def test_empty(answer: str) -> None:
    assert faults(ENGLISH, answer) == (Fault.EMPTY,)


@pytest.mark.parametrize("answer", ["42", "はい", "🍁", "+", "A"])
def test_short_is_not_empty(answer: str) -> None:
    assert faults(ENGLISH, answer) == ()


def test_cut_off_is_what_the_caller_says() -> None:
    assert faults(ENGLISH, IN_ENGLISH, cut_off=True) == (Fault.CUT_OFF,)
    assert faults(ENGLISH, "Because the green pig") == ()


def test_faults_come_in_one_order() -> None:
    looped = IN_JAPANESE * 8
    assert faults(ENGLISH, looped, cut_off=True) == (
        Fault.LOOPING,
        Fault.CUT_OFF,
        Fault.OTHER_SCRIPT,
    )


def test_the_bundled_texts_are_coherent() -> None:
    """The thresholds leave room: no text written by a person comes near them."""
    texts = bundled_texts()
    assert max(map(repeated_share, texts)) < 0.3
    for language, prompt in zip(LANGUAGES, (ENGLISH, JAPANESE), strict=True):
        own = [p.prompt for p in gate_prompts(language)]
        own += [a.text for a in labelled_answers() if a.language == language]
        assert not [text for text in own if {*faults(prompt, text)} - {Fault.EMPTY}]
    programs = [text for text in texts if _is_code(text)]
    assert len(programs) == 80, CODE


def test_each_bundled_prompt_sees_the_other_language() -> None:
    for prompt in gate_prompts("en"):
        assert in_other_script(prompt.prompt, IN_JAPANESE)
    for prompt in gate_prompts("ja"):
        assert in_other_script(prompt.prompt, IN_ENGLISH)


def test_judging_needs_no_torch() -> None:
    code = (
        "import sys; from plop_lora.evaluation import coherence, refusals; "
        "refusals.refuses('No.'); coherence.faults('Why?', 'No.'); "
        "assert not {'torch', 'numpy', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
