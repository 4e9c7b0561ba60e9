"""`nutridet up` for tests: a home and ports of its own, and every process it started, to be looked for afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from nutridet_core.serving.vllm import free_port


@dataclass(frozen=True)
class Up:
    """A running `nutridet up`."""

    process: subprocess.Popen[str]
    dagster: str
    mlflow: str
    home: Path
    printed: Path

    def descendants(self) -> set[int]:
        """Ids of all processes below it."""
        return descendants(self.process.pid)


@contextmanager
def up(home: Path, settings: Mapping[str, str], *, ignored: signal.Signals | None = None) -> Iterator[Up]:
    """Start it and wait until it says where its pages are; nothing of it outlives the block.

    Args:
        ignored: a signal that it is started with ignored, as a shell does in the background.
    """
    ports = free_port(), free_port()
    own = {"NUTRIDET_HOME": str(home), "NUTRIDET_DAGSTER_PORT": str(ports[0]), "NUTRIDET_MLFLOW_PORT": str(ports[1])}
    home.mkdir(parents=True, exist_ok=True)
    printed = home / "up.txt"
    before = signal.signal(ignored, signal.SIG_IGN) if ignored else None
    with printed.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "nutridet_core.cli", "up"],
            env={**os.environ, **own, **settings}, stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    if ignored:
        signal.signal(ignored, before)
    try:
        until(lambda: "Ctrl-C" in printed.read_text() or process.poll() is not None)
        assert process.poll() is None, printed.read_text()
        yield Up(process, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", home, printed)
    finally:
        process.terminate()
        process.wait()


def descendants(pid: int) -> set[int]:
    """Ids of all processes below one."""
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for parent in fresh for child in _children(parent)} - found
        found |= fresh
    return found


def gone(pid: int) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # nobody may reap orphans in a container
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], object]) -> None:
    """pytest's own timeout ends what never becomes true."""
    while not condition():
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []
