"""Models: batches answer like single photos, adapters are really changed, and nothing foreign is run or loaded."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from nutridet_core.artifacts.layout import checkpoints
from nutridet_core.artifacts.store import MANIFEST
from nutridet_core.data.dataset import open_photos
from nutridet_core.errors import ArtifactError, ContractError
from nutridet_core.experiments import Experiment
from nutridet_core.models import (
    Source,
    attach_adapter,
    base_of,
    base_source,
    count_parameters,
    load_model,
    load_processor,
)
from nutridet_core.predict import Prediction, encode, predict
from nutridet_core.prompts import resized_size
from nutridet_core.release.merge import TemporaryMerge, merge, merge_into
from tests.conftest import EXP1A, PROFILE
from tests.release_samples import flip_bit

FAMILY, CONTRACT = PROFILE.architecture, PROFILE.contract


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(base_source(PROFILE), FAMILY, "float32", CONTRACT)


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    """A copy of the embedded base model."""
    return Path(shutil.copytree(PROFILE.base_model, tmp_path / "base"))


def logits(model: Any, processor: Any) -> torch.Tensor:
    inputs = encode(processor, CONTRACT, [Image.new("RGB", (300, 200), "grey")])
    with torch.inference_mode():
        return torch.Tensor(model(**inputs).logits[:, -1])


# --- batches -----------------------------------------------------------------------------------


def photos_of_many_sizes(dataset: Path) -> list[Image.Image]:
    """Drawn photos cut to shapes that differ in tokens, so that a batch needs padding."""
    drawn = [open_photo() for open_photo in open_photos(dataset, "train")[:4]]
    shapes = ((400, 400), (900, 300), (200, 700), (64, 64))
    return [photo.resize(shape) for photo, shape in zip(drawn, shapes, strict=True)]


def answer(model: Any, processor: Any, photos: list[Image.Image], batch_size: int) -> list[Prediction]:
    openers = [lambda photo=photo: photo for photo in photos]
    return predict(model, processor, CONTRACT, openers, batch_size=batch_size, max_new_tokens=24)  # type: ignore[arg-type]


def test_a_padded_batch_answers_like_single_photos(base: Any, processor: Any, dataset: Path) -> None:
    photos = photos_of_many_sizes(dataset)
    assert len({resized_size(CONTRACT, *photo.size) for photo in photos}) == 4
    padded = encode(processor, CONTRACT, photos)
    assert padded["attention_mask"][:, 0].min() == 0, "the batch must need padding, and on the left"
    assert padded["attention_mask"][:, -1].min() == 1
    together, alone = answer(base, processor, photos, 4), answer(base, processor, photos, 1)
    assert [each.answer for each in together] == [each.answer for each in alone]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], abs=1e-3)


def test_what_was_asked_before_changes_nothing(base: Any, processor: Any, dataset: Path) -> None:
    photos = photos_of_many_sizes(dataset)
    first = answer(base, processor, photos[:1], 1)
    answer(base, processor, photos[1:3], 2)
    assert [each.answer for each in answer(base, processor, photos[:1], 1)] == [each.answer for each in first]


@pytest.mark.parametrize("left_over", [[[977]], [[1], [2], [3]]])
def test_an_offset_left_over_from_another_batch_is_not_used(
    base: Any, processor: Any, dataset: Path, left_over: list[list[int]]
) -> None:
    """Transformers keeps the offset of a batch's positions on the model, and must compute the next batch's anew."""
    photos = photos_of_many_sizes(dataset)[:2]
    expected = answer(base, processor, photos, 2)
    base.model.rope_deltas = torch.tensor(left_over)
    found = answer(base, processor, photos, 2)
    assert [each.answer for each in found] == [each.answer for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-6)


def test_a_confidence_is_a_probability(base: Any, processor: Any, dataset: Path) -> None:
    for each in answer(base, processor, photos_of_many_sizes(dataset)[:2], 2):
        assert 0 < each.score <= 1
        assert each.seconds > 0
        assert "<|im_end|>" not in each.answer.text


# --- adapters ----------------------------------------------------------------------------------


def test_changing_adapters_really_changes_them(trained: Callable[[Experiment], Path], processor: Any) -> None:
    first, second = checkpoints(trained(EXP1A))
    fresh = [logits(attach_adapter(_float32(), folder, CONTRACT), processor) for folder in (first, second)]
    model = _float32()
    for folder, expected in ((first, fresh[0]), (second, fresh[1]), (second, fresh[1]), (first, fresh[0])):
        model = attach_adapter(model, folder, CONTRACT)
        torch.testing.assert_close(logits(model, processor), expected)
        assert len(model.peft_config) == 1, "the adapter of before must be gone"
    assert not torch.allclose(fresh[0], fresh[1], atol=1e-4), "the test needs adapters that differ"


def test_a_merge_for_a_while_answers_like_the_adapter_and_leaves_no_trace(
    trained: Callable[[Experiment], Path], processor: Any
) -> None:
    folders = checkpoints(trained(EXP1A))
    model, merge_for_a_while = _float32(), TemporaryMerge()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for folder in (*folders, folders[0]):
        merge_for_a_while.take_out(model)
        model = attach_adapter(model, folder, CONTRACT)
        beside = logits(model, processor)
        assert merge_for_a_while.put_in(model)
        torch.testing.assert_close(logits(model, processor), beside, atol=1e-3, rtol=1e-3)
        merged = merge_into(attach_adapter(_float32(), folder, CONTRACT))
        torch.testing.assert_close(logits(model, processor), logits(merged, processor), atol=0, rtol=0)
    with model.disable_adapter():  # PEFT subtracts it for this, and leaves it out
        logits(model, processor)
    merge_for_a_while.take_out(model)
    torch.testing.assert_close(logits(model, processor), beside, atol=0, rtol=0)
    after = {name.replace(".base_layer", ""): tensor for name, tensor in base_of(model).state_dict().items()}
    assert [name for name, tensor in before.items() if not torch.equal(after[name], tensor)] == []


def test_without_memory_for_a_second_copy_the_adapter_stays_beside_its_base(
    adapter: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    model = attach_adapter(_float32(), adapter, CONTRACT)
    before = logits(model, processor)
    assert not TemporaryMerge().put_in(model)
    torch.testing.assert_close(logits(model, processor), before, atol=0, rtol=0)


def test_an_adapter_takes_over_before_the_other_goes(trained: Callable[[Experiment], Path]) -> None:
    """Else PEFT chooses the next one by itself, and warns of it in every layer."""
    first, second = checkpoints(trained(EXP1A))
    model = attach_adapter(_float32(), first, CONTRACT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = attach_adapter(model, second, CONTRACT)
    assert [str(each.message) for each in caught if "adapter" in str(each.message).lower()] == []
    assert model.active_adapters == list(model.peft_config)


def test_an_adapter_of_another_contract_leaves_the_model_as_it_was(adapter: Path, processor: Any) -> None:
    model = attach_adapter(_float32(), adapter, CONTRACT)
    before = logits(model, processor)
    with pytest.raises(ContractError, match="checkpoint-"):
        attach_adapter(model, adapter, replace(CONTRACT, question="Where is it?"))
    torch.testing.assert_close(logits(model, processor), before)


def test_a_flipped_bit_in_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    flip_bit(copy / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: file has changed"):
        attach_adapter(_float32(), copy, CONTRACT)


def test_a_merge_into_four_bits_leaves_no_model(adapter: Path, tmp_path: Path) -> None:
    """The whole verb, on a profile whose scoring precision somebody lowered."""
    lowered = replace(PROFILE, scoring_precision="nf4")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"in 4 bits; a merge would round the adapter away"):
        merge(lowered, adapter, tmp_path / "merged", name="planted")
    assert list(tmp_path.iterdir()) == []


# --- what may be loaded ------------------------------------------------------------------------


def test_the_base_is_held_to_its_manifest(base_folder: Path) -> None:
    flip_bit(next(base_folder.glob("*.safetensors")))
    with pytest.raises(ArtifactError, match="file has changed"):
        load_model(Source(str(base_folder)), FAMILY, "float32", CONTRACT)


def test_a_model_of_another_contract_is_refused(merged: Path) -> None:
    with pytest.raises(ContractError, match="contract"):
        load_model(Source(str(merged)), FAMILY, "float32", replace(CONTRACT, max_pixels=400 * 400))


def test_the_base_is_the_same_wherever_it_lies(base_folder: Path) -> None:
    assert replace(PROFILE, base_model=str(base_folder)).base_identity == PROFILE.base_identity
    assert replace(PROFILE, base_model="org/model", revision="abc").base_identity == "org/model@abc"


def test_code_of_a_model_is_never_run(base_folder: Path) -> None:
    ran = base_folder / "ran"
    plant_code(base_folder, ran)
    source = Source(str(base_folder))
    try:
        load_processor(source, FAMILY, CONTRACT)
        load_model(source, FAMILY, "float32", CONTRACT)
    except (ValueError, OSError):
        pass  # refusing is as good as ignoring
    assert not ran.exists()


def plant_code(folder: Path, marker: Path) -> None:
    """Make every configuration in a model folder ask for a class of the folder's own module."""
    (folder / MANIFEST).unlink()
    (folder / "planted.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Planted: ...\n", encoding="utf-8")
    wanted = {
        "config.json": {"AutoConfig": "planted.Planted", "AutoModelForImageTextToText": "planted.Planted"},
        "processor_config.json": {"AutoProcessor": "planted.Planted", "AutoImageProcessor": "planted.Planted"},
        "tokenizer_config.json": {"AutoTokenizer": ["planted.Planted", None]},
    }
    for name, classes in wanted.items():
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**content, "auto_map": classes}), encoding="utf-8")


class Planted:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_pickled_weights_are_never_read(base_folder: Path) -> None:
    (base_folder / MANIFEST).unlink()
    for file in base_folder.glob("*.safetensors*"):
        file.unlink()
    (base_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(base_folder / "ran")))
    with pytest.raises(ArtifactError, match="holds no model"):
        load_model(Source(str(base_folder)), FAMILY, "float32", CONTRACT)
    assert not (base_folder / "ran").exists()


@pytest.mark.parametrize("path", ["someone/some-model", "no/such/folder"])
def test_a_hub_model_without_a_revision_is_refused(path: str) -> None:
    with pytest.raises(ArtifactError, match=rf"{path}: no such folder, and a hub model needs a revision"):
        base_source(replace(PROFILE, base_model=path, revision=None))
    with pytest.raises(ArtifactError, match="revision"):
        load_model(Source(path), FAMILY, "float32", CONTRACT)
    with pytest.raises(ArtifactError, match="revision"):
        load_processor(Source(path), FAMILY, CONTRACT)


def test_four_bit_weights_count_as_what_they_stand_for(base: Any) -> None:
    four_bit = load_model(base_source(PROFILE), FAMILY, "nf4", CONTRACT)
    assert count_parameters(four_bit)["all"] == count_parameters(base)["all"]


def _float32() -> Any:
    return load_model(base_source(PROFILE), FAMILY, "float32", CONTRACT)
