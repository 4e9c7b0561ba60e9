"""The serving benchmark's own parts: a widened model that answers alike, requests, and numbers from raw times."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.serving import overhead
from benchmarks.serving.__main__ import BEHIND_THE_GATEWAY, WAVES
from benchmarks.serving.load import WARM_UP, Address, ask_all, chat_body, clocks, passed
from benchmarks.serving.measure import STEPS
from benchmarks.serving.numbers import agreement, rate_of, ratio_of_medians
from benchmarks.serving.offline import count_passes, passes, template_of
from benchmarks.serving.photos import SIDE, DrawnPhoto, enlarge
from benchmarks.serving.questions import GRAMMAR, SKELETON, Questions
from benchmarks.serving.report import (
    Rows,
    breakdown,
    gateway,
    headline,
    of_answers,
    result_of,
    single_stream,
    together_of,
)
from benchmarks.serving.servers import SERVERS, WIDE
from benchmarks.serving.wide import QWEN2_VL_7B, Shape, _shares, widen
from nutridet_core.boxes import Box
from nutridet_core.models import Source, load_model, load_processor
from nutridet_core.predict import encode
from nutridet_core.profiles import TINY, TINY_WEIGHTS
from nutridet_core.prompts import resized_size
from nutridet_core.tiny.architecture import build_tokenizer
from tests.gateway_server import running_app
from tests.openai_server import TEXT, Server, completion
from tests.photo_files import encode as encoded
from tests.photo_files import picture

SMALL = Shape(hidden=512, intermediate=1600, layers=7, heads=4, vocabulary=520, vision_hidden=512, vision_layers=7)


def one_file(folder: Path, target: Path) -> Path:
    """The embedded base as `merge` writes it: in one file, under its original names."""
    model = load_model(Source(str(folder)), TINY.architecture, "float32", TINY.contract).to(torch.bfloat16)
    model.save_pretrained(target)
    load_processor(Source(str(folder)), TINY.architecture, TINY.contract).save_pretrained(target)
    return target


def logits(folder: Path, photo: Image.Image) -> torch.Tensor:
    source = Source(str(folder))
    model = load_model(source, TINY.architecture, "float32", TINY.contract)
    inputs = encode(load_processor(source, TINY.architecture, TINY.contract), TINY.contract, [photo])
    with torch.inference_mode():
        return model(**inputs).logits[0, -8:]


def test_a_widened_model_computes_the_same(tmp_path: Path) -> None:
    """To bf16's rounding of one scaled matrix, in a shape with more of everything."""
    small = one_file(TINY_WEIGHTS, tmp_path / "small")
    widen(small, tmp_path / "wide", SMALL)
    photo = picture(3, (320, 240))
    before, after = logits(small, photo), logits(tmp_path / "wide", photo)
    assert after.shape == (8, SMALL.vocabulary)
    assert torch.equal(before.argmax(-1), after.argmax(-1))
    assert (before - after[:, : before.shape[1]]).norm() < 0.01 * before.norm()
    assert torch.allclose(after[:, 511:], after[:, 511:512].expand(-1, SMALL.vocabulary - 511))


def test_the_wide_shape_is_qwen2_vl_7bs() -> None:
    """By its published configuration; the vision tower has other heads of the same total width."""
    assert (QWEN2_VL_7B.hidden, QWEN2_VL_7B.intermediate, QWEN2_VL_7B.layers) == (3584, 18944, 28)
    assert (QWEN2_VL_7B.heads, QWEN2_VL_7B.vocabulary) == (28, 152064)
    assert (QWEN2_VL_7B.vision_hidden, QWEN2_VL_7B.vision_layers) == (1280, 32)
    assert resized_size(WIDE.contract, SIDE, SIDE) == (672, 672)
    assert (672 // WIDE.architecture.cell_px) ** 2 == 576


@pytest.mark.parametrize("copies", [1, 2, 3, 5, 14, 20, 24])
def test_shares_add_up_to_one_and_are_powers_of_two(copies: int) -> None:
    shares = _shares(copies)
    assert (len(shares), sum(shares)) == (copies, 1.0)
    assert {torch.tensor(share).to(torch.bfloat16).item() for share in shares} == set(shares)


def questions() -> Questions:
    drawn = [DrawnPhoto(encoded(picture(seed, (90, 60)), "JPEG"), (Box(0.1, 0.1, 0.5, 0.5),)) for seed in range(2)]
    return Questions(WIDE.contract, drawn, enlarge(drawn, 3))


def test_large_photos_are_distinct_and_of_one_size() -> None:
    large = questions().large
    assert len(set(large)) == 3
    assert {Image.open(io.BytesIO(photo)).size for photo in large} == {(SIDE, SIDE)}


def test_a_resized_photo_has_the_contracts_size() -> None:
    (body,) = questions().resized(1, "bmp")
    url = json.loads(body)["messages"][1]["content"][0]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/bmp;base64,"))))
    assert (image.format, image.size) == ("BMP", (672, 672))


def test_a_begun_answer_is_continued() -> None:
    request = json.loads(questions().begun(questions().natural(1))[0])
    assert [message["role"] for message in request["messages"]] == ["system", "user", "assistant"]
    assert request["messages"][2]["content"] == SKELETON
    assert (request["continue_final_message"], request["add_generation_prompt"]) == (True, False)


def test_the_grammar_admits_one_box() -> None:
    assert re.fullmatch(GRAMMAR, TEXT)
    assert not re.fullmatch(GRAMMAR, "no nutrition table")


def test_answers_come_in_order_with_their_times() -> None:
    reply = {**completion(TEXT), "usage": {"completion_tokens": 24, "prompt_tokens": 606}}
    server = Server(reply)
    with running_app(server.app) as url:
        bodies = [chat_body(WIDE.contract, b"photo", max_tokens=count) for count in range(5)]
        answered, wall = asyncio.run(ask_all(Address(url, "key"), "/v1/chat/completions", bodies, together=1))
    assert [request["max_tokens"] for request in server.requests] == list(range(5))
    assert server.headers[0]["authorization"] == "Bearer key"
    assert all(0 < each.seconds <= wall for each in answered)
    assert (answered[0].text, answered[0].tokens) == (TEXT, 24)


def test_a_refused_request_ends_the_row() -> None:
    with running_app(Server({"error": "full"}, 500).app) as url, pytest.raises(RuntimeError, match="status 500"):
        asyncio.run(ask_all(Address(url), "/v1/chat/completions", [b"{}"], together=1))


def test_clocks_are_summed_over_engines() -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    text = 'vllm:a_seconds_sum{engine="0"} 1.5\nvllm:a_seconds_sum{engine="1"} 2e0\nvllm:b_total{x="y"} 3.0\nother 4\n'
    app = Starlette(routes=[Route("/metrics", lambda request: PlainTextResponse(text))])
    with running_app(app) as url:
        found = clocks(Address(url))
    assert found == {"a_seconds_sum": 3.5, "b_total": 3.0}
    assert passed({"a_seconds_sum": 1.0}, found | {"b_total": 3.0}) == {"a_seconds_sum": 2.5, "b_total": 3.0}


def test_a_ratio_has_an_interval() -> None:
    ratio = ratio_of_medians([0.3, 0.31, 0.29, 0.3], [0.15, 0.16, 0.15, 0.14])
    assert ratio["low"] <= ratio["value"] == 2.0 <= ratio["high"]


def test_agreement_counts_texts_boxes_and_inventions() -> None:
    other = TEXT.replace("273", "274")
    found = agreement(TINY.contract, [TEXT, TEXT, "no nutrition table"], [TEXT, other, TEXT])
    assert (found.photos, found.boxes, found.invented) == (3, 2, 1)
    assert found.same_texts["value"] == found.same_boxes["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert found.iou["value"] == pytest.approx((1 + 439 / 440) / 2, abs=1e-4)


def row(server: str, name: str, seconds: float, **more: Any) -> dict[str, Any]:
    """A raw row of four requests."""
    clock = {
        "e2e_request_latency_seconds_sum": 4 * 0.29, "request_queue_time_seconds_sum": 4 * 0.001,
        "request_prefill_time_seconds_sum": 4 * 0.06, "request_decode_time_seconds_sum": 4 * 0.2,
    }  # fmt: skip
    return {
        "server": server, "row": name, "together": 1, "wall": 4 * seconds, "seconds": [seconds] * 4, "tokens": [24] * 4,
        "prompt_tokens": 606, "clocks": clock, "texts": [], **more,
    }  # fmt: skip


RAW = [
    row("bf16", "32 tokens", 0.3),
    row("bf16", "24 tokens", 0.24),
    row("bf16", "one token", 0.09),
    row("bf16", "one token, no photo", 0.05, clocks={"request_prefill_time_seconds_sum": 4 * 0.02}),
    row("bf16", "own answers", 0.24),
    row("fp8-drafts", "own answers", 0.12, clocks={"spec_decode_num_drafts_total": 52.0,
        "spec_decode_num_accepted_tokens_total": 44.0}),
    {"server": "fp8-drafts", "row": "gateway", "together": 1, "walls": [1.0, 1.1], "direct": [0.1] * 4,
     "through": [0.113] * 4, "clocks_ms": [{"decode": 10.0}] * 4, "same_texts": 4, "with_score": 4},
]  # fmt: skip


def test_a_breakdown_adds_up() -> None:
    parts = breakdown(Rows(RAW))
    assert parts["sum"] == pytest.approx(parts["client's mean"]) == 300
    assert (parts["vision tower"], parts["reading the prompt"], parts["31 decode steps"]) == (40, 20, 200)


def test_speed_is_compared_with_stock_on_the_same_photos() -> None:
    singles = single_stream(Rows(RAW))
    best = next(each for each in singles if each["server"] == "fp8-drafts")
    assert (best["speedup"]["value"], best["compared_with"], best["steps"]) == (2.0, "own answers", 13)
    assert headline(singles, [], Rows(RAW))["best_server"] == "fp8-drafts"


def test_the_gateways_share_leaves_decoding_out() -> None:
    (found,) = gateway(Rows(RAW))
    assert found["overhead_ms"]["value"] == pytest.approx(3)
    assert found["lost"]["value"] == pytest.approx(1 - 1 / 1.1)


def crowd(server: str, rate: float) -> dict[str, Any]:
    return row(server, "own answers", 1.0, together=128, wall=4 / rate)


def test_throughput_shown_is_that_of_the_server_behind_the_gateway() -> None:
    """Not the fastest of several, which would flatter it; it is compared with stock."""
    rows = [*RAW, crowd("bf16", 30.0), crowd("fp8-drafts", 45.0), crowd("fp8-four", 60.0)]
    found = headline([], together_of(Rows(rows)), Rows(rows))
    assert (found["photos_per_s_at_128_server"], found["photos_per_s_at_128"]["value"]) == ("fp8-drafts", 45)
    assert found["speedup_at_128"]["value"] == 1.5
    alone = [each for each in rows if each["row"] != "gateway"]
    assert headline([], together_of(Rows(alone)), Rows(alone))["photos_per_s_at_128_server"] == "fp8-four"


def test_a_server_that_fails_at_its_last_row_keeps_the_others() -> None:
    start = {"row": "start", "seconds": 1.0, "weights_gib": 8.9}
    rows = [
        {"server": "fp8-four", **start}, row("fp8-four", "own answers", 0.2), {"server": "fp8-four", "row": "failed"},
        {"server": "fp8", **start}, {"server": "fp8", "row": "failed"},
    ]  # fmt: skip
    servers = {each["server"]: each["state"] for each in result_of(Rows(rows), {}, {}, {})["servers"]}
    assert (servers["fp8-four"], servers["fp8"], servers["bf16"]) == ("measured", "did not run", "not measured")


def test_what_the_gateway_adds_is_measured_without_a_gpu() -> None:
    photos = [encoded(picture(seed, (90, 60)), "JPEG") for seed in range(12)]
    found = overhead.measure(photos)
    assert found["n"] == len(photos) - WARM_UP
    assert min(found["direct_ms"]["low"], found["through_ms"]["low"]) > 140  # the stand-in takes that long
    assert found["added_ms"]["low"] <= found["added_ms"]["value"] <= found["added_ms"]["high"]


def test_a_rate_has_an_interval() -> None:
    rate = rate_of([0.5, 1.5] * 50, 25.0)
    assert rate["value"] == 4
    assert 3 < rate["low"] < 4 < rate["high"] < 5


def test_passes_of_an_answer_follow_from_it() -> None:
    """The prompt's own, one for each digit, and one that checks the end."""
    tokenizer = build_tokenizer()
    tokens = tokenizer.encode(f"{TEXT}<|im_end|>")
    assert count_passes(template_of(tokenizer), tokens, guess=False) == 14
    assert count_passes(template_of(tokenizer), tokenizer.encode("no nutrition table<|im_end|>"), guess=True) == 4
    found = passes([TEXT, TEXT])
    assert found["tokens"]["value"] == 24
    assert found["passes_with_guesses"]["value"] <= found["passes_without_guesses"]["value"] == 14


def test_what_drafts_and_fp8_change_is_told() -> None:
    alike = [
        {"server": "cpu-drafts", "compared_with": "cpu", "same_texts": {"value": 1.0}, "iou": {"value": 1.0}},
        {"server": "cpu-fp8", "compared_with": "cpu", "same_texts": {"value": 0.5}, "iou": {"value": 0.9}},
        {"server": "cpu-fp8", "compared_with": "transformers", "same_texts": {"value": 0.1}, "iou": {"value": 0.1}},
    ]
    assert of_answers({"passes": {"tokens": {"value": 24.0}}}, alike) == {
        "answer_tokens": {"value": 24.0}, "same_texts_cpu-drafts": {"value": 1.0},
        "same_texts_cpu-fp8": {"value": 0.5}, "box_iou_cpu-fp8": {"value": 0.9},
    }  # fmt: skip


def test_waves_name_servers_that_there_are() -> None:
    known = {server.name for server in SERVERS}
    assert {name for wave in WAVES for name in wave.split(",")} <= known
    assert STEPS.keys() <= known and BEHIND_THE_GATEWAY in known


def test_servers_have_names_of_their_own() -> None:
    assert len({server.name for server in SERVERS}) == len(SERVERS)
