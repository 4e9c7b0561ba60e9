"""Memory of a dataset's preparation and of the generator, by the number of photos.

    python -m benchmarks.costs.memory imagefolder:/photos 1000      prepares a dataset of these 1,000, to be watched

Belongs here: watching a process and those it starts. Does not belong here: what mends a growth (`nutridet_core.data`).

Its own memory is resident memory that no file stands behind. The rest are pages of files (libraries, and the photos'
Arrow files, which are mapped): the system takes them back whenever another process asks for memory.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import psutil

_SECONDS_BETWEEN_SAMPLES = 0.1
_MIB = 2**20


def watch(source: str, count: int) -> dict[str, float]:
    """Peaks in MiB while a process of its own draws so many photos, or prepares a dataset of a folder's."""
    line = [sys.executable, "-m", "benchmarks.costs.memory", source, str(count)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    peaks = {"own_mib": 0.0, "resident_mib": 0.0}
    while True:
        for name, value in _tree(process.pid).items():
            peaks[name] = max(peaks[name], value)
        try:
            code = process.wait(_SECONDS_BETWEEN_SAMPLES)
        except subprocess.TimeoutExpired:
            continue
        if code:
            raise RuntimeError(f"{source}: exit code {code}")
        return peaks


def _tree(pid: int) -> dict[str, float]:
    """MiB of a process and its children now."""
    own = resident = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        processes = []
    for process in processes:
        try:
            info = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        own, resident = own + info.rss - info.shared, resident + info.rss
    return {"own_mib": own / _MIB, "resident_mib": resident / _MIB}


def _run(source: str, count: int) -> None:
    from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
    from nutridet_core.data.sources import open_source

    if source.startswith("generated:"):
        drawn = sum(1 for _ in islice(open_source(source), count))
        _require(drawn == count, f"{drawn} photos were drawn")
        return
    with tempfile.TemporaryDirectory() as folder:
        facts = prepare_dataset(DatasetSpec(source), Path(folder) / "dataset", log=lambda line: None).facts
    _require(sum(facts["splits"].values()) == count, str(facts))


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise RuntimeError(found)


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]))
