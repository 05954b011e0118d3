"""Test the regular expressions of an adapter's configuration in a process with a time limit.

PEFT matches the patterns of a configuration against every weight, and Python cannot interrupt a
pattern that backtracks for hours. So they are first tested on the names of the weights in a process
that can be stopped. Imports the standard library and the errors only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plop_lora.errors import AdapterError

SECONDS = 1.0
"""Processor time that all patterns of a configuration may take; usual ones take milliseconds."""

_LITERAL = re.compile(r"(?:\w|-|\.|\\\.)+")

# Python's own handler of a signal would wait for the matcher, so the system ends the process. It
# counts the time that the process computes: on a busy machine a process may wait for seconds.
# Windows has no such timer, and a thread ends the process there.
_LIMIT = """
import faulthandler, json, os, re, signal, sys
given = json.load(sys.stdin)
if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, given["seconds"])
else:
    faulthandler.dump_traceback_later(given["seconds"], exit=True, file=open(os.devnull, "w"))
"""

_TRIAL = """
for index, pattern in enumerate(given["patterns"]):
    print(json.dumps([index, None]), flush=True)
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        print(json.dumps([index, str(error)]), flush=True)
        break
    for name in given["names"]:
        compiled.match(name)
else:
    print(json.dumps([None, None]), flush=True)
"""

_MATCHES = """
compiled = map(re.compile, given["patterns"])
print(json.dumps([any(map(pattern.match, given["names"])) for pattern in compiled]), flush=True)
"""


def any_matches(patterns: Sequence[str], names: Iterable[str]) -> list[bool] | None:
    """Return whether each regular expression matches the beginning of any of the names.

    The result is None if one is not a regular expression or all take longer than `SECONDS`.
    """
    done = _run(_MATCHES, patterns, names)
    return list(json.loads(done)) if done else None


def check_patterns(config: Mapping[str, Any], names: Iterable[str], source: str) -> None:
    """Test every regular expression of a configuration on names.

    Args:
        config: Content of an `adapter_config.json`.
        names: Names against which PEFT matches the patterns.
        source: Name of the configuration in errors.

    Raises:
        AdapterError: A pattern is not a regular expression or takes longer than `SECONDS`.
    """
    patterns = [entry for entry in _patterns(config) if not _LITERAL.fullmatch(entry[1])]
    if not patterns:
        return
    output = _run(_TRIAL, [whole for _, _, whole in patterns], names)
    index, fault = json.loads(output.splitlines()[-1])
    if index is None:
        return
    field, written, _ = patterns[index]
    shown = repr(written if len(written) <= 80 else f"{written[:80]}…")
    if fault is not None:
        raise AdapterError(
            f"{source}: {field} holds {shown}, which is not a regular expression ({fault}). "
            "Correct it, or list the names of the modules."
        )
    raise AdapterError(
        f"{source}: {field} holds {shown}, which takes more than {SECONDS:g} second to match "
        "against the names of this model. Write it without repetitions inside repetitions, or "
        "list the names of the modules."
    )


def _run(program: str, patterns: Sequence[str], names: Iterable[str]) -> str:
    """Return the output of a program that is given patterns and names, up to the limit."""
    given = {"seconds": SECONDS, "patterns": list(patterns), "names": list(names)}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LIMIT + program], input=json.dumps(given), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        env={key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ},
    )  # fmt: skip
    return done.stdout


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (field, pattern, the expression that PEFT makes of it)."""
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config.get(field), str):
            yield field, config[field], rf"(?:{config[field]})\Z"
    for field in ("rank_pattern", "alpha_pattern"):
        for key in _texts(config.get(field)):
            yield field, key, rf"(.*\.)?({key})$"
    for key in _texts(config.get("layers_pattern")):
        yield "layers_pattern", key, rf"(?:^|.*?\.){key}\.(?P<idx>\d+)\."
    for key in _texts(config.get("modules_to_save")):
        yield "modules_to_save", key, rf"(^|.*\.){key}($|\..*)"


def _texts(value: Any) -> list[str]:
    """Return the texts of a field: itself, its entries or its keys."""
    entries = [value] if isinstance(value, str) else value or ()
    return [entry for entry in entries if isinstance(entry, str)] if entries else []
