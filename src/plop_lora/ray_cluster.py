"""The connection to a Ray cluster, for scoring and for trials. Ray is imported when it is used."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from plop_lora.errors import MachineError, UsageError, require

_ANSWER_SECONDS = 10.0


def check_cluster(address: str | None) -> None:
    """Check that a cluster answers before a model is loaded, since Ray itself waits for minutes.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: No cluster answers at the address, or at `RAY_ADDRESS` where none is given.
    """
    require("ray")
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    host, colon, port = wanted.rpartition("://")[2].rpartition(":")
    if not colon:
        return  # With `auto`, `local` or no address, Ray looks for a cluster on this machine.
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(wanted, error) from error


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a cluster for the duration of the block, unless this process is connected.

    Args:
        address: Address of a running cluster. With None it is `RAY_ADDRESS`, a cluster that runs
            on this machine, or a new local one.

    Raises:
        MissingExtraError: Ray is not installed.
        MachineError: Ray does not start.
        UsageError: No cluster answers at the address.
    """
    ray = require("ray")
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        wanted = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise _no_cluster(wanted, error) from error
    except Exception as error:  # Ray has no class for a node that takes more than 30 seconds
        ray.shutdown()
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MachineError(
            f"Ray does not start: {reason.rstrip('.')}. Run the same command again when the "
            "machine is less busy, or leave Ray out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _no_cluster(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"No Ray cluster answers at {address}: {str(error).splitlines()[0]}. Give --ray-address "
        "HOST:PORT of a running cluster, or leave it out to start a local one."
    )
