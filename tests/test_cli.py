"""The command line: help at once, an error in one line, and a photo with its box drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from nutridet_core import cli
from nutridet_core.data.dataset import open_photos
from nutridet_core.overlay import PREDICTED_COLOUR
from nutridet_core.profiles import TINY

COMMANDS = [str(command.name) for command in cli.app.registered_commands]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which commands work in an empty home."""
    monkeypatch.setenv("NUTRIDET_HOME", str(home))
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:8")
    return home


@pytest.fixture
def photo(dataset: Path, tmp_path: Path) -> Path:
    """A drawn photo, as somebody would hand it in."""
    path = tmp_path / "pack.jpg"
    open_photos(dataset, "test")[0]().save(path)
    return path


def nutridet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def assert_one_line(result: Result, *words: str) -> None:
    """An error that a user can read: one line, no traceback, exit code 1."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]


def test_the_verbs_are_there() -> None:
    assert set(COMMANDS) >= {
        "plan", "data", "train", "checkpoints", "evaluate", "compare", "merge", "adopt", "quantize", "register",
        "reevaluate", "rollback", "predict",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = nutridet(command, "--help")
    assert result.exit_code == 0
    function = next(each.callback for each in cli.app.registered_commands if each.name == command)
    assert str(function.__doc__).split(";")[0].split(".")[0] in " ".join(result.output.split())


def test_help_loads_nothing_heavy() -> None:
    """Else `--help` takes ten seconds."""
    heavy = "{'torch', 'transformers', 'mlflow', 'datasets', 'trl'} & set(sys.modules)"
    code = f"import sys, nutridet_core.cli as cli\ntry: cli.app(['train', '--help'])\nexcept SystemExit: print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, which torch brings on Linux")
@pytest.mark.parametrize(("given", "spins"), [(None, "0"), ("active", "30000000000")])
def test_threads_of_a_command_sleep_while_they_wait(given: str | None, spins: str) -> None:
    """What OpenMP says once torch has loaded it; without our setting it spins 300000 times."""
    code = "import nutridet_core.cli as cli\n@cli.command\ndef load(): import torch\ncli.app(['load'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"OMP_WAIT_POLICY": given} if given else {})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_an_unknown_profile_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_PROFILE", "huge")
    assert_one_line(nutridet("train"), "NUTRIDET_PROFILE", "no profile 'huge'", "Known: tiny, qwen2-vl-7b")


@pytest.mark.parametrize(
    ("profile", "revision", "words"),
    [
        ("qwen2-vl-7b", "main", ("Qwen/Qwen2-VL-7B-Instruct [NUTRIDET_REVISION]: 'main' is no commit",)),
        ("tiny", "0" * 40, ("NUTRIDET_REVISION", "is a folder", "Unset it")),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_wrong_revision_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, command: str, profile: str, revision: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NUTRIDET_PROFILE", profile)
    monkeypatch.setenv("NUTRIDET_REVISION", revision)
    assert_one_line(nutridet(command), *words)


def test_a_folder_without_an_adapter_is_one_line(run: Path, tmp_path: Path) -> None:
    result = nutridet("adopt", tmp_path / "nothing", tmp_path / "out")
    assert_one_line(result, str(tmp_path / "nothing" / "adapter_config.json"), "Name a folder that PEFT wrote")
    assert not (tmp_path / "out").exists()


def test_an_unknown_source_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_SOURCE", "ftp:photos")
    assert_one_line(nutridet("data"), "'ftp:photos' names no photo source", "generated:COUNT")


def test_a_wrong_experiment_file_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "mine.toml").write_text("[exp3]\nrnak = 16", encoding="utf-8")
    monkeypatch.setenv("NUTRIDET_EXPERIMENTS", str(run / "mine.toml"))
    assert_one_line(nutridet("train"), str(run / "mine.toml"), "[exp3.rnak]", "no such field")


@pytest.mark.parametrize("command", ["train", "checkpoints", "evaluate", "compare", "merge"])
def test_an_unknown_experiment_is_one_line(run: Path, command: str) -> None:
    assert_one_line(nutridet(command, "exp9"), "no experiment 'exp9'", "Known: exp1a, exp1b, exp2")


@pytest.mark.parametrize(
    "command",
    ["train", "checkpoints", "evaluate", "compare", "merge", "quantize", "register", "reevaluate", "rollback"],
)
def test_a_verb_without_its_input_is_one_line(run: Path, command: str) -> None:
    assert_one_line(nutridet(command))


def test_data_writes_the_dataset_and_its_report(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_SOURCE", "generated:20:6")
    result = nutridet("data")
    assert result.exit_code == 0, result.output
    root = run / "artifacts" / "tiny"
    assert result.stdout.strip() == f"dataset in {root / 'dataset'}, report in {root / 'dataset_report'}"
    assert (root / "dataset" / "nutridet.json").is_file()
    assert (root / "dataset_report" / "samples.png").is_file()


def test_predict_draws_the_box_or_says_that_there_is_none(run: Path, photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    result = nutridet("predict", photo, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    target = tmp_path / "out" / "pack.boxes.png"
    assert result.stdout.startswith(f"{photo}: ")
    assert result.stdout.strip().endswith(f"-> {target}")
    assert photo.read_bytes() == before
    with Image.open(target) as drawn, Image.open(photo) as given:
        colours = {colour for _, colour in drawn.crop((0, 0, drawn.width, drawn.height - 60)).getcolors(2**24) or []}
        assert max(drawn.size) >= min(1024, max(given.size))
    marked = tuple(int(PREDICTED_COLOUR[at : at + 2], 16) for at in (1, 3, 5)) in colours
    assert marked == ("nutrition table(" in result.stdout)
    assert marked or "no nutrition table" in result.stdout or "unreadable answer" in result.stdout


def test_predict_with_the_base_model_named(run: Path, photo: Path, tmp_path: Path) -> None:
    """Two photos of one name, from two folders: two pictures."""
    other = tmp_path / "other" / "pack.png"
    other.parent.mkdir()
    Image.new("RGB", (120, 90), "white").save(other)
    result = nutridet("predict", photo, other, "--model", TINY.base_model, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pack-2.boxes.png", "pack.boxes.png"]
    assert len(result.stdout.splitlines()) == 2


def test_a_file_that_is_no_photo_is_one_line_and_costs_the_others_nothing(
    run: Path, photo: Path, tmp_path: Path
) -> None:
    text, missing = tmp_path / "notes.txt", tmp_path / "missing.jpg"
    text.write_text("not a photo", encoding="utf-8")
    result = nutridet("predict", text, photo, missing, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{photo}: ")
    told = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert told[0].startswith(f"error: {text}") and "Save it as JPEG" in told[0]
    assert told[1].startswith(f"error: {missing}") and "is not there" in told[1]
    assert told[2].startswith(f"error: {tmp_path}") and "--input FOLDER" in told[2]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pack.boxes.png"]


def test_options_of_a_collection_need_one(run: Path, photo: Path) -> None:
    assert_one_line(nutridet("predict", photo, "--engine", "vllm"), "is for a collection", "--input")


def test_a_folder_without_a_model_is_one_line(run: Path, photo: Path, tmp_path: Path) -> None:
    assert_one_line(nutridet("predict", photo, "--model", tmp_path), f"{tmp_path}: holds no model", "`merged`")


def test_a_misspelt_setting_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_TEST_SOURCES", "coco:/photos")
    assert_one_line(nutridet("plan"), "[NUTRIDET_TEST_SOURCES]: is no setting. Write NUTRIDET_TEST_SOURCE")


@pytest.mark.parametrize("setting", ["NUTRIDET_SOURCE", "NUTRIDET_TEST_SOURCE"])
@pytest.mark.parametrize("source", ["ftp:photos", "coco:/no/such"])
def test_a_plan_of_photos_that_are_not_there_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, setting: str, source: str
) -> None:
    monkeypatch.setenv(setting, source)
    assert_one_line(nutridet("plan"), source.partition(":")[2])


def test_a_home_that_is_a_file_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path / "file"))
    assert_one_line(nutridet("data"), "A file lies where a folder is to be")


@pytest.mark.parametrize(
    ("command", "maker"),
    [("compare", "nutridet data"), ("register", "nutridet merge"), ("rollback", "nutridet register")],
)
def test_a_verb_without_its_input_names_the_one_that_makes_it(run: Path, command: str, maker: str) -> None:
    assert_one_line(nutridet(command), f"`{maker}`")


def test_a_model_folder_that_is_not_there_is_one_line(run: Path, photo: Path, tmp_path: Path) -> None:
    """It must not be taken for the id of a model on the hub."""
    result = nutridet("predict", photo, "--model", "no/such", "--out", tmp_path / "out")
    assert_one_line(result, "no/such: no such folder")
