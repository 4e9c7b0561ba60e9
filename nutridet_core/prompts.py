"""The contract between training, evaluation and serving: one prompt, one resize, one grammar.

Belongs here: the `Contract`, the messages built from it and the processor set up by it. Training,
evaluation and serving all call these functions, so they cannot drift apart; its hash lies in
every artefact and is compared at every load. Does not belong here: loading weights (`models`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nutridet_core.answers import Answer, Extent, read_answer, write_answer
from nutridet_core.artifacts.store import Manifest, digest
from nutridet_core.boxes import Box
from nutridet_core.errors import ContractError
from nutridet_core.families import QWEN2_VL, get_family

SYSTEM = "You are a helpful assistant."
QUESTION = QWEN2_VL.question
MAX_ASPECT_RATIO = 200
"""Qwen2-VL's image processor refuses a photo longer than this times its width."""

Message = dict[str, Any]


@dataclass(frozen=True)
class Contract:
    """What training, evaluation and serving must share."""

    family: str
    min_pixels: int
    max_pixels: int
    """Bounds on the area in pixels after the resize (width times height, not a side)."""
    question: str = QUESTION
    system: str = SYSTEM

    @property
    def hash(self) -> str:
        """What artefacts carry: equal hashes mean equal inputs to the model, and equal right answers."""
        return digest(asdict(self) | {"grammar": get_family(self.family).grammar})

    def write(self, boxes: Sequence[Box], resized: tuple[int, int]) -> str:
        """The right answer about a photo whose size after the resize is `(width, height)`."""
        return write_answer(boxes, self.extent(resized), get_family(self.family).form)

    def read(self, text: str, resized: tuple[int, int]) -> Answer:
        """What a model's text says about a photo whose size after the resize is `(width, height)`."""
        return read_answer(text, self.extent(resized))

    def extent(self, resized: tuple[int, int]) -> Extent:
        """Steps of the coordinate grid for a photo whose size after the resize is `(width, height)`."""
        return (1000, 1000) if get_family(self.family).coordinates == "grid_1000" else resized

    def require(self, manifest: Manifest, where: object) -> None:
        """Refuse an artefact made under another contract.

        Raises:
            ContractError: naming the artefact and both hashes.
        """
        if manifest.contract != self.hash:
            raise ContractError(
                f"was made under contract {str(manifest.contract)[:12]}, this run uses {self.hash[:12]}",
                where=str(where),
                field="contract",
                remedy="Use the same family, prompt and pixel budget as in training, or train again.",
            )


def prompt_messages(contract: Contract, *, question: str | None = None) -> list[Message]:
    """The question about one photo, as chat messages with a placeholder for it."""
    content = [{"type": "image"}, {"type": "text", "text": question or contract.question}]
    system = [{"type": "text", "text": contract.system}]
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def prompt_text(contract: Contract, processor: Any) -> str:
    """The rendered prompt up to where the answer begins, one image placeholder inside."""
    messages = prompt_messages(contract)
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def set_resize(contract: Contract, processor: Any) -> None:
    """Give a processor the contract's pixel budget, so that it is saved and used with it."""
    processor.image_processor.size = {"shortest_edge": contract.min_pixels, "longest_edge": contract.max_pixels}


def resized_size(contract: Contract, width: int, height: int) -> tuple[int, int]:
    """`(width, height)` in pixels after the resize, by Qwen2-VL's own rule."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    cell = get_family(contract.family).cell_px
    resized_height, resized_width = smart_resize(height, width, cell, contract.min_pixels, contract.max_pixels)
    return resized_width, resized_height
