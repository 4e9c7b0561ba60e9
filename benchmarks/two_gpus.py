"""Training on the GPUs of one machine: what several processes learn, how fast, in how much memory, and after a kill.

    python -m benchmarks.two_gpus [--shape 7b] [--processes 2] [--base FOLDER] [--work FOLDER] [--out FILE]

Every row is the product's `train` on the same drawn photos, weights in bf16, no dropout, in processes of its own. One
process is the reference: at the same photos per step, the curve of losses must be the same. A row that is done is
kept in the work folder, so that an interrupted benchmark goes on. Where there is no GPU it runs on CPU processes, which
shows that it works and nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.measures import header, rate, ratio
from benchmarks.seven import SHAPES, profile_of, write_base
from benchmarks.training import SEED
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import digest, is_complete, read_manifest, write_json
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.profiles import Profile
from nutridet_core.training.ranks import Ranks
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun

RESULTS = Path(__file__).parent / "results"
LOSS_TOLERANCE = 0.02
"""Of a loss, as a share: bf16 sums in another order."""
_EXPERIMENT = replace(EXPERIMENTS[0], dropout=0.0)
_BATCH = 8
PHOTOS = 366
"""Of which 256 are for training, whole batches for one process and for two: several processes fill the last batch of an
epoch up with photos of its beginning, where one process takes what is left.
"""


@dataclass(frozen=True)
class Row:
    """One way to train."""

    name: str
    processes: int
    sharded: bool = False
    batch: int = _BATCH
    """Photos of a step, of all processes together."""
    killed: bool = False
    """One process is killed after the first checkpoint, and the training started again."""


@dataclass(frozen=True)
class Bench:
    """What all rows share."""

    shape: str
    base: Path
    work: Path
    epochs: int
    processes: int

    def run(self, row: Row) -> TrainingRun:
        """The row's training."""
        folder = self.work / row.name.replace(" ", "-")
        return TrainingRun(_EXPERIMENT, self.profile(row), self.work / "dataset", folder, row.sharded)

    def profile(self, row: Row) -> Profile:
        """In bf16; the layers are compiled where there is a GPU."""
        cuda = torch.cuda.is_available()
        changes = {"training_precision": "bf16", "compile_layers": cuda, "train_batch_size": row.batch}
        return profile_of(self.shape, self.base, max_epochs=self.epochs, **changes)


def rows(processes: int) -> list[Row]:
    """One process first: the others are compared with it."""
    return [
        Row("one process", 1),
        Row("DDP", processes),
        Row("DDP, one killed", processes, killed=True),
        Row("FSDP", processes, sharded=True),
        Row("DDP, full batch each", processes, batch=_BATCH * processes),
    ]


def main() -> None:
    """Train every row, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--processes", type=int, default=max(2, torch.cuda.device_count()))
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-random-7b")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "nutridet-two-gpus")
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "two_gpus.json")
    parser.add_argument("--only", nargs="+", default=[], help="names of rows; without it, all")
    parser.add_argument("--row", help="be a process of this row")
    given = parser.parse_args()
    bench = Bench(given.shape, given.base, given.work, given.epochs, given.processes)
    all_rows = rows(bench.processes)
    if given.row:
        train_row(bench, next(row for row in all_rows if row.name == given.row))
        return
    write_base(given.shape, given.base)
    prepare_dataset(DatasetSpec(f"generated:{given.photos}:{SEED}"), given.work / "dataset")
    found = [measured(bench, row) for row in all_rows if not given.only or row.name in given.only]
    write_json(given.out, result_of(bench, found, given.only))


def train_row(bench: Bench, row: Row) -> None:
    """In one of the row's processes: train; the first one keeps the times of its steps."""
    times: list[tuple[int, float]] = []
    run = bench.run(row)
    train(run, on_metrics=lambda metrics, step: times.append((step, time.perf_counter())))
    ranks = Ranks.join()
    if ranks.leads:
        write_json(run.folder.with_suffix(".times.json"), times)
    ranks.leave()


def measured(bench: Bench, row: Row) -> dict[str, Any]:
    """The row's numbers, measured now or by an earlier run."""
    run = bench.run(row)
    kept = run.folder.with_suffix(f".{digest([asdict(row), run.config])[:12]}.json")
    if not kept.is_file():
        write_json(kept, _measure(bench, row, run))
    found = dict(json.loads(kept.read_text()))
    print(json.dumps({name: value for name, value in found.items() if name != "losses"}), flush=True)
    return found


def _measure(bench: Bench, row: Row, run: TrainingRun) -> dict[str, Any]:
    killed = _kill_one(bench, row, run) if row.killed else {}
    if _start(bench, row).wait():
        lines = _log(run).read_text(errors="replace").splitlines()
        reason = next((line for line in lines if "Error: " in line), "no reason given")
        return asdict(row) | {"failed": reason.strip()[-300:]}
    facts = read_manifest(run.folder, kind="adapter").facts
    times = json.loads(run.folder.with_suffix(".times.json").read_text())
    return asdict(row) | killed | {
        "times": _seconds_per_step(times, facts["steps"], bench.epochs),
        "losses": {str(point["step"]): point["loss"] for point in facts["loss"]},
        "peak_gib": facts["peak_gpu_gib"], "steps": facts["steps"], "resumed_from": facts["resumed_from"],
        "complete": all(is_complete(path) for path in [run.folder, *checkpoints(run.folder)]),
    }  # fmt: skip


def _log(run: TrainingRun) -> Path:
    """What the row's processes print."""
    return run.folder.with_suffix(".log")


def _start(bench: Bench, row: Row) -> subprocess.Popen[bytes]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    arguments = [f"--{name}={value}" for name, value in (asdict(bench) | {"row": row.name}).items()]
    command = [sys.executable, *launch, f"--nproc-per-node={row.processes}", "-m", "benchmarks.two_gpus", *arguments]
    with _log(bench.run(row)).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _kill_one(bench: Bench, row: Row, run: TrainingRun) -> dict[str, Any]:
    """Kill the last process once there is a checkpoint; how it ended, and how long the others took to end too."""
    shutil.rmtree(run.folder, ignore_errors=True)  # a run that is resumed has its first checkpoint before its processes
    process = _start(bench, row)
    while not any(is_complete(path) for path in checkpoints(run.folder)):
        if process.poll() is not None:
            return {"kill": "it had ended before there was a checkpoint"}
        time.sleep(0.2)
    workers = [child for child in psutil.Process(process.pid).children() if "--row" in " ".join(child.cmdline())]
    max(workers, key=lambda worker: int(worker.environ()["RANK"])).kill()
    began = time.perf_counter()
    process.wait()
    return {
        "kill": f"ended with code {process.returncode}",
        "seconds_to_end": time.perf_counter() - began,
        "left_behind": sum(worker.is_running() for worker in workers),
    }


def _seconds_per_step(times: list[tuple[int, float]], steps: int, epochs: int) -> list[float]:
    """Between log lines, in the second half: by then layers are compiled and features kept. Where an epoch ends, a
    checkpoint is written; those lines are left out.
    """
    late = [point for point in times if point[0] > steps / 2]
    epoch = steps / epochs
    return [
        (after - before) / (end - begin)
        for (begin, before), (end, after) in pairwise(late)
        if begin // epoch == end // epoch
    ]


def _command(bench: Bench, only: Sequence[str]) -> str:
    """What makes the result."""
    chosen = ["--only", *only] if only else []
    size = f"--shape {bench.shape} --processes {bench.processes} --epochs {bench.epochs}"
    return f"python -m benchmarks.two_gpus {size} {shlex.join(chosen)}".rstrip()


def result_of(bench: Bench, found: list[dict[str, Any]], only: Sequence[str] = ()) -> dict[str, Any]:
    """Rates with intervals, ratios to one process, and the largest difference of losses."""
    by_name = {row["name"]: row for row in found}
    rates = {row["name"]: rate(row["times"], row["batch"]) for row in found if row.get("times")}
    one = by_name["one process"]
    differences = {
        row["name"]: _difference(one, row) for row in found if "losses" in row and row["batch"] == one["batch"]
    }
    return {
        **header(_command(bench, only)),
        "n": one.get("steps", 0),
        "processes": bench.processes,
        "image_tokens": SHAPES[bench.shape]["cells"],
        "metrics": {
            "images_per_s": rates,
            "scaling": {name: ratio(rates[name], rates["one process"]) for name in rates if "one process" in rates},
            "loss_difference": differences,
            "same_losses": all(value is not None and value <= LOSS_TOLERANCE for value in differences.values()),
            "peak_gib": {row["name"]: row.get("peak_gib") for row in found},
        },
        "loss_tolerance": LOSS_TOLERANCE,
        "rows": found,
    }


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """Largest share by which a logged loss differs; the first after a resume is a mean over fewer steps. None where no
    step was logged by both.
    """
    begun = int((other["resumed_from"] or "checkpoint--5").split("-", 1)[1]) + 5
    shared = {step for step in one["losses"].keys() & other["losses"].keys() if int(step) >= begun}
    gaps = (abs(other["losses"][step] - one["losses"][step]) / one["losses"][step] for step in shared)
    return max(gaps, default=None)


if __name__ == "__main__":
    main()
