"""What the router costs: requests a second, added latency, streams, memory.

    python benchmarks/ab_router.py [--seconds 5] [--rounds 5] [--requests 100000] [--save]

A pretended model server, which answers at once, the router of `plop ab serve` with a database of
SQLite, and the load generator `wrk` (Debian: apt install wrk) are processes of this machine and
share its processors. Each round loads the server alone and then through the router, so that what
else the machine does meets both. Every request has one of 5,000 units.

The streams are 100 at the same time, of 50 chunks 20 ms apart; what is measured is the time from
the request to the first chunk. The memory is that of the router's process while it answers so many
requests.

Measures no model: with one, the answer takes a thousand times as long as the router.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
LOADS = ((8, 16), (4, 0), (32, 0))
"""Connections of the load, and the milliseconds that each waits after an answer: about 500 requests
a second, which a router has to bear; and as many as go through few and many connections, where the
latency is mostly that of the queue."""
MANY = 32
STREAMS, CHUNKS, GAP = 100, 50, 0.02
UNITS = 5_000
ANSWER = json.dumps(
    {"id": "x", "object": "chat.completion", "created": 0, "model": "base",
     "choices": [{"index": 0, "finish_reason": "stop",
                  "message": {"role": "assistant", "content": "word " * 60}}],
     "usage": {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}}
).encode()  # fmt: skip
LUA = """
local count = 0
delay = function() return tonumber(os.getenv("PAUSE")) end
request = function()
  count = count + 1
  local body = '{"model":"bench","messages":[{"role":"user","content":"' ..
    string.rep("word ", 40) .. '"}]}'
  local headers = {["Content-Type"] = "application/json",
                   ["X-Unit-Id"] = "account-" .. (count % UNITS)}
  return wrk.format("POST", "/v1/chat/completions", headers, body)
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


async def model_server(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer as a model server does, at once, or as a stream where the request asks for one."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/v1/models":
        await _send(send, json.dumps({"data": [{"id": "now"}, {"id": "next"}]}).encode())
    elif b'"stream":true' in body:
        await _stream(send)
    else:
        await _send(send, ANSWER)


async def _send(send: Any, content: bytes) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": content})


async def _stream(send: Any) -> None:
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for number in range(CHUNKS):
        part = b'data: {"choices":[{"delta":{"content":"word %d"}}]}\n\n' % number
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(GAP)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def serve_models(port: int) -> None:
    """Run the pretended model server, until it is ended."""
    import uvicorn

    uvicorn.run(model_server, port=port, lifespan="off", log_level="error", access_log=False)


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, and end it with a SIGTERM."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([sys.executable, *words], env=environment)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


def wait_for(port: int, path: str) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def load(
    script: Path, port: int, connections: int, seconds: float, pause: int = 0
) -> tuple[float, float, float]:
    """Load a server, and return requests a second and the milliseconds of p50 and p99."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script),
         f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, check=True, timeout=seconds + 60,
        env={**os.environ, "PAUSE": str(pause)},
    )  # fmt: skip
    found = re.search(r"RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) (\d+)", done.stdout)
    if found is None or int(found[5]):
        raise SystemExit(f"The load failed:\n{done.stdout}{done.stderr}")
    return int(found[1]) / (int(found[2]) / 1e6), float(found[3]) / 1e3, float(found[4]) / 1e3


async def first_chunks(port: int) -> list[float]:
    """Run streams at the same time, and return the milliseconds to the first chunk of each."""
    import aiohttp

    async def one(session: aiohttp.ClientSession, number: int) -> float:
        began = time.perf_counter()
        headers = {"content-type": "application/json", "x-unit-id": f"account-{number}"}
        body = b'{"model":"bench","stream":true}'
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with session.post(url, data=body, headers=headers) as answer:
            await answer.content.readany()
            first = time.perf_counter() - began
            rest = await answer.read()
        if not rest.endswith(b"data: [DONE]\n\n"):
            raise SystemExit("A stream was incomplete.")
        return first * 1e3

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*(one(session, number) for number in range(STREAMS)))


def memory(process_id: int) -> float:
    """Return the MiB of memory that a process holds."""
    import psutil

    return psutil.Process(process_id).memory_info().rss / 2**20


def experiment_file(folder: Path) -> Path:
    """Write an experiment of two arms and start it."""
    from plop_lora import ab
    from plop_lora.ab.store import Store

    arms = (
        ab.adapter_arm("now", 0.5, None),
        ab.ExperimentArm(name="next", weight=0.5, adapter="a", adapter_digest="b" * 64,
                         accepted="a benchmark"),
    )  # fmt: skip
    experiment = ab.Experiment(
        name="bench", unit="account", arms=arms, control="now", salt=ab.new_salt(),
        metrics=(ab.Metric(name="failed", higher_is_better=False),), primary="failed",
        planned_units=UNITS,
    )  # fmt: skip
    with Store.open(f"sqlite:///{folder / 'bench.db'}") as store:
        store.run(experiment).start(datetime.datetime.now(datetime.UTC))
    return experiment.save(folder / "bench.json")


def measure(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the table, as lines of Markdown."""
    models, port = free_port(), free_port()
    script = folder / "load.lua"
    script.write_text(LUA.replace("UNITS", str(UNITS)))
    file = experiment_file(folder)
    words = ["-m", "plop_lora", "ab", "serve", "-e", str(file), "--port", str(port),
             "--upstream", f"http://127.0.0.1:{models}"]  # fmt: skip
    with process(__file__, "--model-server", str(models)):
        wait_for(models, "/v1/models")
        with process(*words) as router:
            wait_for(port, "/plop/health")
            lines = latency_lines(script, models, port, options)
            lines += stream_lines(models, port)
            lines += memory_lines(script, port, router.pid, options.requests)
    return lines


def latency_lines(script: Path, models: int, port: int, options: argparse.Namespace) -> list[str]:
    """Return requests a second and latencies, alone and through the router, in rounds."""
    lines = ["| connections | | requests/s | p50 | p99 |", "|---|---|---|---|---|"]
    for target in (models, port):
        load(script, target, MANY, 2)  # warm
    for connections, pause in LOADS:
        pairs = [
            [load(script, target, connections, options.seconds, pause) for target in (models, port)]
            for _ in range(options.rounds)
        ]
        load_name = f"{connections}, paced" if pause else f"{connections}"
        for place, name in enumerate(("server alone", "through the router")):
            rate, half, most = (
                statistics.median(pair[place][column] for pair in pairs) for column in range(3)
            )
            lines.append(f"| {load_name} | {name} | {rate:,.0f} | {half:.2f} ms | {most:.2f} ms |")
        added = [[pair[1][column] - pair[0][column] for pair in pairs] for column in (1, 2)]
        half, most = (statistics.median(values) for values in added)
        spread = f"{min(added[1]):.2f} to {max(added[1]):.2f}"
        lines.append(f"| {load_name} | added | | {half:.2f} ms | {most:.2f} ms ({spread}) |")
    return lines


def stream_lines(models: int, port: int) -> list[str]:
    """Return the time to the first chunk of many streams at the same time."""
    lines = [
        "",
        f"| {STREAMS} streams at the same time | first chunk, p50 | p99 |",
        "|---|---|---|",
    ]
    for name, target in (("server alone", models), ("through the router", port)):
        asyncio.run(first_chunks(target))  # warm
        values = sorted(asyncio.run(first_chunks(target)))
        half, most = values[STREAMS // 2], values[int(STREAMS * 0.99)]
        lines.append(f"| {name} | {half:.1f} ms | {most:.1f} ms |")
    return lines


def memory_lines(script: Path, port: int, process_id: int, requests: int) -> list[str]:
    """Return the memory of the router after so many further requests."""
    lines = ["", "| further requests | memory of the router |", "|---|---|"]
    lines.append(f"| 0 | {memory(process_id):.1f} MiB |")
    answered = 0
    for part in (0.1, 0.25, 0.5, 1.0):
        while answered < requests * part:
            rate, *_ = load(script, port, MANY, 2)
            answered += int(rate * 2)
        lines.append(f"| {answered:,} | {memory(process_id):.1f} MiB |")
    return lines


def main() -> None:
    """Measure, print the table, and save it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000, help="for the memory")
    parser.add_argument("--save", action="store_true", help="write the table into results/")
    parser.add_argument("--note", default="", help="a line about the machine")
    parser.add_argument("--model-server", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model_server:
        serve_models(options.model_server)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("The load generator wrk is not installed: apt install wrk.")
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(Path(folder), options)
    head = [f"{os.cpu_count()} processors, Python {sys.version.split()[0]}, load average "
            f"{os.getloadavg()[0]:.1f} at the end. {options.note}".rstrip(), ""]  # fmt: skip
    table = "\n".join(["# The router of plop ab serve", "", *head, *lines, ""])
    print(table)
    if options.save:
        today = datetime.datetime.now(datetime.UTC).date()
        (RESULTS / f"ab-router-{today}.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
