"""What a router is started with: where it sends requests, what it allows, and its secrets.

Imports the standard library, records and the errors.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from plop_lora.errors import UnknownNameError, UsageError, nearest
from plop_lora.records import Experiment

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MODELS = "/v1/models"
_PATH = re.compile(r"/v1(/[A-Za-z0-9_-]+)+")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_TOKEN = re.compile(r"[!-~]+")
_SHORTEST_TOKEN = 16
_MOST = 2**32
"""Largest value of a limit; no timer takes an infinite time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a request is refused or given up.

    Attributes:
        body: Bytes of the body of a request.
        head: Bytes of the names and values of the headers of a request.
        headers: Number of headers of a request.
        requests: Requests that are answered at the same time.
        connect: Seconds until the upstream has accepted the connection.
        first_byte: Seconds until the first byte of the upstream's answer.
        idle: Seconds between two bytes of the answer.
        total: Seconds until the end of the answer.
        upload: Seconds in which the client has to send its request.
        shutdown: Seconds in which running answers may end after a SIGTERM.
    """

    body: int = 16 * 2**20
    head: int = 64 * 2**10
    headers: int = 200
    requests: int = 1000
    connect: float = 5.0
    first_byte: float = 300.0
    idle: float = 120.0
    total: float = 3600.0
    upload: float = 60.0
    shutdown: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 < getattr(self, name) <= _MOST:
                raise UsageError(
                    f"The limit {name!r} is {getattr(self, name)}; it must be above 0 and at most "
                    f"{_MOST:,}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Tokens, each empty where there is none; none of them is ever printed.

    Attributes:
        admin: Bearer token of the administration, which is off without it.
        traffic: Bearer token that a client has to send.
        upstream: Key that is sent to the upstream.
    """

    admin: str = field(default="", repr=False)
    traffic: str = field(default="", repr=False)
    upstream: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("admin", "traffic", "upstream"):
            value = getattr(self, name)
            if value and not _TOKEN.fullmatch(value):
                raise UsageError(
                    f"The {name} token has a space or a character that no header can carry. "
                    "Give one of letters and digits, such as `openssl rand -hex 32` prints."
                )
            if value and name != "upstream" and len(value) < _SHORTEST_TOKEN:
                raise UsageError(
                    f"The {name} token has {len(value)} characters; at least {_SHORTEST_TOKEN} are "
                    "needed. `openssl rand -hex 32` prints a good one."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a router is started with.

    Attributes:
        upstream: Address of the server, such as `http://127.0.0.1:8000`; a last `/v1` is dropped.
        models: Arm → the name under which the upstream serves it.
        public: Names that a client may put into the field `model`.
        unit_header: Header with the id of the unit.
        paths: Paths that are passed on, besides `/v1/models`.
        limits: Where a request is refused or given up.
        secrets: Tokens.
        poll: Seconds between two looks at the coverage and the arms that are off.
        watch: Seconds between two analyses, after which a harmful arm is switched off; 0 for none.
        prompts: File that receives prompts and answers, or None.
        access_log: Whether each request is a line in the log.
    """

    upstream: str
    models: Mapping[str, str]
    public: tuple[str, ...]
    unit_header: str = "x-unit-id"
    paths: tuple[str, ...] = (CHAT, COMPLETIONS)
    limits: Limits = field(default_factory=Limits)
    secrets: Secrets = field(default_factory=Secrets)
    poll: float = 5.0
    watch: float = 60.0
    prompts: Path | None = None
    access_log: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstream", _upstream(self.upstream))
        object.__setattr__(self, "unit_header", _unit_header(self.unit_header))
        for path in self.paths:
            if not _PATH.fullmatch(path) or path == MODELS:
                raise UsageError(
                    f"The path {path!r} cannot be passed on. Give one such as /v1/completions."
                )
        if not 0 < self.poll <= _MOST or not 0 <= self.watch <= _MOST:
            raise UsageError(
                f"The router polls every {self.poll:g} seconds, which must be above 0, and "
                f"analyses every {self.watch:g}, which must be 0 or more; at most {_MOST:,}."
            )


def models_of(experiment: Experiment, given: Mapping[str, str]) -> dict[str, str]:
    """Return the name under which the upstream serves each arm: as given, else the arm's own.

    Raises:
        UnknownNameError: A name is given for something that is no arm.
        UsageError: Two arms would be served by the same model.
    """
    for arm in given:
        if arm not in experiment.split:
            raise UnknownNameError(
                f"There is no arm {arm!r} in the experiment; the arms are "
                f"{', '.join(experiment.split)}.{nearest(arm, experiment.split)}"
            )
    models = {arm: given.get(arm, arm) for arm in experiment.split}
    seen: dict[str, str] = {}
    for arm, model in models.items():
        if model in seen:
            raise UsageError(
                f"The arms {seen[model]!r} and {arm!r} would both be served by the model "
                f"{model!r}. Name the model of each with --model ARM=NAME."
            )
        seen[model] = arm
    return models


def check_exposed(host: str, secrets: Secrets, *, allowed: bool) -> None:
    """Refuse to listen beyond this machine without a token, unless that is allowed.

    Raises:
        UsageError: The host is not a loopback address, and clients need no token.
    """
    if _is_loopback(host) or secrets.traffic or allowed:
        return
    raise UsageError(
        f"Every machine that reaches {host} could use the models. Set PLOP_TRAFFIC_TOKEN, which "
        "clients then send as their API key, or add --open if something else keeps them out."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _upstream(address: str) -> str:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        good = False
    if not good or not address.isascii() or not address.isprintable() or " " in address:
        raise UsageError(
            f"The upstream {address!r} is no address. Give one such as http://127.0.0.1:8000."
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError("The upstream has a password in its address. Set PLOP_UPSTREAM_KEY.")
    if parts.query or parts.fragment:
        raise UsageError(f"The upstream {address!r} has a query. Give the address alone.")
    return address.rstrip("/").removesuffix("/v1")


def _unit_header(name: str) -> str:
    taken = {"authorization", "content-length", "content-type", "host", "transfer-encoding"}
    if not _HEADER.fullmatch(name) or name.lower() in taken:
        raise UsageError(
            f"The header {name!r} cannot carry the unit. Give a name such as X-Unit-Id."
        )
    return name.lower()
