"""Production storage by settings alone: Dagster and MLflow in a real PostgreSQL, MLflow's files behind S3's API."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from nutridet_assets.assets.dataset import nutrition_dataset
from nutridet_assets.home import prepare_home
from nutridet_assets.resources import Worker
from nutridet_core.errors import SettingsError
from nutridet_core.pipeline.release import model_registry, register_release
from nutridet_core.release.registry import CHAMPION
from nutridet_core.serving.vllm import free_port
from tests.release_samples import make_context, open_home, write_release

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_OWNER = "postgres" if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root; Debian's package makes this user."""

needs_postgres = pytest.mark.skipif(not _PROGRAMS, reason="no PostgreSQL on this machine: apt-get install postgresql")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a PostgreSQL of these tests' own."""
    folder = Path(tempfile.mkdtemp(prefix="nutridet-postgres-"))
    if _OWNER:
        shutil.chown(folder, _OWNER)
    data, port = folder / "data", free_port()
    try:
        _postgres("initdb", "--auth=trust", "--username=nutridet", "--no-sync", "-D", data)
        _postgres("pg_ctl", "start", "-w", "-D", data, "-l", folder / "log", "-o", f"-p {port} -k {folder}")
        yield f"postgresql+psycopg2://nutridet@127.0.0.1:{port}"
    finally:
        _postgres("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)
        shutil.rmtree(folder)


@pytest.fixture
def database(cluster: str, request: pytest.FixtureRequest) -> str:
    """Address of an empty database."""
    name = request.node.name[:40]
    _query(f"{cluster}/postgres", f'CREATE DATABASE "{name}"')
    return f"{cluster}/{name}"


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Dagster's own files would lie, in an empty home."""
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:24")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return tmp_path / "dagster"


@pytest.mark.postgres
@needs_postgres
def test_dagster_keeps_its_runs_in_postgresql(
    database: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUTRIDET_DAGSTER_STORAGE", database)
    prepare_home()
    with dg.DagsterInstance.get() as instance:
        made = dg.materialize([nutrition_dataset], instance=instance, resources={"worker": Worker()})
    with dg.DagsterInstance.get() as instance:
        assert [run.run_id for run in instance.get_runs()] == [made.run_id]
        event = instance.get_latest_materialization_event(dg.AssetKey("nutrition_dataset"))
        assert event is not None and event.run_id == made.run_id
    assert _query(database, "SELECT run_id, status FROM runs") == [(made.run_id, "SUCCESS")]
    assert not list(dagster_home.rglob("*.db")), "nothing in SQLite"
    assert database not in (dagster_home / "dagster.yaml").read_text(encoding="utf-8"), "it may hold a password"


@pytest.mark.postgres
@needs_postgres
def test_mlflow_keeps_runs_and_models_in_postgresql(
    database: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUTRIDET_TRACKING_URI", database)
    context = make_context(tmp_path, dataset)
    write_release(context, "weights")
    facts = register_release(context)
    holder = model_registry(open_home(tmp_path)).holder(CHAMPION)
    assert holder is not None and holder[0] == str(facts["version"])
    assert _query(database, "SELECT name, version FROM model_versions") == [(facts["model"], int(facts["version"]))]
    assert _query(database, "SELECT count(*) FROM metrics WHERE key = 'test.mean_iou'") != [(0,)]


def test_mlflow_keeps_files_in_a_bucket(release_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto's server speaks S3's protocol over HTTP; no part of this project knows that it is not S3."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port())
    server.start()
    try:
        for name, value in _bucket_settings(*server.get_host_and_port()).items():
            monkeypatch.setenv(name, value)
        bucket = boto3.resource("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).create_bucket(Bucket="photos")
        context = open_home(_empty_mlflow(release_home, tmp_path / "home"))
        run = context.open_run("leaderboard", {"of": "a test"}, stage="comparison")
        context.tracker.log_folder(run, context.layout.leaderboard, "leaderboard")
        kept = {entry.key for entry in bucket.objects.all()}
        assert f"mlflow/{run}/artifacts/leaderboard/nutridet.json" in kept
        listed = context.tracker.client.list_artifacts(run, "leaderboard")
        assert "leaderboard/nutridet.json" in {entry.path for entry in listed}
        assert not (tmp_path / "home" / "mlartifacts").exists()
    finally:
        server.stop()


def test_a_home_made_for_sqlite_is_not_taken_for_another(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_home()
    monkeypatch.setenv("NUTRIDET_DAGSTER_STORAGE", "postgresql+psycopg2://127.0.0.1/dagster")
    with pytest.raises(SettingsError, match="keeps runs elsewhere") as error:
        prepare_home()
    assert str(dagster_home / "dagster.yaml") in str(error.value)


def test_another_driver_is_refused(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy 2.1 would look for psycopg 3, and Dagster's statements fail with it."""
    monkeypatch.setenv("NUTRIDET_DAGSTER_STORAGE", "postgresql://user:secret@127.0.0.1/dagster")
    with pytest.raises(SettingsError, match=r"Begin it with postgresql\+psycopg2://") as error:
        prepare_home()
    assert "secret" not in str(error.value)


def _bucket_settings(host: str, port: int) -> dict[str, str]:
    return {
        "NUTRIDET_ARTIFACT_URI": "s3://photos/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "for-moto",
        "AWS_SECRET_ACCESS_KEY": "for-moto",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _empty_mlflow(release_home: Path, folder: Path) -> Path:
    """A copy of that home in which MLflow has no experiment yet: an experiment keeps the place it was made with."""
    shutil.copytree(release_home, folder)
    (folder / "mlflow.db").unlink()
    shutil.rmtree(folder / "mlartifacts", ignore_errors=True)  # other tests may have registered models in that home
    return folder


def _postgres(program: str, *arguments: object) -> None:
    command = [str(_PROGRAMS[-1] / program), *map(str, arguments)]
    subprocess.run(command, user=_OWNER, check=True, stdout=subprocess.DEVNULL, cwd="/")


def _query(address: str, statement: str) -> list[Any]:
    import psycopg2

    connection = psycopg2.connect(address.replace("+psycopg2", ""))
    connection.autocommit = True  # CREATE DATABASE allows no transaction
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows
