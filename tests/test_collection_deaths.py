"""Photos that end the process that looks at them: what is remembered, and a real replica that dies on a real Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from nutridet_core.collection.detection import answer_collection
from nutridet_core.collection.trials import Trial
from nutridet_core.errors import MachineError
from tests.collections_of_photos import context, places, request, rows, write_photos
from tests.gateway_server import running_app
from tests.openai_server import TEXT, Server, completion
from tests.services import until

_DEADLY = b"deadly"
_CRASHING_DECODER = f"""
import ctypes, os
from PIL import Image
real = Image.open
def crash(file, *rest, **more):
    if hasattr(file, "getvalue") and {_DEADLY!r} in file.getvalue():
        with open(os.environ["DEATHS"], "a") as stream:
            stream.write("x")
        ctypes.string_at(0)
    return real(file, *rest, **more)
Image.open = crash
"""


def dies(file: Path, *touched: int, waiting: bool = False) -> None:
    """An attempt whose process ends at the last photo: nothing that it would have done afterwards is done."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        trial = Trial(file)
        with trial.attempt():
            for photo in touched:
                trial.touch(photo)
            if waiting:
                trial.wait()
            os.kill(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)


def test_who_is_the_last_one_twice_is_to_blame(tmp_path: Path) -> None:
    file = tmp_path / "part" / ".00003.trial"
    dies(file)
    assert (Trial(file).deaths, Trial(file).culprits) == (1, set())
    for _ in range(2):
        dies(file, 0, 1, 2)
    dies(file, 0, 1, 3)  # a node that was taken away
    assert (Trial(file).deaths, Trial(file).culprits) == (4, {2})
    with Trial(file).attempt():
        pass
    assert (Trial(file).deaths, Trial(file).culprits) == (0, set())
    assert not file.exists()


def test_a_photo_that_waits_is_not_to_blame(tmp_path: Path) -> None:
    file = tmp_path / ".00003.trial"
    dies(file, waiting=True)  # many at a time: it may have been another photo
    for _ in range(20):
        dies(file, 0, 1, waiting=True)
    assert (Trial(file).deaths, Trial(file).culprits) == (1, set())
    for _ in range(2):
        dies(file, 0, 1)
    assert (Trial(file).deaths, Trial(file).culprits) == (3, {1})


def test_an_error_is_no_death(tmp_path: Path) -> None:
    file = tmp_path / ".00003.trial"
    for _ in range(20):
        with pytest.raises(ValueError), Trial(file).attempt():
            raise ValueError
    assert Trial(file).deaths == 0


def test_a_shard_that_ends_every_process_stops_the_run(tmp_path: Path) -> None:
    file = tmp_path / ".00003.trial"
    for _ in range(10):
        dies(file)
    with (
        pytest.raises(MachineError, match=r"\.00003\.trial: 10 processes ended .*delete this file"),
        Trial(file).attempt(),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_while_its_engine_is_away_blames_no_photo(tmp_path: Path, number: signal.Signals) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    trial = out / "detections" / "weights" / "00000" / ".00000.trial"
    dies(trial)  # so that photos go one at a time
    away = Server({"error": "is being started"}, status=503)
    for _ in range(2):
        away.requests.clear()
        with running_app(away.app) as url, _driver(photos, out, url) as driver:
            until(lambda: trial.read_text().endswith("waiting\n") or len(away.requests) > 1)
            driver.send_signal(number)
            assert driver.wait() == (128 + number if number == signal.SIGTERM else -number)
    with running_app(Server(completion(TEXT)).app) as url, _driver(photos, out, url) as driver:
        assert driver.wait() == 0
    assert [row["problem"] for row in rows(out)] == [None] * 3


class _BackAgain(Server):
    """Fails at first; answers of later requests are waited for."""

    async def reply(self, request: Request) -> Response:
        self.held = bool(self.requests)
        return await super().reply(request)


def test_a_photo_that_is_asked_about_again_is_to_blame_again(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    trial = out / "detections" / "weights" / "00000" / ".00000.trial"
    dies(trial)
    for _ in range(2):
        server = _BackAgain({"error": "is being started"}, status=503)
        with running_app(server.app) as url, _driver(photos, out, url) as driver:
            until(lambda: len(server.requests) > 1)  # noqa: B023
            driver.kill()
            server.let_go.set()
    assert (Trial(trial).deaths, Trial(trial).culprits) == (3, {0})


def test_sigterm_is_no_death_and_waits_for_no_answer(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(3)), tmp_path / "out"
    server = Server(completion(TEXT), held=True)
    with running_app(server.app) as url, _driver(photos, out, url) as driver:
        server.came.wait()
        driver.terminate()
        status = driver.wait()  # while the server keeps its answer
        server.let_go.set()
    assert status == 128 + signal.SIGTERM
    (file,) = out.rglob(".*.trial")
    assert Trial(file).deaths == 0


@pytest.mark.parametrize("former", [signal.SIG_DFL, signal.SIG_IGN, lambda number, frame: None])
def test_what_sigterm_did_before_it_does_afterwards(tmp_path: Path, former: Any) -> None:
    photos = write_photos(tmp_path / "photos", range(3))
    before = signal.signal(signal.SIGTERM, former)
    try:
        answer_collection(context(tmp_path), request(photos, tmp_path / "out"))
        assert signal.getsignal(signal.SIGTERM) == former
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_sigterm_has_its_turn_when_the_trial_is_closed(tmp_path: Path) -> None:
    """A Dagster worker's gives what is left of the run some seconds to end."""
    photos, out, found = write_photos(tmp_path / "photos", range(3)), tmp_path / "out", list[str]()
    server = Server(completion(TEXT), held=True)

    def handler(number: int, frame: object) -> None:
        (file,) = out.rglob(".*.trial")
        found.extend(file.read_text().split())

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with running_app(server.app) as url, ThreadPoolExecutor(1) as other:
            other.submit(lambda: server.came.wait() and os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(SystemExit):
                answer_collection(context(tmp_path), request(photos, out, engine="openai", url=url))
            server.let_go.set()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == ["begun", "ended"]


@pytest.mark.parametrize("pool", ["local", "ray"])
def test_a_photo_that_kills_its_replicas_is_a_row_and_the_others_have_answers(tmp_path: Path, pool: str) -> None:
    photos, out, deaths = write_photos(tmp_path / "photos", range(25)), tmp_path / "out", tmp_path / "deaths"
    (photos / "00013.jpg").write_bytes((photos / "00013.jpg").read_bytes() + _DEADLY)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(_CRASHING_DECODER)
    line = ["--input", str(photos), "--out", str(out), "--engine", "fake", "--shard", "10"]
    line += ["--local"] if pool == "local" else ["--replicas", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "NUTRIDET_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(tmp_path / "path"),
        "DEATHS": str(deaths),
    }
    command = [sys.executable, "-m", "nutridet_core.cli", "predict", *line]
    if pool == "local":  # nobody begins it again but the user
        for _ in range(3):
            assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGSEGV
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert deaths.read_text() == "xxx"
    assert places(out) == {(f"{number:05}.jpg", None): 1 for number in range(25)}
    problems = {Path(row["uri"]).name: row["problem"] for row in rows(out) if row["problem"]}
    assert problems == {"00013.jpg": "ends_the_process"}
    assert "1 without an answer (1 ends_the_process)" in result.stdout
    assert not list(out.rglob(".*.trial"))


@contextmanager
def _driver(photos: Path, out: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`nutridet predict` as a process, without Ray."""
    line = ["--input", str(photos), "--out", str(out), "--engine", "openai", "--url", url, "--local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nutridet_core.cli", "predict", *line],
        env={**os.environ, "NUTRIDET_HOME": str(out.parent / "home")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
