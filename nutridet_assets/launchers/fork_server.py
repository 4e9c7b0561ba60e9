"""The fork server: a process that has imported what workers need, computes nothing, and becomes a worker by forking.

    python -u -m nutridet_assets.launchers.fork_server SOCKET

Belongs here: imports, forking, telling the exit code. Does not belong here: when it is used (`forks`) or what a worker
does (`worker`).

torch, transformers and mlflow take ten seconds of a core to import, and a whole run has fifteen workers. A forked one
has them at once, shares their memory, and gives its own back when it ends. torch's threads do not survive a fork: so
nothing here computes, no artefact is read, and what is imported while a worker is at the dataset is waited for before
the next fork. The server ends when the other end of its socket is closed, also by SIGKILL, and its worker with it
(`worker.follow_launcher`).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import socket
import sys
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

from nutridet_assets import worker

REQUEST_BYTES = 2**17
"""Arguments and environment of a worker; Linux takes no longer single message by default."""
_TRACKING = ("mlflow.store.tracking.sqlalchemy_store", "mlflow.system_metrics.system_metrics_monitor")
_MODEL = ("features", "predict", "release.merge", "release.quantize", "training.train")
_WITHOUT_TRACKING = {"prepare_dataset", "report_dataset", "list_collection"}
_WITHOUT_MODEL = {"score_peer", "build_leaderboard", "register_release", "write_card", *_WITHOUT_TRACKING}
_NEXT = {"prepare_dataset": "train_experiments"}
"""What follows a verb that needs little: its modules are imported meanwhile."""


def main(arguments: Sequence[str]) -> int:
    """Serve on the inherited socket; in a fork, be the worker."""
    with socket.socket(fileno=int(arguments[0])) as launcher:
        request = _serve(launcher)
    return 0 if request is None else _become_worker(request)


def modules_of(verb: str) -> list[str]:
    """What a verb imports."""
    modules = [f"nutridet_core.{worker.VERBS[verb]}"]
    if verb not in _WITHOUT_TRACKING:
        modules += _TRACKING
    if verb not in _WITHOUT_MODEL:
        modules += [f"nutridet_core.{name}" for name in _MODEL]
    return modules


def _serve(launcher: socket.socket) -> dict[str, Any] | None:
    """In a fork, what it is to do; in the server None, when the launcher has gone."""
    ahead: Thread | None = None
    while True:
        data, streams, *_ = socket.recv_fds(launcher, REQUEST_BYTES, 2)
        if not data:
            return None
        request = json.loads(data)
        verb = request["arguments"][0]
        if ahead:
            ahead.join()
        _import(verb)
        gc.freeze()  # collecting would write to the pages that are shared
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            _lead_session(streams)
            return {**request, "server": server}
        for stream in streams:
            os.close(stream)
        if verb in _NEXT:
            ahead = Thread(target=_import, args=(_NEXT[verb],), daemon=True)
            ahead.start()
        launcher.send(str(pid).encode())
        if (code := _wait(pid, launcher)) is None:
            return None
        launcher.send(str(code).encode())


def _import(verb: str) -> None:
    for module in modules_of(verb):
        importlib.import_module(module)


def _wait(pid: int, launcher: socket.socket) -> int | None:
    """Exit code of the worker, negative for a signal; None when the launcher has gone before."""
    ended = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([ended, launcher.fileno()], [], [])
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if ended in ready else None


def _lead_session(streams: Sequence[int]) -> None:
    os.setsid()
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
        os.close(stream)


def _become_worker(request: Mapping[str, Any]) -> int:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    worker.follow_parent(request["server"])
    return worker.main(request["arguments"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
