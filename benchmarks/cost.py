"""What a collection costs: measured rates, extrapolated with assumptions that are listed.

    python -m benchmarks.cost [--core-hour 0.04] [--gpu-hour 3.00] [--photos 10000000]     the table, with these prices
    python -m benchmarks.cost --measure                                                     how fast a core decodes

Belongs here: arithmetic over result files. Does not belong here: the rates themselves (`ray_batch`, `evaluation`).
"""

from __future__ import annotations

import argparse
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measures import header, rate
from nutridet_core.artifacts.store import write_json
from nutridet_core.data.photos import decode_photo

_RESULTS = Path(__file__).parent / "results"
_HOUR = 3600
_VLLM_7B = 38.0
"""photos/s, measured once on one H100: vLLM 0.26.0, FP8, 576 image tokens, 256 photos together, random weights."""
_TOKENS, _PATCHES = 576 + 126 + 32, 4 * 576
_LANGUAGE = {"7B": 6.53e9, "2B": 1.31e9}  # parameters that a token passes through, embeddings left out
_VISION = 0.675e9  # the same tower in both
_PHOTO_BYTES = 200e3
_NETWORK = 10e9 / 8  # bytes a second of a 10 Gbit/s link
_REQUESTS = 5500  # GET a second that S3 grants a prefix
_DECODED = 60
_SIZE = (1600, 1200)


@dataclass(frozen=True)
class Prices:
    """Of an hour, in any currency."""

    core: float = 0.04
    gpu: float = 3.0


@dataclass(frozen=True)
class Row:
    """A way to answer photos."""

    what: str
    per_second: float
    """Photos of one core or GPU."""
    on: str
    how: str

    def cells(self, photos: float, prices: Prices) -> list[str]:
        """Of the table."""
        hours = photos / self.per_second / _HOUR
        price = prices.gpu if self.on == "GPU" else prices.core
        return [
            self.what,
            self.on,
            f"{self.per_second * _HOUR:,.0f}",
            f"{hours:,.0f}",
            f"{hours * price:,.0f}",
            self.how,
        ]


def render_cost(photos: float = 1e7, prices: Prices | None = None) -> str:
    """The table, and where it stops scaling."""
    prices = prices or Prices()
    head = ["model", "on one", "photos an hour", f"hours for {photos / 1e6:g} million", "price", "how it is known"]
    lines = [head, ["---"] * len(head), *(row.cells(photos, prices) for row in rows())]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"Prices: {prices.core} an hour of a core, {prices.gpu} of a GPU (`python -m benchmarks.cost`)."
    return f"{table}\n\n{note}\n\n{limits()}\n"


def render_batch() -> str:
    """The run on a local Ray cluster."""
    result = read("ray_batch")
    metrics, memory = result["metrics"], result["memory_mib"]
    killed, first, last = metrics["killed"], memory["first_quarter"], memory["last_quarter"]
    head = ["replicas", "photos/s", "n (shards)"]
    cells = [[str(row["replicas"]), *_rate(row["photos_per_s"])] for row in result["by_replicas"]]
    lines = [head, ["---"] * len(head), *cells]
    parts = [f"{name.replace('_', ' ')} {first[name]:.0f} and {last[name]:.0f} MiB" for name in first]
    return (
        f"{metrics['photos']:,} photos ({result['note']}), embedded model, two raylets, {result['device']}: "
        f"{metrics['lost_or_doubled']} lost or doubled, one raylet killed with {killed['replicas_on_it']} replica(s) "
        f"after {killed['at_photos']:,} photos; {_rate(metrics['photos_per_s'])[0]} photos/s by two replicas, "
        f"n = {metrics['photos_per_s']['n']} shards. Resident memory, means over the first and the last quarter of "
        f"{memory['samples']} samples: {', '.join(parts)}.\n\n"
        + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\n(`{result['command']}`)\n"
    )


def _rate(estimate: dict[str, Any]) -> list[str]:
    return [f"{estimate['value']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]", str(estimate["n"])]


def rows() -> list[Row]:
    """Measured first, then by arithmetic."""
    batch, scoring = read("ray_batch"), read("evaluation")
    evaluation = scoring["metrics"]["photos_per_s"]
    tiny = batch["metrics"]["photos_per_s_of_a_replica"]
    ratio = flops("7B") / flops("2B")
    return [
        Row("tiny, 224 x 168 px", tiny["value"], "core",
            f"measured on Ray, [{tiny['low']:.1f}, {tiny['high']:.1f}] photos/s, n = {tiny['n']} shards, cores shared"),
        Row("7B, transformers", evaluation["value"], "GPU",
            f"measured on an {scoring['device']}, [{evaluation['low']:.1f}, {evaluation['high']:.1f}] photos/s, "
            f"n = {evaluation['n']} checkpoints"),
        Row("7B, vLLM, FP8", _VLLM_7B, "GPU", "measured once on an H100, 256 photos together, no interval"),
        Row("2B, vLLM, FP8", _VLLM_7B * ratio, "GPU",
            f"arithmetic: {ratio:.1f} times fewer operations a photo at the 7B's operations a second"),
    ]  # fmt: skip


def flops(model: str) -> float:
    """Operations of one photo: two per parameter and token, or patch."""
    return 2 * (_LANGUAGE[model] * _TOKENS + _VISION * _PATCHES)


def limits() -> str:
    """What a photo needs beside the model, as the number of GPUs (7B, vLLM) at which it is used up."""
    decode = read("decode")["metrics"]["photos_per_s"]
    measured = f"{decode['value']:.0f} [{decode['low']:.0f}, {decode['high']:.0f}] photos/s, n = {decode['n']}"
    wire, kilobytes = _NETWORK / _PHOTO_BYTES, round(_PHOTO_BYTES / 1e3)
    core = f"a core that decodes {_SIZE[0]} x {_SIZE[1]} JPEGs"
    return "\n".join(
        [
            f"Operations of a photo: twice {_TOKENS} tokens times {_LANGUAGE['7B'] / 1e9:.2f} (7B) or "
            f"{_LANGUAGE['2B'] / 1e9:.2f} (2B) billion parameters, and twice {_PATCHES} patches times "
            f"{_VISION / 1e9:.3f} billion. Replicas share nothing but the disk that rows are written to, so hours "
            "divide by their number until one of these is used up:",
            "",
            "| beside the model | gives | enough for 7B GPUs |",
            "|---|---|---|",
            f"| {core} | {measured} | {decode['value'] / _VLLM_7B:.1f} |",
            f"| a link of 10 Gbit/s, {kilobytes} kB a photo | {wire:,.0f} photos/s | {wire / _VLLM_7B:.0f} |",
            f"| a prefix of a bucket | {_REQUESTS:,} requests/s | {_REQUESTS / _VLLM_7B:.0f} |",
        ]
    )


def measure() -> dict[str, Any]:
    """How many photos of a phone's size one core decodes in a second."""
    from nutridet_core.data.generated import draw_product_photo

    times, sizes = [], []
    for number in range(_DECODED):
        stream = io.BytesIO()
        draw_product_photo(7, number).image.resize(_SIZE).save(stream, "JPEG", quality=88)
        sizes.append(len(stream.getvalue()))
        began = time.process_time()
        decode_photo(stream.getvalue())
        times.append(time.process_time() - began)
    metrics = {"photos_per_s": rate(times, 1), "mean_bytes": sum(sizes) / len(sizes)}
    return {**header("python -m benchmarks.cost --measure"), "n": len(times), "metrics": metrics}


def read(name: str) -> dict[str, Any]:
    """A result file."""
    return dict(json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--core-hour", type=float, default=Prices.core)
    parser.add_argument("--gpu-hour", type=float, default=Prices.gpu)
    parser.add_argument("--photos", type=float, default=1e7)
    given = parser.parse_args()
    if given.measure:
        write_json(_RESULTS / "decode.json", measure())
    else:
        print(render_cost(given.photos, Prices(given.core_hour, given.gpu_hour)))


if __name__ == "__main__":
    main()
