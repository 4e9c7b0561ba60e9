"""Loading: base models, processors and adapters, always under a contract, never with remote code.

Belongs here: what turns a folder or hub id into a model ready to train or answer. Does not belong
here: the training loop (`training.train`), generation (`predict`), merging (`release.merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from nutridet_core.artifacts.hub import Remote, fetch, require_commit
from nutridet_core.artifacts.layout import ADAPTER_WEIGHTS
from nutridet_core.artifacts.store import MANIFEST, read_manifest
from nutridet_core.errors import ArtifactError, AuditError
from nutridet_core.experiments import Experiment
from nutridet_core.families import Family, lora_pattern
from nutridet_core.profiles import Profile
from nutridet_core.prompts import Contract, set_resize

Precision = Literal["nf4", "bf16", "float32"]
MEMORY_SHARE = 0.8
"""Of a GPU's memory; what may go beyond it is said in advance."""


@dataclass(frozen=True)
class Source:
    """Where weights come from: a folder, or a hub id at a pinned commit."""

    path: str
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder, when it is one."""
        return Path(self.path) if Path(self.path).is_dir() else None

    def require_pinned(self) -> Source:
        """Itself.

        Raises:
            ArtifactError: when it is no folder and has no commit: whatever the hub serves today would be loaded.
            SettingsError: when the revision is a branch or tag, which can be moved.
        """
        if self.folder is None and not self.revision:
            raise ArtifactError(
                "no such folder, and a hub model needs a revision",
                where=self.path,
                remedy="Correct the path, or name a commit in NUTRIDET_REVISION.",
            )
        if self.folder is None:
            require_commit(str(self.revision), where=self.path, field="revision")
        return self

    def fetch(self) -> Path:
        """The folder, or that of the hub's cache, after a download of what is missing there.

        Raises:
            ArtifactError: when there is no commit, or it cannot be downloaded.
            SettingsError: when the revision is a branch or tag.
        """
        self.require_pinned()
        return self.folder or fetch(Remote(self.path, str(self.revision)))


def base_source(profile: Profile) -> Source:
    """The base model of a profile.

    Raises:
        ArtifactError: when a hub id has no pinned commit.
    """
    return Source(profile.base_model, profile.revision).require_pinned()


def device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def gpu_bytes() -> int:
    """Of this process's GPU, what a run may take: a share of its memory, or of the part that the process is allowed."""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return int(MEMORY_SHARE * torch.cuda.get_per_process_memory_fraction() * total)


def compute_dtype(precision: Precision) -> torch.dtype:
    """What a model of this precision computes in: float32 on a CPU, also where its weights are stored in fewer bits.

    Most CPUs emulate bf16: 5 GFLOP/s a core against 35 in float32 on an EPYC with AVX2.
    """
    return torch.float32 if precision == "float32" or not torch.cuda.is_available() else torch.bfloat16


def load_processor(source: Source, family: Family, contract: Contract) -> Any:
    """The processor with the contract's resize; prompts are left-padded for generation."""
    processor_class = getattr(transformers, family.processor_class)
    processor = processor_class.from_pretrained(source.fetch(), trust_remote_code=False)
    processor.tokenizer.padding_side = "left"
    set_resize(contract, processor)
    return processor


def load_model(
    source: Source, family: Family, precision: Precision, contract: Contract, *, where: torch.device | None = None
) -> Any:
    """A base, merged or FP8 model in evaluation mode, on the device unless `where` says otherwise.

    A folder with a manifest is held to it: every file hashed, and its contract compared.

    Raises:
        ArtifactError: when a weight of the network is not in the files, or none is; transformers would make it up.
    """
    folder = source.fetch()
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            "holds no model", where=folder,
            remedy="Name the folder `merged` or `fp8` of a release, below artifacts/PROFILE/releases in NUTRIDET_HOME.",
        )  # fmt: skip
    if (folder / MANIFEST).is_file():
        contract.require(read_manifest(folder), folder)
    model_class = getattr(transformers, family.model_class)
    model, report = model_class.from_pretrained(
        folder,
        dtype=compute_dtype(precision),
        device_map={"": where or device()},
        quantization_config=nf4_config(family) if precision == "nf4" else None,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    _require_weights(report, source)
    quantize_activations(model)
    return model.eval()


def _require_weights(report: Mapping[str, Any], source: Source) -> None:
    absent = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if absent:
        raise ArtifactError(
            f"{len(absent)} weights of the network are not in the files",
            where=source.path,
            field=absent[0],
            remedy="Name a checkpoint of the profile's family, in the names that transformers wrote.",
        )


def quantize_activations(model: Any) -> None:
    """Round the activations of FP8 layers as a server with FP8 kernels would.

    transformers 5.23 decompresses FP8 weights on the first forward and then computes in bf16: without
    this, a W8A8 model would be scored as weight-only. Models without FP8 layers are left alone.
    """
    quantised = [module for module in model.modules() if getattr(module, "quantization_scheme", None) is not None]
    if quantised:
        from compressed_tensors.quantization.lifecycle.forward import set_forward_quantized

        for module in quantised:
            set_forward_quantized(module)


def nf4_config(family: Family) -> BitsAndBytesConfig:
    """QLoRA's 4-bit NormalFloat with double quantisation (arXiv 2305.14314), vision tower and head kept out."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype("nf4"),
        llm_int8_skip_modules=list(family.full_precision_modules),
    )


def lora_config(experiment: Experiment, profile: Profile) -> LoraConfig:
    """LoRA on exactly the experiment's towers; a string, since PEFT reads no pattern from a list."""
    return LoraConfig(
        r=experiment.rank,
        lora_alpha=experiment.alpha,
        lora_dropout=experiment.dropout,
        target_modules=lora_pattern(profile.architecture, experiment.towers),
        task_type="CAUSAL_LM",
    )


def attach_adapter(model: Any, folder: Path, contract: Contract) -> Any:
    """Put a LoRA adapter on a base model and prove that every key found its place.

    PEFT only warns when keys do not match, and the model then answers like its base. A model that
    carries an adapter already gets this one in its stead. PEFT draws no random matrices first (`low_cpu_mem_usage`):
    those of rank 64 at 7B take two seconds, and all of them are overwritten.

    Raises:
        ArtifactError, ContractError: when the adapter's manifest does not hold.
        AuditError: when keys are missing, unexpected, or the adapter is all zeros.
    """
    from peft import PeftModel

    contract.require(read_manifest(folder), folder)
    require_adapter_keys(model, folder)
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, str(folder), adapter_name="even", low_cpu_mem_usage=True).eval()
    (worn,) = model.peft_config
    name = "odd" if worn == "even" else "even"
    model.load_adapter(str(folder), adapter_name=name, low_cpu_mem_usage=True)
    model.set_adapter(name)  # before the other goes: PEFT would choose by itself, and warn in every layer
    model.delete_adapter(worn)
    return model.eval()


def require_adapter_keys(model: Any, folder: Path) -> dict[str, int]:
    """Compare the adapter's tensor names with the module names of the model they must sit on.

    Returns:
        `{"tensors": ..., "nonzero": ...}`, counts of tensors and of B matrices that are not all zero.

    Raises:
        AuditError: naming the first keys without a module.
    """
    from safetensors.torch import load_file

    tensors = load_file(folder / ADAPTER_WEIGHTS)
    modules = {name for name, _ in base_of(model).named_modules()}
    prefix = "base_model.model."
    homeless = [key for key in tensors if key.removeprefix(prefix).split(".lora_")[0] not in modules]
    if homeless:
        raise AuditError(
            f"adapter_active: {len(homeless)} of {len(tensors)} adapter keys have no module, e.g. {homeless[0]}",
            evidence={"unexpected_keys": homeless[:5], "tensors": len(tensors)},
            remedy="It was trained under other module names: convert it with `nutridet adopt`, or train again.",
        )
    nonzero = sum(bool(value.any()) for key, value in tensors.items() if ".lora_B." in key)
    if nonzero == 0:
        raise AuditError("adapter_active: every B matrix is zero, the adapter does nothing")
    return {"tensors": len(tensors), "nonzero": nonzero}


def base_of(model: Any) -> Any:
    """The model under its adapter, or itself when it wears none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def language_layers(model: Any) -> Any:
    """The language model's layers, the same modules in every family and under any adapter."""
    return base_of(model).model.language_model.layers


def compile_layers(model: Any) -> None:
    """Compile the language model's layers in place: one graph serves them all, and names and weights stay as they are.

    What LoRA, norms and activations do between the matrix products is fused. The first two lengths of a batch cost
    a compilation each, then lengths may vary.
    """
    for layer in language_layers(model):
        layer.compile()


def weight_bytes(model: Any) -> int:
    """What a model's weights take, on disk and in memory."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def count_parameters(model: Any) -> dict[str, int]:
    """`{"all": ..., "trainable": ...}`; 4-bit weights count two per stored byte."""
    total = sum(p.numel() * (2 if p.__class__.__name__ == "Params4bit" else 1) for p in model.parameters())
    return {"all": total, "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad)}
