"""The embedded model, taught large photos: it was pretrained on up to 144 image tokens, servers are compared at 576.

    python -m benchmarks.serving.large --work FOLDER --out FOLDER [--dataset-only]

Belongs here: the small model whose widened form is served (`prepare`), and what its answers are worth. The training
is the pipeline's own. The dataset is drawn where the generator's fonts are installed; a GPU machine finds it in WORK.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.measures import header
from benchmarks.serving.servers import WIDE
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import Manifest, seal, write_json, writing
from nutridet_core.data.dataset import DatasetSpec, prepare_dataset
from nutridet_core.evaluation.evaluate import answer_split, prepare_split
from nutridet_core.evaluation.scores import Scores, score
from nutridet_core.experiments import Experiment
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.profiles import TINY, TINY_TUNED, Profile
from nutridet_core.release.merge import merge
from nutridet_core.tiny.tune import SOURCE
from nutridet_core.training.train import train
from nutridet_core.training.trainer import TrainingRun

EXPERIMENT = Experiment(
    "large", "both towers see photos of four times the area", frozenset({"language", "vision"}), mask_prompt=True,
    rank=32, alpha=32, epochs=10,
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    """Draw, teach, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="for photos and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="for the taught model")
    parser.add_argument("--dataset-only", action="store_true", help="draw the photos, and no more")
    parser.add_argument("--result", type=Path, default=RESULTS / "serving_model.json")
    given = parser.parse_args()
    prepare_dataset(DatasetSpec(source=SOURCE), given.work / "dataset")
    if given.dataset_only:
        return
    teach(given.work, given.out)
    scores = score_test(given.work / "dataset", given.out)
    print(scores.text, flush=True)
    found = scores.to_dict()
    command = "python -m benchmarks.serving.large --work WORK --out OUT"
    write_json(given.result, {**header(command), "n": found["photos"], "source": SOURCE, "metrics": found["metrics"]})


def profile_at(base: Path) -> Profile:
    """The embedded model's, under the contract of the servers that are compared."""
    return replace(
        TINY, name="large", base_model=str(base), min_pixels=WIDE.min_pixels, max_pixels=WIDE.max_pixels,
        training_precision="float32", train_batch_size=8, max_epochs=None,
    )  # fmt: skip


def teach(work: Path, out: Path) -> Manifest:
    """Train an adapter on the shipped model under the larger contract, and merge it into `out`.

    Raises:
        AuditError: as every training does.
    """
    merge(TINY, TINY_TUNED, work / "tuned", name="tiny-tuned")
    profile = profile_at(_under_large_contract(work / "tuned", work / "base"))
    run = TrainingRun(EXPERIMENT, profile, work / "dataset", work / "adapter")
    train(run)
    return merge(profile, checkpoints(run.folder)[-1], out, name="large")


def _under_large_contract(tuned: Path, folder: Path) -> Path:
    """The same weights, sealed for photos of another size: they can read those, badly."""
    with writing(folder) as draft:
        load_model(Source(str(tuned)), TINY.architecture, "float32", TINY.contract).save_pretrained(draft)
        load_processor(Source(str(tuned)), WIDE.architecture, WIDE.contract).save_pretrained(draft)
        seal(draft, Manifest(kind="model", name="tiny-tuned", contract=WIDE.contract.hash))
    return folder


def score_test(dataset: Path, model: Path) -> Scores:
    """The taught model on photos that it was not taught with."""
    profile = profile_at(model)
    source = Source(str(model))
    network = load_model(source, profile.architecture, "float32", profile.contract)
    processor = load_processor(source, profile.architecture, profile.contract)
    batches = prepare_split(network, processor, profile, dataset, "test")
    return score("large", "test", answer_split(network, batches, profile, dataset, "test"))


if __name__ == "__main__":
    main()
