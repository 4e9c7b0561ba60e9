"""`nutridet up`: both pages answer, every way of stopping it leaves nothing behind, errors say what to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nutridet_assets.up import Service, answers, services
from nutridet_core.serving.vllm import free_port
from nutridet_core.settings import Settings
from tests.services import gone, up

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def test_both_pages_answer_and_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    """A shell that starts it in the background lets it ignore SIGINT; it ends all the same. SIGTERM: test_browser."""
    with up(tmp_path / "home", {}, ignored=signal.SIGINT) as running:
        assert b"dagster_webserver_version" in _read(f"{running.dagster}/server_info")
        assert b"<title>MLflow" in _read(running.mlflow)
        printed = running.printed.read_text()
        assert running.dagster in printed and running.mlflow in printed and str(running.home) in printed
        below = running.descendants()
        assert 5 <= len(below) <= 8, "Dagster's webserver, daemon and code server, MLflow's server, no more"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait() == 0
        assert all(gone(pid) for pid in below)
        assert running.printed.read_text().endswith("stopped\n")


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _run(tmp_path, NUTRIDET_DAGSTER_PORT=port)
    assert done.returncode == 1
    assert f"[NUTRIDET_DAGSTER_PORT]: port {port}, meant for Dagster" in done.stderr
    assert "set another port" in done.stderr
    assert not (tmp_path / "home").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUTRIDET_REEVALUATION_CRON", "every monday"),
        ("NUTRIDET_EXPERIMENTS", "/nosuch.toml"),
        ("NUTRIDET_PROFILE", "nosuch"),
    ],
)
def test_a_setting_that_leaves_dagster_empty_is_told_at_once(tmp_path: Path, name: str, value: str) -> None:
    done = _run(tmp_path, **{name: value})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert value in done.stderr or name in done.stderr
    assert not (tmp_path / "home").exists(), "nothing was begun"


def test_no_proxy_stands_between_it_and_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert answers(Service("page", ["true"], server.server_port, "/", "NUTRIDET_PORT"))
        server.shutdown()


def test_a_service_that_ends_says_why_and_takes_the_other_with_it(tmp_path: Path) -> None:
    done = _run(tmp_path, NUTRIDET_TRACKING_URI="nosuch://database")
    assert done.returncode == 1
    assert "MLflow ended with code" in done.stderr
    assert "unsupported URI 'nosuch://database'" in done.stderr


def test_mlflow_elsewhere_is_not_started_here(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, tracking_uri="https://mlflow.example.org/")
    assert [service.name for service in services(settings)] == ["Dagster"]
    assert settings.mlflow_page == "https://mlflow.example.org"


def test_only_loopback_is_listened_on(tmp_path: Path) -> None:
    for service in services(Settings(home=tmp_path)):
        assert service.command[service.command.index("--host") + 1] == "127.0.0.1"


def _run(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    ports = {"NUTRIDET_DAGSTER_PORT": str(free_port()), "NUTRIDET_MLFLOW_PORT": str(free_port())}
    environment = {**os.environ, **ports, "NUTRIDET_HOME": str(folder / "home"), **settings}
    command = [sys.executable, "-m", "nutridet_assets.up"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())
