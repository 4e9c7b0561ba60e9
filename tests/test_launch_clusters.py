"""A worker on a real Ray and a real Slurm of one node: what it reports arrives, nothing is left however it ends."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nutridet_assets.launchers import active_launcher
from nutridet_assets.launchers.processes import end_group
from tests.launched import JOB, launched
from tests.services import gone, until
from tests.slurm_cluster import MISSING, slurm_cluster

_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
_KEEPS_TO_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "150000", "RAY_raylet_start_wait_time_s": "40",
}  # fmt: skip
_LONG = """
def job():
    import os, subprocess, sys, time
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    print('pids', os.getpid(), child.pid, flush=True)
    time.sleep(600)
raise SystemExit(work(job))
"""


@pytest.fixture(scope="module", params=["ray", "slurm"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What leads to the cluster."""
    if request.param == "slurm" and MISSING:
        pytest.skip(f"{MISSING} is not installed")
    start = {"ray": _ray_cluster, "slurm": slurm_cluster}[request.param]
    with start(tmp_path_factory.mktemp(request.param)) as variables:
        yield {**variables, "NUTRIDET_LAUNCHER": request.param, "NUTRIDET_WORKER_GPUS": "0"}


@pytest.fixture
def cluster(way: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of this process."""
    for name, value in {**way, "NUTRIDET_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


def test_a_result_comes_back_with_the_lines_before_it(cluster: None, tmp_path: Path) -> None:
    body = (
        "from nutridet_core.settings import Settings\n"
        "def job():\n    for n in range(2000): print('photo', n, flush=True)\n"
        "    return {'home': str(Settings().home), 'epochs': Settings().active_profile.max_epochs}\n"
    )
    report, lines = launched(JOB + body + "raise SystemExit(work(job))", variables={"NUTRIDET_MAX_EPOCHS": "1"})
    assert report.exit_code == 0, report.tail
    assert report.messages == ({"result": {"home": str(tmp_path), "epochs": 1}},)
    assert [line for line in lines if line.startswith("photo ")] == [f"photo {n}" for n in range(2000)]


def test_a_failed_audit_brings_its_evidence(cluster: None) -> None:
    body = "def job(): raise AuditError('label_audit: pads in the loss', evidence={'row': 0})\n"
    report, _ = launched(JOB + body + "raise SystemExit(work(job))")
    assert report.exit_code == 1
    assert report.messages == ({"failed_audits": {"row": 0}, "text": "label_audit: pads in the loss"},)


def test_a_killed_worker_is_named_as_such(cluster: None) -> None:
    report, _ = launched("import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    assert report.ending.startswith("was killed by SIGKILL")
    assert "last words" in report.tail


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_by_a_launcher_that_is_ended_or_killed(cluster: None, sent: signal.Signals) -> None:
    """A killed one cannot say so: Ray ends its actor, Slurm its step, and the worker ends what it started."""
    command = [*active_launcher().command, "-c", JOB + _LONG]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    pids = [int(word) for word in next(line for line in process.stdout if line.startswith("pids ")).split()[1:]]
    process.send_signal(sent)
    process.wait()
    assert sent is signal.SIGKILL or all(map(gone, pids)), "it ends after the worker and what that left"
    for pid in pids:
        until(lambda pid=pid: gone(pid))  # type: ignore[misc]


# ---------------------------------------------------------------- helpers


@contextmanager
def _ray_cluster(_: Path) -> Iterator[dict[str, str]]:
    """One node, on loopback, with a token."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    variables = {**_KEEPS_TO_LOOPBACK, "RAY_AUTH_TOKEN": secrets.token_urlsafe(32)}
    for _ in range(3):  # Ray gives up on its own agent after 15 s, which a busy machine may take to import it
        process = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER], env={**os.environ, **variables}, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin and process.stdout
        address = next((line.strip() for line in process.stdout if line.startswith("127.0.0.1:")), None)
        if address is not None:
            break
        end_group(process, 0)
    assert address is not None, "Ray does not start"
    yield {**variables, "RAY_ADDRESS": address}
    process.stdin.close()
    process.wait()
    end_group(process, 0)
