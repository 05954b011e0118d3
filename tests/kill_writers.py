"""Kill processes that write events, at random moments, and say what they had acknowledged.

    python tests/kill_writers.py FOLDER URL ROUNDS SEED

Every process is forked, makes a Writer of its own, writes exposures in groups of 1 to 7, and names
each group after it was acknowledged. The last Writer stores what is left. Prints the numbers of all
units that were acknowledged, and how many processes were killed while they wrote.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from experiments import START, experiment
from waiting import until

import plop_lora.ab.store.stored  # noqa: F401  # once, and not in every process
from plop_lora.ab.events import exposure
from plop_lora.ab.store import Writer

DESIGN = experiment()


def work(folder: str, url: str, first: int, pipe: int, draw: random.Random) -> None:
    """Write until the end comes from outside."""
    with Writer(folder, url, DESIGN) as writer:
        while True:
            last = first + draw.randint(1, 7)
            writer.write([exposure(f"u{number}", "now", START) for number in range(first, last)])
            os.write(pipe, b"%d %d\n" % (first, last))
            first = last


def main(folder: str, url: str, rounds: int, seed: int) -> None:
    """Kill one process after the other, and let a last one store what they left."""
    draw = random.Random(seed)
    acknowledged: list[int] = []
    killed = 0
    for turn in range(rounds):
        reader, pipe = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            work(folder, url, turn * 1_000_000, pipe, draw)
        os.close(pipe)
        # Every fourth one is killed whatever it does, and may not have begun. The others have
        # acknowledged some groups, however slow the machine is, and write the next ones.
        head, wanted = b"", draw.randint(1, 200) if turn % 4 else 0
        while head.count(b"\n") < wanted and (more := os.read(reader, 64)):
            head += more
        time.sleep(draw.uniform(0, 0.4))
        os.kill(child, signal.SIGKILL)
        with os.fdopen(reader, "rb") as rest:
            # The last line may be cut.
            lines = (head + rest.read()).decode().split("\n")[:-1]
        _, status = os.waitpid(child, 0)
        killed += bool(lines) and os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        for line in lines:
            acknowledged.extend(range(*map(int, line.split())))
    with Writer(folder, url, DESIGN) as writer:
        until(lambda: not writer.pending and len(os.listdir(folder)) == 1)  # its own folder stays
    print(killed)
    print(*acknowledged)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
