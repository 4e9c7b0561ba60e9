"""What several test files share: one small dataset, one trained adapter, made once per test run with real parts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from nutridet_core.experiments import EXPERIMENTS, Experiment
from nutridet_core.profiles import TINY, Profile
from nutridet_core.threads import let_threads_sleep

let_threads_sleep()  # before torch
hypothesis.settings.register_profile("no clock", deadline=None)  # its 200 ms depend on what else the machine does
hypothesis.settings.load_profile("no clock")

PROFILE: Profile = replace(TINY, train_batch_size=4, max_epochs=None)
EXP1A, EXP1B, EXP2 = (replace(experiment, epochs=2) for experiment in EXPERIMENTS)


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    """Dagster gives SIGTERM the handler of SIGINT. A shell's background jobs ignore that one, and so would the children
    of all later tests.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four drawn photos, split."""
    from nutridet_core.data.dataset import DatasetSpec, prepare_dataset

    folder = tmp_path_factory.mktemp("data") / "dataset"
    prepare_dataset(DatasetSpec(source="generated:24", selection_share=0.2, test_share=0.2), folder, log=print)
    return folder


@pytest.fixture(scope="session")
def processor() -> Any:
    """The embedded model's processor under the tiny profile's contract."""
    from nutridet_core.models import base_source, load_processor

    return load_processor(base_source(PROFILE), PROFILE.architecture, PROFILE.contract)


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Experiment], Path]:
    """A function that trains an experiment for two short epochs, once, and gives its folder."""
    from nutridet_core.training.train import train
    from nutridet_core.training.trainer import TrainingRun

    root = tmp_path_factory.mktemp("adapters")

    def train_once(experiment: Experiment) -> Path:
        train(TrainingRun(experiment, PROFILE, dataset, root / experiment.name))
        return root / experiment.name

    return train_once


@pytest.fixture(scope="session")
def adapter(trained: Callable[[Experiment], Path]) -> Path:
    """The last checkpoint of exp1a."""
    from nutridet_core.artifacts.layout import checkpoints

    return checkpoints(trained(EXP1A))[-1]


@pytest.fixture(scope="session")
def merged(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That checkpoint merged."""
    from nutridet_core.release.merge import merge

    folder = tmp_path_factory.mktemp("release") / "merged"
    merge(PROFILE, adapter, folder, name="test/merged")
    return folder


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to copy: its migrations take seconds."""
    from nutridet_core.tracking import Tracker

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    assert Tracker(f"sqlite:///{file}", "unused", file.parent.as_uri()).client.search_experiments()
    return file


@pytest.fixture
def home(tmp_path: Path, mlflow_database: Path) -> Path:
    """A home of its own, with an empty MLflow database."""
    import shutil

    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def release_home(dataset: Path, mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a release written by hand that passes the gate: to copy, not to change."""
    import shutil

    from tests.release_samples import make_context, write_release

    folder = tmp_path_factory.mktemp("release-home")
    shutil.copy(mlflow_database, folder / "mlflow.db")
    write_release(make_context(folder, dataset), "weights")
    return folder
