"""The pretraining of an embedded base as a run in MLflow: recipe, losses, speed.

    python -m nutridet_core.tiny.history [--base FOLDER]

Belongs here: logging what the manifest says, so that it works after a run on a machine without MLflow too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nutridet_core.artifacts.store import Manifest, read_manifest
from nutridet_core.profiles import TINY_WEIGHTS
from nutridet_core.settings import Settings
from nutridet_core.tracking import open_tracker

EXPERIMENT = "nutridet/tiny-pretraining"


def log_history(manifest: Manifest) -> str:
    """Id of the run of this base; logging it again adds nothing."""
    tracker = open_tracker(Settings(), EXPERIMENT)
    run_id = tracker.open_run(manifest.name, manifest.digest, tags={"stage": "pretraining"})
    *_, last = curve = manifest.facts["curve"] or [{"step": 0}]
    if len(last) > 1 and tracker.has_metrics(run_id, _losses(last), step=last["step"]):
        return run_id
    with tracker.step(run_id):
        tracker.log_params(run_id, manifest.config)
        tracker.log_params(run_id, {name: manifest.facts[name] for name in ("device", "gpus", "minutes", "views")})
        for point in curve:
            tracker.log_metrics(run_id, _losses(point), step=point["step"])
    return run_id


def _losses(point: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in point.items() if name != "step"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, default=TINY_WEIGHTS)
    print(log_history(read_manifest(parser.parse_args().base, kind="model")))


if __name__ == "__main__":
    main()
