"""Dagster and MLflow on this machine, over one `NUTRIDET_HOME`: `make up`, or `nutridet up`.

Belongs here: starting the two, saying where they are, ending them. Does not belong here: what they show
(`definitions`, `nutridet_core.tracking`), or a deployment on servers (`deploy/`).

Both listen on loopback only, since neither has a login. What they print goes to `logs` under the home.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nutridet_assets.home import prepare_home
from nutridet_core.children import adopt_orphans
from nutridet_core.errors import NutridetError, SettingsError
from nutridet_core.settings import LOOPBACK, Settings
from nutridet_core.tracking import NO_CODE

_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy, which would look for the pages on its own loopback."""
_GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL: a run in progress gets time to end its worker, which has 20 s."""
_WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Else MLflow starts eight processes more, 2 GB of them, for the judges and prompts of language models."""
_TAIL_LINES = 15


@dataclass(frozen=True)
class Service:
    """A server with a page."""

    name: str
    command: Sequence[str]
    port: int
    answers_at: str
    """Path that answers once it serves."""
    setting: str
    """What sets its port."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """For its environment. Addresses of databases hold passwords, and every user can read command lines."""

    @property
    def address(self) -> str:
        """Of its page."""
        return f"http://{LOOPBACK}:{self.port}"


@dataclass(frozen=True)
class Running:
    """A service's process and what it prints."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path

    def require_alive(self) -> None:
        """Raise, with its last lines, when it has ended."""
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
            raise NutridetError(
                f"{self.service.name} ended with code {self.process.returncode}. Its last lines:\n{tail}",
                where=self.log,
            )


def main() -> int:
    """Start both, print their addresses, and stay until a signal comes or one of them ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # also where a shell started this in the background, with SIGINT ignored
    try:
        with ExitStack() as stack:
            keep_up(stack, Settings())
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except NutridetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def keep_up(stack: ExitStack, settings: Settings) -> None:
    """Start what the settings call for; returns only by raising."""
    chosen = services(settings)
    require_usable(settings)
    for service in chosen:
        require_free(service)
    stack.enter_context(no_orphans())
    running = [stack.enter_context(started(service, settings.home)) for service in chosen]
    wait_until_all_answer(running)
    for service in chosen:
        print(f"{service.name:8} {service.address}", flush=True)
    if len(running) == 1:
        print(f"MLflow   {settings.mlflow_page}", flush=True)
    print(f"home     {settings.home}\nCtrl-C stops it.", flush=True)
    while True:
        for each in running:
            each.require_alive()
        time.sleep(0.5)


def require_usable(settings: Settings) -> None:
    """Refuse what the code location would stumble over: Dagster's page then is empty, and says why in its log.

    Raises:
        SettingsError: naming the setting.
    """
    _ = settings.active_profile, settings.all_experiments


def services(settings: Settings) -> list[Service]:
    """Dagster, and MLflow unless the settings name a server elsewhere."""
    listen = ("--host", LOOPBACK, "--port")
    dagster = [sys.executable, "-m", "dagster", "dev", "-m", "nutridet_assets.definitions", *listen]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--workers", "1", *listen]
    stores = {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.mlflow_artifacts,
    }
    ports = settings.dagster_port, settings.mlflow_port
    found = [Service("Dagster", [*dagster, str(ports[0])], ports[0], "/server_info", "NUTRIDET_DAGSTER_PORT")]
    if not settings.mlflow_uri.startswith("http"):
        found.append(Service("MLflow", [*mlflow, str(ports[1])], ports[1], "/health", "NUTRIDET_MLFLOW_PORT", stores))
    return found


def require_free(service: Service) -> None:
    """Raise when another program has the port: the page that answers would be its own."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, service.port))
        except OSError as error:
            raise SettingsError(
                f"port {service.port}, meant for {service.name}: {error.strerror}",
                field=service.setting,
                remedy="Stop the program that has it, or set another port.",
            ) from error


@contextmanager
def started(service: Service, home: Path) -> Iterator[Running]:
    """The service in a process group of its own, which is gone after the block."""
    log = home / "logs" / f"{service.name.lower()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {"NUTRIDET_HOME": str(home), "DAGSTER_HOME": str(prepare_home()), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            service.command,
            env={**_WITHOUT_JOBS, **os.environ, **NO_CODE, **service.variables, **own},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(service, process, log)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, SIGKILL to what is left of it."""
    try:
        _signal_group(process, signal.SIGTERM)
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


@contextmanager
def no_orphans() -> Iterator[None]:
    """Waits for grandchildren too: a run's worker leads a group of its own and follows its launcher by itself."""
    adopt_orphans()
    try:
        yield
    finally:
        with suppress(ChildProcessError):
            while True:
                os.wait()


def wait_until_all_answer(running: Sequence[Running]) -> None:
    """However long it takes, as long as they live."""
    silent = list(running)
    while silent:
        for each in running:
            each.require_alive()
        silent = [each for each in silent if not answers(each.service)]
        time.sleep(0.2)


def answers(service: Service) -> bool:
    """Whether it serves."""
    try:
        with _DIRECTLY.open(service.address + service.answers_at, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _interrupt(number: int, frame: object) -> None:
    """The first signal begins the end; later ones change nothing, so that the end is reached."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main())
