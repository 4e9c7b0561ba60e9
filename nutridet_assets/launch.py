"""Launching a worker: its Pipes session, what it prints, and how it ended.

Belongs here: one worker's time as this step sees it. Does not belong here: where the worker runs (`launchers`), what it
does (`worker`), or what is made of its report (`resources`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, Any

import dagster as dg
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesDefaultMessageWriter

from nutridet_assets.launchers import forks
from nutridet_assets.launchers.processes import GRACE_SECONDS, Process, running
from nutridet_assets.worker import LAUNCHER_PID, RUN_ID
from nutridet_core.threads import PASSIVE

_ELSEWHERE_SECONDS = 20.0
"""What a launcher that ends a worker on another machine may take longer than that worker."""
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
        number = -self.exit_code if self.exit_code < 0 else self.exit_code - 128  # the latter as shells say it
        if number not in {known.value for known in signal.Signals}:
            return f"exited with code {self.exit_code}"
        name = signal.Signals(number).name
        hint = "; if nobody killed it, the machine ran out of memory" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"


def launch(
    context: dg.AssetExecutionContext,
    command: Sequence[str],
    variables: Mapping[str, str] = MappingProxyType({}),
    *,
    elsewhere: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> Report:
    """Run a command as a Pipes worker, to its end or to the end of this step, whichever is first.

    Args:
        variables: for its environment, beside what this process has.
        elsewhere: whether the worker may run on another machine; then context and messages do without files.
    """
    reader = OutputMessages() if elsewhere else dg.PipesTempFileMessageReader()
    injector = dg.PipesEnvContextInjector() if elsewhere else dg.PipesTempFileContextInjector()
    heard = Heard(context.log, reader.take if isinstance(reader, OutputMessages) else None)
    with dg.open_pipes_session(context=context, context_injector=injector, message_reader=reader) as session:
        own = {RUN_ID: context.run_id, LAUNCHER_PID: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        environment = {**PASSIVE, **os.environ, **variables, **own, **session.get_bootstrap_env_vars()}
        with running(command, environment, grace_seconds + elsewhere * _ELSEWHERE_SECONDS, forks.start) as process:
            heard.listen(process)
            _wait(process, heard)
        heard.finish()
    return Report(process.wait(), tuple(session.get_custom_messages()), "\n".join(heard.tail))


class OutputMessages(dg.PipesMessageReader):
    """Pipes messages among the lines that a worker prints: the one way out that every cluster has."""

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[dict[str, str]]:
        """Where the worker is to write."""
        self._handler = handler
        yield {PipesDefaultMessageWriter.STDIO_KEY: PipesDefaultMessageWriter.STDOUT}

    def take(self, line: str) -> bool:
        """Whether a line held a message; what another thread printed before or behind it is dropped."""
        start = line.find(f'{{"{PIPES_PROTOCOL_VERSION_FIELD}"')
        if start < 0:
            return False
        try:
            message, _ = json.JSONDecoder().raw_decode(line, start)
        except json.JSONDecodeError:
            return False
        self._handler.handle_message(message)
        return True

    def no_messages_debug_text(self) -> str:
        """For Dagster's warning."""
        return "Attempted to read messages among the lines that the worker printed."


@dataclass
class Heard:
    """What a worker prints: stdout is its progress, stderr mostly the chatter of libraries."""

    log: Any
    take: Callable[[str], bool] | None = None
    """Told of each line first; a line that it takes is not shown."""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
    last: float = field(default_factory=time.monotonic)
    _threads: list[threading.Thread] = field(default_factory=list)

    def listen(self, process: Process) -> None:
        """Begin to forward its two streams."""
        for stream, log in ((process.stdout, self.log.info), (process.stderr, self.log.debug)):
            thread = threading.Thread(target=self._forward, args=(stream, log), daemon=True)
            thread.start()
            self._threads.append(thread)

    def finish(self) -> None:
        """Hear the rest. A stream stays open as long as anything of the worker lives, hence the limit."""
        for thread in self._threads:
            thread.join(timeout=5)

    def _forward(self, stream: IO[str], log: Log) -> None:
        for line in stream:
            self.last = time.monotonic()
            if (text := line.rstrip()) and not (self.take and self.take(text)):
                self.tail.append(text)
                log(text)


def _wait(process: Process, heard: Heard) -> None:
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
                heard.log.info(f"worker {process.pid} has been running for {now - began:.0f} s")
