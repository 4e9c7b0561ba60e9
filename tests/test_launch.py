"""The worker process: what it reports arrives, and nothing of it is left behind however it ends.

No postponed annotations: Dagster wants the annotation of `context` as a type.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from nutridet_assets.launch import Report, launch
from nutridet_assets.launchers import active_launcher
from nutridet_assets.launchers.processes import running
from tests.services import gone, until

_REPORTING = """
from nutridet_assets.worker import work
from nutridet_core.errors import {error}
def job():
    {body}
raise SystemExit(work(job))
"""
_WITH_A_CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{child.pid} {os.getpid()}")
time.sleep(600)
"""


def _launch(*arguments: str, **options: Any) -> Report:
    reports = []

    @dg.asset
    def worked(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        reports.append(launch(context, [sys.executable, *arguments], **options))
        return dg.MaterializeResult()

    assert dg.materialize([worked], instance=dg.DagsterInstance.ephemeral()).success
    return reports[0]


def _job(body: str, error: str = "NutridetError", **options: Any) -> Report:
    return _launch("-c", _REPORTING.format(body=body, error=error), **options)


def test_a_result_comes_back() -> None:
    report = _job("return {'photos': 3, 'nested': {'long': 'x' * 9000}}")
    assert report.exit_code == 0
    (message,) = report.messages
    assert message["result"]["photos"] == 3
    assert len(message["result"]["nested"]["long"]) == 500, "messages stay small"


@pytest.mark.parametrize(("given", "in_force"), [(None, "passive"), ("active", "active")])
def test_threads_of_a_worker_sleep_unless_its_user_decided(
    monkeypatch: pytest.MonkeyPatch, given: str | None, in_force: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    (message,) = _job("import os; return {'policy': os.environ.get('OMP_WAIT_POLICY')}").messages
    assert message["result"] == {"policy": in_force}


def test_settings_for_one_worker_reach_it() -> None:
    body = "from nutridet_core.settings import Settings; return {'epochs': Settings().active_profile.max_epochs}"
    (message,) = _job(body, variables={"NUTRIDET_MAX_EPOCHS": "1"}).messages
    assert message["result"] == {"epochs": 1}


def test_an_error_of_the_project_is_reported_and_not_a_traceback() -> None:
    report = _job("raise NutridetError('is missing', where='a.json', remedy='Write it.')")
    assert report.exit_code == 1
    assert report.messages[0]["error"] == "a.json: is missing. Write it."


def test_a_failed_audit_brings_its_evidence() -> None:
    report = _job("raise AuditError('label_audit: pads in the loss', evidence={'row': 0})", "AuditError")
    assert report.exit_code == 1
    assert report.messages[0] == {"failed_audits": {"row": 0}, "text": "label_audit: pads in the loss"}


def test_a_killed_worker_is_named_as_such() -> None:
    report = _launch("-c", "import os, signal; print('last words', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    assert report.ending.startswith("was killed by SIGKILL")
    assert "last words" in report.tail


@pytest.mark.parametrize("deaf", [False, True])
def test_an_ended_worker_leaves_no_child(tmp_path: Path, deaf: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", ignore + _WITH_A_CHILD, str(pids)]
    with running(command, os.environ, grace_seconds=0.5):
        until(lambda: pids.is_file() and len(pids.read_text().split()) == 2)
    for pid in map(int, pids.read_text().split()):
        until(lambda pid=pid: gone(pid))  # type: ignore[misc]


def test_a_worker_ends_with_its_launcher(tmp_path: Path) -> None:
    """Also when the launcher was killed and could not say so."""
    pid_file = tmp_path / "pid"
    worker = (
        "import os, time\nfrom nutridet_assets.worker import follow_launcher\nfollow_launcher()\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    launcher = (
        "import os, subprocess, sys, time\nos.environ['NUTRIDET_LAUNCHER_PID'] = str(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {worker!r}], start_new_session=True)\ntime.sleep(600)"
    )
    with running([sys.executable, "-c", launcher], os.environ, grace_seconds=1) as process:
        until(lambda: pid_file.is_file() and pid_file.read_text() != "")
        process.send_signal(signal.SIGKILL)
        until(lambda: gone(int(pid_file.read_text())))


@pytest.mark.parametrize(
    ("name", "words", "elsewhere"),
    [
        ("local", [sys.executable], False),
        ("accelerate", [sys.executable], False),
        ("ray", [sys.executable, "-m", "nutridet_assets.launchers.ray"], True),
        ("k8s", [sys.executable, "-m", "nutridet_assets.launchers.kubernetes"], True),
        ("slurm", ["srun", "--ntasks=1", "--gpus=2", sys.executable], True),
    ],
)
def test_where_workers_run_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, words: list[str], elsewhere: bool
) -> None:
    monkeypatch.setenv("NUTRIDET_LAUNCHER", name)
    monkeypatch.setenv("NUTRIDET_WORKER_GPUS", "2")
    launcher = active_launcher()
    assert (list(launcher.command), launcher.elsewhere) == (words, elsewhere)


def test_a_message_is_found_among_what_others_print_on_its_line() -> None:
    """Of a worker elsewhere, whose threads share one stream."""
    noise = "import sys; sys.stdout.write('half a line '); sys.stdout.flush(); return {'photos': 3}"
    report = _job(noise, elsewhere=True)
    assert report.exit_code == 0
    assert report.messages == ({"result": {"photos": 3}},)
