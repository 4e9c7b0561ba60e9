"""Tokenizer, processor and untrained network of the embedded model, built from nothing.

The tokenizer is a byte-level BPE with Qwen2's pre-tokenizer (digits one by one), special tokens
and chat format, learnt from this project's own prompts, so that a prompt is a few dozen tokens.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nutridet_core.answers import BOX_END, BOX_START, LABEL, NO_TABLE, OBJECT_END, OBJECT_START
from nutridet_core.prompts import QUESTION, SYSTEM, Contract

VOCABULARY = 512
TABLE_NAME = "nutrition facts"
"""What pretraining calls a nutrition table. The dataset calls it something else, so that the base has to guess what
is meant, as a published model does, and tuning has something to teach (docs/decisions/0010)."""

_HIDDEN, _LAYERS, _HEADS = 256, 6, 4
_MROPE_SECTION = (8, 12, 12)  # time, height, width; their sum is half a head (Qwen2-VL: 16, 24, 24 of 128)
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", OBJECT_START, OBJECT_END, BOX_START, BOX_END,
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
"""ChatML as Qwen2-VL uses it, without its default system message: the contract always gives one."""


def build_tokenizer() -> Any:
    """A `Qwen2Tokenizer` with 512 tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    learner = Tokenizer(models.BPE())
    learner.decoder = decoders.ByteLevel()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(), trainer)
    vocabulary = learner.get_vocab()
    merges = [tuple(merge) for merge in _merges(learner)]
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(contract: Contract) -> Any:
    """A `Qwen2VLProcessor` around the tokenizer, with the contract's pixel budget."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    budget = {"shortest_edge": contract.min_pixels, "longest_edge": contract.max_pixels}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=budget),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: Any) -> Any:
    """A `Qwen2VLConfig` of about 11 million parameters for this tokenizer."""
    from transformers import Qwen2VLConfig

    return Qwen2VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": _HIDDEN,
            "intermediate_size": 3 * _HIDDEN,
            "num_hidden_layers": _LAYERS,
            "num_attention_heads": _HEADS,
            "num_key_value_heads": _HEADS,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(_MROPE_SECTION)},
            **ends_of(tokenizer),
        },
        vision_config={"depth": _LAYERS, "embed_dim": _HIDDEN, "hidden_size": _HIDDEN, "num_heads": _HEADS},
        **placeholders_of(tokenizer),
        tie_word_embeddings=False,
        architectures=["Qwen2VLForConditionalGeneration"],
    )


def ends_of(tokenizer: Any) -> dict[str, int | None]:
    """What a language model's configuration says of this tokenizer: ids of the tokens at its ends."""
    token = tokenizer.convert_tokens_to_ids
    return {"bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>")}


def placeholders_of(tokenizer: Any) -> dict[str, int]:
    """What a `Qwen2VLConfig` says of this tokenizer: ids of the tokens that stand for pictures."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def build_generation_config(tokenizer: Any) -> Any:
    """Greedy decoding that stops at the end of the message."""
    from transformers import GenerationConfig

    token = tokenizer.convert_tokens_to_ids
    return GenerationConfig(
        do_sample=False,
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")],
        pad_token_id=token("<|endoftext|>"),
    )


def pretraining_question(name: str) -> str:
    """The contract's question, about another kind of object."""
    return QUESTION.replace(LABEL, name)


def asked_as(label: str) -> str:
    """What pretraining calls the objects of this label."""
    return TABLE_NAME if label == LABEL else label


def _merges(learner: Any) -> list[list[str]]:
    import json

    return list(json.loads(learner.to_str())["model"]["merges"])


@lru_cache(maxsize=1)
def _corpus() -> tuple[str, ...]:
    from nutridet_core.data.generated import LABELS

    names = (*LABELS, TABLE_NAME)
    questions = [pretraining_question(name) for name in names]
    chat = ["user\n", "assistant\n", "system\n", SYSTEM, NO_TABLE, *names, *(f"no {name}" for name in names)]
    coordinates = [f"({x},{y}),({x + 7},{y + 9})" for x in range(0, 990, 45) for y in range(0, 990, 45)]
    return (*(questions + chat) * 3, *coordinates)
