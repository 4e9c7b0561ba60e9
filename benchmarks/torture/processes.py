"""Children that run a verb as a worker does, and that can be stopped, starved and killed.

Belongs here: forking, waiting, finding what was left behind. Does not belong here: when something is broken (`faults`).

A child is forked from a parent that has imported everything and computed nothing: importing takes half a minute,
and torch's threads do not survive a fork. So the parent never uses a model, and reads no artefact itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nutridet_assets import worker
from nutridet_core.errors import NutridetError
from nutridet_core.failures import told_plainly

Job = Callable[[], Any]
_STUCK_SECONDS = 240.0
_OWN = "refused: "
"""How a child's last line begins when one of this project's errors stopped it."""


@dataclass
class Child:
    """A process that leads a session of its own; `nutridet_assets.launchers.processes.end_group` can end it."""

    pid: int
    log: Path
    returncode: int | None = None
    began: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = _STUCK_SECONDS) -> int:
        """Exit code; a child that does not end in time is killed, and told as one that hung."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                if timeout == _STUCK_SECONDS:
                    self.send(signal.SIGKILL)
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        """A signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def last_words(self) -> str:
        """The last line that it printed."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    @property
    def unclear(self) -> bool:
        """Whether it failed with anything but one of this project's errors, which have a place and a remedy."""
        return bool(self.returncode and 0 < self.returncode < 128) and not self.last_words.startswith(_OWN)

    @property
    def left_behind(self) -> list[int]:
        """Processes of its session that still run."""
        running = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        return [pid for pid in running if _session(pid) == self.pid]


def fork(job: Callable[[], int], log: Path) -> Child:
    """Run a job in a child; its output goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        os.setsid()
        _print_into(log)
        code = int(job())
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ask(question: Job, log: Path) -> Any:
    """The JSON that a job returns, from a child of its own."""
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)

    def job() -> int:
        answer.write_text(json.dumps(question()), encoding="utf-8")
        return 0

    child = fork(job, log)
    if child.wait() != 0:
        raise RuntimeError(f"the inspection failed: {log.read_text(errors='replace')[-3000:]}")
    return json.loads(answer.read_text(encoding="utf-8"))


def work(job: Job) -> int:
    """Do a job as the worker process does: with its signal handling, and not longer than its launcher."""
    worker._PARENT = os.getppid()  # it remembers the parent of whoever imported it, which is this process's parent
    os.environ[worker.LAUNCHER_PID] = str(os.getppid())

    def told() -> Any:
        try:
            with told_plainly():
                return job()
        except NutridetError as error:  # the worker tells it to Dagster, which is not here
            print(f"{_OWN}{error}".replace("\n", " "), flush=True)
            raise

    return worker.work(told)


def _print_into(log: Path) -> None:
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number in (1, 2):
        os.dup2(stream, number)


def _session(pid: int) -> int | None:
    """Session of a process that is not a zombie."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(session)
