"""Adapters of the bundled model that answer differently, and the local server in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import uvicorn
from finetunes import copy_with_factors, prepared, save_for_bundled

from plop_lora.local_server.app import LocalServer
from plop_lora.local_server.models import ServedModel
from plop_lora.local_server.queueing import Line


def adapters(folder: Path) -> dict[str, Path]:
    """Save two adapters, and one whose initialisation has changed the base."""
    zeros = save_for_bundled(prepared("q_proj", "down_proj"), folder / "zeros")
    pissa = save_for_bundled(
        prepared("q_proj", "down_proj", init_lora_weights="pissa"), folder / "start"
    )
    return {
        "now": copy_with_factors(zeros, folder / "now", lambda B: _normal(B, 0.2, 5)),
        "next.v2": copy_with_factors(zeros, folder / "next", lambda B: _normal(B, 0.2, 2)),
        "pissa": copy_with_factors(pissa, folder / "pissa", lambda B: B + _normal(B, 0.05, 3)),
    }


def _normal(like: torch.Tensor, scale: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(like.shape, generator=generator)


@contextlib.contextmanager
def serving(
    models: Sequence[ServedModel],
    *,
    token: str | None = None,
    queue: int = 32,
    hosts: frozenset[str] | None = None,
    told: list[str] | None = None,
) -> Iterator[str]:
    """Yield the address of a running server, without /v1."""
    server = LocalServer(
        models=models, line=Line(queue), token=token, hosts=hosts,
        told=([] if told is None else told).append, started=0,
    )  # fmt: skip
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        server.application(), log_level="critical", lifespan="off", timeout_graceful_shutdown=2
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()
        listening.close()
