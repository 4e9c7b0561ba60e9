"""Profiles: what to run on. Base model, data source, pixel budget, precision and batch sizes.

Belongs here: frozen literals. Does not belong here: what is compared (`experiments`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nutridet_core.artifacts.store import MANIFEST, read_manifest
from nutridet_core.errors import SettingsError
from nutridet_core.families import Family, get_family
from nutridet_core.prompts import Contract

TINY_WEIGHTS = Path(__file__).parent / "tiny" / "base"
TINY_TUNED = Path(__file__).parent / "tiny" / "tuned"
"""An adapter for `TINY_WEIGHTS`, tuned on product photos: what answers until the first release."""
TEXT_TOKENS = 126
"""Of prompt and answer, as Qwen2-VL's tokenizer splits them."""


@dataclass(frozen=True)
class Profile:
    """One way to run the whole pipeline."""

    name: str
    family: str
    base_model: str
    """A folder or a hub id."""
    revision: str | None
    """Commit of the hub id, in full: a branch can be moved; None for a folder."""
    source: str
    """Where photos come from: see `data.sources`."""
    min_pixels: int
    max_pixels: int
    """Bounds on a photo's area after the resize."""
    training_precision: Literal["nf4", "bf16", "float32"]
    """nf4: QLoRA, the frozen weights in 4 bits with double quantisation."""
    scoring_precision: Literal["bf16", "float32"]
    learning_rate_scale: float
    """Multiplies each experiment's rate: a smaller network takes larger steps."""
    train_batch_size: int
    """Photos per optimiser step, of all processes together: how many there are changes nothing that is learnt."""
    score_batch_size: int
    """Photos that are answered together; more of them where a GPU has room (`predict.photos_at_once`)."""
    max_new_tokens: int
    """Longest answer, in tokens."""
    gradient_checkpointing: bool
    """Layers whose activations do not fit compute them twice (`activations`); otherwise all keep them."""
    compile_layers: bool = False
    """Compile the language model's layers for training: a minute at the start for steps that are faster."""
    max_epochs: int | None = None
    """Cuts every experiment short; None runs each to its end."""

    @property
    def contract(self) -> Contract:
        """What training, evaluation and serving share under this profile."""
        return Contract(self.family, self.min_pixels, self.max_pixels, question=self.architecture.question)

    @property
    def image_tokens(self) -> int:
        """Of a photo at the pixel budget: the most that one has."""
        return self.max_pixels // self.architecture.cell_px**2

    @property
    def tokens(self) -> int:
        """Of a photo at the pixel budget, with prompt and answer."""
        return self.image_tokens + TEXT_TOKENS

    @property
    def base_identity(self) -> str:
        """What the base weights are, wherever they lie: a folder's digest, or a hub id at its commit."""
        folder = Path(self.base_model)
        if (folder / MANIFEST).is_file():
            return read_manifest(folder, verify=False).digest
        return f"{self.base_model}@{self.revision}"

    @property
    def architecture(self) -> Family:
        """The model family."""
        return get_family(self.family)


TINY = Profile(
    name="tiny",
    family="qwen2-vl",
    base_model=str(TINY_WEIGHTS),
    revision=None,
    source="generated:200",
    min_pixels=168 * 168,
    max_pixels=336 * 336,
    training_precision="nf4",
    scoring_precision="float32",
    learning_rate_scale=10.0,
    train_batch_size=4,
    score_batch_size=32,
    max_new_tokens=72,
    gradient_checkpointing=False,
    max_epochs=2,
)

QWEN2_VL_7B = Profile(
    name="qwen2-vl-7b",
    family="qwen2-vl",
    base_model="Qwen/Qwen2-VL-7B-Instruct",
    revision="eed13092ef92e448dd6875b2a00151bd3f7db0ac",
    source="hub",
    min_pixels=256 * 28 * 28,
    max_pixels=600 * 28 * 28,
    training_precision="nf4",
    scoring_precision="bf16",
    learning_rate_scale=1.0,
    train_batch_size=8,
    score_batch_size=16,
    max_new_tokens=128,
    gradient_checkpointing=True,
    compile_layers=True,
)

QWEN2_VL_7B_BF16 = replace(QWEN2_VL_7B, name="qwen2-vl-7b-bf16", training_precision="bf16")

QWEN2_VL_2B = replace(
    QWEN2_VL_7B_BF16,
    name="qwen2-vl-2b",
    base_model="Qwen/Qwen2-VL-2B-Instruct",
    revision="895c3a49bc3fa70a340399125c650a463535e71c",
)

QWEN2_5_VL_7B = replace(
    QWEN2_VL_7B,
    name="qwen2.5-vl-7b",
    family="qwen2.5-vl",
    base_model="Qwen/Qwen2.5-VL-7B-Instruct",
    revision="cc594898137f460bfe9f0759e9844b3ce807cfb5",
    max_new_tokens=192,
)

QWEN3_VL_8B = replace(
    QWEN2_VL_7B,
    name="qwen3-vl-8b",
    family="qwen3-vl",
    base_model="Qwen/Qwen3-VL-8B-Instruct",
    revision="0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
    min_pixels=256 * 32 * 32,
    max_pixels=600 * 32 * 32,
    train_batch_size=4,  # 36 wider layers: 8 photos would not leave room on 24 GB
    score_batch_size=8,
    max_new_tokens=192,
)

PROFILES: tuple[Profile, ...] = (TINY, QWEN2_VL_7B, QWEN2_VL_7B_BF16, QWEN2_VL_2B, QWEN2_5_VL_7B, QWEN3_VL_8B)
"""The hub could not be asked where this was written: each commit is the one that at least five public repositories name
for that model. `NUTRIDET_REVISION` names another one."""


def get_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        SettingsError: naming the profiles there are.
    """
    for profile in PROFILES:
        if profile.name == name:
            return profile
    known = ", ".join(profile.name for profile in PROFILES)
    raise SettingsError(f"no profile {name!r}", field="NUTRIDET_PROFILE", remedy=f"Known: {known}.")
