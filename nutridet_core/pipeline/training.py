"""Training: adapters, their checkpoints on selection, the best one on test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import MANIFEST, Manifest, read_manifest, reusable, seal, write_json, writing
from nutridet_core.children import can_fork, cores, side_by_side
from nutridet_core.data.examples import Split
from nutridet_core.errors import ArtifactError
from nutridet_core.evaluation.audits import Audit, audit_adapter_active, audit_contract
from nutridet_core.evaluation.evaluate import load_scores
from nutridet_core.evaluation.scores import COUNTING, Scores
from nutridet_core.pipeline.adapted import AdaptedBase
from nutridet_core.pipeline.context import Context, current_scores, score_model

if TYPE_CHECKING:
    from nutridet_core.features import FeatureStore
    from nutridet_core.training.ranks import Ranks
    from nutridet_core.training.trainer import TrainingRun

CHOICE = "choice.json"


def train_experiments(context: Context, names: Sequence[str]) -> list[Manifest]:
    """Fine-tune the experiments; each is resumed, or kept when it is done.

    One after another on a GPU. Without one, small steps gain little from a second core, so experiments share the cores.
    """
    from nutridet_core.features import FeatureStore
    from nutridet_core.training.ranks import Ranks
    from nutridet_core.training.train import train

    ranks, runs = Ranks.join(), [_run(context, name) for name in names]
    if not ranks.leads:
        features = FeatureStore()
        manifests = [train(run, features=features) for run in runs]
    elif len(parts := _parts(runs, ranks)) > 1:
        threads = cores() // len(parts)
        side_by_side([lambda: [_open_run(context, run) for run in runs]])  # two would both create MLflow's database
        trained = side_by_side([partial(_train_recorded, context, part, threads) for part in parts])
        by_name = {manifest.name: manifest for part in trained for manifest in part}
        manifests = [by_name[name] for name in names]
    else:
        _warn_of_memory(context, runs, ranks)
        manifests = _train_recorded(context, runs)
    ranks.leave()
    return manifests


def _warn_of_memory(context: Context, runs: Sequence[TrainingRun], ranks: Ranks) -> None:
    """Say what may not fit on the GPU of one process."""
    from nutridet_core.training.plan import memory_notices

    for notice in memory_notices(runs[0].share_of(ranks), [run.experiment for run in runs]):
        context.log(notice)


def _parts(runs: Sequence[TrainingRun], ranks: Ranks) -> list[list[TrainingRun]]:
    """Those that train in one process: all, or those that share a frozen tower's features, and each other one alone."""
    from nutridet_core.training.plan import fit_in_memory

    frozen = [run for run in runs if "vision" not in run.experiment.towers]
    parts = [[run] for run in runs if run not in frozen] + ([frozen] if frozen else [])
    apart = ranks.world == 1 and ranks.device.type == "cpu" and 1 < len(parts) <= cores() and can_fork()
    experiments = [run.experiment for run in runs]
    return parts if apart and fit_in_memory(runs[0].profile, experiments, len(parts)) else [list(runs)]


def _run(context: Context, name: str) -> TrainingRun:
    from nutridet_core.training.trainer import TrainingRun

    folder = context.layout.adapter(name)
    return TrainingRun(
        context.experiment(name), context.profile, context.layout.dataset, folder, context.settings.sharded
    )


def _train_recorded(context: Context, runs: Sequence[TrainingRun], threads: int | None = None) -> list[Manifest]:
    """Train one after another, and tell MLflow; of several ranks, the first one does.

    Args:
        threads: of torch; without it, one for each core.
    """
    import torch

    from nutridet_core.features import FeatureStore

    if threads:
        torch.set_num_threads(threads)
    features, manifests = FeatureStore(), []
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        with claimed(run.folder):  # two processes would delete each other's unfinished checkpoints
            manifests.append(_train_one(context, run, features))
    return manifests


def _train_one(context: Context, run: TrainingRun, features: FeatureStore) -> Manifest:
    from nutridet_core.training.train import train

    run_id = _open_run(context, run)
    context.tracker.describe(run_id, run.experiment.summary)
    record = _to_mlflow(context, run_id)
    with context.tracker.step(run_id):
        manifest = train(run, log=context.log, on_metrics=record, mlflow_run_id=run_id, features=features)
        context.tracker.log_file(run_id, run.folder / MANIFEST, "adapter")
    return manifest


def _open_run(context: Context, run: TrainingRun) -> str:
    return context.open_run(run.experiment.name, run.config, stage="training")


def score_checkpoints(context: Context, names: Sequence[str]) -> dict[str, list[Scores]]:
    """Score every checkpoint of the experiments on selection, with one load of the base model."""
    base = AdaptedBase(context)
    return {
        name: [_score(context, base, name, path, "selection") for path in _checkpoints(context, name)] for name in names
    }


def choose_checkpoint(context: Context, name: str) -> Manifest:
    """The checkpoint with the highest mean IoU on selection; of equal ones, the earlier."""
    paths = _checkpoints(context, name)
    folders = [context.layout.scores(f"{name}/{path.name}", "selection") for path in paths]
    weights = [weights_of(path) for path in paths]
    remedy = "Score the checkpoints again: `nutridet checkpoints`."
    scored = [current_scores(context, *pair, remedy=remedy) for pair in zip(folders, weights, strict=True)]
    evidence = {"scores": [manifest.digest for manifest in scored], "weights": weights, "counting": COUNTING}
    kept = reusable(context.layout.choice(name), "choice", evidence)
    if kept:
        return kept
    curve: list[dict[str, Any]] = [
        {"checkpoint": folder.parent.name, "scores": load_scores(folder).to_dict()} for folder in folders
    ]
    winner = max(curve, key=lambda point: point["scores"]["metrics"]["mean_iou"]["value"])
    with writing(context.layout.choice(name)) as draft:
        write_json(draft / CHOICE, {"chosen": winner["checkpoint"], "curve": curve})
        return seal(draft, _choice_manifest(context, name, winner, evidence))


def score_experiments(context: Context, names: Sequence[str]) -> dict[str, Scores]:
    """Score the chosen checkpoint of each experiment on test, once."""
    base = AdaptedBase(context)
    return {name: _score(context, base, name, chosen_checkpoint(context, name), "test") for name in names}


def chosen_checkpoint(context: Context, name: str) -> Path:
    """Folder of the checkpoint that `choose_checkpoint` chose.

    Raises:
        ArtifactError: when its weights are not those that were chosen: it was trained again since.
    """
    folder = context.layout.choice(name)
    path = context.layout.adapter(name) / str(read_choice(context, name)["chosen"])
    if weights_of(path) not in read_manifest(folder, verify=False).config.get("weights", ()):
        raise ArtifactError(
            f"{path.name} has other weights than when it was chosen",
            where=folder,
            field="weights",
            remedy="Score the checkpoints and choose again: `nutridet checkpoints`.",
        )
    return path


def read_choice(context: Context, name: str) -> dict[str, Any]:
    """`{"chosen": "checkpoint-N", "curve": [{"checkpoint", "scores"}, ...]}`."""
    folder = context.layout.choice(name)
    read_manifest(folder, kind="choice")
    return dict(json.loads((folder / CHOICE).read_text(encoding="utf-8")))


def _choice_manifest(context: Context, name: str, winner: dict[str, Any], evidence: dict[str, Any]) -> Manifest:
    iou = winner["scores"]["metrics"]["mean_iou"]
    trained = read_manifest(context.layout.adapter(name), kind="adapter", verify=False)
    return Manifest(
        kind="choice",
        name=name,
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config=evidence,
        facts={"chosen": winner["checkpoint"], "photos": winner["scores"]["photos"], "mean_iou": iou},
        mlflow_run_id=trained.mlflow_run_id,
    )


def _checkpoints(context: Context, name: str) -> list[Path]:
    """One for each epoch of a finished training, or an error."""
    folder = context.layout.adapter(name)
    found = checkpoints(folder)
    if not found:
        raise ArtifactError("no checkpoint", where=folder, remedy=f"Train {name} first.")
    read_manifest(folder, kind="adapter")
    return found


def weights_of(checkpoint: Path) -> str:
    """Digest of a checkpoint, by which its scores know it."""
    return read_manifest(checkpoint, kind="checkpoint", verify=False).digest


def _score(context: Context, base: AdaptedBase, name: str, checkpoint: Path, split: Split) -> Scores:
    subject = name if split == "test" else f"{name}/{checkpoint.name}"
    sealed = read_manifest(checkpoint, kind="checkpoint")
    _require_same_dataset(context, sealed, checkpoint)
    trained = read_manifest(context.layout.adapter(name), kind="adapter", verify=False)
    run_id = context.run_of(trained, name, stage="training")
    return score_model(
        context,
        subject,
        split,
        weights=sealed.digest,
        load=lambda: base.wear(checkpoint),
        run_id=run_id,
        step=int(sealed.facts["step"]),
        model_id=_logged_model(context, name, checkpoint, sealed, run_id),
        check=lambda model, processor: _audit(context, sealed, model, processor),
        prepare=lambda model: base.prepare(
            model, split, merged=split == "selection"
        ),  # test is what a merge is held to
    )


def _logged_model(context: Context, name: str, checkpoint: Path, sealed: Manifest, run_id: str) -> str:
    """The checkpoint in MLflow, where its scores on both splits rank it among all checkpoints."""
    experiment = context.experiment(name)
    step = int(sealed.facts["step"])
    params = {"experiment": name, "step": step, "epoch": sealed.facts.get("epoch"), "rank": experiment.rank}
    params["towers"] = "+".join(sorted(experiment.towers))
    tags = {"nutridet.path": str(checkpoint), "nutridet.digest": sealed.digest}
    return context.tracker.logged_model(
        f"{name}-{checkpoint.name}", sealed.digest, run_id, kind="adapter", tags=tags, params=params, step=step
    )


def _require_same_dataset(context: Context, sealed: Manifest, checkpoint: Path) -> None:
    """What was a training photo in one dataset may be a test photo in the next."""
    if sealed.data_fingerprint != context.fingerprint:
        raise ArtifactError(
            f"was trained on dataset {str(sealed.data_fingerprint)[:12]}, today's is {context.fingerprint[:12]}",
            where=checkpoint,
            field="data_fingerprint",
            remedy="Train again on today's dataset.",
        )


def _audit(context: Context, sealed: Manifest, model: Any, processor: Any) -> dict[str, Any]:
    from PIL import Image

    from nutridet_core.predict import encode
    from nutridet_core.prompts import prompt_text

    contract = context.profile.contract
    audits: list[Audit] = [audit_contract(sealed, contract, prompt_text(contract, processor)).require()]
    grey = encode(processor, contract, [Image.new("RGB", (224, 224), "grey")]).to(model.device)
    audits.append(audit_adapter_active(model, grey).require())
    return {"audits": {audit.name: audit.to_dict() for audit in audits}}


def _to_mlflow(context: Context, run_id: str) -> Callable[[dict[str, float], int], None]:
    return lambda metrics, step: context.tracker.log_metrics(run_id, metrics, step)
