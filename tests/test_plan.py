"""The dry run: what it counts is what is written, what it estimates is near to what was measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from nutridet_core import predict
from nutridet_core.experiments import EXPERIMENTS
from nutridet_core.models import MEMORY_SHARE
from nutridet_core.profiles import get_profile
from nutridet_core.settings import Settings
from nutridet_core.training import plan
from nutridet_core.training.plan import (
    Gpu,
    Network,
    count_network,
    disk_bytes,
    make_plan,
    memory_bytes,
    memory_notices,
    verdict,
)
from tests.hub_server import serving

SEVEN = get_profile("qwen2-vl-7b")
EXP1A = EXPERIMENTS[0]


def write_config(folder: Path) -> Path:
    """`config.json` of Qwen2-VL-7B-Instruct."""
    text = {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16}
    Qwen2VLConfig(text_config=text, vision_config=vision).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("seven"))


@pytest.fixture(scope="module")
def network(config: Path) -> Network:
    return count_network(config, SEVEN, EXPERIMENTS)


def test_the_network_is_counted_without_its_weights(network: Network) -> None:
    """The published size; r = 64 on seven layers of 28 blocks."""
    assert network.parameters == 8_291_375_616
    assert network.quantised == 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    per_block = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    assert network.adapters["exp1a"] == network.adapters["exp1b"] == 64 * 28 * per_block
    assert network.adapters["exp2"] > network.adapters["exp1a"]


@pytest.mark.parametrize(
    ("changes", "measured_gib"),
    [
        ({}, 10.4),
        ({"training_precision": "bf16"}, 19.3),
        ({"training_precision": "bf16", "gradient_checkpointing": False}, 49.2),
        ({"training_precision": "bf16", "gradient_checkpointing": False, "train_batch_size": 4}, 32.9),
        ({"training_precision": "bf16", "gradient_checkpointing": False, "train_batch_size": 4,
          "compile_layers": False}, 53),
    ],
    ids=["nf4", "bf16", "bf16 without checkpointing", "batch of 4", "batch of 4, not compiled"],
)  # fmt: skip
def test_the_estimate_is_near_what_an_h100_measured(
    network: Network, changes: dict[str, Any], measured_gib: float
) -> None:
    """Qwen2-VL-7B with random weights, r = 64 on the language model, 576 visual tokens."""
    profile = replace(SEVEN, max_pixels=576 * 28 * 28, **changes)
    assert memory_bytes(profile, network)["training exp1a"] / 2**30 == pytest.approx(measured_gib, rel=0.1)


def test_a_trained_vision_tower_takes_more(network: Network) -> None:
    """12.2 GiB were measured with LoRA in both towers, 10.4 with it in the language model."""
    profile = replace(SEVEN, max_pixels=600 * 28 * 28)
    needed = memory_bytes(profile, network)
    assert needed["training exp1a"] == needed["training exp1b"]
    assert needed["training exp2"] / 2**30 == pytest.approx(12.2, rel=0.1)


def test_the_profiles_fit_the_gpus_that_they_are_for(network: Network) -> None:
    quantised, whole = (
        memory_bytes(get_profile(name), network)["training exp1a"] / 2**30
        for name in ("qwen2-vl-7b", "qwen2-vl-7b-bf16")
    )
    assert quantised < MEMORY_SHARE * 16, "for a card of 24 GB, with room for a few layers' activations"
    assert MEMORY_SHARE * 22 < whole < MEMORY_SHARE * 40, "for one of 48 GB or more"


@pytest.mark.parametrize(("gib", "photos"), [(24, 16), (80, 64), (141, 128), (400, 128)])
def test_a_larger_gpu_answers_more_photos_at_once(
    config: Path, monkeypatch: pytest.MonkeyPatch, gib: int, photos: int
) -> None:
    """What fits is at least the profile's number, and beside the weights there is room for those of a merge."""
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(config)).to(torch.bfloat16)
    monkeypatch.setattr(predict, "gpu_bytes", lambda: MEMORY_SHARE * gib * 2**30)
    assert predict.photos_at_once(model, SEVEN) == photos


def test_a_processor_answers_the_profiles_number_at_once() -> None:
    model = torch.nn.Linear(1, 1)
    model.device = torch.device("cpu")
    assert predict.photos_at_once(model, SEVEN) == SEVEN.score_batch_size


def test_disk_is_counted_for_every_checkpoint_and_both_weights(network: Network) -> None:
    """What is written by a tiny model is compared in `test_families`."""
    sizes = disk_bytes(SEVEN, network, EXPERIMENTS)
    assert [name for name in sizes if "checkpoints" in name] == [f"7 checkpoints of {e.name}" for e in EXPERIMENTS]
    assert sizes["7 checkpoints of exp1a"] == 7 * 3 * 2 * network.adapters["exp1a"]
    assert sizes["merged model"] == 16_582_751_232
    cut = disk_bytes(replace(SEVEN, max_epochs=2), network, EXPERIMENTS)
    assert cut["2 checkpoints of exp1a"] == 2 * sizes["7 checkpoints of exp1a"] / 7


def test_memory_that_is_scarce_is_said() -> None:
    assert verdict(79, None) == verdict(79, Gpu("some", 100)) == ""
    assert verdict(81, Gpu("some", 100)) == ": 81% of this GPU's memory, above 80%"
    assert verdict(120, Gpu("some", 100)) == ": 120% of this GPU's memory, DOES NOT FIT"


def test_a_run_says_in_advance_what_is_scarce(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = replace(SEVEN, base_model=str(config), revision=None)
    monkeypatch.setattr(plan, "find_gpu", lambda: None)
    assert memory_notices(profile, [EXP1A]) == []
    monkeypatch.setattr(plan, "find_gpu", lambda: Gpu("card", 12 * 2**30))
    (training,) = (line for line in memory_notices(profile, [EXP1A]) if "training" in line)
    assert re.fullmatch(r"training exp1a: about 1\d\.\d GiB: \d+% of this GPU's memory, above 80%", training)
    monkeypatch.setattr(plan, "find_gpu", lambda: Gpu("card", 80 * 2**30))
    assert memory_notices(profile, [EXP1A]) == []


def test_the_command_says_it_all_and_fetches_only_the_configuration(tmp_path: Path) -> None:
    """A process of its own: the hub's client takes its variables from the environment when it is imported."""
    repository = write_config(tmp_path / "repository")
    for number in (1, 2):
        (repository / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes(3_000_000 * number))
    (repository / "pytorch_model.bin").write_bytes(b"pickle")
    with serving() as hub:
        hub.commits[SEVEN.base_model, str(SEVEN.revision)] = repository
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NUTRIDET_PROFILE": SEVEN.name,
            "NUTRIDET_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-m", "nutridet_core.cli", "plan", "exp1a"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"profile qwen2-vl-7b: {SEVEN.base_model}@{SEVEN.revision}"
    assert lines[1].startswith("download: 9.0 MB in 2 of 3 files, ")
    assert lines[2:4] == [
        "  model-00001-of-00002.safetensors  3.0 MB", "  model-00002-of-00002.safetensors  6.0 MB",
    ]  # fmt: skip
    assert "  merged model  16.6 GB" in lines
    assert any(line.startswith("  training exp1a  1") and "GiB" in line for line in lines)
    assert lines[-1] == "photos: the source 'hub' names no commit yet; set NUTRIDET_SOURCE=hub@COMMIT"
    assert hub.fetched() == ["config.json"]


def test_the_embedded_model_needs_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    made = make_plan(Settings(), [EXP1A])
    assert made.download == 0
    assert "download: nothing" in made.text
    assert made.memory["training exp1a"] < 2**30
