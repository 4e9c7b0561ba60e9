"""What the machine and MLflow fail with comes out as one error with its place and its remedy. All failures are real."""

from __future__ import annotations

import re
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from nutridet_core.cli import app
from nutridet_core.errors import ArtifactError, MachineError
from nutridet_core.failures import explain, told_plainly
from nutridet_core.tracking import Tracker

NOBODY = "http://127.0.0.1:9"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def full_disk(folder: Path) -> None:
    with Path("/dev/full").open("w") as stream:
        stream.write("x")


def quota_for_weights(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        save_file({"a": torch.zeros(2**16)}, folder / "weights.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk_for_a_checkpoint(folder: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, "/dev/full")


def locked_database(folder: Path) -> None:
    file = folder / "mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("begin exclusive")
        with create_engine(f"sqlite:///{file}", connect_args={"timeout": 0}).begin() as other:
            other.execute(text("create table t (x)"))


def overtaken(folder: Path) -> None:
    """As when two processes give the same new alias: each finds none, and both write it."""
    with create_engine(f"sqlite:///{folder / 'mlflow.db'}").begin() as database:
        database.execute(text("create table aliases (name text primary key)"))
        for _ in range(2):
            database.execute(text("insert into aliases values ('champion')"))


def read_only_database(folder: Path) -> None:
    file = folder / "mlflow.db"
    sqlite3.connect(file).close()
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        database.execute("create table t (x)")


def no_folder_for_a_database(folder: Path) -> None:
    sqlite3.connect(folder / "nowhere" / "mlflow.db").close()


def silent_server(folder: Path) -> None:
    Tracker(NOBODY, "x", "unused").client.search_experiments()


def too_much_memory(folder: Path) -> None:
    bytearray(2**62)


def too_much_memory_for_a_tensor(folder: Path) -> None:
    torch.empty(2**50)


FAILURES: dict[Callable[[Path], None], str] = {
    full_disk: "No space left on device. Free space on the disk",
    quota_for_weights: "File too large. Free space on the disk of NUTRIDET_HOME, or raise the quota",
    full_disk_for_a_checkpoint: "Free space on the disk",
    locked_database: r"MLflow's database \[NUTRIDET_TRACKING_URI\]: is locked by another process. Wait",
    overtaken: r"MLflow's database \[NUTRIDET_TRACKING_URI\]: another process wrote the same at the same moment. Look",
    read_only_database: "attempt to write a readonly database. Let this user write there",
    no_folder_for_a_database: "unable to open database file. Let this user write there",
    silent_server: rf"MLflow at {NOBODY} \[NUTRIDET_TRACKING_URI\]: does not answer. Start it",
    too_much_memory: "not enough memory. End other processes",
    too_much_memory_for_a_tensor: "can't allocate memory. End other processes",
}


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_a_failure_of_the_machine_has_a_remedy(
    fail: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MachineError, match=FAILURES[fail]) as caught, told_plainly():
        fail(tmp_path)
    assert "then run it again: what was finished is kept" in str(caught.value)
    assert caught.value.__cause__ is not None, "the traceback is kept"


def test_a_file_that_may_not_be_written_is_named() -> None:
    with pytest.raises(MachineError, match=r"^/proc/sys/kernel/ostype: .*Let this user write there"), told_plainly():
        Path("/proc/sys/kernel/ostype").write_text("x")


def test_an_error_that_another_one_caused_is_told_by_its_cause(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="No space left"), told_plainly():
        try:
            full_disk(tmp_path)
        except OSError as error:
            raise ValueError("the table was not written") from error


@pytest.mark.parametrize(
    "error", [KeyError("x"), FileNotFoundError(2, "No such file", "x"), sqlite3.OperationalError("no such table: x")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert explain(error) is None
    with pytest.raises(type(error)), told_plainly():
        raise error


def test_this_projects_own_errors_pass() -> None:
    own = ArtifactError("cannot be verified ([Errno 28] No space left on device)")
    with pytest.raises(ArtifactError) as caught, told_plainly():
        raise own
    assert caught.value is own


def test_a_command_says_it_in_one_line(home: Path) -> None:
    environment = {"NUTRIDET_HOME": str(home), "NUTRIDET_TRACKING_URI": NOBODY, **IMPATIENT}
    result = CliRunner().invoke(app, ["reevaluate"], env=environment)
    assert result.exit_code == 1
    assert re.search(rf"^error: MLflow at {NOBODY} .*does not answer", result.output, re.MULTILINE)
    assert "Traceback" not in result.output
