"""Fine-tuning: one experiment, through TRL's SFTTrainer, PEFT and bitsandbytes.

Belongs here: the trainer's set-up, its audits, its checkpoints. Does not belong here: what is
trained (`experiments`), on what (`profiles`), what happens meanwhile (`watch`), or what the
checkpoints are worth (`evaluate`).

Every epoch leaves a sealed checkpoint. A killed run continues from the newest complete one; a torn
one is deleted, never used; a folder of another configuration is started afresh.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nutridet_core.activations import KeepWhatFits
from nutridet_core.audits import Audit, audit_labels, audit_modules
from nutridet_core.boxes import Box
from nutridet_core.data.dataset import load_split
from nutridet_core.disk import require_space
from nutridet_core.experiments import Experiment
from nutridet_core.features import FeatureStore, cache_features
from nutridet_core.models import (
    base_source,
    compile_layers,
    compute_dtype,
    count_parameters,
    load_model,
    load_processor,
    lora_config,
)
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, prompt_text, resized_size
from nutridet_core.store import MANIFEST, Manifest, digest, is_complete, read_manifest, reusable, seal
from nutridet_core.watch import Watch

TERMINATOR = "<|im_end|>\n"
"""What ends a turn in ChatML. Without it in the loss a model never learns to stop."""
PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>")
_AUDITED_ROWS = 16
_WORKERS = 4
"""Processes that prepare photos while a GPU computes: a photo takes 20 ms of a core, and 60 ms of the GPU."""


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, on what, and where it goes."""

    experiment: Experiment
    profile: Profile
    dataset: Path
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decides the result; its hash decides whether a folder may be continued."""
        experiment = asdict(self.experiment) | {"towers": sorted(self.experiment.towers)}
        data = read_manifest(self.dataset, kind="dataset", verify=False).data_fingerprint
        profile = asdict(self.profile) | {"base_model": self.profile.base_identity}
        return {"experiment": experiment, "profile": profile, "data_fingerprint": data}

    @property
    def epochs(self) -> int:
        """Epochs after the profile's cut."""
        return min(self.experiment.epochs, self.profile.max_epochs or self.experiment.epochs)


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
        ArtifactError: before the first step, when there is not enough disk space for the checkpoints.
        AuditError: before the first step, when labels or modules are not what the experiment says.
    """
    config = run.config
    done = finished(run.folder, config)
    if done is not None:
        log(f"{run.experiment.name}: already trained under this configuration, nothing to do")
        return done
    resume_from = prepare_folder(run.folder, config)
    processor = load_processor(base_source(run.profile), run.profile.architecture, run.profile.contract)
    watch = Watch(run.experiment, run.profile.architecture, _checkpoint_manifest(run, processor), log, on_metrics)
    trainer = build_trainer(run, processor, watch, log)
    missing = run.epochs - len(checkpoints(run.folder))
    require_space(run.folder, missing * checkpoint_bytes(trainer.model), f"{missing} checkpoints")
    if "vision" not in run.experiment.towers:
        cache_features(trainer.model, run.profile.architecture, features or FeatureStore())
    audits = [audit_modules(trainer.model, run.profile.architecture, run.experiment.towers).require()]
    audits.append(_audit_first_rows(trainer, run, processor).require())
    for audit in audits:
        log(f"{run.experiment.name}: {audit.name} passed: {audit.summary}")
    if resume_from:
        log(f"{run.experiment.name}: continues from {resume_from.name}")
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return seal(
        run.folder,
        Manifest(
            kind="adapter",
            name=run.experiment.name,
            contract=run.profile.contract.hash,
            data_fingerprint=config["data_fingerprint"],
            config=config,
            facts=_facts(trainer, watch, audits, resume_from),
            mlflow_run_id=mlflow_run_id,
        ),
    )


def checkpoint_bytes(model: Any) -> int:
    """What a checkpoint takes on disk: what is trained, and AdamW's two averages of it."""
    return 3 * sum(int(parameter.nbytes) for parameter in model.parameters() if parameter.requires_grad)


def finished(folder: Path, config: dict[str, Any]) -> Manifest | None:
    """The manifest of a complete training under exactly this configuration."""
    manifest = reusable(folder, "adapter", config)
    return manifest if manifest and all(is_complete(path) for path in checkpoints(folder)) else None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders in order of their steps, complete or not."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def prepare_folder(folder: Path, config: dict[str, Any]) -> Path | None:
    """Delete what cannot be used; return the newest complete checkpoint of this configuration."""
    for path in checkpoints(folder):
        if not is_complete(path) or read_manifest(path, verify=False).config != {"digest": digest(config)}:
            shutil.rmtree(path)
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return (checkpoints(folder) or [None])[-1]  # type: ignore[list-item]


def training_rows(run: TrainingRun, processor: Any) -> Dataset:
    """Columns `image`, `prompt`, `completion`; the prompt is the very text that evaluation uses.

    Strings and not messages: Arrow would put None keys into nested messages.
    """
    split = load_split(run.dataset, "train")
    prompt = prompt_text(run.profile.contract, processor)
    completions = [
        completion(run.profile.contract, boxes, width, height)
        for boxes, width, height in zip(split["boxes"], split["width"], split["height"], strict=True)
    ]
    rows = split.select_columns(["image"])
    return rows.add_column("prompt", [prompt] * len(rows)).add_column("completion", completions)


def completion(contract: Contract, boxes: Sequence[Sequence[float]], width: int, height: int) -> str:
    """The right answer about a `width` x `height` photo, with its terminator."""
    return contract.write([Box(*box) for box in boxes], resized_size(contract, width, height)) + TERMINATOR


class Collator:
    """TRL's collator; visual placeholders never count, also when the prompt is not masked."""

    def __init__(self, processor: Any, *, mask_prompt: bool) -> None:
        self.collate = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=mask_prompt)
        ids = processor.tokenizer.convert_tokens_to_ids(
            [t for t in PLACEHOLDERS if t in processor.tokenizer.get_vocab()]
        )
        self.placeholders = torch.tensor(ids)

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        batch = self.collate(rows)
        batch["labels"][torch.isin(batch["labels"], self.placeholders)] = -100
        return batch


class _Trainer(SFTTrainer):
    """TRL's trainer; the adapter stays in the dtype that the profile computes in.

    TRL puts the adapter of a 4-bit model into bf16 also where that is emulated, and PEFT reads a checkpoint's adapter
    back in float32, which doubled the memory of everything that AdamW keeps after a resume.
    """

    adapter_dtype: torch.dtype

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_checkpoint(*args, **kwargs)
        self.set_adapter_dtype()

    def set_adapter_dtype(self) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self.adapter_dtype)


def build_trainer(run: TrainingRun, processor: Any, watch: TrainerCallback, log: Callable[[str], None]) -> SFTTrainer:
    """The trainer, ready to be audited and started."""
    torch.manual_seed(run.experiment.seed)
    profile = run.profile
    model = load_model(base_source(profile), profile.architecture, profile.training_precision, profile.contract)
    trainer = _Trainer(
        model=model,
        args=_arguments(run),
        train_dataset=training_rows(run, processor),
        data_collator=Collator(processor, mask_prompt=run.experiment.mask_prompt),
        processing_class=processor,
        peft_config=lora_config(run.experiment, profile),
        callbacks=[watch, KeepWhatFits(profile, log)],
    )
    trainer.remove_callback(PrinterCallback)  # `watch` says it with speed and time left
    trainer.adapter_dtype = compute_dtype(profile.training_precision)
    trainer.set_adapter_dtype()
    if profile.compile_layers:
        compile_layers(trainer.model)
    return trainer


def _arguments(run: TrainingRun) -> SFTConfig:
    experiment, profile = run.experiment, run.profile
    return SFTConfig(
        output_dir=str(run.folder),
        num_train_epochs=run.epochs,
        per_device_train_batch_size=profile.train_batch_size,
        learning_rate=experiment.learning_rate * profile.learning_rate_scale,
        lr_scheduler_type="cosine",
        warmup_steps=experiment.warmup_share,  # below 1, transformers 5 reads it as a share of all steps
        weight_decay=experiment.weight_decay,
        max_grad_norm=experiment.max_grad_norm,
        seed=experiment.seed,
        completion_only_loss=experiment.mask_prompt,
        max_length=None,  # the default of 1024 would cut image tokens
        bf16=compute_dtype(profile.training_precision) is torch.bfloat16,
        gradient_checkpointing=profile.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if profile.gradient_checkpointing else None,
        save_strategy="epoch",
        logging_steps=5,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_num_workers=_WORKERS if torch.cuda.is_available() else 0,
        dataloader_persistent_workers=torch.cuda.is_available(),
    )


def _checkpoint_manifest(run: TrainingRun, processor: Any) -> Manifest:
    """What every checkpoint of the run has in common."""
    config = run.config
    return Manifest(
        kind="checkpoint",
        name=run.experiment.name,
        contract=run.profile.contract.hash,
        data_fingerprint=config["data_fingerprint"],
        config={"digest": digest(config)},
        facts={"prompt": prompt_text(run.profile.contract, processor)},
    )


def _audit_first_rows(trainer: SFTTrainer, run: TrainingRun, processor: Any) -> Audit:
    """Collate the first rows as training will, and read the labels back."""
    rows = [trainer.train_dataset[index] for index in range(min(_AUDITED_ROWS, len(trainer.train_dataset)))]
    answers = [row["completion"] for row in rows]
    prompt = "" if run.experiment.mask_prompt else rows[0]["prompt"]
    for placeholder in PLACEHOLDERS:
        prompt = prompt.replace(placeholder, "")
    return audit_labels(
        trainer.data_collator(rows), processor.tokenizer, [prompt + answer for answer in answers], PLACEHOLDERS
    )


def _facts(trainer: SFTTrainer, watch: Watch, audits: list[Audit], resume_from: Path | None) -> dict[str, Any]:
    state = trainer.state
    seconds = time.monotonic() - watch.began
    steps = state.global_step - watch.first_step
    gradients = [watch.gradients] if watch.gradients else []
    return {
        "audits": {audit.name: audit.to_dict() for audit in [*audits, *gradients]},
        "parameters": count_parameters(trainer.model),
        "steps": state.global_step,
        "seconds": round(seconds, 1),
        "images_per_s": round(steps * trainer.args.train_batch_size / seconds, 2),
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "loss": [{"step": entry["step"], "loss": entry["loss"]} for entry in state.log_history if "loss" in entry],
        "resumed_from": resume_from.name if resume_from else None,
    }
