"""Forked workers: they keep what a worker of its own keeps, and share what was imported.

The worker here is a real one. It draws photos, or waits for an index that nobody writes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nutridet_assets.launchers import forks, processes
from nutridet_assets.worker import LAUNCHER_PID
from nutridet_core.artifacts.store import MANIFEST
from nutridet_core.data.sources.coco import INDEX
from tests.services import until

COMMAND = [sys.executable, "-m", "nutridet_assets.worker", "prepare_dataset"]
FEW = "generated:12"

pytestmark = pytest.mark.skipif(not forks.can_fork(), reason="workers are forked on Linux without a GPU only")


@pytest.fixture(autouse=True, scope="module")
def own_server() -> Iterator[None]:
    """Servers of these tests' own."""
    forks._end_idle()
    yield
    forks._end_idle()


@pytest.fixture
def waiting(tmp_path: Path) -> str:
    """A source that keeps its reader waiting."""
    os.mkfifo(tmp_path / INDEX)
    return f"coco:{tmp_path}"


def environment(home: Path, source: str) -> dict[str, str]:
    return {**os.environ, "NUTRIDET_HOME": str(home), "NUTRIDET_SOURCE": source, LAUNCHER_PID: str(os.getpid())}


def work(home: Path, source: str = FEW, **changed: str) -> tuple[int, str]:
    """Exit code and output of a worker that ends by itself."""
    with processes.running(COMMAND, environment(home, source) | changed, start=forks.start) as worker:
        assert isinstance(worker, forks.Forked)
        output = worker.stdout.read() + worker.stderr.read()
        return worker.wait(), output


def test_workers_of_a_run_come_from_one_server(tmp_path: Path) -> None:
    servers = []
    for name in ("first", "second"):
        code, output = work(tmp_path / name)
        assert code == 0, output
        assert "12 photos" in output
        assert list((tmp_path / name).rglob(MANIFEST))
        assert forks._Server.idle is not None
        servers.append(forks._Server.idle.process.pid)
    assert servers[0] == servers[1]


def test_what_training_needs_is_imported_while_a_worker_is_at_the_dataset(tmp_path: Path) -> None:
    work(tmp_path)
    assert forks._Server.idle is not None
    maps = Path(f"/proc/{forks._Server.idle.process.pid}/maps")
    until(lambda: "libtorch" in maps.read_text())
    code, output = work(tmp_path / "other")  # waits for the rest, and is forked then
    assert code == 0, output


def test_its_variables_reach_the_worker(tmp_path: Path) -> None:
    work(tmp_path)
    code, output = work(tmp_path, source="generated:13", NUTRIDET_HOME=str(tmp_path / "other"))
    assert code == 0, output
    assert "13 photos" in output
    assert list((tmp_path / "other").rglob(MANIFEST))


def test_what_was_imported_under_other_variables_is_not_used(tmp_path: Path) -> None:
    work(tmp_path)
    before = forks._Server.idle
    work(tmp_path, HF_HOME=str(tmp_path))
    assert before is not None
    assert forks._Server.idle is not before
    assert before.process.poll() is not None


def test_a_killed_worker_is_told_as_such(tmp_path: Path, waiting: str) -> None:
    with processes.running(COMMAND, environment(tmp_path, waiting), start=forks.start) as worker:
        assert worker.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=0.1)
        os.killpg(worker.pid, signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
    assert work(tmp_path)[0] == 0, "its server serves on"


def test_a_worker_is_ended_with_its_block(tmp_path: Path, waiting: str) -> None:
    """By SIGTERM, which reaches it at its work."""
    with processes.running(COMMAND, environment(tmp_path, waiting), start=forks.start) as worker:
        index = os.open(tmp_path / INDEX, os.O_WRONLY)  # waits for its reader
        assert _group(worker.pid) == [worker.pid]
    os.close(index)
    assert worker.returncode == 128 + signal.SIGTERM
    assert not _group(worker.pid)


def test_two_workers_at_once_have_a_server_each(tmp_path: Path, waiting: str) -> None:
    with processes.running(COMMAND, environment(tmp_path / "long", waiting), start=forks.start) as worker:
        assert work(tmp_path / "short")[0] == 0
        assert worker.poll() is None


def test_without_its_server_a_worker_ends(tmp_path: Path, waiting: str) -> None:
    with processes.running(COMMAND, environment(tmp_path, waiting), start=forks.start) as worker:
        assert isinstance(worker, forks.Forked)
        worker._server.process.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
        until(lambda: not _group(worker.pid))
    assert work(tmp_path)[0] == 0


def test_server_and_worker_end_with_a_killed_launcher(tmp_path: Path, waiting: str) -> None:
    launcher = (
        "import json, os, time\nfrom pathlib import Path\nfrom nutridet_assets.launchers import forks\n"
        f"worker = forks.start({COMMAND!r}, {{**os.environ, 'NUTRIDET_LAUNCHER_PID': str(os.getpid())}})\n"
        f"Path({str(tmp_path / 'pids')!r}).write_text(json.dumps([worker.pid, worker._server.process.pid]))\n"
        "time.sleep(600)"
    )
    with processes.running([sys.executable, "-c", launcher], environment(tmp_path, waiting)) as process:
        pids = _read(tmp_path / "pids")
        assert all(_group(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: not any(_group(pid) for pid in pids))


def _read(file: Path) -> list[int]:
    until(lambda: file.is_file() and file.read_text().endswith("]"))
    return list(json.loads(file.read_text()))


def _group(leader: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            found.append(int(file.parent.name))
    return found
