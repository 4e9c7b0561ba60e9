"""Fine-tuning: one experiment, from an empty folder or a killed run to a sealed adapter.

Belongs here: the course of a training, its audits, its checkpoints. Does not belong here: the trainer's set-up
(`trainer`), what is trained (`experiments`), on what (`profiles`), what happens meanwhile (`watch`), or what
the checkpoints are worth (`evaluation.evaluate`).

Every epoch leaves a sealed checkpoint. A killed run continues from the newest one that has all those before it.
A damaged one is deleted, never used, and so are those after it: a curve with an epoch missing would lead to another
choice. A folder of another configuration is started afresh. Under several ranks each process runs `train`; the first
one alone writes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from nutridet_core.artifacts.disk import require_space
from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import MANIFEST, Manifest, digest, read_manifest, seal
from nutridet_core.errors import ArtifactError, SettingsError
from nutridet_core.evaluation.audits import Audit, audit_labels, audit_modules
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import base_source, count_parameters, load_processor
from nutridet_core.prompts import prompt_text
from nutridet_core.training.ranks import Ranks
from nutridet_core.training.trainer import PLACEHOLDERS, TrainingRun, build_trainer, deciding
from nutridet_core.training.watch import Watch

_AUDITED_ROWS = 16


def train(
    run: TrainingRun,
    *,
    log: Callable[[str], None] = print,
    on_metrics: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
    mlflow_run_id: str | None = None,
    features: FeatureStore | None = None,
) -> Manifest:
    """Train one experiment, or finish training it, and seal its folder.

    Args:
        log: gets a line of progress at least every few seconds.
        on_metrics: gets (metrics, step) whenever the trainer logs.
        features: vision features of earlier trainings in this process; used where the vision tower is frozen.

    Raises:
        SettingsError: when the ranks cannot divide a step's photos or the weights among them.
        ArtifactError: before the first step, when there is not enough disk space for the checkpoints.
        AuditError: before the first step, when labels or modules are not what the experiment says.
    """
    ranks = Ranks.join()
    run.share_of(ranks)
    log, on_metrics = (log, on_metrics) if ranks.leads else (_silent, _silent)
    name, config = run.experiment.name, run.config
    done, resume_from = ranks.first_does(lambda: _start(run, config, log))
    if done is not None:
        log(f"{name}: already trained under this configuration, nothing to do")
        return done
    processor = load_processor(base_source(run.profile), run.profile.architecture, run.profile.contract)
    watch = Watch(
        run.experiment, run.profile.architecture, _checkpoint_manifest(run, processor), log, on_metrics, ranks
    )
    trainer = build_trainer(run, processor, watch, log, ranks)
    _require_space_for_checkpoints(run, trainer)
    if "vision" not in run.experiment.towers:
        cache_features(trainer.model, run.profile.architecture, features or FeatureStore())
    audits = ranks.all_do(lambda: _audit(trainer, run, processor, ranks))
    for audit in audits:
        log(f"{name}: {audit.name} passed: {audit.summary}")
    if resume_from:
        log(f"{name}: continues from {resume_from.name}")
    if not ranks.leads:
        torch.manual_seed(run.experiment.seed + ranks.rank)  # dropout of its own
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    manifest = Manifest(
        kind="adapter",
        name=name,
        contract=run.profile.contract.hash,
        data_fingerprint=config["data_fingerprint"],
        config=config,
        facts=_facts(trainer, run, watch, audits, resume_from, ranks),
        mlflow_run_id=mlflow_run_id,
    )
    return ranks.first_does(lambda: seal(run.folder, manifest))


def _silent(*_: Any) -> None:
    """What the other ranks say and measure: the first one says it."""


def _start(run: TrainingRun, config: dict[str, Any], log: Callable[[str], None]) -> tuple[Manifest | None, Path | None]:
    """The manifest of a finished training; otherwise the checkpoint to continue from, if there is one."""
    done = finished(run.folder, config)
    if done:
        return done, None
    newest = prepare_folder(run.folder, config, log)
    if newest and bool(read_manifest(newest, verify=False).facts.get("sharded")) != run.sharded:
        raise SettingsError(
            "shards and whole weights keep AdamW's averages in different files",
            where=newest,
            field="NUTRIDET_SHARDED",
            remedy="Set it as it was, or delete the checkpoints to start afresh.",
        )
    return None, newest


def _require_space_for_checkpoints(run: TrainingRun, trainer: SFTTrainer) -> None:
    missing = run.epochs - len(checkpoints(run.folder))
    require_space(run.folder, missing * checkpoint_bytes(trainer.model), f"{missing} checkpoints")


def checkpoint_bytes(model: Any) -> int:
    """What a checkpoint takes on disk: what is trained, and AdamW's two averages of it."""
    return 3 * sum(int(parameter.nbytes) for parameter in model.parameters() if parameter.requires_grad)


def finished(folder: Path, config: dict[str, Any]) -> Manifest | None:
    """The manifest of a complete training under this configuration; older ones also say what decides nothing."""
    try:
        manifest = read_manifest(folder, kind="adapter")
    except ArtifactError:
        return None
    same = digest(deciding(manifest.config)) == digest(config)
    return manifest if same and not _first_flaw(checkpoints(folder), manifest.config) else None


def prepare_folder(folder: Path, config: dict[str, Any], log: Callable[[str], None] = print) -> Path | None:
    """Delete what training makes again; return the newest checkpoint of this configuration with all those before it."""
    found = checkpoints(folder)
    if flawed := _first_flaw(found, config):
        epoch, flaw = flawed
        log(f"{folder.name}: {flaw}; epoch {epoch} and those after it are trained again")
        for path in found[epoch - 1 :]:
            shutil.rmtree(path)
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return (checkpoints(folder) or [None])[-1]  # type: ignore[list-item]


def _first_flaw(found: list[Path], config: dict[str, Any]) -> tuple[int, str] | None:
    """The first epoch whose checkpoint is not whole, of this configuration and in its place, and why."""
    for epoch, path in enumerate(found, 1):
        if flaw := _flaw(path, epoch, config):
            return epoch, flaw
    return None


def _flaw(path: Path, epoch: int, config: dict[str, Any]) -> str | None:
    """Why this is not the checkpoint of that epoch; None when it is."""
    try:
        manifest = read_manifest(path, kind="checkpoint")
    except ArtifactError as error:
        return f"{error.where}: {error.problem}"
    if manifest.config != {"digest": digest(config)} or manifest.data_fingerprint != config.get("data_fingerprint"):
        return f"{path.name} is of another configuration or dataset"
    return None if round(manifest.facts["epoch"]) == epoch else f"no checkpoint of epoch {epoch}"


def _checkpoint_manifest(run: TrainingRun, processor: Any) -> Manifest:
    """What every checkpoint of the run has in common."""
    config = run.config
    return Manifest(
        kind="checkpoint",
        name=run.experiment.name,
        contract=run.profile.contract.hash,
        data_fingerprint=config["data_fingerprint"],
        config={"digest": digest(config)},
        facts={"prompt": prompt_text(run.profile.contract, processor), "sharded": run.sharded},
    )


def _audit(trainer: SFTTrainer, run: TrainingRun, processor: Any, ranks: Ranks) -> list[Audit]:
    modules = audit_modules(trainer.model, run.profile.architecture, run.experiment.towers).require()
    return [modules, _audit_first_rows(trainer, run, processor, ranks).require()]


def _audit_first_rows(trainer: SFTTrainer, run: TrainingRun, processor: Any, ranks: Ranks) -> Audit:
    """Collate the first rows as training will, each rank other ones, and read the labels back."""
    count = len(trainer.train_dataset)
    rows = [trainer.train_dataset[i % count] for i in _audited(ranks.rank, min(_AUDITED_ROWS, count))]
    answers = [row["completion"] for row in rows]
    prompt = "" if run.experiment.mask_prompt else rows[0]["prompt"]
    for placeholder in PLACEHOLDERS:
        prompt = prompt.replace(placeholder, "")
    return audit_labels(
        trainer.data_collator(rows), processor.tokenizer, [prompt + answer for answer in answers], PLACEHOLDERS
    )


def _audited(rank: int, rows: int) -> range:
    return range(rank * rows, (rank + 1) * rows)


def _facts(
    trainer: SFTTrainer, run: TrainingRun, watch: Watch, audits: list[Audit], resume_from: Path | None, ranks: Ranks
) -> dict[str, Any]:
    state, cuda = trainer.state, torch.cuda.is_available()
    seconds = time.monotonic() - watch.began
    steps = state.global_step - watch.first_step
    peak = max(ranks.gather(torch.cuda.max_memory_allocated() if cuda else 0))
    return {
        "audits": {audit.name: audit.to_dict() for audit in [*audits, *_gradient_audits(watch, resume_from)]},
        "parameters": count_parameters(trainer.model),
        "steps": state.global_step,
        "seconds": round(seconds, 1),
        "images_per_s": round(steps * run.profile.train_batch_size / seconds, 2),
        "peak_gpu_gib": round(peak / 2**30, 2) if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processes": ranks.world,
        "sharded": run.sharded and ranks.world > 1,
        "loss": [{"step": entry["step"], "loss": entry["loss"]} for entry in state.log_history if "loss" in entry],
        "resumed_from": resume_from.name if resume_from else None,
    }


def _gradient_audits(watch: Watch, resume_from: Path | None) -> list[Audit]:
    """Of this process's first step; of the checkpoint's, where a run was killed after its last step."""
    if watch.gradients:
        return [watch.gradients]
    kept = read_manifest(resume_from, verify=False).facts.get("audits", {}) if resume_from else {}
    return [Audit(**audit) for audit in kept.values()]
