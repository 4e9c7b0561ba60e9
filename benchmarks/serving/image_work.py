"""What a photo costs on the CPU, step by step, one at a time.

Belongs here: the steps that vLLM, gateway and client do with a photo, timed in this process. Does not belong
here: vLLM's own clocks (`load`).
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from benchmarks.serving.questions import ENCODERS
from benchmarks.serving.servers import WIDE
from nutridet_core.data.photos import decode_photo
from nutridet_core.models import Source, load_processor
from nutridet_core.prompts import prompt_text, resized_size


def time_image_work(weights: str, photos: list[bytes]) -> dict[str, list[float]]:
    """Seconds of each step for each photo; the first two warm up."""
    torch.set_num_threads(1)  # as vLLM does
    processor = load_processor(Source(weights), WIDE.architecture, WIDE.contract)
    taken = [_steps(processor, photo) for photo in photos][2:]
    return {name: [steps[name] for steps in taken] for name in taken[0]}


def _steps(processor: Any, photo: bytes) -> dict[str, float]:
    watch, text = Watch(), prompt_text(WIDE.contract, processor)
    watch.time("client: base64", lambda: base64.b64encode(photo).decode())
    image = watch.time("gateway: decode", lambda: decode_photo(photo).image)
    watch.time("vllm: decode", lambda: _open(photo))
    watch.time("vllm: processor", lambda: processor(images=[image], text=[text], return_tensors="pt"))
    size = resized_size(WIDE.contract, *image.size)
    small = watch.time("gateway: resize", lambda: image.resize(size, Image.Resampling.BICUBIC))
    watch.time("vllm: processor, resized", lambda: processor(images=[small], text=[text], return_tensors="pt"))
    for kind in ENCODERS:
        _travel(watch, kind, small)
    return watch.seconds


def _travel(watch: Watch, kind: str, image: Image.Image) -> None:
    content = watch.time(f"gateway: encode {kind}", lambda: ENCODERS[kind](image))
    watch.time(f"vllm: decode {kind}", lambda: _open(content))


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


class Watch:
    """Times steps by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """What the step gives."""
        began = time.perf_counter()
        result = work()
        self.seconds[name] = time.perf_counter() - began
        return result
