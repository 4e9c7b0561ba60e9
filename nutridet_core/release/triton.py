"""Triton: a model repository for its vLLM backend, made from the release and its contract.

Belongs here: the files of the repository. Does not belong here: starting a server.

The backend takes `text_input` already templated, so the prompt is rendered here by the same
function that training used and lies in the repository for clients to send.
Schema: triton-inference-server/vllm_backend, README, and Triton's model_config.proto.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nutridet_core.artifacts.store import write_json, write_text
from nutridet_core.profiles import Profile

MODEL = "nutridet"
_CONFIG = """backend: "vllm"

# vLLM places itself on the GPUs; Triton must not.
instance_group [
  {
    count: 1
    kind: KIND_MODEL
  }
]

model_transaction_policy {
  decoupled: true
}

parameters {
  key: "REPORT_CUSTOM_METRICS"
  value: {
    string_value: "true"
  }
}
"""


def write_repository(folder: Path, *, profile: Profile, weights: Path, prompt: str) -> None:
    """Write `config.pbtxt`, `1/model.json`, `prompt.txt` and an example request.

    Args:
        weights: the merged or FP8 folder, as the server will see it.
        prompt: the rendered prompt with one image placeholder.
    """
    model = folder / MODEL
    write_text(model / "config.pbtxt", _CONFIG)
    write_json(model / "1" / "model.json", engine_arguments(profile, weights))
    write_text(folder / "prompt.txt", prompt)
    write_json(folder / "example_request.json", example_request(prompt, profile))


def engine_arguments(profile: Profile, weights: Path) -> dict[str, Any]:
    """VLLM's AsyncEngineArgs: one image a request, the contract's pixel budget, no remote code."""
    return {
        "model": str(weights),
        "trust_remote_code": False,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_processor_kwargs": {"min_pixels": profile.min_pixels, "max_pixels": profile.max_pixels},
        "max_model_len": next_multiple(profile.image_tokens + profile.max_new_tokens + 256, 256),
        "gpu_memory_utilization": 0.8,
    }


def example_request(prompt: str, profile: Profile) -> dict[str, Any]:
    """Body of `POST /v2/models/nutridet/generate`; the client puts a base64 photo into `image`."""
    sampling = {"temperature": 0, "max_tokens": profile.max_new_tokens, "skip_special_tokens": False}
    return {
        "text_input": prompt,
        "image": ["<base64 of a JPEG or PNG>"],
        "stream": False,
        "exclude_input_in_output": True,
        "sampling_parameters": json.dumps(sampling),
    }


def next_multiple(value: int, step: int) -> int:
    """The smallest multiple of `step` that is not below the value."""
    return -(-value // step) * step
