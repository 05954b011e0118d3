"""`plop ab replay`: prompts, requests, failures, resumption, statistics and what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import served
from endpoints import SOON, Answer, Endpoint, endpoint, failed, streamed
from experiments import experiment
from finetunes import MODEL
from test_start import start
from waiting import PATIENCE, until

from plop_lora.ab.events import LATENCY_FIRST, LATENCY_LAST
from plop_lora.ab.replay import ReplaySettings, replay, settings_of
from plop_lora.ab.replay.asking import WARM_UP
from plop_lora.ab.replay.measures import adjusted, compared
from plop_lora.ab.replay.metrics import METRICS
from plop_lora.ab.replay.prompts import read_replay_prompts
from plop_lora.errors import DataError, MachineError, PlopError, RecordError, UsageError
from plop_lora.records import Replay, ReplayMeasure
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS
from plop_lora.reports.replay import replay_markdown

KEY = "sk-secret/0123456789+abcdef"
ARMS = {"now": "base", "next": "tuned"}
RAN = 400
"""Simulated replays."""


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as known:
        known.answer = lambda body, number: streamed("one two three four")
        yield known


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return written(tmp_path / "prompts.jsonl", [{"prompt": f"say {n}"} for n in range(12)])


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(server: Endpoint, **given: Any) -> ReplaySettings:
    more = {"models": ARMS, "control": "now", "retries": 0, "timeout": PATIENCE, **given}
    return ReplaySettings(url=server.url, **more)


TIMED = {LATENCY_FIRST, LATENCY_LAST, "tokens_per_second"}
"""The measures of time. They say something of the machine, so no test decides on them."""


def measure(record: Replay, metric: str, arm: str = "next") -> ReplayMeasure:
    (found,) = (one for one in record.measures if (one.arm, one.metric) == (arm, metric))
    return found


def real(server: Endpoint) -> list[dict[str, Any]]:
    """The requests that are not those of the warm-up."""
    return [body for body in server.asked if body.get("prompt") != WARM_UP]


def by_model(answers: Mapping[str, Callable[[int], Answer]]) -> Callable[[Any, int], Answer]:
    """Return an endpoint that answers by the model and the number in the prompt."""

    def answer(body: dict[str, Any], number: int) -> Answer:
        if body.get("prompt") == WARM_UP:
            return streamed("well")
        return answers[body["model"]](int(body["prompt"].split()[-1]))

    return answer


# --------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2, is not JSON"),
        ("[]", "line 2, is not an object"),
        ("{}", "line 2, must have either a prompt"),
        ('{"prompt": "a", "messages": []}', "line 2, must have either a prompt"),
        ('{"prompt": 3}', "line 2, has a prompt that is no text"),
        ('{"prompt": " "}', "or an empty one"),
        ('{"messages": "hello"}', "line 2, has messages that are no list"),
        ('{"messages": ["hello"]}', "line 2, has a message 1"),
        ('{"messages": [{"role": "user"}]}', "line 2, has a message 1"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "nothing is asked"),
        ('{"prompt": "a", "id": "first"}', "has the id 'first' of line 1"),
        ('{"prompt": "a", "id": [1]}', "line 2, has the id [1]"),
        ('{"prompt": "a", "unit": true}', "line 2, has the unit True"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' twice"),
    ],
)
def test_wrong_rows_are_named_by_their_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "a", "id": "first"}}\n{line}\n')
    with pytest.raises(DataError) as error:
        read_replay_prompts(path)
    assert words in str(error.value)


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_replay_prompts(tmp_path / "none.jsonl")


def test_the_logged_answer_is_not_asked(tmp_path: Path, server: Endpoint) -> None:
    """A chat that ends with the old answer would be continued after it."""
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "old"}]
    found = replay(written(tmp_path / "chats.jsonl", [{"messages": chat}]), settings(server))
    assert [body["messages"] for body in server.asked[2:]] == [chat[:1], chat[:1]]
    assert "the last answer of 1 chats was left out" in found.notes


# --------------------------------------------------------------------------- requests


def test_every_arm_gets_every_prompt_in_turn(prompts: Path, server: Endpoint) -> None:
    """An arm that is always asked second has its prompts in the cache already."""
    found = replay(prompts, settings(server, concurrency=1, seed=7))
    models = [body["model"] for body in real(server)]
    assert models == ["base", "tuned", "tuned", "base"] * 6
    assert {body["temperature"] for body in server.asked} == {0.0}
    assert {body["seed"] for body in server.asked} == {7}
    assert [arm.answered for arm in found.arms] == [12, 12]
    assert found.arms[1].identical.share == 1.0
    assert measure(found, "tokens_out").value == 4
    assert not any(one.differs for one in found.measures if one.metric not in TIMED)
    assert found.exit_code == 0


def test_what_differs_is_found(prompts: Path, server: Endpoint) -> None:
    """Longer answers, refusals and failures of one arm, each in its own measure."""
    long = [f"word{n} " * 3 + "end " * (n % 4 + 3) for n in range(12)]
    server.answer = by_model({
        "base": lambda n: streamed(f"word{n} one two"),
        "tuned": lambda n: streamed(long[n], reason="length" if n % 2 else "stop"),
    })  # fmt: skip
    found = replay(prompts, settings(server))
    length = measure(found, "tokens_out")
    assert length.differs
    assert 0 < length.low < length.difference < length.high
    assert measure(found, "without an end").value == 0.5
    assert not measure(found, "refused").differs
    assert found.arms[1].identical.share == 0.0


def test_refusals_are_counted_by_the_rule_of_the_gate(prompts: Path, server: Endpoint) -> None:
    server.answer = by_model({
        "base": lambda n: streamed("The answer is a number."),
        "tuned": lambda n: streamed("I'm sorry, but I can't help with that."),
    })  # fmt: skip
    refused = measure(replay(prompts, settings(server)), "refused")
    assert (refused.control, refused.value, refused.differs) == (0.0, 1.0, True)
    assert refused.p < 0.01


def test_half_of_the_prompts_fail_at_one_arm(prompts: Path, server: Endpoint) -> None:
    """Failures are a measure of their own, and not missing prompts."""
    server.answer = by_model({
        "base": lambda n: streamed("fine"),
        "tuned": lambda n: streamed("fine") if n % 2 else failed(500, "it broke"),
    })  # fmt: skip
    found = replay(prompts, settings(server, margins={"failed": 0.05}))
    failures = measure(found, "failed")
    assert (failures.difference, failures.prompts) == (0.5, 12)
    assert found.arms[1].failures == {"status 500": 6}
    assert measure(found, "tokens_out").prompts == 6
    assert any("it broke" in note for note in found.notes)
    assert failures.verdict is NOT_ENOUGH_DATA  # 12 prompts are fewer than a gate decides on
    assert found.exit_code == 4


def test_a_margin_decides(tmp_path: Path, server: Endpoint) -> None:
    path = written(tmp_path / "many.jsonl", [{"prompt": f"say {n}"} for n in range(60)])
    server.answer = by_model({
        "base": lambda n: streamed("a " * (5 + n % 3)),
        "tuned": lambda n: streamed("a " * (9 + n % 4)),
    })  # fmt: skip
    answers = tmp_path / "answers.jsonl"
    for margin, verdict, code in ((2.0, FAIL, 3), (9.0, PASS, 0)):
        found = replay(path, settings(server, margins={"tokens_out": margin}), answers=answers)
        assert (measure(found, "tokens_out").verdict, found.exit_code) == (verdict, code)
    assert len(real(server)) == 120, "the second replay asked again"


# --------------------------------------------------------------------------- what goes wrong


def test_a_busy_endpoint_is_asked_again_later(prompts: Path, server: Endpoint) -> None:
    """The wait that the endpoint asks for is no latency of an arm."""
    seen: set[tuple[str, str]] = set()

    def answer(body: dict[str, Any], number: int) -> Answer:
        asked = (body["model"], body["prompt"])
        if asked in seen:
            return streamed("one two")
        seen.add(asked)
        return Answer({"error": {"message": "busy"}}, 429, SOON)

    server.answer = answer
    found = replay(prompts, settings(server, retries=2))
    assert [arm.answered for arm in found.arms] == [12, 12]
    assert "latency_first" not in {one.metric for one in found.measures}
    assert any("latency_first" in note for note in found.notes)


def test_an_endpoint_that_stays_busy_stops_the_replay(
    prompts: Path, server: Endpoint, tmp_path: Path
) -> None:
    """A limit of requests is no failure of an arm; what was answered is kept."""
    server.answer = lambda body, number: streamed("a") if number < 9 else failed(429, "slow down")
    answers = tmp_path / "answers.jsonl"
    with pytest.raises(MachineError, match=r"status 429.*--concurrency.* 3 of 12 prompts"):
        replay(prompts, settings(server, concurrency=1), answers=answers)
    server.answer = lambda body, number: streamed("a")
    before = len(server.asked)
    found = replay(prompts, settings(server, concurrency=1), answers=answers)
    assert len(server.asked) - before == 2 * (12 - 3) + 2
    assert found.arms[0].answered == 12


def test_an_endpoint_that_is_not_there_is_told(prompts: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    gone = Endpoint(url="http://127.0.0.1:9/v1")
    with pytest.raises(MachineError, match="cannot be reached"):
        replay(prompts, settings(gone), answers=answers)
    assert not answers.exists(), "nothing was answered, so another endpoint may be tried"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("<html>hello</html>", 200, {"content-type": "text/html"}), "no stream of the API"),
        (Answer("data: {", 200, {"content-type": "text/event-stream"}), "no stream of the API"),
        (Answer("data: []\n\n", 200, {"content-type": "text/event-stream"}), "cut off"),
        (
            Answer('data: {"choices": 3}\n\n', 200, {"content-type": "text/event-stream"}),
            "cut off",
        ),
        (
            Answer('data: {"error": {"message": "x"}}\n\n', 200,
                   {"content-type": "text/event-stream"}),
            "cut off",
        ),
        (streamed("one two", reason=None), "cut off"),
        (failed(400, "too long", "context_length_exceeded"), "status 400"),
        (failed(503, KEY), "status 503"),
    ],
)  # fmt: skip
def test_garbage_is_a_failure_of_its_arm(
    prompts: Path, server: Endpoint, answer: Answer, reason: str
) -> None:
    """An answer that is not one must neither be measured nor end the replay, nor tell the key."""
    server.answer = by_model({"base": lambda n: streamed("fine"), "tuned": lambda n: answer})
    found = replay(prompts, settings(server))
    (failures,) = found.arms[1].failures.items()
    assert failures == (reason, 12)
    assert measure(found, "failed").differs
    assert KEY not in found.to_json()
    assert KEY[:12] not in found.to_json()


def test_an_endpoint_that_speaks_no_api_stops_the_replay(prompts: Path, server: Endpoint) -> None:
    server.answer = lambda body, number: Answer("<html></html>")
    with pytest.raises(MachineError, match=r"No arm answers.*ends in /v1"):
        replay(prompts, settings(server))
    server.answer = lambda body, number: failed(404, "no such model")
    with pytest.raises(UsageError, match=r"refuses the model 'base' of the arm 'now'.*--model"):
        replay(prompts, settings(server))
    server.answer = lambda body, number: failed(401, f"wrong key {KEY}")
    with pytest.raises(UsageError, match=r"wrong key \[key\]"):
        replay(prompts, settings(server))


def test_a_slow_answer_is_a_failure_of_its_arm(prompts: Path, server: Endpoint) -> None:
    over = threading.Event()

    def answer(body: dict[str, Any], number: int) -> Answer:
        if body["model"] == "tuned" and body["prompt"] == "say 0":
            over.wait(PATIENCE)
        return streamed("fine")

    server.answer = answer
    try:
        found = replay(prompts, settings(server, timeout=3.0))
    finally:
        over.set()
    assert found.arms[1].failures == {"timed out": 1}


def test_failures_are_asked_again_on_request(
    prompts: Path, server: Endpoint, tmp_path: Path
) -> None:
    """A failure that passed would stay in the file for ever."""
    answers = tmp_path / "answers.jsonl"
    server.answer = by_model({
        "base": lambda n: streamed("fine"),
        "tuned": lambda n: failed(500) if n == 3 else streamed("fine"),
    })  # fmt: skip
    assert replay(prompts, settings(server), answers=answers).arms[1].answered == 11
    server.answer = lambda body, number: streamed("fine")
    assert replay(prompts, settings(server), answers=answers).arms[1].answered == 11
    before = len(server.asked)
    assert replay(prompts, settings(server), answers=answers, again=True).arms[1].answered == 12
    assert len(server.asked) - before == 4, "a warm-up of two, and one prompt at two arms"


# --------------------------------------------------------------------------- the file of answers


def test_a_file_of_other_answers_is_refused(
    prompts: Path, server: Endpoint, tmp_path: Path
) -> None:
    """Answers of another temperature or of other prompts would be compared with these."""
    answers = tmp_path / "answers.jsonl"
    replay(prompts, settings(server), answers=answers)
    with pytest.raises(UsageError, match="another temperature"):
        replay(prompts, settings(server, temperature=1.0), answers=answers)
    with pytest.raises(UsageError, match="other arms or models"):
        replay(prompts, settings(server, models={"now": "base", "next": "x"}), answers=answers)
    written(prompts, [{"prompt": "other"}])
    with pytest.raises(UsageError, match="other prompts"):
        replay(prompts, settings(server), answers=answers)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"prompt": 99, "outcomes": {}}',
        '{"prompt": 0, "outcomes": {"now": {}, "next": {}}}',
        '{"prompt": true, "outcomes": {}}',
    ],
)
def test_a_damaged_file_is_refused(
    prompts: Path, server: Endpoint, tmp_path: Path, line: str
) -> None:
    answers = tmp_path / "answers.jsonl"
    replay(prompts, settings(server), answers=answers)
    kept = answers.read_text()
    answers.write_text(f"{kept}{line}\n")
    with pytest.raises(RecordError, match="line 14 is no answer of this replay"):
        replay(prompts, settings(server), answers=answers)
    answers.write_text(f'{kept}{{"prompt": 0, "outc')  # what a kill leaves
    assert replay(prompts, settings(server), answers=answers).prompts == 12
    answers.write_text("hello\n")
    with pytest.raises(RecordError, match="holds no answers of a replay"):
        replay(prompts, settings(server), answers=answers)


@pytest.mark.slow
def test_a_killed_replay_goes_on(prompts: Path, server: Endpoint, tmp_path: Path) -> None:
    """Answers that were paid for are not asked again."""
    killed = threading.Event()

    def hang(body: dict[str, Any], number: int) -> Answer:
        if number > 10:
            killed.wait(PATIENCE)
        return streamed("one two")

    server.answer = hang
    answers = tmp_path / "prompts.answers.jsonl"
    words = ["ab", "replay", str(prompts), "--upstream", server.url, "--model", "now=base",
             "--model", "next=tuned", "--concurrency", "1", "--format", "quiet"]  # fmt: skip
    command = [sys.executable, "-m", "plop_lora", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=dict(os.environ))
    until(lambda: len(server.asked) > 10 or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    kept = len(answers.read_text().splitlines()) - 1
    assert 0 < kept < 12
    before = len(real(server))
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), check=False)
    assert done.returncode == 0
    assert len(real(server)) - before == 2 * (12 - kept)


@pytest.mark.slow
def test_ctrl_c_waits_for_no_request(prompts: Path, server: Endpoint, tmp_path: Path) -> None:
    """The process went on for as long as the requests under way took."""
    hanging = threading.Event()

    def hang(body: dict[str, Any], number: int) -> Answer:
        if number > 8:
            hanging.wait(2 * PATIENCE)
        return streamed("one two")

    server.answer = hang
    words = ["ab", "replay", str(prompts), "--upstream", server.url, "--model", "now=base",
             "--model", "next=tuned", "--answers", "a.jsonl"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "plop_lora", *words], cwd=tmp_path, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        until(lambda: len(server.asked) > 10 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "Stopped. a.jsonl is kept" in errors
        assert not hanging.is_set(), "it did not wait for the answers"
    finally:
        hanging.set()
        process.kill()
        process.wait()


def test_a_replay_needs_no_torch(prompts: Path, server: Endpoint, tmp_path: Path) -> None:
    """A machine that only asks an endpoint has no use for the seconds that torch takes."""
    words = ["ab", "replay", str(prompts), "--upstream", server.url, "--model", "now=base",
             "--model", "next=tuned", "--format", "quiet"]  # fmt: skip
    returned, errors = start(tmp_path, *words, unwanted=("torch", "transformers", "starlette"))
    assert returned == 0, errors


def test_every_measure_is_documented() -> None:
    """A measure that the page does not name is a row of the table that nobody can read."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "ab-replay.md").read_text("utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []


# --------------------------------------------------------------------------- statistics


def draw(rng: np.random.Generator, prompts: int, shift: float) -> list[ReplayMeasure]:
    """Return the measures of a replay of two arms that differ by a shift in length alone."""
    hard = rng.lognormal(3.0, 0.6, prompts)
    sides = []
    for moved in (0.0, shift):
        sides.append({
            "tokens_out": hard * rng.lognormal(0.0, 0.3, prompts) + moved,
            "latency_last": hard * rng.lognormal(0.0, 1.0, prompts),
            "refused": (rng.random(prompts) < 0.1).astype(float),
            "failed": (rng.random(prompts) < 0.02).astype(float),
        })  # fmt: skip
    units = [str(n) for n in range(prompts)]
    found = [
        compared(METRICS[name], "next", (list(sides[0][name]), list(sides[1][name])), units, None)
        for name in sides[0]
    ]
    return list(adjusted([one for one in found if one is not None]))


@pytest.mark.slow
def test_equal_arms_are_not_called_different() -> None:
    """Without a correction one of many measures would differ in a fifth of all replays."""
    rng = np.random.default_rng(0)
    wrong = sum(any(one.differs for one in draw(rng, 60, 0.0)) for _ in range(RAN))
    assert wrong / RAN <= 0.05 + 3 * (0.05 * 0.95 / RAN) ** 0.5
    right = [draw(rng, 60, 8.0) for _ in range(50)]
    assert sum(found[0].differs for found in right) > 40, "and a difference is found"
    covered = [draw(rng, 60, 5.0)[0] for _ in range(RAN)]
    held = sum(one.low <= 5.0 <= one.high for one in covered) / RAN
    assert held >= 0.95 - 3 * (0.05 * 0.95 / RAN) ** 0.5


def test_prompts_of_one_unit_are_not_independent() -> None:
    """Ten prompts of an account that share their fate would count as ten accounts."""
    rng = np.random.default_rng(1)
    wrong = {"units": 0, "prompts": 0}
    for _ in range(RAN):
        fate = np.repeat(rng.normal(size=30), 10)
        sides = ([0.0] * 300, list(fate + 0.1 * rng.normal(size=300)))
        for name, size in (("units", 10), ("prompts", 1)):
            own = [str(n // size) for n in range(300)]
            found = compared(METRICS["tokens_out"], "next", sides, own, None)
            assert found is not None
            wrong[name] += found.differs
    assert wrong["units"] / RAN <= 0.05 + 3 * (0.05 * 0.95 / RAN) ** 0.5
    assert wrong["prompts"] / RAN > 0.3


def test_a_share_is_compared_by_mcnemar() -> None:
    """Only the prompts that changed say anything: 6 of 6 in one direction give 2 / 2**6."""
    before, after = [0.0] * 20, [1.0] * 6 + [0.0] * 14
    units = [str(n) for n in range(20)]
    found = compared(METRICS["refused"], "next", (before, after), units, None)
    assert found is not None
    assert found.p == pytest.approx(2 / 2**6)
    same = compared(METRICS["refused"], "next", (before, before), units, None)
    assert same is not None
    assert (same.p, same.low < 0 < same.high) == (1.0, True)
    assert compared(METRICS["refused"], "next", ([None], [1.0]), ["a"], None) is None
    longer = compared(METRICS["tokens_out"], "next", ([1.0] * 8, [3.0] * 8), units[:8], None)
    assert longer is not None
    assert longer.p == pytest.approx(2 / 2**8), "a difference without any spread"
    single = compared(METRICS["tokens_out"], "next", ([1.0], [2.0]), ["a"], 1.0)
    assert single is not None
    assert (single.low, single.p, single.verdict) == (None, None, NOT_ENOUGH_DATA)


# --------------------------------------------------------------------------- arms and judges


def test_the_arms_of_an_experiment(prompts: Path, server: Endpoint, tmp_path: Path) -> None:
    """The record names the experiment and the files of its adapters."""
    made = experiment()
    path = made.save(tmp_path / "experiment.json")
    control, other = made.control, made.candidates[0]
    found = replay(prompts, settings_of(server.url, {other: "tuned"}, path, retries=0))
    assert (found.experiment, found.experiment_digest) == (made.name, made.digest())
    assert {arm.name: arm.model for arm in found.arms} == {
        arm: "tuned" if arm == other else arm for arm in made.split
    }
    assert found.control == control
    digests = {arm.name: arm.adapter_digest for arm in made.arms}
    assert {arm.name: arm.adapter_digest for arm in found.arms} == digests
    with pytest.raises(UsageError, match="has no arm 'othr'"):
        settings_of(server.url, {"othr": "x"}, path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"models": {"now": "base"}}, "two arms or more"),
        ({"models": {"now": "a", "next": "a"}}, "both served by the model 'a'"),
        ({"control": "other"}, "The control 'other' is none"),
        ({"margins": {"tokens": 1.0}}, "Did you mean 'tokens_out'"),
        ({"margins": {"failed": -1.0}}, "must be above 0"),
        ({"margins": {"unsafe": 0.1}}, "There is no metric 'unsafe'"),
        ({"concurrency": 0}, "1 or more prompts at the same time"),
        ({"temperature": 3.0}, "temperature from 0 to 2"),
        ({"metric": "words"}, "There is no metric 'words'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    server: Endpoint, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlopError, match=words):
        settings(server, **given)


@pytest.mark.parametrize("url", ["localhost", "http://u:p@h/v1", "http://h/v1?k=1", "http://a b"])
def test_addresses_with_secrets_are_refused(server: Endpoint, url: str) -> None:
    server.url = url
    with pytest.raises(UsageError, match=r"the endpoint|no address of an endpoint"):
        settings(server)


def test_functions_of_the_user_value_the_answers(
    prompts: Path, server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge and a metric see the answers of both arms, and only those."""
    from plop_lora.evaluation.judges import judge_of

    (tmp_path / "own_replay.py").write_text(
        "def judge(prompt, answer):\n    return 'bad' in answer\n\n\n"
        "def words(prompts, completions, rows):\n"
        "    assert all(row['prompt'] == prompt for row, prompt in zip(rows, prompts))\n"
        "    return [len(text.split()) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    server.answer = by_model({
        "base": lambda n: streamed("a fine answer"),
        "tuned": lambda n: failed(500) if n == 0 else streamed("bad one"),
    })  # fmt: skip
    found = replay(
        prompts,
        settings(server, judge=judge_of("own_replay:judge"), metric="own_replay:words",
                 margins={"unsafe": 0.1}),
    )  # fmt: skip
    unsafe, words = measure(found, "unsafe"), measure(found, "metric")
    assert (unsafe.control, unsafe.value, unsafe.prompts) == (0.0, 1.0, 11)
    assert (words.control, words.value) == (3.0, 2.0)
    assert "function own_replay:judge" in found.judge


# --------------------------------------------------------------------------- what is printed


def test_the_command_line(
    run: Any, prompts: Path, server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line that a user reads, the record, the Markdown and the exit codes."""
    monkeypatch.chdir(tmp_path)
    words = ("ab", "replay", str(prompts), "--upstream", server.url, "--model", "now=base",
             "--model", "next=tuned")  # fmt: skip
    code, output, errors = run(*words, "-o", "replay.json")
    assert code == 0, errors
    assert "Replay, 12 prompts of 12 units" in output
    assert "next (model tuned): 12 of 12 answered. 100.0% of 12 answers" in output
    assert (tmp_path / "replay.answers.jsonl").exists()
    record = Replay.load(tmp_path / "replay.json")
    assert Replay.from_dict(json.loads(record.to_json())) == record
    untimed = tuple(one for one in record.measures if one.metric not in TIMED)
    assert "different in nothing" in repr(replace(record, measures=untimed))
    markdown = replay_markdown(record)
    assert markdown.startswith("# plop ab replay: Replay, 12 prompts")
    code, output, errors = run(*words, "-o", "replay.md", "--margin", "failed=0.1")
    assert code == 4
    assert (tmp_path / "replay.md").read_text().startswith("# plop ab replay")
    assert run(*words, "--margin", "failed")[0] == 2
    assert run(*words, "--model", "now=again")[0] == 2
    assert run("ab", "replay", str(tmp_path / "none.jsonl"), *words[3:])[0] == 1


def test_hostile_names_move_no_cursor(run: Any, server: Endpoint, tmp_path: Path) -> None:
    """Names of arms and what a server says are printed, and come from others."""
    path = written(tmp_path / "prompts.jsonl", [{"prompt": "say 1"}, {"prompt": "say 2"}])
    server.answer = by_model({
        "base": lambda n: streamed("fine"), "tuned": lambda n: failed(500, "\x1b[2Jgone"),
    })  # fmt: skip
    words = ("ab", "replay", str(path), "--upstream", server.url, "--retries", "0",
             "--answers", str(tmp_path / "a.jsonl"))  # fmt: skip
    code, output, errors = run(*words, "--model", "now=base", "--model", "\x1b[1mnext=tuned")
    assert code == 2, "a name with a control character"
    code, output, errors = run(*words, "--model", "now=base", "--model", "next=tuned")
    assert code == 0
    assert "\x1b" not in output + errors
    assert "\\x1b[2Jgone" in output


@pytest.mark.slow
def test_two_adapters_of_the_local_server(tmp_path: Path) -> None:
    """The whole chain: adapters, server, replay, and the same answers when asked again."""
    from plop_lora.local_server.models import load_served

    folders = served.adapters(tmp_path)
    models = load_served(str(MODEL), "base", folders, device="cpu", dtype="float32")
    rows = [{"prompt": f"Question: Tom has {n} apples and buys {n + 2}.\nAnswer:"}
            for n in range(2, 12)]  # fmt: skip
    path = written(tmp_path / "prompts.jsonl", rows)
    with served.serving(models) as address:
        served_at = Endpoint(url=f"{address}/v1")
        names = {"base": "base", "now": "now", "next": "next.v2"}
        given = {"models": names, "control": "base", "max_tokens": 12, "retries": 2}
        first = replay(path, settings(served_at, **given))
        second = replay(path, settings(served_at, **given))
    assert [arm.answered for arm in first.arms] == [10, 10, 10]
    same = [arm.identical.share for arm in first.arms if arm.identical]
    assert same == [arm.identical.share for arm in second.arms if arm.identical]
    assert min(same) < 1.0
    assert {one.metric for one in first.measures} >= {"latency_first", "tokens_out"}
