"""How often a 95 % interval of the mean IoU holds the true one: simulated test sets, for few and many photos.

    python -m benchmarks.coverage [--repeats N]

Belongs here: the simulation. Does not belong here: the intervals (`nutridet_core.evaluation.intervals`).

Writes `benchmarks/results/coverage.json`. A test set is drawn from a distribution like that of the models here: boxes
that are found fit well, others hardly or not at all. Its true mean is known, so it can be counted how often an interval
made from the set alone holds it; all methods see the same sets. In a second table products have several photos, some of
which fare as their product does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agreement import share
from benchmarks.measures import header, processor_name
from benchmarks.performance import percent, read
from nutridet_core.artifacts.store import write_json
from nutridet_core.evaluation.intervals import Array, Products, Weights, draw_seen, draw_weights, interval

RESULT = Path(__file__).parent / "results" / "coverage.json"
PHOTOS = (5, 10, 33, 85, 500)
HITS = (0.5, 0.8, 0.95, 1.0)
"""Share of tables that are found."""
SHARED = ((25, 4), (100, 4))
"""Products, and photos of each."""
SHARED_HITS = 0.8
ALIKE = (0.0, 0.5, 0.8, 1.0)
"""Share of photos that fare as their product does, the others as any photo."""


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="test sets of each kind (default %(default)s)")
    repeats = parser.parse_args().repeats
    rows = []
    for photos in PHOTOS:
        for hits in HITS:
            rows.append(_row(photos, hits, repeats))
            print(rows[-1], flush=True)
    shared = []
    for products, each in SHARED:
        for alike in ALIKE:
            shared.append(_shared_row(products, each, alike, repeats))
            print(shared[-1], flush=True)
    command = f"python -m benchmarks.coverage --repeats {repeats}"
    metrics = {"rows": rows, "products": shared}
    write_json(RESULT, {**header(command, processor_name()), "n": repeats, "metrics": metrics})


def _row(photos: int, hits: float, repeats: int) -> dict[str, Any]:
    alone = np.arange(photos)
    weights = {
        "jeffreys": draw_weights(alone), "seen_only": draw_seen(alone), "laplace": draw_weights(alone, prior=1.0),
    }  # fmt: skip
    found = {name: share(held(alone, hits, drawn, repeats), repeats) for name, drawn in weights.items()}
    return {"photos": photos, "hits": hits, **found}


def _shared_row(count: int, each: int, alike: float, repeats: int) -> dict[str, Any]:
    products = np.repeat(np.arange(count), each)
    weights = {"by_product": draw_weights(products), "by_photo": draw_weights(np.arange(len(products)))}
    found = {
        name: share(held(products, SHARED_HITS, drawn, repeats, alike), repeats) for name, drawn in weights.items()
    }
    return {"products": count, "photos": len(products), "alike": alike, **found}


def held(products: Products, hits: float, weights: Weights, repeats: int, alike: float = 0.0) -> int:
    """Of so many simulated test sets, those whose interval holds the true mean.

    Args:
        alike: share of photos that fare as their product does.
    """
    truth = float(simulated_ious(2_000_000, hits, np.random.default_rng(9)).mean())
    random, count = np.random.default_rng(1), 0
    total = weights.photos.sum(axis=1) + weights.imagined
    for _ in range(repeats):
        ious = simulated_ious(len(products), hits, random)
        if alike:
            as_product = random.random(len(products)) < alike
            ious = np.where(as_product, simulated_ious(len(products), hits, random)[products], ious)
        found = interval(float(ious.mean()), (weights.photos @ ious + weights.right) / total)
        count += found.low <= truth <= found.high
    return count


def simulated_ious(photos: int, hits: float, random: np.random.Generator) -> Array:
    """One box a photo: found ones fit with about 0.94, half of the others do not touch the table."""
    found, fits = random.random(photos) < hits, random.beta(18, 1.2, photos)
    return np.where(found, fits, np.where(random.random(photos) < 0.5, 0.0, random.beta(1, 3, photos)))


def render_products() -> str:
    """For decision 23."""
    result = read("coverage")
    lines = [
        "| products | photos | fare as their product | intervals over products | over photos |",
        "|---|---|---|---|---|",
    ]
    for row in result["metrics"]["products"]:
        cells = " | ".join(percent(row[name]) for name in ("by_product", "by_photo"))
        lines.append(f"| {row['products']} | {row['photos']} | {100 * row['alike']:.0f} % | {cells} |")
    told = f"n = {result['n']} simulated sets a row, {100 * SHARED_HITS:.0f} % of the tables found"
    return "\n".join([*lines, "", f"{told} (`{result['command']}`)", ""])


def render_coverage() -> str:
    """For decision 21."""
    result = read("coverage")
    lines = [
        "| photos | tables found | with Jeffreys' halves | bootstrap of what was seen | with whole photos |",
        "|---|---|---|---|---|",
    ]
    for row in result["metrics"]["rows"]:
        cells = " | ".join(percent(row[name]) for name in ("jeffreys", "seen_only", "laplace"))
        lines.append(f"| {row['photos']} | {100 * row['hits']:.0f} % | {cells} |")
    return "\n".join([*lines, "", f"n = {result['n']} simulated sets a row (`{result['command']}`)", ""])


if __name__ == "__main__":
    main()
