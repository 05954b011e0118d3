"""The connection to the server that has the models.

The address is fixed at the start; nothing of a request changes it. Cookies of answers are not kept,
redirects are not followed, proxies of the environment are not used.

The client library is imported when the connection is made.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Collection, Mapping
from typing import Any

from plop_lora.ab.router.settings import MODELS, Settings
from plop_lora.errors import MachineError, UsageError, nearest, require
from plop_lora.escapes import escaped

_IN_ONE_PIECE = 2**20
"""Bytes of a request that are written at once; larger ones are written in pieces."""
_KEPT = 4.0
"""Seconds that an unused connection is kept, less than the 5 of the servers that are meant here."""
_LISTED = 2**20
"""Bytes that the list of models may have."""


class Upstream:
    """Sends requests to the upstream. Made and closed inside a running event loop."""

    def __init__(self, settings: Settings) -> None:
        self._aiohttp = require("aiohttp")
        self._settings = settings
        client = self._aiohttp
        limits = settings.limits
        self._session: Any = client.ClientSession(
            connector=client.TCPConnector(limit=0, keepalive_timeout=_KEPT),
            cookie_jar=client.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=client.ClientTimeout(
                total=None, connect=limits.connect, sock_connect=limits.connect
            ),
        )

    async def post(self, path: str, query: bytes, body: bytes, headers: Any) -> Any:
        """Return the answer as soon as its headers have come; its body is still to be read.

        A kept connection that the upstream has closed in the meantime is told by an error before
        the first byte. The request is then sent once more.
        """
        from yarl import URL

        suffix = f"?{query.decode('latin-1')}" if query else ""
        url = URL(f"{self._settings.upstream}{path}{suffix}", encoded=True)
        client = self._aiohttp
        try:
            return await self._send(url, body, headers)
        except (client.ClientConnectorError, client.ServerTimeoutError):
            raise
        except client.ClientOSError:
            return await self._send(url, body, headers)
        except client.ServerDisconnectedError:
            return await self._send(url, body, headers)

    async def _send(self, url: Any, body: bytes, headers: Any) -> Any:
        data = body if len(body) <= _IN_ONE_PIECE else io.BytesIO(body)
        return await self._session.post(url, data=data, headers=headers, allow_redirects=False)

    async def models(self) -> list[str]:
        """Return the names of the models that the upstream lists.

        Raises:
            MachineError: It cannot be reached, or its answer is no list of models.
        """
        url = f"{self._settings.upstream}{MODELS}"
        key = self._settings.secrets.upstream
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            async with asyncio.timeout(self._settings.limits.connect * 2):
                async with self._session.get(url, headers=headers, allow_redirects=False) as answer:
                    content = await answer.content.read(_LISTED)
                    while not answer.content.at_eof() and len(content) < _LISTED:
                        content += await answer.content.read(_LISTED)
                    status = answer.status
        except (self._aiohttp.ClientError, OSError, TimeoutError) as error:
            raise MachineError(
                f"The upstream {self._settings.upstream} does not answer: "
                f"{type(error).__name__}. Start it first, or correct --upstream."
            ) from error
        return _names(content, status, url)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _names(content: bytes, status: int, url: str) -> list[str]:
    hint = " Set PLOP_UPSTREAM_KEY." if status in (401, 403) else ""
    if status != 200:
        raise MachineError(f"The upstream answers {url} with the status {status}.{hint}")
    try:
        return [str(row["id"]) for row in json.loads(content)["data"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MachineError(
            f"The upstream's answer to {url} is no list of models. It must be a server with "
            "OpenAI's interface, such as vLLM or SGLang."
        ) from error


def check_listed(wanted: Mapping[str, str], listed: Collection[str]) -> None:
    """Refuse arms whose model the upstream does not serve.

    Raises:
        UsageError: The upstream does not list the model of an arm; the text names both.
    """
    for arm, model in wanted.items():
        if model not in listed:
            names = ", ".join(escaped(name) for name in sorted(listed)) or "none"
            raise UsageError(
                f"The upstream does not serve the model {model!r} of the arm {arm!r}; it lists "
                f"{names}.{nearest(model, listed)} Load the adapter under that name, or name its "
                f"model with --model {arm}=NAME."
            )


async def listed_models(settings: Settings) -> list[str]:
    """Return the names of the models that the upstream lists, with a connection of its own."""
    upstream = Upstream(settings)
    try:
        return await upstream.models()
    finally:
        await upstream.close()
