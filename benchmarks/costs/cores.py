"""Photos a second of the generator and of a dataset's preparation, on one core and on more.

    python -m benchmarks.costs.cores generated:1000:5 CORES      one measurement, in a process bound to so many cores

Belongs here: binding, timing. Does not belong here: comparing (`page`).

The process binds itself before it does anything, so `nutridet_core.children.cores` and all that it starts see just
those cores. Of the generator a steady stretch is timed, after its processes have started; a preparation is timed whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil

WARM_UP, TIMED = 24, 120
"""Photos of the generator."""


def measure_on(cores: int, source: str) -> dict[str, float]:
    """Photos a second and processor seconds a photo, from a process of its own."""
    line = [sys.executable, "-m", "benchmarks.costs.cores", source, str(cores)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(source: str) -> dict[str, float]:
    return _draw(source) if source.startswith("generated:") else _prepare(source)


def _draw(source: str) -> dict[str, float]:
    from nutridet_core.data.sources import open_source

    photos = open_source(source)
    for _ in islice(photos, WARM_UP):
        pass
    with _timed(TIMED) as found:
        for _ in islice(photos, TIMED):
            pass
    return found


def _prepare(source: str) -> dict[str, float]:
    from nutridet_core.data.dataset import DatasetSpec, load_records, prepare_dataset
    from nutridet_core.data.examples import SPLITS

    photos = sum(1 for file in Path(source.partition(":")[2]).rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        with _timed(photos) as found:
            prepare_dataset(DatasetSpec(source), dataset, log=lambda line: None)
        assert sum(len(load_records(dataset, split)) for split in SPLITS) == photos
    return found


@contextmanager
def _timed(photos: int) -> Iterator[dict[str, float]]:
    """Filled in when the block ends."""
    found: dict[str, float] = {}
    clock, processor = time.perf_counter(), _processor_seconds()
    yield found
    found["photos_per_s"] = photos / (time.perf_counter() - clock)
    found["cpu_s_per_photo"] = (_processor_seconds() - processor) / photos


def _processor_seconds() -> float:
    """Of this process and those that it has started and that still run."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


if __name__ == "__main__":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
    print(json.dumps(_measure(sys.argv[1])))
