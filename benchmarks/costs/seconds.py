"""Seconds of training and of scoring checkpoints: one run of the product's own functions for one point of a curve.

Belongs here: running and timing. Does not belong here: which points there are (`curves`).

Processor seconds are user and system time of all threads of this process: training and scoring have no other one.
Without MLflow, whose part does not grow with any of these but with checkpoints.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks.costs.photos import Drawn, write_source
from nutridet_core.artifacts.store import Manifest, read_manifest, seal
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.evaluation.evaluate import answer_split, save_scores
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.pipeline.adapted import AdaptedBase
from nutridet_core.pipeline.context import Context
from nutridet_core.profiles import TINY, TINY_TUNED, TINY_WEIGHTS, Profile
from nutridet_core.prompts import resized_size
from nutridet_core.settings import Settings
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun

_FEWEST_CELLS = 36


@dataclass(frozen=True)
class Load:
    """What one run is given."""

    photos: Sequence[Drawn]
    spare: Sequence[Drawn]
    """Two more, for the splits of the dataset that the run does not use."""
    repeats: int = 1
    """Epochs of a training, checkpoints of a scoring."""
    cells: int = TINY.image_tokens
    """Bound on image tokens, by the pixel budget."""

    @property
    def profile(self) -> Profile:
        """`tiny` with this budget, and no cut of epochs."""
        area = TINY.architecture.cell_px**2
        return replace(TINY, max_epochs=None, min_pixels=_FEWEST_CELLS * area, max_pixels=self.cells * area)

    @property
    def tokens(self) -> float:
        """Image tokens of a photo, on average."""
        contract, cell = self.profile.contract, TINY.architecture.cell_px
        areas = [width * height for width, height in (resized_size(contract, *photo.size) for photo in self.photos)]
        return sum(areas) / len(areas) / cell**2


@dataclass(frozen=True)
class _Bench(Context):
    """The pipeline's context, with a profile that no setting names."""

    measured: Profile = TINY

    @cached_property
    def profile(self) -> Profile:
        return self.measured


def time_training(load: Load, folder: Path) -> dict[str, float]:
    """Seconds of one training, from loading the base model to the sealed adapter."""
    first, second = load.spare
    source = write_source(folder / "photos", {"train": load.photos, "selection": [first], "test": [second]})
    prepare_dataset(DatasetSpec(source), folder / "dataset", log=_silent)
    profile = _with_base(load.profile, folder / "base")
    run = TrainingRun(replace(EXPERIMENTS[0], epochs=load.repeats), profile, folder / "dataset", folder / "adapter")
    return timed(lambda: train(run, log=_silent))


def time_scoring(load: Load, folder: Path) -> dict[str, float]:
    """Seconds of scoring so many checkpoints, from loading the base model to the last sealed scores."""
    first, second = load.spare
    source = write_source(folder / "photos", {"selection": load.photos, "train": [first], "test": [second]})
    context = _Bench(Settings(home=folder), _silent, _with_base(load.profile, folder / "base"))
    prepare_dataset(DatasetSpec(source), context.layout.dataset, log=_silent)
    checkpoint = _sealed_for(load.profile, TINY_TUNED, folder / "checkpoint")
    lengths: list[int] = []
    found = timed(lambda: lengths.extend(_score(context, checkpoint, load.repeats)))
    return found | {"answer_characters": sum(lengths) / len(lengths)}


def timed(action: Callable[[], object]) -> dict[str, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    action()
    return {"wall_s": time.perf_counter() - clock, "cpu_s": time.process_time() - processor}


def _score(context: Context, checkpoint: Path, checkpoints: int) -> list[int]:
    """As the pipeline scores the checkpoints of an experiment; lengths of the answers."""
    base, dataset, lengths = AdaptedBase(context), context.layout.dataset, []
    for number in range(checkpoints):
        model, _ = base.wear(checkpoint)
        samples = answer_split(
            model, base.prepare(model, "selection", merged=True), context.profile, dataset, "selection"
        )
        folder = context.layout.scores(f"tuned/{number}", "selection")
        save_scores(folder, "tuned", "selection", samples, Manifest(kind="scores", name=folder.name))
        lengths += [len(sample.text) for sample in samples]
    return lengths


def _with_base(profile: Profile, folder: Path) -> Profile:
    return replace(profile, base_model=str(_sealed_for(profile, TINY_WEIGHTS, folder)))


def _sealed_for(profile: Profile, weights: Path, folder: Path) -> Path:
    """Shipped weights, sealed anew for a profile's pixel budget: they cost what weights made for it would."""
    shutil.copytree(weights, folder)
    seal(folder, read_manifest(weights).model_copy(update={"contract": profile.contract.hash}))
    return folder


def _silent(*_: object) -> None:
    """Progress is the benchmark's."""
