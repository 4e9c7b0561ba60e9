"""Collections on a real Ray: a node that dies, a driver that is killed, and nothing lost, doubled or left running."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from starlette.requests import Request
from starlette.responses import Response

from tests.collections_of_photos import places, write_photos
from tests.gateway_server import running_app
from tests.openai_server import TEXT, Server, completion
from tests.services import descendants, gone, until

SHARD = 10


@dataclass
class SlowServer(Server):
    """Answers one photo after the other, so that a run has a middle."""

    seconds: float = 0.02
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reply(self, request: Request) -> Response:
        async with self.turn:
            await asyncio.sleep(self.seconds)
        return await super().reply(request)


def test_a_node_that_dies_loses_nothing_and_repeats_its_own_shard_at_most(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(240)), tmp_path / "out"
    (photos / "00100.jpg").write_bytes(b"no photo")
    server = SlowServer(completion(TEXT, [-0.1]))
    with running_app(server.app) as url, _cluster() as cluster:
        with _driver(photos, out, url, RAY_ADDRESS=cluster.address) as driver:
            until(lambda: len(server.requests) > 60 or driver.poll() is not None)
            assert driver.poll() is None
            cluster.kill_node()
            told, errors = driver.communicate()
        assert driver.returncode == 0, errors
    assert places(out) == {(f"{number:05}.jpg", None): 1 for number in range(240)}
    assert 239 <= len(server.requests) <= 239 + SHARD, "asked again: one shard of the node that died, at most"
    assert "240 photos: 239 with a table" in told and "1 unreadable" in told
    assert "photos per worker-hour" in errors and "left" in errors


def test_a_driver_that_is_killed_leaves_no_process_and_its_shards_are_kept(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", range(120)), tmp_path / "out"
    server = SlowServer(completion(TEXT, [-0.1]))
    with running_app(server.app) as url:
        with _driver(photos, out, url) as driver:
            until(lambda: len(server.requests) > 50 or driver.poll() is not None)
            started = descendants(driver.pid)
            assert _listening(started) and all(_is_loopback(address) for address in _listening(started))
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        until(lambda: all(gone(pid) for pid in started))
        kept, asked = len(places(out)), len(server.requests)
        assert kept >= 3 * SHARD
        with _driver(photos, out, url, "--local") as driver:
            _, errors = driver.communicate()
        assert driver.returncode == 0, errors
    assert f"{kept // SHARD} of 12 shards are there already" in errors
    assert places(out) == {(f"{number:05}.jpg", None): 1 for number in range(120)}
    assert len(server.requests) - asked == 120 - kept


@dataclass
class _Cluster:
    process: subprocess.Popen[str]
    address: str

    def kill_node(self) -> None:
        """The one that the driver is not on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def _cluster() -> Iterator[_Cluster]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ray_cluster"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield _Cluster(process, process.stdout.readline().strip())
    finally:
        started = descendants(process.pid)
        process.communicate("end\n")
        until(lambda: all(gone(pid) for pid in started))


@contextmanager
def _driver(photos: Path, out: Path, url: str, *more: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`nutridet predict` as a process."""
    line = ["--input", str(photos), "--out", str(out), "--engine", "openai", "--url", url, "--shard", str(SHARD), *more]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "nutridet_core.cli", "predict", *line],
        env={**environment, "NUTRIDET_HOME": str(out.parent / "home"), **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _listening(pids: set[int]) -> list[str]:
    """Addresses that processes listen on."""
    found = psutil.net_connections("tcp")
    return [each.laddr.ip for each in found if each.pid in pids and each.status == psutil.CONN_LISTEN]


def _is_loopback(address: str) -> bool:
    return address.removeprefix("::ffff:") in ("127.0.0.1", "::1")
