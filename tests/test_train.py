"""Training: every epoch leaves a checkpoint; a killed run goes on and ends where an unbroken one ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState, TrainingArguments

from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import MANIFEST, Manifest, digest, is_complete, read_manifest
from nutridet_core.experiments import Experiment
from nutridet_core.training.ranks import Ranks
from nutridet_core.training.train import finished, prepare_folder, train
from nutridet_core.training.trainer import TrainingRun
from nutridet_core.training.watch import Watch
from tests.conftest import EXP1A, PROFILE
from tests.release_samples import change, flip_bit

EXPERIMENT = replace(EXP1A, name="resumed", epochs=4)
_SCRIPT = """
import sys
from pathlib import Path
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun
from tests.conftest import PROFILE
from tests.test_train import EXPERIMENT
train(TrainingRun(EXPERIMENT, PROFILE, Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_run_resumes_to_the_same_adapter(dataset: Path, tmp_path: Path) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    _train_until_killed(dataset, broken, after_checkpoints=2)
    _tear(checkpoints(broken)[-1])
    survivors = [path.name for path in checkpoints(broken) if is_complete(path)]
    assert len(survivors) >= 1, "the test must leave a checkpoint to resume from"
    resumed = train(TrainingRun(EXPERIMENT, PROFILE, dataset, broken))
    train(TrainingRun(EXPERIMENT, PROFILE, dataset, unbroken))
    assert resumed.facts["resumed_from"] == survivors[-1]
    for ours, theirs in zip(checkpoints(broken), checkpoints(unbroken), strict=True):
        _assert_same_adapter(ours, theirs)


def test_a_finished_run_is_kept_and_another_configuration_is_not(dataset: Path, tmp_path: Path) -> None:
    run = TrainingRun(replace(EXP1A, epochs=1), PROFILE, dataset, tmp_path / "run")
    first = train(run)
    lines: list[str] = []
    assert train(run, log=lines.append) == first
    assert "already trained" in lines[0]
    reworded = replace(run, experiment=replace(run.experiment, summary="the same in other words"))
    evaluated = replace(run, profile=replace(run.profile, score_batch_size=1, max_new_tokens=99))
    assert train(reworded) == train(evaluated) == first
    other = replace(run, experiment=replace(run.experiment, learning_rate=2e-4))
    assert finished(run.folder, other.config) is None
    assert prepare_folder(run.folder, other.config) is None
    assert checkpoints(run.folder) == []


@pytest.mark.parametrize("damage", ["truncated weights", "no manifest", "torn manifest"])
def test_a_torn_checkpoint_is_never_used(adapter: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    copy = Path(shutil.copytree(adapter, folder / adapter.name))
    match damage:
        case "truncated weights":
            _tear(copy)
        case "no manifest":
            (copy / MANIFEST).unlink()
        case "torn manifest":
            os.truncate(copy / MANIFEST, 100)
    assert prepare_folder(folder, {}) is None
    assert not copy.exists()


@pytest.mark.parametrize("damage", ["flipped bit", "flipped bit in the manifest", "missing"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_no_epoch_is_left_out(
    trained: Callable[[Experiment], Path], dataset: Path, tmp_path: Path, damage: str, epoch: int
) -> None:
    """Training makes the epochs after the checkpoint that it continues from, so no earlier one may be missing."""
    run = TrainingRun(EXP1A, PROFILE, dataset, tmp_path / EXP1A.name)
    shutil.copytree(trained(EXP1A), run.folder)
    before, lines = checkpoints(run.folder), list[str]()
    assert finished(run.folder, run.config) and len(before) == 2
    if damage == "missing":
        shutil.rmtree(before[epoch - 1])
    elif damage == "flipped bit in the manifest":  # which is valid JSON after it, and names another dataset
        path = before[epoch - 1] / MANIFEST
        fingerprint = str(read_manifest(before[epoch - 1]).data_fingerprint)
        path.write_text(path.read_text().replace(fingerprint, fingerprint[:-1] + chr(ord(fingerprint[-1]) ^ 1)))
    else:
        flip_bit(before[epoch - 1] / "adapter_model.safetensors")
    assert finished(run.folder, run.config) is None
    newest = prepare_folder(run.folder, run.config, lines.append)
    assert checkpoints(run.folder) == before[: epoch - 1]
    assert newest == (before[0] if epoch == 2 else None)
    if (damage, epoch) != ("missing", 2):  # without the last one it looks like a run that was killed
        assert f"epoch {epoch} and those after it are trained again" in lines[0]


def test_a_run_killed_after_its_last_step_keeps_its_audits(
    trained: Callable[[Experiment], Path], dataset: Path, tmp_path: Path
) -> None:
    """No step is left whose gradients could be audited; without their audit the gate would stay shut forever."""
    run = TrainingRun(EXP1A, PROFILE, dataset, tmp_path / EXP1A.name)
    shutil.copytree(trained(EXP1A), run.folder)
    before = read_manifest(run.folder)
    (run.folder / MANIFEST).unlink()
    after = train(run)
    assert after.facts["audits"] == before.facts["audits"]
    assert "gradient_audit" in after.facts["audits"]
    assert (after.digest, after.facts["steps"]) == (before.digest, before.facts["steps"])


def test_progress_speaks_of_the_loss_when_there_is_one() -> None:
    lines: list[str] = []
    checkpoint = Manifest(kind="checkpoint", name=EXP1A.name)
    watch = Watch(EXP1A, PROFILE.architecture, checkpoint, lines.append, lambda metrics, step: None, Ranks.join())
    arguments = TrainingArguments(per_device_train_batch_size=4, use_cpu=True)
    for logged in ([], [{"loss": 1.5, "step": 5}, {"loss": 1.25, "step": 10}, {"eval_runtime": 3.0}]):
        state = TrainerState(epoch=0.5, global_step=10, max_steps=10, log_history=logged)  # type: ignore[arg-type]
        watch.on_step_end(arguments, state, None)
    assert "nan" not in lines[0] and "loss" not in lines[0]
    assert "step 10/10, epoch 0.5, " in lines[0]
    assert "epoch 0.5, loss 1.250, " in lines[1]


def test_the_loss_falls_and_the_facts_say_so(adapter: Path) -> None:
    facts = read_manifest(adapter.parent, kind="adapter").facts
    assert facts["loss"][-1]["loss"] < facts["loss"][0]["loss"] or len(facts["loss"]) < 2
    assert {"label_audit", "module_audit", "gradient_audit"} == set(facts["audits"])
    assert facts["parameters"]["trainable"] > 0


def _train_until_killed(dataset: Path, folder: Path, *, after_checkpoints: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(dataset), str(folder)], cwd=Path(__file__).parents[1]
    )
    while process.poll() is None:
        if sum((path / MANIFEST).is_file() for path in checkpoints(folder)) >= after_checkpoints:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def _tear(checkpoint: Path) -> None:
    weights = checkpoint / "adapter_model.safetensors"
    if weights.is_file():
        os.truncate(weights, weights.stat().st_size // 2)


def _assert_same_adapter(first: Path, second: Path) -> None:
    ours, theirs = load_file(first / "adapter_model.safetensors"), load_file(second / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(
            ours[key], theirs[key], rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_a_training_that_also_says_what_decides_nothing_is_kept(
    trained: Callable[[Experiment], Path], dataset: Path, tmp_path: Path
) -> None:
    """As manifests did before."""
    run = TrainingRun(EXP1A, PROFILE, dataset, tmp_path / EXP1A.name)
    shutil.copytree(trained(EXP1A), run.folder)
    told = {**run.config, "experiment": {**run.config["experiment"], "summary": "as it was then"}}
    for folder in checkpoints(run.folder):
        change(folder, config={"digest": digest(told)})
    change(run.folder, config=told)
    assert finished(run.folder, run.config)
    change(run.folder, config={**told, "data_fingerprint": "other"})
    assert finished(run.folder, run.config) is None
