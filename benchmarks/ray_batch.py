"""Many photos on a local Ray cluster with the embedded model, a node killed in the middle.

    python -m benchmarks.ray_batch --photos 5000 --work /tmp/ray-batch [--minutes 30]

Can be stopped and continued: photos, finished shards and samples stay under --work.

The photos are drawn ones: 500 drawings, each taken many times with another framing, light and compression, 224 x 168
px, so that no two have the same bytes; how well they are answered is not what is measured here.

Belongs here: the cluster, the kill, the samples, the count of rows. Does not belong here: `nutridet predict`, which it
runs as anybody would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import ImageEnhance

from benchmarks.measures import header
from nutridet_core.artifacts.store import MANIFEST, write_json
from nutridet_core.collection.shards import ROWS, read_rows
from nutridet_core.data.generated import draw_product_photo

_RESULT = Path(__file__).parent / "results" / "ray_batch.json"
_SIZE = (224, 168)
_DRAWINGS, _SEED = 500, 99
_SAMPLE_SECONDS = 10.0
_KILL_AT = 0.4
"""Share of the photos after which a node dies."""
_LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def main() -> None:
    """Make photos, score them, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--shard", type=int, default=250)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after this; run again to continue")
    parser.add_argument("--by-workers", type=int, default=0, help="photos for each number of replicas; 0 skips it")
    given = parser.parse_args()
    os.environ.update(_LOOPBACK)
    photos = make_photos(given.work / "photos", given.photos)
    if not is_done(given):
        score(photos, given.work / "out", given, replicas=2, kill=True)
    rows = by_workers(given) if given.by_workers else read_json(given.work / "by_workers.json", [])
    write_json(_RESULT, result(given, rows))


def is_done(given: argparse.Namespace) -> bool:
    """Whether all photos have rows."""
    return len(list(given.work.glob(f"out/detections/*/*/*/{ROWS}"))) * given.shard >= given.photos


def make_photos(folder: Path, count: int) -> Path:
    """Photos that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[int, Any] = {}
    for number in range(count):
        target = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        if target.exists():
            continue
        target.parent.mkdir(exist_ok=True)
        seed = number % _DRAWINGS
        if seed not in drawings:
            drawings[seed] = draw_product_photo(_SEED, seed).image
        _take(drawings[seed], random.Random(number)).save(target, quality=70 + number % 25, comment=str(number))
    return folder


def _take(drawing: Any, rng: random.Random) -> Any:
    """Another framing and light of a drawing."""
    width, height = drawing.size
    share = rng.uniform(0.75, 1.0)
    left, top = rng.uniform(0, 1 - share) * width, rng.uniform(0, 1 - share) * height
    framed = drawing.resize(_SIZE, box=(left, top, left + share * width, top + share * height))
    lit = ImageEnhance.Brightness(framed).enhance(rng.uniform(0.7, 1.3))
    return ImageEnhance.Contrast(lit).enhance(rng.uniform(0.8, 1.2))


def score(photos: Path, out: Path, given: argparse.Namespace, *, replicas: int, kill: bool) -> None:
    """Run `nutridet predict` on two raylets until it is done or time is up."""
    killed = given.work / "killed.json"
    began = time.monotonic()
    with cluster() as (address, lose_a_node), driver(photos, out, address, replicas, given) as process:
        while process.poll() is None:
            time.sleep(_SAMPLE_SECONDS)
            done = len(list(out.glob(f"detections/*/*/*/{ROWS}"))) * given.shard
            if kill:
                with (given.work / "samples.jsonl").open("a") as log:
                    log.write(json.dumps(sample(process.pid, done)) + "\n")
            if kill and not killed.exists() and done >= _KILL_AT * given.photos:
                write_json(killed, {"at_photos": done, "replicas_on_it": lose_a_node()})
            if time.monotonic() - began > 60 * given.minutes:
                process.send_signal(signal.SIGTERM)
                process.wait()


@contextmanager
def cluster() -> Iterator[tuple[str, Any]]:
    """(address, a function that kills the second raylet with its replica and puts another in its place)."""
    from ray.cluster_utils import Cluster

    node = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 100 * 2**20}
    made = _patiently(lambda: Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False}))
    second = made.add_node(**node)

    def lose_a_node() -> int:
        raylet = second.all_processes["raylet"][0].process.pid
        replicas = [child for child in psutil.Process(raylet).children() if "MapWorker" in " ".join(child.cmdline())]
        made.remove_node(second, allow_graceful=False)
        made.add_node(**node)
        return len(replicas)

    try:
        yield made.address, lose_a_node
    finally:
        made.shutdown()


def _patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a part of a node 15 s to start, too few on a busy machine."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            print(f"once more: {error}", flush=True)
    return start()


@contextmanager
def driver(
    photos: Path, out: Path, address: str, replicas: int, given: argparse.Namespace
) -> Iterator[subprocess.Popen[bytes]]:
    """`nutridet predict`, on this cluster."""
    line = ["predict", "--input", str(photos), "--out", str(out), "--shard", str(given.shard)]
    with (given.work / "driver.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nutridet_core.cli", *line, "--replicas", str(replicas)],
            env={**os.environ, "RAY_ADDRESS": address, "NUTRIDET_HOME": str(given.work / "home")},
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sample(driver_id: int, photos: int) -> dict[str, Any]:
    """Resident memory in MiB. Raylets are children of this process, replicas of theirs; a raylet holds its node's
    object store.
    """
    found: dict[str, Any] = {"time": time.time(), "photos": photos, "driver": _mib(psutil.Process(driver_id))}
    lines = {process: " ".join(_line(process)) for process in psutil.Process().children(recursive=True)}
    found["replicas"] = [_mib(process) for process, line in lines.items() if "ray::MapWorker" in line]
    found["raylets"] = [_mib(process) for process, line in lines.items() if "/raylet/raylet " in line]
    return found


def _line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def _mib(process: psutil.Process) -> float:
    try:
        return round(process.memory_info().rss / 2**20, 1)
    except psutil.NoSuchProcess:
        return 0.0


def by_workers(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Throughput by the number of replicas: photos over the time that each of them worked, from the manifests."""
    photos = make_photos(given.work / "few", given.by_workers)
    rows = []
    for replicas in (1, 2, 4):
        out = given.work / f"out-{replicas}"
        few = argparse.Namespace(**{**vars(given), "photos": given.by_workers, "shard": max(1, given.by_workers // 8)})
        score(photos, out, few, replicas=replicas, kill=False)
        rates = [replicas * rate for rate in shard_rates(out)]
        rows.append({"replicas": replicas, "photos": given.by_workers, "photos_per_s": interval(rates)})
    write_json(given.work / "by_workers.json", rows)
    return rows


def shard_rates(out: Path) -> list[float]:
    """Photos a second of one replica, shard by shard."""
    found = [json.loads(file.read_text())["facts"] for file in out.glob(f"detections/*/*/[0-9]*/{MANIFEST}")]
    return [facts["counts"]["photos"] / facts["seconds"] for facts in found]


def result(given: argparse.Namespace, workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was really run."""
    out = given.work / "out"
    count = Counter(row["uri"] for row in read_rows(out / "detections"))
    listed = sum(json.loads(file.read_text())["facts"]["photos"] for file in out.glob(f"listing/*/{MANIFEST}"))
    samples = [json.loads(line) for line in (given.work / "samples.jsonl").read_text().splitlines()]
    complete = sum(count.values()) == listed
    return {
        **header(
            f"python -m benchmarks.ray_batch --photos {given.photos} --shard {given.shard}",
            f"{os.cpu_count()} CPU cores, shared with other work during the run",
        ),
        "n": listed,
        "note": f"{_DRAWINGS} drawings, each framed and lit many times, {_SIZE[0]} x {_SIZE[1]} px, no two alike",
        "metrics": {
            "photos": sum(count.values()),
            "complete": complete,
            "lost_or_doubled": (listed - len(count) if complete else 0) + sum(count.values()) - len(count),
            "photos_per_s": interval([2 * rate for rate in shard_rates(out)]),
            "photos_per_s_of_a_replica": interval(shard_rates(out)),
            "killed": read_json(given.work / "killed.json", None),
        },
        "by_replicas": list(workers),
        "memory_mib": memory(samples),
    }


def memory(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """First and last quarter of the samples in which replicas were at work, means."""
    busy = [each for each in samples if each["replicas"] and each["photos"]]
    quarter = max(1, len(busy) // 4)
    parts = {"first_quarter": busy[:quarter], "last_quarter": busy[-quarter:]}
    return {"samples": len(busy)} | {
        name: {
            "driver": _mean([each["driver"] for each in part]),
            "replica": _mean([value for each in part for value in each["replicas"]]),
            "raylet_with_object_store": _mean([value for each in part for value in each["raylets"]]),
        }
        for name, part in parts.items()
    }


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over shards with a 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high), "n": len(values)}


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 1) if values else None


def read_json(path: Path, default: Any) -> Any:
    """A file of a previous part of the run."""
    return json.loads(path.read_text()) if path.exists() else default


if __name__ == "__main__":
    main()
