"""Triton: the files of its model repository say what the contract says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nutridet_core.artifacts.store import read_manifest
from nutridet_core.predict import encode
from nutridet_core.prompts import prompt_messages, prompt_text
from nutridet_core.release.triton import MODEL, engine_arguments, write_repository
from tests.conftest import PROFILE


@pytest.fixture
def repository(tmp_path: Path, processor: Any) -> Path:
    prompt = prompt_text(PROFILE.contract, processor)
    write_repository(tmp_path, profile=PROFILE, weights=tmp_path / "fp8", prompt=prompt)
    return tmp_path


def read_pbtxt(text: str) -> dict[str, Any]:
    """Protobuf's text format as nested dictionaries: enough for `config.pbtxt`."""
    tokens = re.findall(r'"[^"]*"|[\w.]+|[{}\[\]]', re.sub(r"#.*", "", text))

    def block() -> dict[str, Any]:
        found: dict[str, Any] = {}
        while tokens and tokens[0] not in "}]":
            name = tokens.pop(0)
            found[name] = value()
        return found

    def value() -> Any:
        first = tokens.pop(0)
        if first not in "{[":
            return first.strip('"')
        content = block() if first == "{" else [value()]
        assert tokens.pop(0) == {"{": "}", "[": "]"}[first]
        return content

    found = block()
    assert not tokens, f"left over: {tokens}"
    return found


def test_the_configuration_is_that_of_the_vllm_backend(repository: Path) -> None:
    config = read_pbtxt((repository / MODEL / "config.pbtxt").read_text(encoding="utf-8"))
    assert config["backend"] == "vllm"
    assert config["instance_group"] == [{"count": "1", "kind": "KIND_MODEL"}]
    assert config["model_transaction_policy"] == {"decoupled": "true"}
    assert config["parameters"] == {"key": "REPORT_CUSTOM_METRICS", "value": {"string_value": "true"}}


def test_the_layout_is_tritons(repository: Path) -> None:
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    assert files == {"nutridet/config.pbtxt", "nutridet/1/model.json", "prompt.txt", "example_request.json"}


def test_the_engine_gets_the_contracts_pixels_and_no_remote_code(repository: Path) -> None:
    engine = json.loads((repository / MODEL / "1" / "model.json").read_text(encoding="utf-8"))
    assert engine == engine_arguments(PROFILE, repository / "fp8")
    assert engine["model"] == str(repository / "fp8")
    assert engine["trust_remote_code"] is False
    pixels = {"min_pixels": PROFILE.contract.min_pixels, "max_pixels": PROFILE.contract.max_pixels}
    assert engine["mm_processor_kwargs"] == pixels
    assert engine["limit_mm_per_prompt"] == {"image": 1, "video": 0}


def test_the_longest_prompt_and_answer_fit(repository: Path, processor: Any) -> None:
    engine = json.loads((repository / MODEL / "1" / "model.json").read_text(encoding="utf-8"))
    sizes = ((4000, 4000), (4000, 1000), (500, 5000))
    longest = max(encode(processor, PROFILE.contract, [Image.new("RGB", size)])["input_ids"].shape[1] for size in sizes)
    assert longest + PROFILE.max_new_tokens <= engine["max_model_len"]


def test_the_prompt_is_the_chat_templates(repository: Path, processor: Any) -> None:
    messages = prompt_messages(PROFILE.contract)
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert (repository / "prompt.txt").read_text(encoding="utf-8") == rendered
    assert rendered.count("<|image_pad|>") == 1
    assert rendered.endswith("<|im_start|>assistant\n")


def test_the_request_asks_what_training_asked(repository: Path, adapter: Path) -> None:
    request = json.loads((repository / "example_request.json").read_text(encoding="utf-8"))
    assert request["text_input"] == read_manifest(adapter).facts["prompt"]
    sampling = json.loads(request["sampling_parameters"])
    assert sampling == {"temperature": 0, "max_tokens": PROFILE.max_new_tokens, "skip_special_tokens": False}
    assert len(request["image"]) == 1
