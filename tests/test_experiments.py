"""Experiments and settings: what a user writes by hand is refused with its file and field, or means what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nutridet_core.cli import _context
from nutridet_core.errors import SettingsError
from nutridet_core.experiments import Experiment, load_experiments
from nutridet_core.profiles import PROFILES
from nutridet_core.settings import Settings

GOOD = """
[exp3]
summary = "vision and language, rank 16"
towers = ["language", "vision"]
rank = 16
learning_rate = 1
"""
WRONG = {
    "unknown field": ("[exp3]\nrnak = 16", "exp3.rnak"),
    "a name inside": ('[exp3]\nname = "exp4"', "exp3.name"),
    "text for a number": ('[exp3]\nepochs = "7"', "exp3.epochs"),
    "fraction for a count": ("[exp3]\nepochs = 1.5", "exp3.epochs"),
    "truth for a number": ("[exp3]\nrank = true", "exp3.rank"),
    "number for a truth": ("[exp3]\nmask_prompt = 1", "exp3.mask_prompt"),
    "number for text": ("[exp3]\nsummary = 3", "exp3.summary"),
    "text for a list": ('[exp3]\ntowers = "language"', "exp3.towers"),
    "a list of numbers": ("[exp3]\ntowers = [1]", "exp3.towers"),
    "a list of lists": ('[exp3]\ntowers = [["language"]]', "exp3.towers"),
    "unknown tower": ('[exp3]\ntowers = ["audio"]', "exp3.towers"),
    "no tower": ("[exp3]\ntowers = []", "exp3.towers"),
    "no rank": ("[exp3]\nrank = 0", "exp3.rank"),
    "negative epochs": ("[exp3]\nepochs = -1", "exp3.epochs"),
    "no learning rate": ("[exp3]\nlearning_rate = 0.0", "exp3.learning_rate"),
    "learning rate that is none": ("[exp3]\nlearning_rate = nan", "exp3.learning_rate"),
    "infinite learning rate": ("[exp3]\nlearning_rate = inf", "exp3.learning_rate"),
    "dropout of everything": ("[exp3]\ndropout = 1.0", "exp3.dropout"),
    "negative weight decay": ("[exp3]\nweight_decay = -0.1", "exp3.weight_decay"),
    "warm-up of several runs": ("[exp3]\nwarmup_share = 3", "exp3.warmup_share"),
    "negative seed": ("[exp3]\nseed = -1", "exp3.seed"),
    "taken by another experiment": ("[exp1a]\nrank = 16", "exp1a"),
    "no table": ("exp3 = 7", "exp3"),
}


PATHS = (
    "../../etc/cron",
    "..",
    ".",
    "/etc/x",
    "a/b",
    "a\\\\b",
    "C:",
    "",
    " ",
    "exp 3",
    "exp3\\n",
    "-rf",
    "Ä",
    "x" * 42,
)
OTHER_SUBJECTS = ("baseline", "peer", "prior-full", "release-0123/merged", "release-0123", "merged", "fp8")


@pytest.mark.parametrize(("text", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load_experiments(file)
    assert (caught.value.where, caught.value.field) == (file, field)
    assert str(caught.value).startswith(f"{file} [{field}]: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [*PATHS, *OTHER_SUBJECTS],
)
def test_a_name_that_is_a_path_or_another_subject_is_refused(tmp_path: Path, name: str) -> None:
    """Names become folders, partitions and rows of the leaderboard."""
    file = tmp_path / "mine.toml"
    file.write_text(f'["{name}"]\nrank = 16', encoding="utf-8")
    with pytest.raises(SettingsError, match="name") as caught:
        load_experiments(file)
    assert caught.value.where == file


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), (b"[exp3", "not TOML"), (b"\xff\xfe", "not TOML"), ("folder", "directory")],
    ids=["missing", "cut off", "binary", "folder"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | str | None, problem: str) -> None:
    file = tmp_path / "mine.toml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    with pytest.raises(SettingsError, match=problem) as caught:
        load_experiments(file)
    assert caught.value.where == file


def test_a_toml_experiment_means_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD, encoding="utf-8")
    experiments = load_experiments(file)
    assert list(experiments) == ["exp1a", "exp1b", "exp2", "exp3"]
    towers = frozenset({"language", "vision"})
    expected = Experiment("exp3", "vision and language, rank 16", towers, mask_prompt=True, rank=16, learning_rate=1)  # type: ignore[arg-type]
    assert experiments["exp3"] == expected


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(GOOD, encoding="utf-8")
    given = {
        "HOME": str(tmp_path / "home"),
        "PROFILE": "qwen2-vl-7b",
        "SOURCE": "generated:7",
        "TEST_SOURCE": "generated:8",
        "EXPERIMENTS": str(tmp_path / "mine.toml"),
        "TRACKING_URI": "http://mlflow:5000",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"NUTRIDET_{name}", value)
    settings = Settings()
    assert (settings.source, settings.test_source) == ("generated:7", "generated:8")
    assert settings.active_profile is PROFILES[1]
    assert settings.artifacts == tmp_path / "home" / "artifacts" / "qwen2-vl-7b"
    assert settings.mlflow_uri == "http://mlflow:5000"
    assert "exp3" in settings.all_experiments


def test_defaults_and_empty_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable, as compose files pass on, is one that is not set: not a home in the current folder."""
    for name in [name for name in os.environ if name.startswith("NUTRIDET_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    default = Settings()
    assert default.home == tmp_path / ".nutridet"
    assert default.mlflow_uri == f"sqlite:///{tmp_path / '.nutridet' / 'mlflow.db'}"
    for name in ("HOME", "PROFILE", "SOURCE", "EXPERIMENTS", "TRACKING_URI"):
        monkeypatch.setenv(f"NUTRIDET_{name}", "")
    assert Settings() == default


@pytest.mark.parametrize("profile", ["large", "../../..", "/"])
def test_an_unknown_profile_gives_no_folder(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    monkeypatch.setenv("NUTRIDET_PROFILE", profile)
    for ask in (lambda: Settings().artifacts, lambda: _context().layout, lambda: _context().profile):
        with pytest.raises(SettingsError, match=r"NUTRIDET_PROFILE.*Known: tiny, qwen2-vl-7b"):
            ask()


def test_an_unknown_experiment_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no experiment 'exp9'. Known: exp1a, exp1b, exp2"):
        _context().experiment("exp9")
