"""`plop serve`: answers of each adapter, streams, refusals, the line, clients that leave."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import served
import torch
from finetunes import MODEL
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from typer.testing import CliRunner
from waiting import PATIENCE, until

from plop_lora.cli import app
from plop_lora.errors import AdapterError, MachineError, UsageError
from plop_lora.evaluation.generation import generate
from plop_lora.local_server import requests
from plop_lora.local_server.models import ServedModel, load_served
from plop_lora.local_server.refusals import RefusedError
from plop_lora.local_server.requests import read_request
from plop_lora.local_server.serve import TOKEN, ServeSettings, serve
from plop_lora.models.loading import load_model, load_tokenizer

PROMPT = "Question: Tom has 3 apples and buys 4. How many?\nAnswer:"
CHAT = [{"role": "user", "content": "Tom has 3 apples and buys 4. How many?"}]
NAMES = ("base", "now", "next.v2", "pissa")
LOCAL = frozenset({"127.0.0.1", "localhost"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return served.adapters(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> tuple[ServedModel, ...]:
    return load_served(str(MODEL), "base", folders, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def address(models: tuple[ServedModel, ...]) -> Iterator[str]:
    with served.serving(models, hosts=LOCAL) as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, str]:
    """What PEFT's own model of each adapter, loaded alone, generates greedily."""
    tokenizer = load_tokenizer(str(MODEL))
    given = tokenizer(PROMPT, return_tensors="pt")
    found = {}
    for name in NAMES:
        model: Any = load_model(str(MODEL), device="cpu", dtype="float32", progress=False)
        if name in folders:
            model = PeftModel.from_pretrained(model, str(folders[name]))
        with torch.no_grad():
            whole = model.eval().generate(**given, max_new_tokens=16, do_sample=False)
        tokens = whole[0, given["input_ids"].shape[1] :]
        found[name] = tokenizer.decode(tokens, skip_special_tokens=True)
    return found


def complete(client: openai.OpenAI, model: str, **given: Any) -> Any:
    settings = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, **given}
    return client.completions.create(model=model, **settings)


def post(address: str, body: bytes, path: str = "/v1/completions", **headers: str) -> Any:
    """Send a raw request; return its status, headers and JSON."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
    sent = {"content-type": "application/json", **headers}
    try:
        connection.request("POST", path, body, sent)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), json.loads(reply.read())
    finally:
        connection.close()


# --------------------------------------------------------------------------- answers


def test_each_adapter_answers_as_with_peft_alone(
    client: openai.OpenAI, expected: dict[str, str]
) -> None:
    """An adapter that is not switched, or a base that PiSSA changed, answers for another."""
    assert len(set(expected.values())) == len(NAMES), "the adapters must differ"
    for _ in range(2):  # in turn, so that each is asked after each
        for name in (*NAMES, *reversed(NAMES)):
            assert complete(client, name).choices[0].text == expected[name], name


def test_requests_at_the_same_time_get_their_own_answers(
    client: openai.OpenAI, expected: dict[str, str]
) -> None:
    """Two generations at once would share one network, whose adapter the second switches."""
    names = NAMES * 6
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: complete(client, name).choices[0].text, names))
    assert found == [expected[name] for name in names]


def test_a_chat_ends_as_the_gate_ends_it(
    client: openai.OpenAI, models: tuple[ServedModel, ...]
) -> None:
    """A chat that runs on into the next turn gives other answers than those that were gated."""
    (now,) = (model for model in models if model.name == "now")
    with now.at_work() as prepared:
        (wanted,) = generate(prepared, [CHAT], batch_size=1, max_new_tokens=24)
    found = client.chat.completions.create(
        model="now", messages=CHAT, max_completion_tokens=24, temperature=0
    )
    assert found.choices[0].message.content == wanted.text
    assert found.choices[0].finish_reason == ("stop" if wanted.ended else "length")


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, expected: dict[str, str]) -> None:
    """Lost or repeated pieces, and usage that is not asked for, break clients."""
    chunks = list(complete(client, "next.v2", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected["next.v2"]
    assert len(chunks) > 3
    assert all(chunk.usage is None for chunk in chunks)
    chat = {"model": "now", "messages": CHAT, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**chat)
    parts = list(
        client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    )
    *pieces, last = parts
    text = "".join(part.choices[0].delta.content or "" for part in pieces)
    assert text == whole.choices[0].message.content
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage == whole.usage


def test_usage_counts_tokens(client: openai.OpenAI) -> None:
    """Numbers of tokens are what a comparison of lengths reads."""
    tokens = len(load_tokenizer(str(MODEL))(PROMPT)["input_ids"])
    found = complete(client, "base", prompt=[PROMPT, PROMPT], max_tokens=5)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].text == found.choices[1].text
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2 * tokens, 10)
    assert found.usage.total_tokens == 2 * tokens + 10


def test_stops_and_limits(client: openai.OpenAI, expected: dict[str, str]) -> None:
    """A stop text that is sent, or that comes in two tokens and is missed, reaches the user."""
    whole = expected["base"]
    stop = whole[5:9]
    for stream in (False, True):
        found = complete(client, "base", stop=[stop, "never"], stream=stream)
        choices = [chunk.choices[0] for chunk in (found if stream else [found])]
        assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
        assert choices[-1].finish_reason == "stop"
    assert complete(client, "base", max_tokens=2).choices[0].finish_reason == "length"


def test_sampling_is_drawn_by_its_seed(client: openai.OpenAI, expected: dict[str, str]) -> None:
    """A seed that is ignored makes no answer repeatable."""
    drawn = [complete(client, "base", temperature=1.5, seed=seed).choices[0].text for seed in
             (1, 1, 2, 3)]  # fmt: skip
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    narrow = complete(client, "base", temperature=1.5, top_p=1e-6, seed=1).choices[0].text
    assert narrow == expected["base"]
    free = {complete(client, "base", temperature=2.0).choices[0].text for _ in range(4)}
    assert len(free) > 1


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == list(NAMES)


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("body", "status", "parameter", "words"),
    [
        ("{", 400, None, "not JSON"),
        ("[]", 400, None, "not a JSON object"),
        ("[" * 100_000, 400, None, "not JSON"),
        ('"\\ud800"', 400, None, "surrogate"),
        (b"\xff", 400, None, "not JSON"),
        ({"model": "other"}, 404, "model", "base, now, next.v2, pissa"),
        ({"model": None}, 400, "model", "missing"),
        ({"prompt": None}, 400, "prompt", "missing"),
        ({"prompt": ""}, 400, "prompt", "no tokens"),
        ({"prompt": [1, 2]}, 400, "prompt.0", "string"),
        ({"prompt": ["a"] * 65}, 400, "prompt", "64"),
        ({"n": 2}, 400, "n", "give 1"),
        ({"n": True}, 400, "n", "give 1"),
        ({"logprobs": 0}, 400, "logprobs", "does not honour"),
        ({"tools": [{}]}, 400, "tools", "does not honour"),
        ({"audio": {}}, 400, "audio", "Leave it out."),
        ({"tempratur": 1}, 400, "tempratur", "'temperature'"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"temperature": "0"}, 400, "temperature", "number"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 512}, 400, "prompt", "context length of now is 512"),
        ({"stop": ["1", "2", "3", "4", "5"]}, 400, "stop", "at most 4"),
        ({"stream": "yes"}, 400, "stream", "boolean"),
        ({"seed": 2**70}, 400, "seed", ""),
        ({"a\x1b[2J": 1}, 400, "a\\x1b[2J", "no parameter"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_by_name(
    address: str, body: Any, status: int, parameter: str | None, words: str
) -> None:
    """A parameter that is silently ignored gives an answer that nobody asked for."""
    if isinstance(body, dict):
        body = json.dumps({"model": "now", "prompt": "a", **body})
    raw = body if isinstance(body, bytes) else body.encode()
    found, _, reply = post(address, raw)
    error = reply["error"]
    assert (found, error["param"]) == (status, parameter), error
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "parameter"),
    [
        ([], "messages"),
        ([{"role": "tool", "content": "a"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages.0.content.0.type",
        ),
    ],
)
def test_wrong_messages_are_refused_by_name(
    address: str, messages: list[Any], parameter: str
) -> None:
    body = json.dumps({"model": "now", "messages": messages}).encode()
    status, _, reply = post(address, body, "/v1/chat/completions")
    assert (status, reply["error"]["param"]) == (400, parameter), reply


def test_what_changes_nothing_is_taken(client: openai.OpenAI, expected: dict[str, str]) -> None:
    """Many clients send every parameter, with the values that change nothing."""
    found = complete(
        client, "base", n=1, best_of=1, presence_penalty=0.0, logit_bias={}, user="somebody",
        stop=None, extra_body={"top_k": -1},
    )  # fmt: skip
    assert found.choices[0].text == expected["base"]
    parts = [{"type": "text", "text": "Tom has 3 apples"}, {"type": "text", "text": " and 4."}]
    chat = [client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": content}], max_tokens=4, temperature=0
    ).choices[0].message.content for content in (parts, "Tom has 3 apples and 4.")]  # fmt: skip
    assert chat[0] == chat[1]


def test_errors_of_the_client_are_those_of_openai(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        complete(client, "other")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        complete(client, "now", prompt="apples " * 2000)
    assert long.value.code == "context_length_exceeded"


def test_a_model_without_a_template_answers_no_chat(
    models: tuple[ServedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up template would give answers that no other server gives."""
    model = models[0]
    monkeypatch.setattr(model.prepared.tokenizer, "chat_template", None)
    with pytest.raises(RefusedError, match=r"no chat template\. Send a text to /v1/completions"):
        model.tokens_of(CHAT, 4)
    monkeypatch.setattr(
        model.prepared.tokenizer, "chat_template", "{{ raise_exception('Roles must alternate') }}"
    )
    with pytest.raises(RefusedError, match="The chat template refuses it: Roles must alternate"):
        model.tokens_of(CHAT, 4)


def test_large_bodies_and_other_kinds_are_refused(address: str) -> None:
    """Memory is bounded, and a page of another site cannot send what a browser lets it send."""
    status, _, reply = post(address, b"x" * (5 << 20))
    assert status == 413
    assert "4 MiB" in reply["error"]["message"]
    assert post(address, b"{}", **{"content-type": "text/plain"})[0] == 415
    assert post(address, b"{}", "/v1/other")[0] == 404
    status, _, reply = post(address, b"{}", host="evil.example")
    assert status == 403
    assert "localhost" in reply["error"]["message"]


def test_a_token_is_asked_for(models: tuple[ServedModel, ...]) -> None:
    with served.serving(models, token="secret") as address:
        body = json.dumps({"model": "base", "prompt": "a", "max_tokens": 1}).encode()
        for given in ("", "Bearer other", "secret", "Bearer sécret"):
            status, headers, reply = post(address, body, authorization=given.encode("latin-1"))
            assert status == 401
            assert headers["www-authenticate"] == "Bearer"
            assert reply["error"]["type"] == "authentication_error"
        assert post(address, body, authorization="Bearer secret")[0] == 200


# --------------------------------------------------------------------------- the line


def test_a_full_line_says_when_to_come_again(
    models: tuple[ServedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests without a bound would wait for hours and fill the memory."""
    from plop_lora.local_server import answering

    refused = threading.Event()
    kept = answering._Growing.__call__
    calls: list[int] = []

    def held(self: Any, ids: torch.Tensor, scores: Any, **given: Any) -> torch.Tensor:
        calls.append(ids.shape[1])
        if len(calls) > 20:  # so much of the answer that its beginning is sent
            refused.wait(PATIENCE)
        return kept(self, ids, scores, **given)

    monkeypatch.setattr(answering._Growing, "__call__", held)
    with served.serving(models, queue=0) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        body = json.dumps({"model": "base", "prompt": "a", "max_tokens": 2}).encode()
        stream = complete(client, "base", max_tokens=400, stream=True)
        next(stream)
        status, headers, reply = post(address, body)
        assert status == 503
        assert headers["retry-after"] == "1"
        assert reply["error"]["code"] == "queue_full"
        refused.set()
        stream.close()
        until(lambda: post(address, body)[0] == 200)
        client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_generated_for_a_client_that_left(
    models: tuple[ServedModel, ...], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The next client would wait for an answer that nobody reads."""
    from plop_lora.local_server import answering

    seen: list[int] = []
    left = threading.Event()
    kept = answering._Growing.__call__

    def slow(self: Any, ids: torch.Tensor, scores: Any, **given: Any) -> torch.Tensor:
        seen.append(ids.shape[1])
        if len(seen) > 3:
            left.wait(PATIENCE)
            time.sleep(0.1)  # all tokens would take longer than a server needs to see it
        return kept(self, ids, scores, **given)

    monkeypatch.setattr(answering._Growing, "__call__", slow)
    with served.serving(models) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"model": "base", "prompt": "a", "max_tokens": 500, "temperature": 0,
                           "stream": stream}).encode()  # fmt: skip
        with socket.create_connection((host, int(port))) as sent:
            sent.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: "
                b"application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            until(lambda: len(seen) > 3)
        left.set()
        short = json.dumps({"model": "now", "prompt": "a", "max_tokens": 1}).encode()
        assert post(address, short)[0] == 200
        assert len(seen) < 400


def test_a_failure_of_the_model_is_told_and_the_next_request_answered(
    models: tuple[ServedModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that died with its first failure would leave all later requests waiting."""
    network = models[0].prepared.model
    told: list[str] = []
    with served.serving(models, told=told) as address:
        body = json.dumps({"model": "base", "prompt": "a", "max_tokens": 1}).encode()
        for reason in ("CUDA out of memory", "it broke"):
            monkeypatch.setattr(network, "generate", _raising(RuntimeError(reason)))
            status, _, reply = post(address, body)
            assert status == 500
            assert reply["error"]["type"] == "server_error"
            assert ("not enough memory" if "memory" in reason else "it broke") in (
                reply["error"]["message"]
            )
        monkeypatch.undo()
        assert post(address, body)[0] == 200
    assert any("it broke" in line for line in told)


def _raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# --------------------------------------------------------------------------- pieces of text


@given(st.text("abU\ufffd", max_size=12), st.lists(st.text("abU", min_size=1, max_size=4)))
def test_what_is_told_of_a_text_stays(text: str, stops: list[str]) -> None:
    """A piece that was sent cannot be taken back when a stop text is complete."""
    from plop_lora.evaluation.chats import before_ends
    from plop_lora.local_server.answering import _certain

    whole = text.replace("\ufffd", "é")
    final = before_ends(whole, stops)
    for size in range(len(text) + 1):
        before = text[:size]
        if len(before_ends(before, stops)) < size:
            break
        assert final.startswith(before[: _certain(before, stops)].replace("\ufffd", "é"))


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) |
    st.dictionaries(st.sampled_from(["model", "prompt", "messages", "stop", "n"]) | st.text(),
                    inner), max_leaves=8).map(lambda value: json.dumps(value).encode()),
    st.booleans())  # fmt: skip
def test_no_body_breaks_the_reader(body: bytes, is_chat: bool) -> None:
    """Whatever is sent is read or refused in the form of the API."""
    try:
        read_request(body, is_chat=is_chat)
    except RefusedError as refused:
        found = refused
    else:
        return
    assert found.status == 400
    json.dumps(found.body)


def test_every_parameter_is_honoured_or_refused() -> None:
    """A parameter in two lists would be read by one and dropped by the other."""
    honoured = {*requests._ChatBody.model_fields, *requests._CompletionBody.model_fields}
    assert not honoured & (requests._UNSUPPORTED.keys() | requests._IGNORED)


def test_every_parameter_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "serve-local.md").read_text("utf-8")
    honoured = {*requests._ChatBody.model_fields, *requests._CompletionBody.model_fields}
    assert [name for name in honoured if f"`{name}`" not in page] == []


# --------------------------------------------------------------------------- the start


def test_adapters_are_checked_before_anything_is_loaded(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """An adapter of another base would answer nonsense, or fail at its first request."""
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 96}))
    with pytest.raises(AdapterError, match="adapter of another base"):
        load_served(str(tmp_path), "base", {"now": folders["now"]}, device="cpu")
    with pytest.raises(AdapterError, match="does not exist"):
        load_served(str(MODEL), "base", {"now": tmp_path / "none"}, device="cpu")


def test_a_start_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    """A model without a token on the network is everybody's."""
    monkeypatch.delenv(TOKEN, raising=False)

    def start(adapters: dict[str, Path], name: str | None = None, **settings: Any) -> None:
        serve(str(MODEL), adapters, ServeSettings(**settings), name=name, told=print)

    with pytest.raises(UsageError, match=f"With --host 0.0.0.0 .* {TOKEN}"):
        start({}, host="0.0.0.0")
    with pytest.raises(UsageError, match="name of the base and of an adapter"):
        start({"base": folders["now"]}, "base")
    with pytest.raises(UsageError, match=re.escape("'a\\\\nb' cannot be the name")):
        start({"a\nb": folders["now"]})
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(MachineError, match="--port"),
    ):
        start({}, port=taken.getsockname()[1])
    monkeypatch.setenv(TOKEN, "two words")
    with pytest.raises(UsageError, match="no token has"):
        start({}, host="0.0.0.0")


@pytest.mark.parametrize("word", ["now", "=a", "now=", ""])
def test_a_pair_that_is_none_is_refused(run: Any, word: str) -> None:
    code, _, errors = run("serve", str(MODEL), "--adapter", word)
    assert code == 2
    assert "is not NAME=DIR" in errors


def test_a_name_is_given_once(run: Any) -> None:
    """The second adapter would silently take the place of the first."""
    code, _, errors = run("serve", str(MODEL), "--adapter", "a=x", "--adapter", "a=y")
    assert code == 2
    assert "names 'a' twice" in errors


def test_help_says_what_it_is_for() -> None:
    text = " ".join(CliRunner().invoke(app, ["serve", "--help"]).stdout.split())
    assert "to try them on one machine" in text


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(
    folders: dict[str, Path], tmp_path: Path, sent: signal.Signals
) -> None:
    """The whole chain as a user types it, and Ctrl-C in the middle of an answer."""
    words = ["serve", str(MODEL), "--name", "base", "--adapter", f"now={folders['now']}",
             "--port", "0"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        # A shell lets what it runs in the background ignore Ctrl-C, and children with it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen([sys.executable, "-m", "plop_lora", *words], stderr=log)
        finally:
            signal.signal(signal.SIGINT, before)
    try:
        log_text = (tmp_path / "log").read_text
        until(lambda: "/v1" in log_text() or process.poll() is not None)
        assert "not for production" in log_text()
        (url,) = re.findall(r"http://[\d.:]+/v1", log_text())
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["base", "now"]
            stream = complete(client, "now", max_tokens=400, stream=True)
            next(stream)
            process.send_signal(sent)
            assert process.wait(PATIENCE) == (130 if sent == signal.SIGINT else -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log_text()
