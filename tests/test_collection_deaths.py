"""Photos that end the process that looks at them: what is remembered, and a real replica that dies on a real Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nutridet_core.collection.trials import Trial
from nutridet_core.errors import MachineError
from tests.collections_of_photos import places, rows, write_photos

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


def dies(file: Path, *touched: int) -> None:
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
