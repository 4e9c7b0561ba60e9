"""The adapter that ships with the embedded base, trained as anyone would on a laptop.

    python -m nutridet_core.tiny.tune --out nutridet_core/tiny/tuned --work build/tuned

Belongs here: how many photos and which rank. The training is the pipeline's own (`train`): exp1a at a rank that
keeps base and adapter together under 25 MB.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nutridet_core.artifacts.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, checkpoints
from nutridet_core.artifacts.store import Manifest, digest, seal, writing
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.profiles import TINY
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun

SOURCE = "generated:900:500000"
"""Photos of a seed that no test uses."""
EXPERIMENT = replace(
    next(experiment for experiment in EXPERIMENTS if experiment.name == "exp1a"), name="tuned", rank=16, alpha=4
)
PROFILE = replace(TINY, max_epochs=3)
"""One epoch more than the demo has the patience for."""


def tune(work: Path, out: Path) -> Manifest:
    """Draw the photos, train, and seal the last checkpoint's adapter in `out`, in bf16; goes on where it was stopped.

    Raises:
        AuditError: as every training does.
    """
    prepare_dataset(DatasetSpec(source=SOURCE), work / "dataset")
    run = TrainingRun(EXPERIMENT, PROFILE, work / "dataset", work / "adapter")
    trained = train(run)
    last = checkpoints(run.folder)[-1]
    with writing(out) as folder:
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(last / ADAPTER_WEIGHTS).items()}
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        text = (last / ADAPTER_CONFIG).read_text(encoding="utf-8")
        (folder / ADAPTER_CONFIG).write_text(text.replace(TINY.base_model, "tiny-base"), encoding="utf-8")
        told = {"base": TINY.base_identity, "source": SOURCE, "training": digest(run.config)}
        facts = {name: trained.facts[name] for name in ("steps", "seconds", "images_per_s", "device", "loss")}
        manifest = Manifest(kind="adapter", name="tiny-tuned", contract=TINY.contract.hash, config=told, facts=facts)
        return seal(folder, manifest)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for photos and checkpoints")
    given = parser.parse_args()
    print(tune(given.work, given.out).facts)


if __name__ == "__main__":
    main()
