"""Model families: what differs between vision-language models that write boxes, as frozen literals.

Belongs here: class names, questions, coordinate rules, module names. Does not belong here: which weights to
run (`profiles`) or how to load them (`models`). To add a family, add a literal and a row to the
family test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nutridet_core.answers import LABEL, Form
from nutridet_core.errors import SettingsError

Tower = Literal["language", "vision"]
TOWERS: tuple[Tower, ...] = ("language", "vision")

_ATTENTION_AND_MLP = r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class Family:
    """One architecture: its loader class, coordinate rule and module names."""

    name: str
    model_class: str
    """Name of the class in `transformers`."""
    processor_class: str
    coordinates: Literal["grid_1000", "resized_pixels"]
    """What the numbers of an answer count: thousandths of the photo, or pixels after the resize."""
    question: str
    """How the family is asked for a box."""
    form: Form
    """How the family itself writes boxes: tuning starts from what the model knows."""
    grammar: str
    """Name and version of the text that `answers` writes for it; a change that alters the text is a new version."""
    lora_targets: dict[Tower, str]
    """A regular expression per tower. PEFT reads a regular expression only from a *string*; in a
    list it is taken for a module name and silently matches nothing."""
    vision_module: str
    """Full path of the vision tower: bitsandbytes and FP8 match from the start, so a bare `visual`
    protects nothing."""
    cell_px: int
    """Side in pixels of one visual token: patch size times merge size."""

    @property
    def full_precision_modules(self) -> tuple[str, ...]:
        """Modules that stay out of NF4."""
        return (self.vision_module, "lm_head")


QWEN2_VL = Family(
    name="qwen2-vl",
    model_class="Qwen2VLForConditionalGeneration",
    processor_class="Qwen2VLProcessor",
    coordinates="grid_1000",
    question=f"Detect the bounding box of the {LABEL}.",
    form=Form.NATIVE,
    grammar="qwen2-vl/1",
    lora_targets={
        "language": rf"model\.language_model\.layers\.\d+\.{_ATTENTION_AND_MLP}",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))",
    },
    vision_module="model.visual",
    cell_px=28,
)

QWEN2_5_VL = Family(
    name="qwen2.5-vl",
    model_class="Qwen2_5_VLForConditionalGeneration",
    processor_class="Qwen2_5_VLProcessor",
    coordinates="resized_pixels",
    question=f"Locate every {LABEL} in the image and output the bbox coordinates in JSON format.",
    form=Form.JSON,
    grammar="json-bbox-2d/1",
    lora_targets={
        "language": rf"model\.language_model\.layers\.\d+\.{_ATTENTION_AND_MLP}",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    },
    vision_module="model.visual",
    cell_px=28,
)
"""The maintainers on its coordinates: QwenLM/Qwen3-VL issues 721 and 940."""

QWEN3_VL = Family(
    name="qwen3-vl",
    model_class="Qwen3VLForConditionalGeneration",
    processor_class="Qwen3VLProcessor",
    coordinates="grid_1000",
    question=f"Locate every {LABEL} in the image. Report bbox coordinates in JSON format.",
    form=Form.JSON,
    grammar="json-bbox-2d/1",
    lora_targets={
        "language": rf"model\.language_model\.layers\.\d+\.{_ATTENTION_AND_MLP}",
        "vision": r"model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
    },
    vision_module="model.visual",
    cell_px=32,
)
"""The maintainers on its coordinates: QwenLM/Qwen3-VL issue 1486."""

FAMILIES: tuple[Family, ...] = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)


def get_family(name: str) -> Family:
    """The family of that name.

    Raises:
        SettingsError: naming the families there are.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise SettingsError(f"no model family {name!r}", remedy=f"Known: {known}.")


def lora_pattern(family: Family, towers: frozenset[Tower]) -> str:
    """One regular expression for the LoRA targets of the towers named."""
    return "|".join(f"(?:{family.lora_targets[tower]})" for tower in TOWERS if tower in towers)
