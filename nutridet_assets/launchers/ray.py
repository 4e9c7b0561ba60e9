"""A worker on a Ray cluster: an actor holds its GPUs, and starts it as a process of its node.

    RAY_ADDRESS=… NUTRIDET_WORKER_GPUS=1 python -m nutridet_assets.launchers.ray -m nutridet_assets.worker VERB …

Belongs here: the place on the cluster and the way to it. Does not belong here: what the worker does.

An actor and not a Ray job: jobs need the dashboard's server, their logs come by polling, and a job outlives whoever
submitted it. An actor ends with its driver, this process; and the worker, which follows its parent, with the actor.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from nutridet_assets.launchers.client import main, obey_launcher, worker_variables
from nutridet_assets.launchers.processes import GRACE_SECONDS, end_group, start
from nutridet_assets.worker import LAUNCHER_PID
from nutridet_core.errors import NutridetError
from nutridet_core.settings import Settings

_PLACE_SECONDS = 15.0
_LINES_AT_ONCE = 500


class Host:
    """The actor: runs a worker on its node, behind a guard, and hands on what it prints."""

    def start(self, arguments: Sequence[str], variables: Mapping[str, str]) -> str:
        """Start it; where it runs. In the actor's main thread, whose death the kernel tells the worker."""
        environment = {**os.environ, **variables, LAUNCHER_PID: str(os.getpid())}
        self._process = start([sys.executable, "-m", "nutridet_assets.launchers.guard", *arguments], environment)
        self._lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        streams = (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        self._threads = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for thread in self._threads:
            thread.start()
        return f"{os.uname().nodename}, GPUs {os.environ.get('CUDA_VISIBLE_DEVICES') or 'none'}"

    def listen(self) -> tuple[list[tuple[str, str]], int | None]:
        """Lines since the last call, waiting a second for the first; the exit code once all are told."""
        ended = not any(thread.is_alive() for thread in self._threads) or self._ended()
        lines = self._waiting_lines()
        return lines, self._process.wait() if ended and not lines else None

    def end(self, grace_seconds: float) -> None:
        """End it, if it still runs, and all that it left."""
        end_group(self._process, grace_seconds)

    def _ended(self) -> bool:
        """A worker that has ended, but left a child that keeps its streams open."""
        if self._process.poll() is None:
            return False
        end_group(self._process, 0)
        for thread in self._threads:
            thread.join(timeout=1)
        return True

    def _waiting_lines(self) -> list[tuple[str, str]]:
        lines: list[tuple[str, str]] = []
        try:
            while len(lines) < _LINES_AT_ONCE:
                lines.append(self._lines.get(timeout=0 if lines else 1))
        except queue.Empty:
            pass
        return lines

    def _read(self, name: str, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put((name, line))


def run(arguments: Sequence[str]) -> int:
    """Run a worker on the cluster that `RAY_ADDRESS` names."""
    import ray

    ray.init("auto", log_to_driver=False, logging_level="ERROR")  # RAY_ADDRESS has precedence; never a new cluster
    obey_launcher()  # Ray has its own handler of SIGTERM
    gpus = Settings().worker_gpus
    host = ray.remote(Host).options(num_gpus=gpus, num_cpus=1, max_restarts=0).remote()
    try:
        return _follow(host, arguments, gpus)
    except ray.exceptions.RayActorError as error:
        raise NutridetError(f"the Ray node or actor of the worker died: {error}") from error
    finally:
        _end(host)
        ray.shutdown()


def _follow(host: Any, arguments: Sequence[str], gpus: int) -> int:
    import ray

    started = host.start.remote(arguments, worker_variables())
    while not ray.wait([started], timeout=_PLACE_SECONDS)[0]:
        print(f"waits for a node of the Ray cluster with 1 free CPU and {gpus} free GPUs", flush=True)
    print(f"the worker runs on {ray.get(started)}", flush=True)
    while True:
        lines, code = ray.get(host.listen.remote())
        for name, line in lines:
            print(line, end="", file=getattr(sys, name), flush=True)
        if code is not None:
            return int(code)


def _end(host: Any) -> None:
    import ray

    try:
        ray.get(host.end.remote(GRACE_SECONDS + 5), timeout=GRACE_SECONDS + 10)
    except (ray.exceptions.RayError, AttributeError) as error:  # it died, or had not started anything
        print(f"the actor of the worker could not be asked to end it: {type(error).__name__}", flush=True)
    ray.kill(host)


if __name__ == "__main__":
    sys.exit(main(run, sys.argv[1:]))
