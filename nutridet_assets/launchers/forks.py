"""Workers on this machine, forked from a server that has imported everything already.

Belongs here: when to fork, and a forked worker as something that can be awaited and ended like a process of one's own.
Does not belong here: the server (`fork_server`), or ending what a worker left (`processes`).

Not where there is a GPU: importing may ask for it, and CUDA does not survive a fork. Not outside Linux, where libraries
are in the way of forking and no signal tells a worker that its server has gone.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from nutridet_assets.launchers import processes
from nutridet_assets.launchers.fork_server import REQUEST_BYTES

_WORKER = [sys.executable, "-m", "nutridet_assets.worker"]
_SERVER = [sys.executable, "-u", "-m", "nutridet_assets.launchers.fork_server"]
_PER_WORKER = ("NUTRIDET_", "DAGSTER_", "PYTEST_CURRENT_TEST", "PYTHONUNBUFFERED")
"""Beginnings of the names of variables that no library reads while it is imported."""
_GPUS = ("/dev/nvidiactl", "/dev/kfd")


def start(command: Sequence[str], environment: Mapping[str, str]) -> processes.Process:
    """A worker forked from the server where that is possible; else, or for another command, a process of its own."""
    arguments = list(command)[len(_WORKER) :]
    request = {"arguments": arguments, "environment": dict(environment), "folder": str(Path.cwd())}
    message = json.dumps(request).encode()
    if list(command)[: len(_WORKER)] != _WORKER or not can_fork() or len(message) > REQUEST_BYTES:
        return processes.start(command, environment)
    return _take_server(environment).fork(message) or processes.start(command, environment)


def can_fork() -> bool:
    """Whether workers of this machine may be forked."""
    return sys.platform == "linux" and not any(Path(device).exists() for device in _GPUS)


class Forked:
    """A worker, with those parts of `subprocess.Popen` that a launcher uses."""

    def __init__(self, server: _Server, pid: int, stdout: IO[str], stderr: IO[str]) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Exit code.

        Raises:
            TimeoutExpired: when it still runs.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._server.socket], [], [], timeout)[0]:
            answer = self._server.socket.recv(64)
            self.returncode = int(answer) if answer else -signal.SIGKILL  # without its server a worker ends, too
            self._server.give_back() if answer else self._server.end()
        return self.returncode


class _Server:
    """A fork server, for one worker at a time."""

    idle: _Server | None = None

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.lasting = _lasting(environment)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [*_SERVER, str(theirs.fileno())],
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def fork(self, message: bytes) -> Forked | None:
        """A worker; None when the server has ended: a process of its own will say what is wrong."""
        (stdout, out), (stderr, err) = os.pipe(), os.pipe()
        try:
            socket.send_fds(self.socket, [message], [out, err])
            pid = self.socket.recv(64)
        except ConnectionError:
            pid = b""
        except BaseException:  # cancelled meanwhile: the worker, if there is one, ends with its server
            self.end()
            raise
        finally:
            os.close(out)
            os.close(err)
        streams = [os.fdopen(stream, encoding="utf-8", errors="replace") for stream in (stdout, stderr)]
        if pid:
            return Forked(self, int(pid), *streams)
        for stream in streams:
            stream.close()
        self.end()
        return None

    def give_back(self) -> None:
        """Keep it for the next worker; one is enough."""
        if _Server.idle is None:
            _Server.idle = self
        else:
            self.end()

    def end(self) -> None:
        """It, and a worker that it still has."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


def _take_server(environment: Mapping[str, str]) -> _Server:
    """The idle one, if it was started under the same variables; what was imported under others may differ."""
    found, _Server.idle = _Server.idle, None
    if found and found.lasting == _lasting(environment):
        return found
    if found:
        found.end()
    return _Server(environment)


@atexit.register
def _end_idle() -> None:
    if _Server.idle:
        _Server.idle.end()
        _Server.idle = None


def _lasting(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_PER_WORKER)}
