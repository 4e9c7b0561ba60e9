"""One target in a process of its own: bounded memory, and a parent that notices when it hangs or dies.

Belongs here: the process. Does not belong here: inputs and what they do (`targets`).
"""

from __future__ import annotations

import multiprocessing
import resource
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.outcome import Outcome
from benchmarks.fuzz.targets import TARGETS

MEMORY_MIB = 2048
"""Address space that a child may add to what its imports took: a photo of 89 megapixels needs up to 1.6 GB."""
HANG_SECONDS = 120
"""Longest time for one input. Generous: the worst that is accepted takes 10 s on a busy core."""
_MOST_CHILDREN = 20


@dataclass
class Tally:
    """What became of a target's inputs."""

    n: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    details: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    peak_mib: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one input."""
        self.outcomes[outcome.kind] += 1
        self.details[f"{outcome.kind}: {outcome.detail}"] += 1
        if outcome.kind == "broken":
            self.broken.append(f"input {self.n}: {outcome.detail}")
        self.n += 1


def fuzz(name: str, count: int, seed: int, *, hang_seconds: float = HANG_SECONDS) -> Tally:
    """`count` inputs of a target. A child that hangs or dies costs its input and is started again after it."""
    tally = Tally()
    for _ in range(_MOST_CHILDREN):
        if _listen(tally, name, count, seed, hang_seconds):
            return tally
    raise RuntimeError(f"{name}: {_MOST_CHILDREN} children died; the last: {tally.broken[-1]}")


def remake(name: str, number: int, seed: int) -> Any:
    """The input of that number."""
    return TARGETS[name].make(_random(name, number, seed))


def _listen(tally: Tally, name: str, count: int, seed: int, hang_seconds: float) -> bool:
    """Until the child is done, or is no more; whether it was done."""
    heard, said = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=_run, args=(name, tally.n, count, seed, said))
    child.start()
    said.close()
    try:
        while heard.poll(hang_seconds):
            told = heard.recv()
            if isinstance(told, int):
                tally.peak_mib = max(tally.peak_mib, told)
                return True
            tally.add(told)
        tally.add(Outcome("broken", f"hangs: no outcome within {hang_seconds:g} s"))
    except EOFError:
        child.join()
        tally.add(Outcome("broken", f"kills the process (exit code {child.exitcode})"))
    finally:
        child.kill()
        child.join()
    return False


def _run(name: str, first: int, count: int, seed: int, said: Connection) -> None:
    target = TARGETS[name]
    with target.open() as feed:
        feed(target.make(_random(name, 0, seed)))  # what is imported on first use is not the input's memory
        warnings.simplefilter("ignore")  # Pillow's, about what is odd in a file
        _limit_memory()
        if target.drive is not None:
            target.drive(feed, first, count, seed, said.send)
        else:
            for number in range(first, count):
                said.send(feed(target.make(_random(name, number, seed))))
    said.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _random(name: str, number: int, seed: int) -> Random:
    return Random(f"{seed}:{name}:{number}")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_MIB * 2**20,) * 2)
