"""Checkpoints and adapters load under the module names of before and since transformers 4.52, or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from nutridet_core.artifacts.layout import ADAPTER_CONFIG as CONFIG
from nutridet_core.artifacts.layout import ADAPTER_WEIGHTS as WEIGHTS
from nutridet_core.artifacts.store import write_json
from nutridet_core.errors import ArtifactError, AuditError, ContractError
from nutridet_core.families import get_family
from nutridet_core.models import Source, attach_adapter, base_source, load_model, load_processor
from nutridet_core.predict import encode
from nutridet_core.profiles import Profile
from nutridet_core.release.adopt import adopt, current_key, merge_foreign
from nutridet_core.training.plan import count_network
from tests.family_models import profile_of, write_models

Rename = Callable[[str], str]


def old(name: str) -> str:
    """As Qwen2-VL and Qwen2.5-VL were first published: `visual.*` and `model.layers.*`."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def new(name: str) -> str:
    return name


NAMES = [("qwen2-vl", old), ("qwen2-vl", new), ("qwen2.5-vl", old), ("qwen2.5-vl", new), ("qwen3-vl", new)]
by_names = pytest.mark.parametrize(("family", "rename"), NAMES, ids=lambda each: getattr(each, "__name__", each))


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profile]:
    folders = write_models(tmp_path_factory.mktemp("families"))
    return {name: profile_of(get_family(name), folder) for name, folder in folders.items()}


def load(profile: Profile, folder: Path | None = None) -> Any:
    source = Source(str(folder)) if folder else base_source(profile)
    return load_model(source, profile.architecture, "float32", profile.contract)


def logits(profile: Profile, model: Any) -> torch.Tensor:
    processor = load_processor(base_source(profile), profile.architecture, profile.contract)
    inputs = encode(processor, profile.contract, [Image.linear_gradient("L").convert("RGB")])
    with torch.inference_mode():
        return torch.Tensor(model(**inputs).logits[:, -1])


def rewrite(profile: Profile, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """The base model again, its tensors (named as the modules are today) passed through `change`."""
    shutil.copytree(profile.base_model, folder)
    tensors = {name: tensor.contiguous() for name, tensor in load(profile).state_dict().items()}
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def renamed(rename: Rename) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


# --- whole checkpoints -------------------------------------------------------------------------


@by_names
def test_a_checkpoint_of_either_names_loads(
    profiles: dict[str, Profile], tmp_path: Path, family: str, rename: Rename
) -> None:
    profile = profiles[family]
    folder = rewrite(profile, tmp_path / "base", renamed(rename))
    names = load_file(folder / "model.safetensors")
    assert any(name.startswith("visual.") for name in names) == (rename is old)
    torch.testing.assert_close(logits(profile, load(profile, folder)), logits(profile, load(profile)), atol=0, rtol=0)


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl"])
def test_a_configuration_of_before_loads(profiles: dict[str, Profile], tmp_path: Path, family: str) -> None:
    """The language model's fields stood beside `vision_config`, and positions were called `rope_scaling`."""
    profile = profiles[family]
    folder = rewrite(profile, tmp_path / "base", renamed(old))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {**text, **config, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    (folder / "config.json").write_text(json.dumps(flat), encoding="utf-8")
    torch.testing.assert_close(logits(profile, load(profile, folder)), logits(profile, load(profile)), atol=0, rtol=0)
    assert count_network(folder, profile, []) == count_network(Path(profile.base_model), profile, [])


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_a_weight_that_is_not_there_is_named(profiles: dict[str, Profile], tmp_path: Path, family: str) -> None:
    """Transformers fills it with random numbers and warns."""
    gone = "model.language_model.layers.1.mlp.up_proj.weight"
    folder = rewrite(
        profiles[family], tmp_path / "base", lambda tensors: {k: v for k, v in tensors.items() if k != gone}
    )
    with pytest.raises(ArtifactError, match=rf"base \[{re.escape(gone)}\]: 1 weights of the network are not in"):
        load(profiles[family], folder)


def test_names_of_another_wrapper_are_refused(profiles: dict[str, Profile], tmp_path: Path) -> None:
    folder = rewrite(profiles["qwen2-vl"], tmp_path / "base", renamed(lambda name: f"vlm.{name}"))
    with pytest.raises(ArtifactError, match="weights of the network are not in the files"):
        load(profiles["qwen2-vl"], folder)


# --- processors --------------------------------------------------------------------------------

PUBLISHED = {
    "qwen2-vl": {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056},
    "qwen2.5-vl": {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056},
    "qwen3-vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast", "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    },
}  # fmt: skip


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_processor_in_the_files_of_its_first_publication_loads(
    profiles: dict[str, Profile], tmp_path: Path, family: str
) -> None:
    """One file for photos, one for the chat template, none for the whole; and the contract's resize still holds."""
    profile = profiles[family]
    folder = tmp_path / "base"
    shutil.copytree(profile.base_model, folder)
    (folder / "processor_config.json").unlink()
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    write_json(folder / "chat_template.json", {"chat_template": template})
    patch = {"patch_size": profile.architecture.cell_px // 2, "temporal_patch_size": 2, "merge_size": 2}
    write_json(folder / "preprocessor_config.json", {**PUBLISHED[family], **patch})
    photos = [Image.linear_gradient("L").convert("RGB")]
    ours, theirs = (
        encode(load_processor(source, profile.architecture, profile.contract), profile.contract, photos)
        for source in (base_source(profile), Source(str(folder)))
    )
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    torch.testing.assert_close(ours["pixel_values"], theirs["pixel_values"], atol=0.02, rtol=0)


# --- adapters trained elsewhere ----------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[..., tuple[Path, torch.Tensor]]:
    """A function that trains nothing: a PEFT adapter with random weights, and the logits it gives its base."""

    def write(profile: Profile, rename: Rename, targets: str | list[str]) -> tuple[Path, torch.Tensor]:
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        model = get_peft_model(load(profile), config).eval()
        folder = tmp_path / "elsewhere"
        model.save_pretrained(folder)
        save_file(renamed(rename)(load_file(folder / WEIGHTS)), folder / WEIGHTS)
        if isinstance(targets, str) and rename is old:
            change_config(folder, target_modules=old(targets.replace("\\", "")).replace(".", r"\."))
        return folder, logits(profile, model)

    return write


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps({**config, **fields}), encoding="utf-8")


BOTH_TOWERS = r"model\.language_model\.layers\.1\.self_attn\.q_proj|model\.visual\.blocks\.0\.attn\.qkv"


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], BOTH_TOWERS], ids=["list", "pattern"])
@by_names
def test_an_adapter_of_either_names_is_adopted(
    profiles: dict[str, Profile], tmp_path: Path, elsewhere: Callable[..., tuple[Path, torch.Tensor]],
    family: str, rename: Rename, targets: str | list[str],
) -> None:  # fmt: skip
    profile = profiles[family]
    folder, expected = elsewhere(profile, rename, targets)
    adopt(profile, folder, tmp_path / "adopted")
    worn = attach_adapter(load(profile), tmp_path / "adopted", profile.contract)
    torch.testing.assert_close(logits(profile, worn), expected, atol=1e-5, rtol=1e-5)
    assert float((expected - logits(profile, load(profile))).abs().max()) > 0.01


def test_an_adopted_adapter_is_merged(
    profiles: dict[str, Profile], tmp_path: Path, elsewhere: Callable[..., tuple[Path, torch.Tensor]]
) -> None:
    profile = profiles["qwen2-vl"]
    folder, expected = elsewhere(profile, old, ["q_proj", "v_proj"])
    merge_foreign(profile, folder, tmp_path / "merged")
    found = logits(profile, load(profile, tmp_path / "merged"))
    base = logits(profile, load(profile))
    assert float((found - expected).abs().max()) < 0.1 * float((base - expected).abs().max())


def test_names_of_today_stay() -> None:
    for name in ("model.language_model.layers.0.mlp.up_proj", "model.visual.blocks.0.attn.qkv", "lm_head"):
        key = f"base_model.model.{name}.lora_A.weight"
        assert current_key(key) == key == current_key(old(key) if name != "lm_head" else key)


def test_an_adapter_for_another_network_is_refused(
    profiles: dict[str, Profile], tmp_path: Path, elsewhere: Callable[..., tuple[Path, torch.Tensor]]
) -> None:
    folder, _ = elsewhere(profiles["qwen3-vl"], new, r"model\.visual\.blocks\.\d+\.mlp\.linear_fc1")
    with pytest.raises(AuditError, match="4 of 4 adapter keys have no module"):
        merge_foreign(profiles["qwen2-vl"], folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_no_lora_is_refused(
    profiles: dict[str, Profile], tmp_path: Path, elsewhere: Callable[..., tuple[Path, torch.Tensor]]
) -> None:
    profile = profiles["qwen2-vl"]
    folder, _ = elsewhere(profile, new, ["q_proj"])
    whole = load_file(folder / WEIGHTS)
    save_file(whole | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, folder / WEIGHTS)
    with pytest.raises(ArtifactError, match=r"lm_head\.weight\]: is no LoRA tensor"):
        adopt(profile, folder, tmp_path / "adopted")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="Only safetensors are read"):
        adopt(profile, folder, tmp_path / "adopted")
    change_config(folder, peft_type="IA3")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json \[peft_type\]: is no LoRA"):
        adopt(profile, folder, tmp_path / "adopted")
    (folder / CONFIG).write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: cannot be read"):
        adopt(profile, folder, tmp_path / "adopted")


def test_an_adopted_adapter_belongs_to_the_contract_it_was_adopted_under(
    profiles: dict[str, Profile], tmp_path: Path, elsewhere: Callable[..., tuple[Path, torch.Tensor]]
) -> None:
    profile, other = profiles["qwen2-vl"], profiles["qwen2.5-vl"]
    folder, _ = elsewhere(profile, new, ["q_proj"])
    adopt(profile, folder, tmp_path / "adopted")
    with pytest.raises(ContractError, match="contract"):
        attach_adapter(load(profile), tmp_path / "adopted", other.contract)
