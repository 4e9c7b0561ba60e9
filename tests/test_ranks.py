"""Training on several processes: what two learn is what one learns, the first one writes, and all end together.

The processes are real and exchange over gloo. The experiment has no dropout, because each process draws its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file
from torch.utils.data import DataLoader, RandomSampler

from nutridet_assets.agent import visible_gpus
from nutridet_assets.launchers import module_of
from nutridet_assets.worker import VERBS
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import Manifest, is_complete, read_manifest
from nutridet_core.data.dataset import DatasetSpec, load_split, prepare_dataset
from nutridet_core.errors import SettingsError
from nutridet_core.pipeline.context import Context
from nutridet_core.profiles import QWEN2_VL_7B
from nutridet_core.settings import Settings
from nutridet_core.training.ranks import Ranks
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun
from tests.conftest import EXP1A, PROFILE
from tests.services import until

_ROOT = Path(__file__).parents[1]
_TOLERANCE = 1e-3
"""Of a loss near 3, and of a weight against the adapter's largest: sums in another order, for 12 steps of AdamW."""
_EXPERIMENTS = '[shared]\nsummary = "no dropout"\ntowers = ["language"]\nrank = 8\ndropout = 0.0\nepochs = 3\n'
_EXCHANGE = """
import json, os, sys
from nutridet_core.errors import AuditError, ArtifactError, NutridetError
from nutridet_core.training.ranks import Ranks

ranks = Ranks.join()

def fail(error):
    raise error

def caught(action):
    try:
        return action()
    except NutridetError as error:
        return [type(error).__name__, str(error), getattr(error, "evidence", None)]

audit, full = AuditError("label_audit: pads", evidence={"row": 3}), ArtifactError("is full", where="disk")
found = {
    "agreed": ranks.agree(10.0 + ranks.rank),
    "gathered": ranks.gather(ranks.rank),
    "first": ranks.first_does(lambda: f"rank {ranks.rank}"),
    "one failed": caught(lambda: ranks.all_do(lambda: fail(audit) if ranks.rank == 1 else "fine")),
    "first failed": caught(lambda: ranks.first_does(lambda: fail(full))),
    "nobody failed": ranks.all_do(lambda: ranks.rank),
}
ranks.wait()
open(f"{sys.argv[1]}/{ranks.rank}.json", "w").write(json.dumps(found))
ranks.leave()
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with 16 training photos: whole steps of 4."""
    folder = tmp_path_factory.mktemp("photos") / "dataset"
    prepare_dataset(DatasetSpec("generated:19", selection_share=0.1, test_share=0.1), folder, log=lambda line: None)
    assert len(load_split(folder, "train")) == 16
    return folder


@pytest.fixture
def context(home: Path, photos: Path) -> Context:
    """A home with the dataset and the experiment `shared`, whose trainings take two processes."""
    (home / "experiments.toml").write_text(_EXPERIMENTS)
    context = Context(Settings(home=home, experiments=home / "experiments.toml", max_epochs=3))
    shutil.copytree(photos, context.layout.dataset)
    return context


# ---------------------------------------------------------------- the whole way


def test_two_processes_learn_what_one_learns_also_when_one_of_them_is_killed(context: Context, tmp_path: Path) -> None:
    folder = context.layout.adapter("shared")
    with _training(context) as agent:
        until(lambda: any(is_complete(path) for path in checkpoints(folder)) or agent.poll() is not None)
        ranks = _ranks(agent.pid)
        ranks[1].kill()
        assert agent.wait() == 1, "a killed rank is a failed training"
        assert not any(rank.is_running() for rank in ranks), "nobody goes on alone"
    survivors = [path for path in checkpoints(folder) if is_complete(path)]
    assert not (folder / "nutridet.json").exists() and len(survivors) < 3
    with _training(context) as agent:
        assert agent.wait() == 0
    ours = read_manifest(folder, kind="adapter")
    theirs = train(TrainingRun(context.experiment("shared"), context.profile, context.layout.dataset, tmp_path / "one"))
    assert (ours.facts["processes"], theirs.facts["processes"]) == (2, 1)
    assert ours.facts["resumed_from"] == survivors[-1].name
    _assert_same_training(ours, folder, theirs, tmp_path / "one")
    _assert_recorded_once(context, ours)


def test_ranks_end_when_the_launcher_is_killed(context: Context) -> None:
    launcher = (
        "import os, subprocess, sys, time\n"
        "os.environ['NUTRIDET_LAUNCHER_PID'] = str(os.getpid())\n"
        "subprocess.Popen([sys.executable, '-m', 'nutridet_assets.agent', 'train_experiments', 'shared'])\n"
        "time.sleep(600)"
    )
    with _started([sys.executable, "-c", launcher], context) as process:
        until(lambda: len(_ranks(process.pid)) == 2)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not any(_runs(member) for member in family))


# ---------------------------------------------------------------- parts


def test_a_failure_of_one_is_a_failure_of_all_with_its_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_EXCHANGE)
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    subprocess.run([sys.executable, *launch, str(script), str(tmp_path)], cwd=_ROOT, env=_environment({}), check=True)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for found in (first, second):
        assert (found["agreed"], found["gathered"], found["first"]) == (10.0, [0, 1], "rank 0")
    assert first["one failed"] == ["AuditError", "rank 1: label_audit: pads", {"row": 3}]
    assert second["one failed"] == ["AuditError", "label_audit: pads", {"row": 3}]
    assert first["first failed"] == ["ArtifactError", "disk: is full", None]
    assert second["first failed"] == ["NutridetError", "rank 0: disk: is full", None]
    assert (first["nobody failed"], second["nobody failed"]) == (0, 1)


@pytest.mark.parametrize("count", [16, 18, 13, 3])
def test_each_photo_comes_once_an_epoch_and_only_the_last_step_is_filled_up(count: int) -> None:
    """With the loader that Accelerate gives the trainer; steps hold 4 photos."""
    for _ in range(2):
        one, shares = _epoch(count, 1), [_epoch(count, 2, rank) for rank in (0, 1)]
        steps = [left + right for left, right in zip(*shares, strict=True)]
        whole, rest = divmod(count, 4)
        assert [sorted(step) for step in steps[:whole]] == [sorted(step) for step in one[:whole]]
        assert len(steps) == len(one) == whole + (rest > 0)
        seen = [photo for step in steps for photo in step]
        assert set(seen) == set(range(count)), "none is lost"
        assert len(seen) - count == (4 - rest) % 4, "and only what fills the last step comes twice"


def test_what_cannot_be_divided_is_refused_before_anything_is_loaded(photos: Path, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(SettingsError, match="4 photos of a step cannot be divided among 3 processes"):
        TrainingRun(EXP1A, PROFILE, photos, tmp_path).share_of(Ranks(0, 3, cpu))
    with pytest.raises(SettingsError, match="weights in 4 bits cannot be divided"):
        TrainingRun(EXP1A, QWEN2_VL_7B, photos, tmp_path, sharded=True).share_of(Ranks(0, 2, cpu))
    assert TrainingRun(EXP1A, PROFILE, photos, tmp_path).share_of(Ranks(1, 2, cpu)).train_batch_size == 2


def test_how_many_processes_there_are_is_no_part_of_the_configuration(photos: Path, tmp_path: Path) -> None:
    alone, sharded = (TrainingRun(EXP1A, PROFILE, photos, tmp_path, sharded=sharded) for sharded in (False, True))
    assert alone.config == sharded.config


def test_only_training_takes_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {module_of(verb) for verb in VERBS} == {"nutridet_assets.worker"}
    monkeypatch.setenv("NUTRIDET_LAUNCHER", "accelerate")
    several = [verb for verb in VERBS if module_of(verb) == "nutridet_assets.agent"]
    assert several == ["train_experiments"]
    assert visible_gpus() >= 1


# ---------------------------------------------------------------- helpers


def _epoch(count: int, processes: int, rank: int = 0) -> list[list[int]]:
    torch.manual_seed(7)
    rows = list(range(count))
    loader = DataLoader(rows, batch_size=4 // processes, sampler=RandomSampler(rows), collate_fn=list)  # type: ignore[arg-type]
    place = {"num_processes": processes, "process_index": rank, "put_on_device": False}
    prepared = prepare_data_loader(loader, **place, use_seedable_sampler=True, data_seed=42)  # type: ignore[arg-type]
    return [list(batch) for batch in prepared.batch_sampler]


def _environment(variables: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), **variables}


@contextmanager
def _training(context: Context) -> Iterator[subprocess.Popen[bytes]]:
    with _started([sys.executable, "-m", "nutridet_assets.agent", "train_experiments", "shared"], context) as process:
        yield process


@contextmanager
def _started(command: list[str], context: Context) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the context's settings; when the block ends, nothing below it is left."""
    given = context.settings
    variables = {"HOME": given.home, "EXPERIMENTS": given.experiments, "MAX_EPOCHS": given.max_epochs, "PROCESSES": 2}
    environment = _environment({f"NUTRIDET_{name}": str(value) for name, value in variables.items()})
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for member in [*left, process]:
            member.kill()
        process.wait()


def _ranks(pid: int) -> list[psutil.Process]:
    """Workers below a process, the first rank first."""
    below = psutil.Process(pid).children(recursive=True)
    workers = [member for member in below if _runs(member) and "nutridet_assets.worker" in member.cmdline()]
    return sorted(workers, key=lambda worker: int(worker.environ()["RANK"]))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _assert_same_training(ours: Manifest, mine: Path, theirs: Manifest, other: Path) -> None:
    assert ours.config == theirs.config and ours.contract == theirs.contract
    assert ours.facts["audits"].keys() == theirs.facts["audits"].keys()
    assert ours.facts["parameters"] == theirs.facts["parameters"]
    found, expected = ({point["step"]: point["loss"] for point in made.facts["loss"]} for made in (ours, theirs))
    assert found.keys() == expected.keys() == {5, 10}
    assert found[10] == pytest.approx(expected[10], abs=_TOLERANCE)  # at 5, the mean of what was done since the resume
    names = [path.name for path in checkpoints(mine)]
    assert names == [path.name for path in checkpoints(other)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    for name in names:
        left, right = (load_file(folder / name / "adapter_model.safetensors") for folder in (mine, other))
        largest = max(float(tensor.abs().max()) for tensor in right.values())
        assert left.keys() == right.keys()
        assert max(float((left[key] - right[key]).abs().max()) for key in left) < _TOLERANCE * largest


def _assert_recorded_once(context: Context, manifest: Manifest) -> None:
    tracker = context.tracker
    runs = tracker.client.search_runs([tracker.experiment_id], filter_string="tags.`nutridet.stage` = 'training'")
    assert [run.info.run_id for run in runs] == [manifest.mlflow_run_id]
    steps = [point.step for point in tracker.client.get_metric_history(str(manifest.mlflow_run_id), "train/loss")]
    assert set(steps) == {point["step"] for point in manifest.facts["loss"]}
