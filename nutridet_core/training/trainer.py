"""The trainer: TRL's SFTTrainer with PEFT and bitsandbytes, set up for one experiment on one or several processes.

Belongs here: what is given to the trainer (rows, collator, arguments, model) and what it must not decide by itself.
Does not belong here: audits, folders, manifests (`train`), or what happens meanwhile (`watch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.distributed.tensor import distribute_tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nutridet_core.artifacts.layout import ADAPTER_WEIGHTS
from nutridet_core.artifacts.store import read_manifest
from nutridet_core.boxes import Box
from nutridet_core.data.dataset import load_split
from nutridet_core.errors import SettingsError
from nutridet_core.experiments import Experiment
from nutridet_core.models import (
    base_source,
    compile_layers,
    compute_dtype,
    language_layers,
    load_model,
    lora_config,
)
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, prompt_text, resized_size
from nutridet_core.training.activations import KeepWhatFits
from nutridet_core.training.ranks import Ranks

TERMINATOR = "<|im_end|>\n"
"""What ends a turn in ChatML. Without it in the loss a model never learns to stop."""
PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>")
_WORKERS = 4
"""Processes that prepare photos while a GPU computes: a photo takes 20 ms of a core, and 60 ms of the GPU."""


_DECIDE_NOTHING = {
    "experiment": ("summary",),
    "profile": ("source", "scoring_precision", "score_batch_size", "max_new_tokens"),  # the photos have a fingerprint
}


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, on what, and where it goes."""

    experiment: Experiment
    profile: Profile
    dataset: Path
    folder: Path
    sharded: bool = False
    """Whether several processes divide the frozen weights among them (FSDP2), instead of each having all (DDP)."""

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decides the result and nothing else; its hash decides whether a folder may be continued.

        Not how many processes there are: a training may be continued by more or fewer of them.
        """
        experiment = asdict(self.experiment) | {"towers": sorted(self.experiment.towers)}
        data = read_manifest(self.dataset, kind="dataset", verify=False).data_fingerprint
        profile = asdict(self.profile) | {"base_model": self.profile.base_identity}
        return deciding({"experiment": experiment, "profile": profile, "data_fingerprint": data})

    @property
    def epochs(self) -> int:
        """Epochs after the profile's cut."""
        return min(self.experiment.epochs, self.profile.max_epochs or self.experiment.epochs)

    def share_of(self, ranks: Ranks) -> Profile:
        """The profile of one process: its part of each step's photos.

        Raises:
            SettingsError: when the photos cannot be divided, or the weights can be no shards.
        """
        photos = self.profile.train_batch_size
        if photos % ranks.world:
            raise SettingsError(
                f"{photos} photos of a step cannot be divided among {ranks.world} processes",
                where=f"profile {self.profile.name}",
                field="train_batch_size",
                remedy="Set NUTRIDET_PROCESSES to a divisor of it.",
            )
        if self.sharded and self.profile.training_precision == "nf4":
            raise SettingsError(
                "weights in 4 bits cannot be divided among processes",
                where=f"profile {self.profile.name}",
                field="training_precision",
                remedy="Unset NUTRIDET_SHARDED: in 4 bits they are small. Or take a profile in bf16.",
            )
        return replace(self.profile, train_batch_size=photos // ranks.world)


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """A training's configuration without what decides nothing of it: a reworded summary trains nothing again."""
    return {
        part: {name: value for name, value in values.items() if name not in _DECIDE_NOTHING.get(part, ())}
        if isinstance(values, dict)
        else values
        for part, values in config.items()
    }


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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            self._load_shards(Path(resume_from_checkpoint) / ADAPTER_WEIGHTS)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            self.set_adapter_dtype()

    @torch.no_grad()
    def _load_shards(self, file: Path) -> None:
        """Each process its part. Accelerate 1.15 waits forever where a checkpoint holds the adapter alone."""
        kept = load_file(file)
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                whole = kept[name.replace(".default.", ".")].to(weight.device, weight.dtype)
                weight.copy_(distribute_tensor(whole, weight.device_mesh, weight.placements))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Of shards, collect the adapter alone; Accelerate would bring the whole model to the first process."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        trained = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        self._save(output_dir, {name: weight.detach().full_tensor().cpu() for name, weight in trained})

    def set_adapter_dtype(self) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self.adapter_dtype)


def build_trainer(
    run: TrainingRun, processor: Any, watch: TrainerCallback, log: Callable[[str], None], ranks: Ranks
) -> SFTTrainer:
    """The trainer, ready to be audited and started."""
    torch.manual_seed(run.experiment.seed)
    profile = run.share_of(ranks)
    sharded = run.sharded and ranks.world > 1
    where = torch.device("cpu") if sharded else None  # a GPU gets its shards layer by layer
    model = load_model(
        base_source(profile), profile.architecture, profile.training_precision, profile.contract, where=where
    )
    trainer = _Trainer(
        model=model,
        args=_arguments(run, profile, _sharding(model) if sharded else {}),
        train_dataset=training_rows(run, processor),
        data_collator=Collator(processor, mask_prompt=run.experiment.mask_prompt),
        processing_class=processor,
        peft_config=lora_config(run.experiment, profile),
        callbacks=[watch, KeepWhatFits(profile, log)],
    )
    if sharded and not trainer.is_fsdp_enabled:
        raise SettingsError(
            "Accelerate divides weights among GPUs only", field="NUTRIDET_SHARDED", remedy="Unset it on this machine."
        )
    trainer.remove_callback(PrinterCallback)  # `watch` says it with speed and time left
    trainer.adapter_dtype = compute_dtype(profile.training_precision)
    trainer.set_adapter_dtype()
    if profile.compile_layers:
        compile_layers(trainer.model)
    return trainer


def _sharding(model: Any) -> dict[str, Any]:
    """One shard group per layer of the language model.

    The vision tower stays in the group of the rest, which every process collects at each step: where its features
    are kept, a process that skipped a group of the tower's own would leave the others waiting.
    """
    return {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": [type(language_layers(model)[0]).__name__]}}


def _arguments(run: TrainingRun, profile: Profile, sharding: dict[str, Any]) -> SFTConfig:
    experiment = run.experiment
    arguments = SFTConfig(
        output_dir=str(run.folder),
        num_train_epochs=run.epochs,
        per_device_train_batch_size=profile.train_batch_size,
        learning_rate=experiment.learning_rate * profile.learning_rate_scale,
        lr_scheduler_type="cosine",
        warmup_steps=experiment.warmup_share,  # below 1, transformers 5 reads it as a share of all steps
        weight_decay=experiment.weight_decay,
        max_grad_norm=experiment.max_grad_norm,
        seed=experiment.seed,
        data_seed=experiment.seed,  # the order of photos, whatever each process draws for dropout
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
        ddp_find_unused_parameters=False,  # every step has a photo, so every adapter gets its gradient
        **sharding,
    )
    arguments._n_gpu = 1  # a process has one GPU: transformers would spread a single one over all that it sees
    return arguments
