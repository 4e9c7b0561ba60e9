"""transformers in the gateway's process: a real model, small and random, asked by several at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nutridet_core.data.photos import decode_photo
from nutridet_core.families import QWEN2_5_VL
from nutridet_core.models import base_source, load_model, load_processor
from nutridet_core.predict import predict
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.holder import Holder, Identity, Served
from nutridet_core.serving.local import TransformersEngine
from tests.family_models import profile_of, write_models
from tests.gateway_server import CLIENT, arriving, running, until
from tests.photo_files import encode, picture

SIZES = [(400, 300), (300, 400), (500, 200)]
PHOTOS = [encode(picture(number, size), "JPEG") for number, size in enumerate(SIZES)]


class Counted:
    """A model that remembers how many photos each batch had, and waits or fails where the test says so."""

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.batches = model, model.device, list[int]()
        self.let_go = threading.Event()
        self.let_go.set()
        self.fails_on: set[int] = set()

    def generate(self, **inputs: Any) -> Any:
        count = len(inputs["input_ids"])
        self.batches.append(count)
        assert self.let_go.wait(60)
        if count in self.fails_on:
            raise RuntimeError("out of memory")
        return self.model.generate(**inputs)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a family that writes pixels of the resized photo: the harder one to get right."""
    folders = write_models(tmp_path_factory.mktemp("models"))
    return profile_of(QWEN2_5_VL, folders[QWEN2_5_VL.name])


@pytest.fixture(scope="module")
def parts(profile: Any) -> tuple[Any, Any]:
    source, family = base_source(profile), profile.architecture
    return load_model(source, family, "float32", profile.contract), load_processor(source, family, profile.contract)


@pytest.fixture
def model(parts: tuple[Any, Any]) -> Counted:
    return Counted(parts[0])


@pytest.fixture
def engine(model: Counted, parts: tuple[Any, Any], profile: Any) -> TransformersEngine:
    return TransformersEngine(model, parts[1], profile.contract, batch_size=4, max_new_tokens=8)


@pytest.fixture
def url(engine: TransformersEngine, profile: Any) -> Iterator[str]:
    held = Served(engine, profile.contract, Identity("random", None, ""))
    with running(Holder(held), GatewayOptions()) as address:
        yield address


def detect(url: str, photo: bytes = PHOTOS[0]) -> dict[str, Any]:
    return dict(CLIENT.post(f"{url}/v1/detect", files={"image": photo}).json())


def test_the_gateway_says_what_predict_says(url: str, parts: tuple[Any, Any], profile: Any) -> None:
    for photo in PHOTOS:
        image = decode_photo(photo).image
        (expected,) = predict(*parts, profile.contract, [lambda image=image: image], batch_size=1, max_new_tokens=8)
        answer = detect(url, photo)
        assert answer["text"] == expected.answer.text
        assert answer["score"] == pytest.approx(expected.score, rel=1e-5)
        assert answer["problems"] == [problem.value for problem in expected.answer.problems]


def test_photos_that_wait_are_answered_together(url: str, engine: TransformersEngine, model: Counted) -> None:
    model.let_go.clear()
    with ThreadPoolExecutor(7) as clients:
        first = clients.submit(detect, url)
        until(lambda: model.batches == [1])
        others = [clients.submit(detect, url, PHOTOS[number % 3]) for number in range(6)]
        until(lambda: engine._queue.qsize() == 6)
        model.let_go.set()
        answers = [each.result() for each in [first, *others]]
    assert model.batches == [1, 4, 2]
    assert [answer["size"] for answer in answers[1:]] == [list(SIZES[number % 3]) for number in range(6)]
    assert all(answer["timing_ms"]["wait"] > 0 for answer in answers)


def test_a_batch_that_fails_is_tried_one_by_one(url: str, engine: TransformersEngine, model: Counted) -> None:
    model.fails_on = {2}
    model.let_go.clear()
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(detect, url)]
        until(lambda: model.batches == [1])
        asked += [clients.submit(detect, url, photo) for photo in PHOTOS[1:]]
        until(lambda: engine._queue.qsize() == 2)
        model.let_go.set()
        assert all("text" in each.result() for each in asked)
    assert model.batches == [1, 2, 1, 1]


def test_a_model_that_fails_fails_its_photo_alone(url: str, model: Counted) -> None:
    model.fails_on = {1}
    assert detect(url)["error"]["type"] == "engine_failed"
    model.fails_on = set()
    assert "text" in detect(url)


def test_who_has_stopped_waiting_is_not_computed_for(engine: TransformersEngine, model: Counted) -> None:
    async def run() -> None:
        photo = arriving(PHOTOS[0])
        await photo.pixels()
        model.let_go.clear()
        first = asyncio.create_task(engine.answer(photo))
        while not model.batches:
            await asyncio.sleep(0.005)
        gone = [asyncio.create_task(engine.answer(photo)) for _ in range(2)]
        kept = asyncio.create_task(engine.answer(photo))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        model.let_go.set()
        await asyncio.gather(first, kept)
        await engine.close()

    asyncio.run(run())
    assert model.batches == [1, 1]


def test_a_closed_engine_is_not_ready(engine: TransformersEngine) -> None:
    async def run() -> list[bool]:
        before = await engine.ready()
        await engine.answer(arriving(PHOTOS[0]))
        between = await engine.ready()
        await engine.close()
        return [before, between, await engine.ready()]

    assert asyncio.run(run()) == [True, True, False]
