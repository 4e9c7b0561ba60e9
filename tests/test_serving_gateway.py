"""The gateway: what it answers, what it refuses and how, under a real server."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from nutridet_core.data.photos import OpenedPhoto, Photo, PhotoLimits
from nutridet_core.serving.detector import Limits
from nutridet_core.serving.engine import EngineError, FakeEngine
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.holder import Holder
from nutridet_core.serving.photos import parse_origin
from tests.gateway_server import CLIENT, CONTRACT, HeldEngine, running, running_app, served, until
from tests.photo_files import encode, huge_png, picture

JPEG = encode(picture(1, (640, 480)), "JPEG")
LIMITS = Limits(photo=PhotoLimits(bytes=300_000, pixels=1_000_000, aspect=20), places=4, seconds=20.0)
BOX = "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(273,304),(713,679)<|box_end|>"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with running(Holder(served(engine)), GatewayOptions(limits=LIMITS)) as address:
        yield address


def upload(url: str, content: bytes = JPEG, path: str = "/v1/detect", **options: Any) -> httpx.Response:
    return CLIENT.post(url + path, files={"image": ("photo", content)}, **options)


def as_json(url: str, image: str, path: str = "/v1/detect") -> httpx.Response:
    return CLIENT.post(url + path, json={"image": image})


def assert_refused(response: httpx.Response, status: int, kind: str, field: str) -> None:
    """Every error says what, which field, and what to do."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["type"], error["field"]) == (kind, field)
    assert error["remedy"]
    assert error["message"].endswith(error["remedy"])


def sample(url: str, line: str) -> float:
    found = [each for each in CLIENT.get(f"{url}/metrics").text.splitlines() if each.startswith(f"{line} ")]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


def test_a_photo_gets_boxes_in_pixels_and_in_parts(url: str) -> None:
    answer = upload(url).json()
    assert answer["boxes"] == [
        {"label": "nutrition table", "px": [174.72, 145.92, 456.32, 325.92], "unit": [0.273, 0.304, 0.713, 0.679]}
    ]
    assert (answer["score"], answer["text"], answer["form"]) == (0.9, BOX, "native")
    assert (answer["problems"], answer["failed"], answer["size"]) == ([], False, [640, 480])
    assert answer["model"] == {
        "name": "fake", "version": None, "digest": "0" * 64, "contract": CONTRACT.hash, "engine": "fake",
    }  # fmt: skip
    timing = answer["timing_ms"]
    assert timing["total"] == pytest.approx(timing["decode"] + timing["wait"] + timing["answer"], abs=0.01)


def test_all_ways_of_sending_a_photo_are_the_same(url: str) -> None:
    text = base64.b64encode(JPEG).decode()
    wrapped = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    answers = [upload(url), as_json(url, text), as_json(url, wrapped), as_json(url, f"data:image/jpeg;base64,{text}")]
    found = [{name: value for name, value in each.json().items() if name != "timing_ms"} for each in answers]
    assert all(each == found[0] for each in found)


def test_pixels_are_those_of_the_upright_photo(url: str, engine: FakeEngine) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = upload(url, encode(picture(1, (640, 480)), "JPEG", exif=exif)).json()
    assert answer["size"] == [480, 640]
    assert engine.sizes == [(480, 640)]
    assert answer["boxes"][0]["px"] == [131.04, 194.56, 342.24, 434.56]


@pytest.mark.parametrize(
    ("text", "boxes", "failed", "problems"),
    [
        ("no nutrition table", 0, False, []),
        ("nutrition table(1,2,3", 0, True, ["truncated"]),
        ("I see bread", 0, True, ["no_answer"]),
        ("(900,900),(100,100)", 1, False, ["swapped_corners"]),
    ],
)
def test_what_a_model_says_badly_is_a_result(
    url: str, engine: FakeEngine, text: str, boxes: int, failed: bool, problems: list[str]
) -> None:
    engine.text = text
    response = upload(url)
    assert response.status_code == 200
    answer = response.json()
    assert (len(answer["boxes"]), answer["failed"], answer["problems"]) == (boxes, failed, problems)
    for problem in problems:
        assert sample(url, f'nutridet_answer_problems_total{{problem="{problem}"}}') == 1


BAD_PHOTOS = {
    "no_photo": (b"GIF89a and so on", 422, "unreadable"),
    "gif": (encode(picture(2), "GIF"), 422, "unreadable"),
    "cut_off": (JPEG[: len(JPEG) // 2], 422, "truncated"),
    "bomb": (huge_png(20_000, 20_000), 422, "too_many_pixels"),
    "elongated": (encode(Image.new("RGB", (2100, 100))), 422, "extreme_aspect"),
    "empty": (b"", 422, "unreadable"),
    "heavy": (JPEG + bytes(300_001 - len(JPEG)), 413, "too_many_bytes"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_a_photo_that_cannot_be_used_is_refused(url: str, engine: FakeEngine, name: str) -> None:
    content, status, kind = BAD_PHOTOS[name]
    assert_refused(upload(url, content), status, kind, "image")
    assert engine.sizes == []
    assert sample(url, 'nutridet_photos_total{outcome="refused"}') == 1
    assert upload(url).status_code == 200


def test_a_body_that_is_too_large_is_refused_declared_or_not(url: str) -> None:
    large = bytes(LIMITS.body + 1)
    assert_refused(upload(url, large), 413, "body_too_large", "body")
    chunks = (large[at : at + 65_536] for at in range(0, len(large), 65_536))
    undeclared = CLIENT.post(f"{url}/v1/detect", content=chunks, headers={"content-type": "application/json"})
    assert_refused(undeclared, 413, "body_too_large", "body")


def test_requests_that_say_something_else_are_refused(url: str) -> None:
    detect = f"{url}/v1/detect"
    two = [("image", ("a", JPEG)), ("image", ("b", JPEG))]
    assert_refused(CLIENT.post(detect, files=two), 400, "bad_request", "body")
    assert_refused(CLIENT.post(detect, files={"note": (None, "no file")}), 400, "bad_request", "image")
    assert_refused(CLIENT.post(detect, content=JPEG), 415, "content_type", "content-type")
    assert_refused(CLIENT.post(detect, json={"photo": "x"}), 422, "bad_request", "image")
    assert_refused(CLIENT.post(detect, json={"image": "x", "prompt": "y"}), 422, "bad_request", "prompt")
    assert_refused(as_json(url, "@@@"), 422, "not_base64", "image")
    assert_refused(as_json(url, "data:image/png,raw"), 422, "not_base64", "image")
    assert_refused(CLIENT.get(detect), 405, "http", "path")
    assert_refused(CLIENT.get(f"{url}/nothing"), 404, "http", "path")


FORM, JSON = "multipart/form-data", "application/json"
HOSTILE = [
    (FORM, b""), (FORM, b"--x"), (f"{FORM}; boundary=", b"--x--"), (f"{FORM}; boundary=x", b"--x\r\n\r\n"),
    (f"{FORM}; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="b"\r\n\r\nq\r\n--x--\r\n'),
    (f"{FORM}; boundary={'y' * 5000}", b"--y"), (JSON, b""), (JSON, b"null"), (JSON, b"[" * 100_000),
    (JSON, b"\xff\xfe"),
    (JSON, b'{"image": null}'), (JSON, b'{"image": ""}'), (JSON, b'{"image": "data:"}'),
    (JSON, b'{"image": "\\ud800"}'),
    (JSON, b'{"image": "https://[::1"}'), (JSON, b'{"image": "http://a:99999/"}'), (JSON, b'{"images": ["", null]}'),
    (JSON, b'{"messages": 5}'), (JSON, b'{"messages": [{}]}'), (JSON, b'{"messages": [{"content": [1, null, "x"]}]}'),
    (JSON, b'{"messages": [{"content": [{"type": "image_url", "image_url": {"url": 5}}]}]}'),
    (JSON, b'{"messages": [{"content": [{"type": "image_url", "image_url": "data:;base64,AA=="}]}], "n": null}'),
]  # fmt: skip


def test_no_body_breaks_the_gateway(url: str, engine: FakeEngine) -> None:
    for path in ("/v1/detect", "/v1/detect/batch", "/v1/chat/completions"):
        for kind, body in HOSTILE:
            response = CLIENT.post(url + path, content=body, headers={"content-type": kind})
            assert 400 <= response.status_code < 500, (path, kind, body[:80], response.text)
            error = response.json()["error"]
            assert error["field"]
            assert error["remedy"]
    assert engine.sizes == []


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": "Bearer wrong"}, id="wrong"),
        pytest.param({"Authorization": "Bearer geheim-ü".encode()}, id="longer"),
        pytest.param({"X-API-Key": "Geheim"}, id="other case"),
    ],
)
def test_without_the_key_nothing_is_answered(engine: FakeEngine, headers: dict[str, Any]) -> None:
    with running(Holder(served(engine)), GatewayOptions(key="geheim")) as url:
        for path in ("/v1/detect", "/v1/detect/batch", "/v1/chat/completions"):
            response = upload(url, path=path, headers=headers)
            assert_refused(response, 401, "unauthorised", "authorization")
            assert response.headers["www-authenticate"] == "Bearer"
        assert_refused(CLIENT.get(f"{url}/v1/models", headers=headers), 401, "unauthorised", "authorization")
        assert engine.sizes == []
        for probe in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/"):
            assert CLIENT.get(url + probe).status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer geheim"}, {"X-API-Key": "geheim"}])
def test_with_the_key_it_is(engine: FakeEngine, headers: dict[str, str]) -> None:
    with running(Holder(served(engine)), GatewayOptions(key="geheim")) as url:
        assert upload(url, headers=headers).status_code == 200


def test_a_page_that_calls_this_machine_by_another_name_is_not_answered(engine: FakeEngine) -> None:
    with running(Holder(served(engine)), GatewayOptions(hosts=("127.0.0.1", "localhost"))) as url:
        assert upload(url).status_code == 200
        assert_refused(upload(url, headers={"Host": "evil.example"}), 421, "foreign_host", "host")
        assert engine.sizes == [(640, 480)]


@pytest.fixture
def photo_host() -> Iterator[str]:
    """A host with a photo, a redirect to it, and something far too large."""

    async def photo(request: Request) -> Response:
        return Response(JPEG, media_type="image/jpeg")

    async def redirect(request: Request) -> Response:
        return RedirectResponse("/photo.jpg")

    async def large(request: Request) -> Response:
        return Response(bytes(1_000_000))

    routes = [Route("/photo.jpg", photo), Route("/redirect", redirect), Route("/large", large)]
    with running_app(Starlette(routes=routes)) as url:
        yield url


def test_photos_are_fetched_from_allowed_hosts_only(url: str, engine: FakeEngine, photo_host: str) -> None:
    assert_refused(as_json(url, f"{photo_host}/photo.jpg"), 403, "host_not_allowed", "image")
    options = GatewayOptions(limits=LIMITS, allowed_origins=(parse_origin(photo_host),))
    with running(Holder(served(engine)), options) as open_url:
        assert as_json(open_url, f"{photo_host}/photo.jpg").status_code == 200
        assert_refused(as_json(open_url, f"{photo_host}/redirect"), 422, "not_fetched", "image")
        assert_refused(as_json(open_url, f"{photo_host}/none"), 422, "not_fetched", "image")
        assert_refused(as_json(open_url, f"{photo_host}/large"), 413, "body_too_large", "body")
        port = photo_host.rsplit(":", 1)[1]
        for other in (
            f"http://localhost:{port}/photo.jpg", f"http://127.0.0.1:{int(port) + 1}/photo.jpg",
            f"https://127.0.0.1:{port}/photo.jpg", f"http://user@127.0.0.1:{port}/photo.jpg",
            f"http://127.0.0.1:{port}@evil.example/photo.jpg", "http://[::1/photo.jpg",
        ):  # fmt: skip
            assert_refused(as_json(open_url, other), 403, "host_not_allowed", "image")
        assert_refused(as_json(open_url, "file:///etc/passwd"), 422, "not_base64", "image")


def test_a_full_queue_says_when_to_come_back() -> None:
    engine = HeldEngine()
    limits = replace(LIMITS, places=2)
    with running(Holder(served(engine)), GatewayOptions(limits=limits)) as url, ThreadPoolExecutor(2) as clients:
        waiting = [clients.submit(upload, url) for _ in range(2)]
        until(lambda: len(engine.sizes) == 2)
        assert sample(url, "nutridet_photos_under_way") == 2
        refused = upload(url)
        assert_refused(refused, 429, "busy", "queue")
        assert int(refused.headers["retry-after"]) >= 1
        engine.let_go.set()
        assert [each.result().status_code for each in waiting] == [200, 200]
        assert upload(url).status_code == 200
        assert sample(url, "nutridet_photos_under_way") == 0


def test_requests_that_are_being_read_are_bounded(engine: FakeEngine) -> None:
    """Four for every place: so many bodies may be in memory. What has no body is answered all the same."""
    head = (
        "POST {} HTTP/1.1\r\nHost: x\r\nX-API-Key: geheim\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    paths = ("/v1/detect", "/v1/detect/batch", "/v1/chat/completions", "/v1/detect")
    options = GatewayOptions(limits=replace(LIMITS, places=1), key="geheim")
    shown = {"X-API-Key": "geheim"}
    with running(Holder(served(engine)), options) as url, ExitStack() as slow:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        connections = [slow.enter_context(socket.create_connection(address)) for _ in paths]
        for connection, path in zip(connections, paths, strict=True):
            connection.sendall(head.format(path).encode())
            assert b" 100 " in connection.recv(4096)  # its body is being waited for
        for path in paths:
            refused = upload(url, path=path, headers=shown)
            assert_refused(refused, 429, "busy", "queue")
            assert int(refused.headers["retry-after"]) >= 1
            assert_refused(upload(url, path=path), 401, "unauthorised", "authorization")
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            assert CLIENT.get(url + path, headers=shown).status_code == 200
        connections[0].close()
        until(lambda: upload(url, headers=shown).status_code == 200)


def test_an_engine_that_takes_too_long_gives_its_place_back() -> None:
    engine = HeldEngine()
    limits = replace(LIMITS, places=1, seconds=0.2)
    with running(Holder(served(engine)), GatewayOptions(limits=limits)) as url:
        assert_refused(upload(url), 504, "timeout", "engine")
        engine.let_go.set()
        assert upload(url).status_code == 200
        assert sample(url, 'nutridet_photos_total{outcome="failed"}') == 1


@pytest.mark.parametrize("failure", [EngineError("the engine is gone"), ZeroDivisionError("secret detail")])
def test_an_engine_that_fails_is_told_without_its_details(url: str, engine: FakeEngine, failure: Exception) -> None:
    engine.failure = failure
    response = upload(url)
    assert_refused(response, 502, "engine_failed", "engine")
    assert "secret" not in response.text
    engine.failure = None
    assert upload(url).status_code == 200


def test_a_client_that_stops_sending_is_not_waited_for(engine: FakeEngine) -> None:
    with running(Holder(served(engine)), GatewayOptions(limits=replace(LIMITS, body_seconds=0.2))) as url:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as slow:
            head = (
                "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            slow.sendall(head.encode())
            slow.settimeout(30)
            assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert upload(url).status_code == 200


def test_a_batch_answers_each_photo_by_itself(url: str, engine: FakeEngine) -> None:
    files = [("images", ("a", JPEG)), ("images", ("b", b"no photo")), ("images", ("c", encode(picture(3))))]
    results = CLIENT.post(f"{url}/v1/detect/batch", files=files).json()["results"]
    assert [each["detection"] is not None for each in results] == [True, False, True]
    assert [results[0]["detection"]["size"], results[2]["detection"]["size"]] == [[640, 480], [128, 64]]
    assert (results[1]["error"]["type"], results[1]["error"]["field"]) == ("unreadable", "images[1]")
    text = base64.b64encode(JPEG).decode()
    again = CLIENT.post(f"{url}/v1/detect/batch", json={"images": [text, text]}).json()["results"]
    assert [each["detection"]["boxes"] for each in again] == [results[0]["detection"]["boxes"]] * 2


def test_a_batch_in_json_answers_each_photo_by_itself(photo_host: str) -> None:
    text = base64.b64encode(JPEG).decode()
    fetched, missing, large = (f"{photo_host}/{name}" for name in ("photo.jpg", "none", "large"))
    images = [text, "@@@", fetched, missing, "http://evil.example/", large]
    options = GatewayOptions(limits=replace(LIMITS, places=6), allowed_origins=(parse_origin(photo_host),))
    with running(Holder(served(FakeEngine())), options) as url:
        results = CLIENT.post(f"{url}/v1/detect/batch", json={"images": images}).json()["results"]
        refused = [(each["error"]["type"], each["error"]["field"]) if each["error"] else None for each in results]
        assert refused == [
            None, ("not_base64", "images[1]"), None, ("not_fetched", "images[3]"), ("host_not_allowed", "images[4]"),
            ("body_too_large", "body"),
        ]  # fmt: skip
        assert [each["detection"] is not None for each in results] == [each is None for each in refused]
        assert sample(url, 'nutridet_photos_total{outcome="refused"}') == 4
        assert sample(url, "nutridet_photos_under_way") == 0


def test_a_batch_has_its_limits(url: str) -> None:
    batch = f"{url}/v1/detect/batch"
    small = encode(picture(3))
    assert_refused(CLIENT.post(batch, json={"images": []}), 422, "bad_request", "images")
    for count in (5, 33, 40):
        for refused in (
            CLIENT.post(batch, json={"images": [base64.b64encode(small).decode()] * count}),
            CLIENT.post(batch, files=[("images", ("photo", small))] * count),
        ):
            assert_refused(refused, 413, "batch_too_large", "images")
            assert "more than 4 photos" in refused.text


def test_a_batch_takes_all_its_places_or_none() -> None:
    engine = HeldEngine()
    text = base64.b64encode(JPEG).decode()
    with running(Holder(served(engine)), GatewayOptions(limits=LIMITS)) as url, ThreadPoolExecutor(1) as clients:
        waiting = clients.submit(upload, url)
        until(lambda: len(engine.sizes) == 1)
        refused = CLIENT.post(f"{url}/v1/detect/batch", json={"images": [text] * 4})
        assert_refused(refused, 429, "busy", "queue")
        engine.let_go.set()
        assert waiting.result().status_code == 200
        assert len(engine.sizes) == 1


def chat(content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "kulsoom-abdullah/qwen2-7b-nutrition-labels-detection", "max_tokens": 200, "temperature": 0.01,
            "messages": [{"role": "user", "content": content}], **fields}  # fmt: skip


def photo_part(url: str = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


QUESTION = {"type": "text", "text": "Detect the nutrition table. Provide bounding box in [x_min, ...] format."}


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (BOX, "nutrition table(273,304,713,679)"),
        (f"{BOX}(1,2),(3,4)", "nutrition table(273,304,713,679), nutrition table(1,2,3,4)"),
        ("no nutrition table", "no nutrition table"),
        ("I see bread", "I see bread"),
    ],
)
def test_the_seeds_client_gets_what_it_documents(url: str, engine: FakeEngine, text: str, content: str) -> None:
    engine.text = text
    answer = CLIENT.post(f"{url}/v1/chat/completions", json=chat([photo_part(), QUESTION])).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": content}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["object"] == "chat.completion"
    assert answer["nutridet"]["text"] == text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (chat([QUESTION]), "messages"),
        (chat("only text"), "messages"),
        (chat([photo_part(), photo_part()]), "messages"),
        (chat([photo_part()], stream=True), "stream"),
        (chat([photo_part()], n=2), "n"),
    ],
)
def test_chats_about_something_else_are_refused(url: str, body: dict[str, Any], field: str) -> None:
    assert_refused(CLIENT.post(f"{url}/v1/chat/completions", json=body), 400, "bad_request", field)


def test_a_chat_cannot_make_the_server_fetch(url: str, photo_host: str) -> None:
    body = chat([photo_part(f"{photo_host}/photo.jpg")])
    refused = CLIENT.post(f"{url}/v1/chat/completions", json=body)
    assert_refused(refused, 403, "host_not_allowed", "messages.content.image_url")


def test_probes(url: str, engine: FakeEngine) -> None:
    assert CLIENT.get(f"{url}/healthz").text == "ok"
    assert CLIENT.get(f"{url}/readyz").json()["engine"] == "fake"
    engine.closed = True
    assert CLIENT.get(f"{url}/healthz").text == "ok"
    assert_refused(CLIENT.get(f"{url}/readyz"), 503, "not_ready", "engine")


def test_models_beside_the_served_one_are_chosen_by_name(engine: FakeEngine) -> None:
    base = FakeEngine("no nutrition table")
    with running(Holder(served(engine)), GatewayOptions(limits=LIMITS), beside={"base": Holder(served(base))}) as url:
        assert [each["id"] for each in CLIENT.get(f"{url}/v1/models").json()["data"]] == ["", "base"]
        found = [
            len(upload(url, path=f"/v1/detect{query}").json()["boxes"]) for query in ("", "?model=", "?model=base")
        ]
        assert found == [1, 1, 0]
        assert (len(engine.sizes), len(base.sizes)) == (2, 1)
        refused = upload(url, path="/v1/detect?model=fp8")
        assert_refused(refused, 404, "no_model", "model")
        assert refused.json()["error"]["remedy"] == "Known: base."
        batch = CLIENT.post(f"{url}/v1/detect/batch?model=base", files={"images": JPEG}).json()["results"]
        assert [each["detection"]["form"] for each in batch] == ["negative"]
    assert (engine.closed, base.closed) == (True, True)


def test_metrics_count_requests_and_photos(url: str) -> None:
    for _ in range(3):
        upload(url)
    assert sample(url, 'nutridet_requests_total{route="/v1/detect",status="200"}') == 3
    assert sample(url, 'nutridet_photos_total{outcome="table"}') == 3
    assert sample(url, 'nutridet_stage_seconds_count{stage="total"}') == 3
    assert sample(url, 'nutridet_model{name="fake",version=""}') == 1


def test_the_api_documents_itself(url: str) -> None:
    document = CLIENT.get(f"{url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/healthz", "/readyz", "/metrics", "/", "/v1/models", "/v1/detect", "/v1/detect/batch", "/v1/chat/completions",
    }  # fmt: skip
    detect = document["paths"]["/v1/detect"]["post"]
    assert set(detect["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"200", "4XX", "5XX"} <= set(detect["responses"])
    assert "px" in document["components"]["schemas"]["FoundBox"]["properties"]


def test_every_request_of_a_crowd_is_answered_or_refused() -> None:
    """200 requests of 16 clients through 6 places: none lost, and the books agree."""
    engine = FakeEngine(seconds=0.005)
    with running(Holder(served(engine)), GatewayOptions(limits=replace(LIMITS, places=6))) as url:
        small = encode(picture(4))
        with ThreadPoolExecutor(16) as clients:
            asked = [
                clients.submit(lambda: CLIENT.post(f"{url}/v1/detect", files={"image": small})) for _ in range(200)
            ]
            statuses = [each.result().status_code for each in asked]
        assert set(statuses) <= {200, 429}
        answered = statuses.count(200)
        assert answered == len(engine.sizes) == sample(url, 'nutridet_photos_total{outcome="table"}')
        assert sample(url, "nutridet_photos_under_way") == 0


def test_few_photos_are_decoded_at_once_and_the_first_reach_the_engine_early(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def slowly(opened: OpenedPhoto) -> Photo:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return decode(opened)

    decode = OpenedPhoto.decode
    monkeypatch.setattr(OpenedPhoto, "decode", slowly)
    options = GatewayOptions(limits=replace(LIMITS, places=16))
    with running(Holder(served(FakeEngine())), options) as url, ThreadPoolExecutor(16) as clients:
        waits = [reply.json()["timing_ms"]["wait"] for reply in clients.map(lambda _: upload(url), range(16))]
    assert most <= 4
    assert min(waits) < max(waits) / 4  # the first did not wait for the last
