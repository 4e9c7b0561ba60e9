"""The pretraining loop's short cuts compute what Qwen2-VL's own code computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed, VisionAttention

from nutridet_core.prompts import Contract
from nutridet_core.tiny import architecture
from nutridet_core.tiny.pretrain import (
    Encoder,
    Recipe,
    batched_vision_attention,
    draw_batch,
    linear_patch_embedding,
    patchify,
)


@pytest.fixture(scope="module")
def processor():
    return architecture.build_processor()


@pytest.fixture(scope="module")
def contract():
    return Contract("qwen2-vl", architecture.MIN_PIXELS, architecture.MAX_PIXELS)


def test_patches_equal_those_of_the_processor(processor):
    page = np.random.default_rng(0).integers(0, 255, (224, 280, 3), dtype=np.uint8)
    expected = processor.image_processor([Image.fromarray(page)], return_tensors="pt")["pixel_values"]
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    found = patchify(torch.from_numpy(page)[None], mean, std)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_inputs_give_the_logits_of_the_original_model(processor, contract, monkeypatch):
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(architecture.build_config(processor.tokenizer)).eval()
    batch = draw_batch(Recipe(batch_size=4, workers=0), step=3)
    inputs = Encoder(processor, contract, torch.device("cpu"))(batch)
    labels = inputs.pop("labels")
    types = (inputs["input_ids"] == model.config.image_token_id).long()
    with torch.no_grad():
        expected = model(**{k: v for k, v in inputs.items() if k != "position_ids"}, mm_token_type_ids=types).logits
        monkeypatch.setattr(VisionAttention, "forward", batched_vision_attention)
        monkeypatch.setattr(PatchEmbed, "forward", linear_patch_embedding)
        found = model(**inputs).logits
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)
    text = processor.tokenizer.decode(labels[0][labels[0] != -100])
    assert text == batch.answers[0] + "<|im_end|>"
