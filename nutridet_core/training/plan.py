"""What a run will take: files from the hub, disk and GPU memory, said before anything of it begins.

Belongs here: counting on a copy of the network that has no weights, and the estimate of memory. Does not
belong here: refusing for want of space (`artifacts.disk`), or measuring what a run took (`train`).

The estimate is a formula that was fitted to Qwen2-VL-7B on an H100 (`tests/test_plan.py` has the figures, and holds
the formula to within 10 % of each).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nutridet_core.artifacts.disk import free_bytes, gigabytes
from nutridet_core.artifacts.hub import Remote, RemoteFile, cache_folder, fetch, list_files
from nutridet_core.data.sources import require_source
from nutridet_core.data.sources.hub import remote as photos_at
from nutridet_core.experiments import Experiment
from nutridet_core.families import Family, lora_pattern
from nutridet_core.models import MEMORY_SHARE, Source, base_source
from nutridet_core.predict import answer_bytes
from nutridet_core.profiles import Profile
from nutridet_core.settings import Settings
from nutridet_core.training.activations import step_bytes, vision_bytes

_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Of a weight: 4 bits, an 8-bit scale for 64 of them, a 32-bit scale for 256 scales (arXiv 2305.14314)."""


@dataclass(frozen=True)
class Network:
    """Sizes of a network."""

    parameters: int
    quantised: int
    """Of these, weights that NF4 and FP8 may round."""
    head: int
    """Of these, weights of a head that FP8 may round as well: none when it is tied to the embeddings."""
    vocabulary: int
    width: int
    layers: int
    adapters: Mapping[str, int]
    """LoRA weights by experiment."""
    vision_step: Mapping[str, int]
    """Bytes of the vision tower's activations, by experiment that trains it."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    name: str
    memory: int
    """In bytes."""


@dataclass(frozen=True)
class Plan:
    """What a profile will take."""

    profile: Profile
    files: Sequence[RemoteFile]
    """Of the base model and of the photos, where they come from the hub."""
    disk: Mapping[str, int]
    """Bytes by artefact, to be written under `home`."""
    memory: Mapping[str, int]
    """Bytes by step, on one GPU."""
    home: Path
    gpu: Gpu | None
    notes: Sequence[str] = ()

    @property
    def download(self) -> int:
        """Bytes that are not in the hub's cache."""
        return sum(file.size for file in self.files if not file.here)

    @property
    def text(self) -> str:
        """For a terminal."""
        base = self.profile.base_model if self.profile.revision is None else self.profile.base_identity
        parts = [[f"profile {self.profile.name}: {base}"], self._download_lines(), self._disk_lines()]
        return "\n".join(line for part in (*parts, self._memory_lines(), self.notes) for line in part)

    def _download_lines(self) -> list[str]:
        missing = [file for file in self.files if not file.here]
        if not missing:
            return ["download: nothing"]
        free = f"{gigabytes(free_bytes(cache_folder()))} free in {cache_folder()}"
        head = f"download: {gigabytes(self.download)} in {len(missing)} of {len(self.files)} files, {free}"
        return [head, *(f"  {file.name}  {gigabytes(file.size)}" for file in missing)]

    def _disk_lines(self) -> list[str]:
        total = gigabytes(sum(self.disk.values()))
        head = f"disk: about {total} in {self.home}, {gigabytes(free_bytes(self.home))} free"
        return [head, *(f"  {what}  {gigabytes(size)}" for what, size in self.disk.items())]

    def _memory_lines(self) -> list[str]:
        name = f"{self.gpu.name} with {_gib(self.gpu.memory)}" if self.gpu else "this machine has none"
        steps = [f"  {what}  {_gib(size)}{verdict(size, self.gpu)}" for what, size in self.memory.items()]
        return [f"GPU memory, estimated from runs on an H100 ({name}):", *steps]


def make_plan(settings: Settings, experiments: Sequence[Experiment]) -> Plan:
    """Look at the hub, this machine and the network; of the base model, `config.json` alone is downloaded.

    Raises:
        DataError: when the folder of a photo source is not there.
        ArtifactError: when the hub does not answer or does not know the commit.
        SettingsError: when the base model has no commit, or a photo source is none.
    """
    profile = settings.active_profile
    photo_source = settings.source or profile.source
    for each in (photo_source, settings.test_source):
        if each:
            require_source(each)
    source = base_source(profile)
    network = count_network(_config_folder(source), profile, experiments)
    photos, notes = _photos(photo_source)
    files = [] if source.folder else list_files(Remote(source.path, str(source.revision)))
    return Plan(
        profile=profile,
        files=[*files, *photos],
        disk=disk_bytes(profile, network, experiments),
        memory=memory_bytes(profile, network),
        home=settings.home,
        gpu=find_gpu(),
        notes=notes,
    )


def count_network(folder: Path, profile: Profile, experiments: Sequence[Experiment]) -> Network:
    """Sizes of the network that a `config.json` describes, without its weights."""
    import torch
    import transformers

    family = profile.architecture
    model_class = getattr(transformers, family.model_class)
    config = model_class.config_class.from_pretrained(folder)
    with torch.device("meta"):
        model = model_class(config)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    rounded = [layer for name, layer in linear.items() if not name.startswith(family.full_precision_modules)]
    text, seen = config.text_config, vision_bytes(profile, config.vision_config)
    return Network(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        quantised=sum(layer.weight.numel() for layer in rounded),
        head=0 if config.tie_word_embeddings else text.vocab_size * text.hidden_size,
        vocabulary=text.vocab_size,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        adapters={experiment.name: _lora_weights(linear, family, experiment) for experiment in experiments},
        vision_step={experiment.name: seen for experiment in experiments if "vision" in experiment.towers},
    )


def disk_bytes(profile: Profile, network: Network, experiments: Sequence[Experiment]) -> dict[str, int]:
    """What the artefacts of a whole run take: every checkpoint with AdamW's averages, and one release."""
    sizes = {}
    for experiment in experiments:
        epochs = min(experiment.epochs, profile.max_epochs or experiment.epochs)
        checkpoint = 3 * network.adapters[experiment.name] * _item(profile)
        sizes[f"{epochs} checkpoints of {experiment.name}"] = epochs * checkpoint
    fp8 = 2 * network.parameters - network.quantised - network.head
    return sizes | {"merged model": 2 * network.parameters, "FP8 model": fp8}


def memory_bytes(profile: Profile, network: Network) -> dict[str, int]:
    """Peak memory on one GPU: the least that each training takes, and, as a bound, of answering."""
    frozen, kept = weight_bytes(profile, network), 0 if profile.gradient_checkpointing else network.layers
    step = step_bytes(profile, network.width, network.layers, kept)
    training = {
        f"training {name}": frozen + 4 * weights * _item(profile) + step + network.vision_step.get(name, 0)
        for name, weights in network.adapters.items()
    }  # weight, gradient and AdamW's two averages
    answer = answer_bytes(profile.tokens, network.width, network.layers, _item(profile))
    scoring = network.parameters * _item(profile) + profile.score_batch_size * answer
    return training | {"answering, at most": scoring}


def weight_bytes(profile: Profile, network: Network) -> int:
    """What the frozen weights take while an adapter is trained over them."""
    item = _NF4_BYTES if profile.training_precision == "nf4" else _item(profile)
    return round(network.quantised * item) + (network.parameters - network.quantised) * _item(profile)


def find_gpu() -> Gpu | None:
    """The first GPU of this machine."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Gpu(properties.name, properties.total_memory)


def memory_notices(profile: Profile, experiments: Sequence[Experiment]) -> list[str]:
    """A line for every step that may take more than `MEMORY_SHARE` of this machine's GPU; without a GPU, none."""
    gpu = find_gpu()
    if gpu is None:
        return []
    verdicts = {what: (size, verdict(size, gpu)) for what, size in _needed(profile, experiments).items()}
    return [f"{what}: about {_gib(size)}{said}" for what, (size, said) in verdicts.items() if said]


def fit_in_memory(profile: Profile, experiments: Sequence[Experiment], processes: int) -> bool:
    """Whether this machine, without a GPU, has room for so many of these trainings at once."""
    largest = max(_needed(profile, experiments).values())
    return bool(processes * largest <= MEMORY_SHARE * psutil.virtual_memory().available)


def _needed(profile: Profile, experiments: Sequence[Experiment]) -> dict[str, int]:
    return memory_bytes(profile, count_network(_config_folder(base_source(profile)), profile, experiments))


def verdict(needed: int, gpu: Gpu | None) -> str:
    """Empty when it fits well, or when there is no GPU to compare with."""
    if gpu is None or needed <= MEMORY_SHARE * gpu.memory:
        return ""
    share = f"{needed / gpu.memory:.0%} of this GPU's memory"
    return f": {share}, DOES NOT FIT" if needed > gpu.memory else f": {share}, above {MEMORY_SHARE:.0%}"


def _item(profile: Profile) -> int:
    """Bytes of a weight that is not rounded, on the hardware that the profile is made for."""
    return 2 if profile.scoring_precision == "bf16" else 4


def _lora_weights(linear: Mapping[str, Any], family: Family, experiment: Experiment) -> int:
    pattern = re.compile(lora_pattern(family, experiment.towers))
    sides = [layer.in_features + layer.out_features for name, layer in linear.items() if pattern.fullmatch(name)]
    return int(experiment.rank * sum(sides))


def _config_folder(source: Source) -> Path:
    return source.folder or fetch(Remote(source.path, str(source.revision), patterns=("config.json",)))


def _photos(source: str) -> tuple[list[RemoteFile], list[str]]:
    """Files of the photos on the hub, and what is left to be said about them."""
    kind, _, revision = source.partition("@")
    if kind != "hub":
        return [], [f"photos: {source}"]
    if not revision:
        return [], ["photos: the source 'hub' names no commit yet; set NUTRIDET_SOURCE=hub@COMMIT"]
    return list_files(photos_at(revision)), [f"photos: {source}"]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
