"""Bodies of requests: the serving engine's own, and what can be changed about them.

Belongs here: what is asked. Does not belong here: of whom, and what it took (`measure`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from benchmarks.serving.load import chat_body
from benchmarks.serving.photos import DrawnPhoto, encode
from nutridet_core.answers import BOX_END, BOX_START, LABEL, OBJECT_END, OBJECT_START
from nutridet_core.profiles import TINY
from nutridet_core.prompts import Contract, prompt_messages, resized_size

FORCED = 32
"""Answer tokens of the published run's and this project's earlier figures, whatever the model writes."""
ONE_BOX = 24
"""Tokens of an answer with one box, the terminator included, in Qwen2-VL's tokenizer and in the embedded one."""
SKELETON = f"{OBJECT_START}{LABEL}{OBJECT_END}{BOX_START}("
GRAMMAR = rf"{re.escape(SKELETON)}[0-9]{{3}},[0-9]{{3}}\),\([0-9]{{3}},[0-9]{{3}}\){re.escape(BOX_END)}"
"""One box of three-digit numbers."""
ENCODERS: dict[str, Callable[[Image.Image], bytes]] = {
    "png": lambda image: encode(image, "PNG", compress_level=1),
    "jpeg": lambda image: encode(image, "JPEG", quality=95, subsampling=0),
    "bmp": lambda image: encode(image, "BMP"),
}
"""How a photo that was resized before vLLM gets it may travel."""


@dataclass(frozen=True)
class Questions:
    """Requests under one contract."""

    contract: Contract
    drawn: list[DrawnPhoto]
    """As they were drawn."""
    large: list[bytes]
    """Distinct, of 576 image tokens."""

    def forced(self, count: int, tokens: int, **more: Any) -> list[bytes]:
        """About large photos; answers are cut at, and not before, so many tokens."""
        return [
            chat_body(self.contract, photo, max_tokens=tokens, ignore_eos=True, **more) for photo in self.large[:count]
        ]

    def ruled(self, count: int) -> list[bytes]:
        """About large photos; answers keep to the grammar of one box."""
        rule = {"regex": GRAMMAR}
        return [
            chat_body(self.contract, photo, max_tokens=FORCED, structured_outputs=rule) for photo in self.large[:count]
        ]

    def natural(self, count: int | None = None) -> list[bytes]:
        """About large photos; the model ends its answers itself."""
        return [chat_body(self.contract, photo, max_tokens=TINY.max_new_tokens) for photo in self.large[:count]]

    def small(self, count: int | None = None) -> list[bytes]:
        """The same about drawn photos, as they were drawn."""
        return [chat_body(self.contract, each.content, max_tokens=TINY.max_new_tokens) for each in self.drawn[:count]]

    def begun(self, asked: Sequence[bytes]) -> list[bytes]:
        """The same questions with the answer's beginning put into the model's mouth."""
        said = [*prompt_messages(self.contract), {"role": "assistant", "content": SKELETON}]
        bodies = []
        for body in asked:
            request = json.loads(body)
            said[1] = request["messages"][1]
            request |= {"messages": said, "add_generation_prompt": False, "continue_final_message": True}
            bodies.append(json.dumps(request).encode())
        return bodies

    def blind(self, count: int, tokens: int) -> list[bytes]:
        """About as many prompt tokens without a photo, to tell reading from seeing; one token is written."""
        request = json.loads(self.forced(1, 1)[0])
        bodies = []
        for number in range(count):
            text = f"{number}" + " table" * (tokens - 20)
            request["messages"][1] = {"role": "user", "content": [{"type": "text", "text": text}]}
            bodies.append(json.dumps(request).encode())
        return bodies

    def resized(self, count: int, kind: str) -> list[bytes]:
        """About large photos that have the contract's size already."""
        bodies = []
        for photo in self.large[:count]:
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            small = ENCODERS[kind](image.resize(resized_size(self.contract, *image.size), Image.Resampling.BICUBIC))
            bodies.append(chat_body(self.contract, small, kind, max_tokens=ONE_BOX, ignore_eos=True))
        return bodies
