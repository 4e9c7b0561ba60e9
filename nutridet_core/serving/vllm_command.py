"""The command line and environment that vLLM is started with.

Belongs here: flags and variables. Does not belong here: the process (`vllm`), or what runs inside it (`in_vllm`).

vLLM's key guards /v1 only and its default host is every interface, so it listens on 127.0.0.1 and the gateway is
its only client. The key travels by environment: a command line is readable by every user of the machine.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from nutridet_core.boxes import Box
from nutridet_core.errors import SettingsError
from nutridet_core.profiles import Profile
from nutridet_core.release.triton import engine_arguments, next_multiple
from nutridet_core.serving.in_vllm import answer_drafts

NAME = "nutridet"
_NOWHERE = "none.invalid"  # RFC 2606: the one domain that photos may be fetched from does not exist
_RANKS = (8, 16, 32, 64, 128, 256, 512)  # those that vLLM admits as the largest
DRAFTED = 6  # tokens: the longest run of an answer without a digit, and one digit
_QUESTION = 40  # tokens of a prompt beside those of its photo, rounded up
_LARGEST_GRAPH, _GRAPH_STEP = 512, 16  # tokens of a batch, without our saying
_PHOTO_THREADS = 8  # that cut up one photo; vLLM takes one, which suits many clients
_SOME_BOX = Box(0.25, 0.25, 0.75, 0.75)
_SOME_SIZE = (644, 644)
_TERMINATOR = "<|im_end|>"


@dataclass(frozen=True)
class VllmOptions:
    """How vLLM is started."""

    program: str = "vllm"
    """May lie in another environment than this package."""
    gpu_share: float = 0.8
    """Of the GPU's memory. Two models share it for a moment when an alias moves: then less than half."""
    start_seconds: float = 900.0
    adapter: Path | None = None
    """LoRA on the language tower, served over the weights; vLLM ignores one on the vision tower."""
    drafts: bool = False
    """Draft what the answer grammar says comes next, so that the model decodes little more than the digits. For few
    clients: many get slower, since vLLM 0.26 schedules synchronously with it."""
    graphs: bool = False
    """Replay the vision tower, the prompt and every step from CUDA graphs. vLLM by itself starts the tower's kernels,
    and those of prompts beyond 512 tokens, one by one, which takes longer than they run."""
    flags: tuple[str, ...] = ()
    """Further flags of vLLM's own, after those from here."""


def command(profile: Profile, weights: str, port: int, options: VllmOptions) -> list[str]:
    """The command line; engine arguments are those of the Triton repository."""
    line = [options.program, "serve", weights, "--served-model-name", f"{NAME}-base" if options.adapter else NAME]
    line += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in _arguments(profile, weights, options).items():
        if name != "model" and value is not False:  # trust_remote_code is off unless named
            line += [f"--{name.replace('_', '-')}", json.dumps(value) if isinstance(value, dict) else str(value)]
    line += ["--chat-template-content-format", "openai"]  # its guess might put the photo elsewhere than training did
    line += ["--allowed-media-domains", _NOWHERE, "--disable-fastapi-docs", "--disable-uvicorn-access-log"]
    return [*line, *(_lora(options.adapter) if options.adapter else ()), *options.flags]


def environment(profile: Profile, key: str, options: VllmOptions) -> dict[str, str]:
    """Of the child: its key, no redirects, no reports home, where the drafts come from, and what its CPU work may use.

    With `graphs` it is vLLM's first model runner, as it is with `drafts` anyway: the second one, which vLLM 0.26 takes
    by itself, does not replay the vision tower, and does not say so.
    """
    given = {
        **os.environ,
        "VLLM_API_KEY": key,
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if options.graphs:
        given["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if options.drafts:
        given.setdefault("OMP_NUM_THREADS", str(_PHOTO_THREADS))
        folder = str(Path(answer_drafts.__file__).parent)
        given["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        given[answer_drafts.TEMPLATE] = profile.contract.write([_SOME_BOX], _SOME_SIZE) + _TERMINATOR
    return given


def _arguments(profile: Profile, weights: str, options: VllmOptions) -> dict[str, Any]:
    arguments = engine_arguments(profile, Path(weights)) | {"gpu_memory_utilization": options.gpu_share}
    if options.drafts:
        proposer = f"answer_drafts.{answer_drafts.AnswerDrafts.__name__}"
        arguments["speculative_config"] = {
            "method": "custom_class", "model": proposer, "num_speculative_tokens": DRAFTED,
        }  # fmt: skip
    if options.graphs:
        arguments["compilation_config"] = cuda_graphs(profile)
    return arguments


def cuda_graphs(profile: Profile) -> dict[str, Any]:
    """Settings for vLLM: graphs of the tower for a small photo, the largest, and several at once; of whole prompts."""
    largest = profile.image_tokens
    return {
        "cudagraph_mm_encoder": True,
        "encoder_cudagraph_token_budgets": [largest // 4, *(count * largest for count in range(1, 5))],  # image tokens
        "encoder_cudagraph_max_vision_items_per_batch": 4,
        "cudagraph_mode": "FULL",
        "max_cudagraph_capture_size": max(_LARGEST_GRAPH, next_multiple(largest + _QUESTION, _GRAPH_STEP)),
    }


def _lora(adapter: Path) -> list[str]:
    """Flags for an adapter.

    Raises:
        SettingsError: when part of it sits on the vision tower.
    """
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_WEIGHTS, "np") as tensors:
        if any(".visual." in name for name in tensors.keys()):  # noqa: SIM118  (no dictionary)
            raise SettingsError(
                "has LoRA on the vision tower, which vLLM would ignore",
                where=adapter,
                remedy="Merge it (nutridet merge) and serve the merged folder.",
            )
    rank = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"]
    largest = next(each for each in _RANKS if each >= rank)
    return ["--enable-lora", "--max-lora-rank", str(largest), "--lora-modules", f"{NAME}={adapter}"]
