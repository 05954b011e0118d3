"""Start the server: the address first, then the models, then requests.

Imports torch, starlette and uvicorn when it is called.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import MachineError, UsageError, require
from plop_lora.escapes import acting, escaped
from plop_lora.models.folders import model_name

TOKEN = "PLOP_SERVE_TOKEN"
"""Environment variable with the token that requests must bring."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine can reach."""
_GRACE = 2
"""Seconds that requests under way have to end when the server is stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Where and how to serve.

    Attributes:
        host: Name or address to listen at.
        port: Port to listen at; 0 takes a free one.
        device: Device of the model, as for `load_model`.
        dtype: Dtype of the model, as for `load_model`.
        queue: Most requests that may wait behind the one that is answered.
    """

    host: str = LOOPBACK[0]
    port: int = 8000
    device: str = "auto"
    dtype: str = "auto"
    queue: int = 32


def serve(
    model: str,
    adapters: Mapping[str, Path],
    settings: ServeSettings,
    *,
    name: str | None = None,
    told: Callable[[str], None],
) -> None:
    """Serve a base and its adapters until the process is stopped.

    Args:
        model: Hub id or folder of the base.
        adapters: Name in requests → folder of the adapter.
        settings: Where and how to serve.
        name: Name of the base in requests; None takes `model`.
        told: Function that is called with lines about the start and each request.

    Raises:
        AdapterError: A folder is none of a LoRA adapter, or of one of another base.
        MachineError: The address is taken or is not one of this machine.
        MissingExtraError: The extra `serve` is not installed.
        ModelError: The base cannot be loaded, or writes no text.
        UsageError: A name is used twice or is none, or the server would be open to others.
    """
    base = name or model
    _check_names(base, adapters)
    model_name(model)  # before torch is imported, which takes seconds
    token = _token(settings.host)
    require("starlette")
    uvicorn = require("uvicorn")
    with _listening(settings) as listening:
        from plop_lora.local_server.app import LocalServer
        from plop_lora.local_server.models import load_served
        from plop_lora.local_server.queueing import Line

        models = load_served(
            model, base, adapters, device=settings.device, dtype=settings.dtype
        )  # fmt: skip
        server = LocalServer(
            models=models,
            line=Line(settings.queue),
            token=token,
            hosts=_hosts(settings.host),
            told=told,
            started=int(time.time()),
        )
        config = uvicorn.Config(
            server.application(), log_level="critical", access_log=False, lifespan="off",
            timeout_graceful_shutdown=_GRACE, server_header=False,
        )  # fmt: skip
        told(_welcome(settings.host, listening.getsockname()[1], [one.name for one in models]))
        uvicorn.Server(config).run(sockets=[listening])


def _welcome(host: str, port: int, names: list[str]) -> str:
    shown = f"[{host}]" if ":" in host else host
    return (
        f"Serving {', '.join(names)} at http://{shown}:{port}/v1, one request at a time. This is "
        "for trying things and not for production. Stop it with Ctrl-C."
    )


def _check_names(base: str, adapters: Mapping[str, Path]) -> None:
    for name in (base, *adapters):
        if not name or acting(name) is not None:
            raise UsageError(f"{escaped(name)!r} cannot be the name of a model in requests.")
    if base in adapters:
        raise UsageError(
            f"{base!r} is the name of the base and of an adapter. Give another name, such as "
            "--adapter next=DIR, or name the base with --name."
        )


def _token(host: str) -> str | None:
    """Return the token that requests must bring, if there is one.

    Raises:
        UsageError: Others can reach the host and there is none, or it is no token.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise UsageError(f"{TOKEN} holds a space or another character that no token has.")
    if not token and host not in LOOPBACK:
        raise UsageError(
            f"With --host {host} other machines can use the model. Put a token that their requests "
            f"must bring into the environment variable {TOKEN}, or leave --host out."
        )
    return token or None


def _hosts(host: str) -> frozenset[str] | None:
    return frozenset({"127.0.0.1", "localhost", "[::1]"}) if host in LOOPBACK else None


def _listening(settings: ServeSettings) -> socket.socket:
    """Return a socket that listens, so that an address that is taken is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MachineError(
            f"Cannot listen at {settings.host}, port {settings.port}: {reason}. Give another "
            "--port, or 0 for any that is free."
        ) from error
