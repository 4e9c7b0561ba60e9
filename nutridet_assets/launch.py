"""Launching a worker process, listening to it, and never leaving any of it behind.

Belongs here: the life of the process and of its process group. Does not belong here: what the worker
does (`worker`) or what is made of its report (`resources`).

Dagster's own `PipesSubprocessClient` signals only the direct child and gives up on one that does not
end, so that a data loader or an engine started by the worker keeps its GPU memory. Here the worker
leads a process group of its own, and the group is gone before the launcher returns, however it returns.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import dagster as dg

from nutridet_assets.worker import LAUNCHER_PID, RUN_ID
from nutridet_core.threads import PASSIVE

GRACE_SECONDS = 20.0
"""From SIGTERM to SIGKILL: time for a worker to mark its MLflow run as failed."""
_SILENCE_SECONDS = 12.0
_TAIL_LINES = 15

Log = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What is known about a worker that has ended."""

    exit_code: int
    messages: tuple[Mapping[str, Any], ...]
    """As the worker sent them through Pipes."""
    tail: str
    """The last lines that it printed."""

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.exit_code >= 0:
            return f"exited with code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        hint = "; if nobody killed it, the machine ran out of memory" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"


def launch(
    context: dg.AssetExecutionContext,
    command: Sequence[str],
    variables: Mapping[str, str] = MappingProxyType({}),
    *,
    grace_seconds: float = GRACE_SECONDS,
) -> Report:
    """Run a command as a Pipes worker, to its end or to the end of this step, whichever is first.

    Args:
        variables: for its environment, beside what this process has.
    """
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        own = {RUN_ID: context.run_id, LAUNCHER_PID: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment = {**PASSIVE, **os.environ, **variables, **own, **session.get_bootstrap_env_vars()}
        with running(command, environment, grace_seconds) as process, listening(process, context.log) as heard:
            _wait(process, heard, context.log.info)
    return Report(process.returncode, tuple(session.get_custom_messages()), "\n".join(heard.tail))


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], grace_seconds: float
) -> Iterator[subprocess.Popen[str]]:
    """A process that leads its own group; when the block ends, nothing of the group is left."""
    process = subprocess.Popen(
        command,
        env=dict(environment),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        yield process
    finally:
        end_group(process, grace_seconds)


def end_group(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """SIGTERM to the group of a process that still runs, SIGKILL to what is left; reaps the process."""
    try:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            process.wait(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second interrupt cuts the waiting short, and after a worker that left children
        _signal_group(process, signal.SIGKILL)
        process.wait()


@dataclass
class Heard:
    """What a worker has printed of late."""

    tail: deque[str]
    last: float

    def add(self, line: str) -> None:
        """Remember a line."""
        self.tail.append(line)
        self.last = time.monotonic()


@contextmanager
def listening(process: subprocess.Popen[str], log: Any) -> Iterator[Heard]:
    """Forward what a process prints: stdout is its progress, stderr mostly the chatter of libraries."""
    heard = Heard(deque(maxlen=_TAIL_LINES), time.monotonic())
    streams = ((process.stdout, log.info), (process.stderr, log.debug))
    threads = [threading.Thread(target=_forward, args=(*stream, heard), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    yield heard
    for thread in threads:  # the pipe stays open while a child of the worker lives: `running` ends those
        thread.join(timeout=1)


def _forward(stream: IO[str], log: Log, heard: Heard) -> None:
    for line in stream:
        if text := line.rstrip():
            heard.add(text)
            log(text)


def _wait(process: subprocess.Popen[str], heard: Heard, log: Log) -> None:
    """Until it ends; says that it still runs when it has long said nothing itself."""
    began = time.monotonic()
    while True:
        try:
            process.wait(timeout=1)
            return
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if now - heard.last >= _SILENCE_SECONDS:
                heard.last = now
                log(f"worker {process.pid} has been running for {now - began:.0f} s")


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS calls a group of zombies forbidden
        os.killpg(process.pid, number)
