"""Faults of MLflow: its database locked by somebody else, its server slow, gone, or coming back.

Belongs here: a real MLflow server and a real lock. Does not belong here: the other faults (`faults`).
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import time
from contextlib import closing

from benchmarks.torture.faults import Case
from benchmarks.torture.processes import Child, fork

_HOST = "127.0.0.1"
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""MLflow's own settings. By default it asks seven times, for four minutes in all."""


def database_locked(case: Case) -> int:
    """Another process holds the database for some seconds; SQLite waits for five by itself."""
    case.reset()
    child = case.start()
    case.some_moment(child)
    file = case.home / "mlflow.db"
    if child.poll() is None and file.is_file():
        with closing(sqlite3.connect(file, isolation_level=None, timeout=5)) as connection:
            _hold(connection, child, case.random.uniform(0.5, 12))
    return child.wait()


def server_gone(case: Case) -> int:
    """The server is killed at a random moment and does not come back."""
    case.reset()
    server, address = _serve(case)
    child = case.start(tracking_uri=address, before=lambda: os.environ.update(_PATIENCE))
    case.some_moment(child)
    server.send(signal.SIGKILL)
    server.wait()
    return child.wait()


def server_slow(case: Case) -> int:
    """The server stops answering for a second or two, again and again."""
    case.reset()
    server, address = _serve(case)
    child = case.start(tracking_uri=address, before=lambda: os.environ.update(_PATIENCE))
    while child.poll() is None:
        server.send(signal.SIGSTOP)
        time.sleep(case.random.uniform(0.3, 2))
        server.send(signal.SIGCONT)
        time.sleep(case.random.uniform(0.3, 1))
    return child.wait()


def _hold(connection: sqlite3.Connection, child: Child, seconds: float) -> None:
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:  # the verb itself held it for all of five seconds
        return
    end = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    connection.execute("ROLLBACK")


def _serve(case: Case) -> tuple[Child, str]:
    """MLflow's own application over the home's database, in a child that ends with the case."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]

    def job() -> int:
        os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{case.home / 'mlflow.db'}"
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = (case.home / "mlartifacts").as_uri()
        from mlflow.server import app

        app.run(_HOST, port, threaded=True)
        return 0

    server = fork(job, case.homes.root / "server")
    case.cleanup.callback(server.wait)
    case.cleanup.callback(server.send, signal.SIGKILL)
    _await_port(server, port)
    return server, f"http://{_HOST}:{port}"


def _await_port(server: Child, port: int) -> None:
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"MLflow's server did not start: {server.log.read_text(errors='replace')[-2000:]}")
