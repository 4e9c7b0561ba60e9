"""Nobody let in: no code from artefacts, no way out of a folder, no secret where others read, no open port.

The gateway's own refusals (key, addresses, sizes) are in test_serving_gateway.py; this file has what belongs to no one
module.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import nutridet_assets
import nutridet_core
from nutridet_assets.up import services
from nutridet_core.artifacts.store import MANIFEST, Manifest, is_complete, read_manifest, seal
from nutridet_core.cli import app
from nutridet_core.data.sources import open_source
from nutridet_core.errors import ArtifactError, DataError, NutridetError, SettingsError
from nutridet_core.experiments import Experiment, load_experiments
from nutridet_core.overlay import predicted_files
from nutridet_core.profiles import TINY
from nutridet_core.release.triton import engine_arguments
from nutridet_core.serving.run import is_loopback
from nutridet_core.serving.vllm_command import VllmOptions, command
from nutridet_core.settings import Settings
from nutridet_core.tracking import Tracker, open_tracker
from tests.conftest import EXP1A, PROFILE

SOURCES = sorted(
    path for package in (nutridet_core, nutridet_assets) for path in Path(str(package.__file__)).parent.rglob("*.py")
)


# ---------------------------------------------------------------- no code from artefacts


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Every call in the product: dotted name, the call, where."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node, f"{path.name}:{node.lineno}"


def given(call: ast.Call, name: str) -> object:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


CODE_FREE = {
    "PeftModel.from_pretrained",
    "model_class.config_class.from_pretrained",
    "Qwen2VLForConditionalGeneration.from_pretrained",
}
"""Of a class that the call names, or that a family does: there is no `trust_remote_code` to switch off."""


def test_every_model_and_processor_is_loaded_without_its_code() -> None:
    loads = [(name, call, where) for name, call, where in calls() if name.endswith(".from_pretrained")]
    assert len(loads) >= 4
    for name, call, where in loads:
        assert given(call, "trust_remote_code") == "False" or name in CODE_FREE, where
        if name == "model_class.from_pretrained":
            assert given(call, "use_safetensors") == "True", where


def test_nothing_in_the_product_unpickles_or_evaluates() -> None:
    forbidden = (
        "eval",
        "exec",
        "pickle.",
        "joblib.",
        "dill.",
        "cloudpickle.",
        "marshal.",
        "yaml.load",
        "yaml.unsafe_load",
    )
    harmless = ("pickle.dumps", "exec_module")
    found = [
        f"{where} {name}"
        for name, _, where in calls()
        if (name in forbidden or name.startswith(tuple(word for word in forbidden if word.endswith("."))))
        and name not in harmless
    ]
    assert found == []
    for name, call, where in calls():
        if name == "torch.load":
            assert given(call, "weights_only") == "True", where
        if name.startswith(("subprocess.", "asyncio.create_subprocess")):
            assert given(call, "shell") is None, where
            assert name != "asyncio.create_subprocess_shell", where


def test_servers_are_told_to_run_no_code_of_a_model() -> None:
    assert engine_arguments(TINY, Path("weights"))["trust_remote_code"] is False
    assert not any("trust" in word for word in command(TINY, "weights", 8001, VllmOptions()))


def test_mlflow_loads_no_pickled_model(tmp_path: Path) -> None:
    """In a process of its own: the switch must be thrown by using the tracker, not by these tests."""
    code = """
import sys, mlflow, mlflow.sklearn
from pathlib import Path
from sklearn.linear_model import LinearRegression
mlflow.sklearn.save_model(LinearRegression(), sys.argv[1] + "/model", serialization_format="cloudpickle")
from nutridet_core.tracking import Tracker
Tracker("sqlite:///" + sys.argv[1] + "/mlflow.db", "x", "unused").client
try:
    mlflow.sklearn.load_model(sys.argv[1] + "/model")
except mlflow.exceptions.MlflowException as error:
    print("refused:", error)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "refused: " in ran.stdout, ran.stdout + ran.stderr
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in ran.stdout


class Planted:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rng_state.pth", "optimizer.pt", "scheduler.pt"])
def test_a_forged_checkpoint_runs_no_code(
    trained: Callable[[Experiment], Path], dataset: Path, tmp_path: Path, name: str
) -> None:
    """The attacker may write the folder, so the manifest is right: what protects is that torch reads weights only."""
    from nutridet_core.artifacts.layout import checkpoints
    from nutridet_core.training.train import TrainingRun, train

    folder = tmp_path / "exp1a"
    shutil.copytree(trained(EXP1A), folder)
    (folder / MANIFEST).unlink()
    first, last = checkpoints(folder)
    shutil.rmtree(last)
    (first / name).write_bytes(pickle.dumps(Planted(tmp_path / "ran")))
    seal(first, read_manifest(first, verify=False))
    with pytest.raises((pickle.UnpicklingError, NutridetError)):
        train(TrainingRun(EXP1A, PROFILE, dataset, folder))
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- no way out of a folder

OUTSIDE = ["../outside", "/etc/passwd", "a/../../outside", "..", "a\0b", "~/x", "a/b", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_experiment_cannot_be_named_after_another_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        replace(EXP1A, name=name)
    file = tmp_path / "experiments.toml"
    file.write_text(f"[{json.dumps(name)}]\nrank = 4\n", encoding="utf-8")
    with pytest.raises(SettingsError):
        load_experiments(file)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../outside.png", "..", "link.png", "a\0b"])
@pytest.mark.parametrize("kind", ["coco", "imagefolder"])
def test_an_index_cannot_name_a_file_elsewhere(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "link.png").symlink_to("/etc/passwd")
    image = {"id": 1, "file_name": name}
    coco = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "nutrition-table"}]}
    (folder / "annotations.json").write_text(json.dumps(coco), encoding="utf-8")
    (folder / "metadata.jsonl").write_text(json.dumps({**image, "boxes": []}), encoding="utf-8")
    with pytest.raises(DataError, match="file_name"):
        list(open_source(f"{kind}:{folder}"))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "a\0b", "x" * 5000])
def test_a_manifest_vouches_for_its_own_folder_only(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "artefact"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret", encoding="utf-8")
    manifest = Manifest(kind="model", name="a", files={name: "0" * 64})
    (folder / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    assert not is_complete(folder)
    with pytest.raises(ArtifactError, match=r"outside its folder|missing|cannot be verified"):
        read_manifest(folder)


def test_drawn_photos_land_in_the_folder_that_was_named(tmp_path: Path) -> None:
    photos = [Path("../../a.jpg"), Path("/etc/b.png"), Path(".."), Path("a.jpg")]
    assert {path.parent for path in predicted_files(photos, tmp_path)} == {tmp_path}


def test_mlflow_takes_no_artefact_path_out_of_its_folder(home: Path, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    tracker = open_tracker(Settings(home=home))
    run_id = tracker.open_run("a", "key")
    file = tmp_path / "file.txt"
    file.write_text("x", encoding="utf-8")
    for path in ("../outside", "/etc", "a/../../outside"):
        with pytest.raises(MlflowException, match="Invalid artifact path"):
            tracker.log_file(run_id, file, path)


# ---------------------------------------------------------------- no secret where others read

PLANTED = "PLANTED-5ecret"


def secrets(home: Path) -> dict[str, str]:
    """Every setting that holds a secret, for parts that exist on this machine."""
    return {
        "NUTRIDET_HOME": str(home),
        "NUTRIDET_SOURCE": "generated:12",
        "NUTRIDET_ALERT_WEBHOOK": f"https://127.0.0.1:9/{PLANTED}-webhook",
        "NUTRIDET_API_KEY": f"{PLANTED}-key",
        "NUTRIDET_DAGSTER_STORAGE": f"postgresql+psycopg2://u:{PLANTED}-postgres@127.0.0.1:9/dagster",
        "AWS_SECRET_ACCESS_KEY": f"{PLANTED}-s3",
        "AWS_ACCESS_KEY_ID": "u",
        "MLFLOW_TRACKING_PASSWORD": f"{PLANTED}-mlflow",
        "HF_TOKEN": f"hf_{PLANTED}",
        "HF_HUB_OFFLINE": "1",
    }


def assert_untold(where: Path | str) -> None:
    """A text, or every file below a folder, databases and names of files included."""
    if isinstance(where, str):
        assert PLANTED not in where
        return
    for path in where.rglob("*"):
        assert PLANTED not in str(path)
        if path.is_file():
            assert PLANTED.encode() not in path.read_bytes(), path


def test_a_search_for_secrets_finds_those_in_databases(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database, database:
        database.execute("create table t (x)")
        database.execute("insert into t values (?)", (f"x{PLANTED}",))
    with pytest.raises(AssertionError):
        assert_untold(tmp_path)


def run(arguments: list[str], environment: dict[str, str]) -> str:
    """What a process wrote; its command line is looked at as well, those of its children too."""
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with contextlib.suppress(psutil.NoSuchProcess):
        assert_untold(" ".join(psutil.Process(process.pid).cmdline()))
    written, _ = process.communicate()
    return written


VERBS = """
import json, os, sys
import mlflow.store.db.utils
mlflow.store.db.utils.MAX_RETRY_COUNT = 1  # else it asks a dead database for 100 s
from nutridet_core.cli import app
for arguments, variables in json.loads(sys.argv[1]):
    own = {name: value.replace("SECRET", os.environ["PLANTED"]) for name, value in variables.items()}
    os.environ.update(own)
    try:
        app(arguments)
    except SystemExit as ending:
        print(arguments, "ended with", ending.code)
    for name in own:
        del os.environ[name]
"""
"""The command, several times in one process: importing what it needs takes longer than what it does here."""


@pytest.mark.slow
def test_secrets_are_neither_printed_nor_kept(home: Path) -> None:
    """The verbs with data, MLflow and errors in them, and one that fails on each address."""
    environment = {**secrets(home), "PLANTED": PLANTED, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    fine = [["data"], ["plan", "exp1a"], ["reevaluate"], ["train", "no-such"], ["client", "/nowhere.jpg"]]
    bad = [
        {"NUTRIDET_TRACKING_URI": "postgresql+psycopg2://u:SECRET@127.0.0.1:9/mlflow"},
        {"NUTRIDET_TRACKING_URI": "http://127.0.0.1:9"},
        {"NUTRIDET_TRACKING_URI": "http://u:SECRET@127.0.0.1:9"},
        {"NUTRIDET_MAX_EPOCHS": "SECRET"},
        {"NUTRIDET_ALERT_WEBHOOK": "ftp://SECRET"},
    ]
    calls = [*((verb, {}) for verb in fine), *((["reevaluate"], variables) for variables in bad)]
    written = run(["-c", VERBS, json.dumps(calls)], environment)
    assert_untold(written)
    assert written.count("ended with 0") == 2, written
    assert written.count("ended with 1") == 8, written
    assert "connection to server" in written and "does not answer" in written, "the dead servers were asked"
    assert_untold(run(["-m", "nutridet_assets.materialize", "--help"], environment))
    assert (home / "artifacts").is_dir()
    assert_untold(home)


def test_secrets_are_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in secrets(tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = Settings(tracking_uri=f"postgresql+psycopg2://u:{PLANTED}@127.0.0.1/mlflow")
    assert_untold(f"{settings!r} {settings} {settings.mlflow_page}")
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        Settings(tracking_uri=f"https://u:{PLANTED}@mlflow.example.org/a")
    assert_untold(str(refused.value))


def test_addresses_of_databases_are_on_no_command_line(tmp_path: Path) -> None:
    uri = f"postgresql+psycopg2://u:{PLANTED}@127.0.0.1/mlflow"
    started = services(Settings(home=tmp_path, tracking_uri=uri, dagster_storage=uri))
    assert [service.name for service in started] == ["Dagster", "MLflow"]
    for service in started:
        assert_untold(" ".join(service.command))
    assert started[1].variables["MLFLOW_BACKEND_STORE_URI"] == uri


def test_vllms_key_is_on_no_command_line() -> None:
    assert not any(word.startswith("--api-key") for word in command(TINY, "weights", 8001, VllmOptions()))


def test_a_setting_that_cannot_be_used_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_DAGSTER_PORT", PLANTED)
    result = CliRunner().invoke(app, ["plan"])
    assert result.exit_code == 1
    assert "NUTRIDET_DAGSTER_PORT" in result.output
    assert_untold(result.output)


# ---------------------------------------------------------------- nothing open to the network


def test_servers_listen_on_loopback_unless_told_otherwise(tmp_path: Path) -> None:
    lines = [service.command for service in services(Settings(home=tmp_path))]
    lines.append(command(TINY, "weights", 8001, VllmOptions()))
    for line in lines:
        words = list(line)
        assert is_loopback(words[words.index("--host") + 1]), line
    serve = next(each for each in app.registered_commands if each.name == "serve")
    import inspect

    assert is_loopback(inspect.signature(serve.callback).parameters["host"].default)  # type: ignore[arg-type]


def test_keys_are_compared_in_constant_time() -> None:
    """No `==` on a key: its time tells how much of a guess is right."""
    gateway = next(path for path in SOURCES if path.name == "gateway.py")
    tree = ast.parse(gateway.read_text(encoding="utf-8"))
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare) and "key" in ast.unparse(node)]
    assert all(isinstance(operator, ast.Is | ast.IsNot) for node in compared for operator in node.ops)
    assert any(name == "hmac.compare_digest" for name, _, where in calls() if where.startswith("gateway.py"))


# ---------------------------------------------------------------- what it is made of


def test_the_bill_of_materials_fits_its_schema_and_lists_what_is_installed(tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    file, pyproject = tmp_path / "sbom.json", Path(__file__).parents[1] / "pyproject.toml"
    options = ["--pyproject", str(pyproject), "--sv", "1.6", "--no-validate", "-o", str(file), sys.executable]
    subprocess.run([sys.executable, "-m", "cyclonedx_py", "environment", *options], check=True)
    bill = json.loads(file.read_text(encoding="utf-8"))
    addresses = take_addresses(bill["components"][1:])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert len(addresses) > 100
    assert [address for address in addresses if not re.fullmatch(r"https?://[\w.-]+[!-~]*", address)] == []
    assert bill["metadata"]["component"]["name"] == "nutridet"
    assert {"torch", "mlflow", "dagster", "transformers", "pillow"} <= {
        each["name"].lower() for each in bill["components"]
    }
    assert all(each["version"] for each in bill["components"])


def take_addresses(components: list[dict[str, Any]]) -> list[str]:
    """Remove the links of components and return them: the schema's grammar takes 0.1 s for each."""
    return [link["url"] for component in components for link in component.pop("externalReferences", ())]


def test_tracker_is_what_the_pipeline_uses() -> None:
    """MLflow's switch is thrown in `Tracker.client`: nobody may make a client beside it."""
    makers = {where.split(":")[0] for name, _, where in calls() if name.endswith("MlflowClient")}
    assert makers == {"tracking.py"}
    assert Tracker.__module__ == "nutridet_core.tracking"
