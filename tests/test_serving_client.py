"""The client, in Python and as a command, and the page: against a real gateway."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner, Result

from nutridet_core import cli
from nutridet_core.errors import DataError, SettingsError
from nutridet_core.serving.client import Client, ServiceError
from nutridet_core.serving.detector import Limits
from nutridet_core.serving.engine import FakeEngine
from nutridet_core.serving.gateway import _POLICY, PLAYGROUND, GatewayOptions, create_app
from nutridet_core.serving.holder import Holder
from nutridet_core.serving.refusals import RefusedError
from nutridet_core.serving.schemas import Detection
from tests.gateway_server import CONTRACT, HeldEngine, running, running_app, served
from tests.photo_files import encode, picture

JPEG = encode(picture(1, (640, 480)), "JPEG")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with running(Holder(served(engine, "m", "7"))) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "pack.jpg"
    path.write_bytes(JPEG)
    return path


def nutridet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["client", *(str(argument) for argument in arguments)])


def test_a_file_and_its_bytes_are_answered(url: str, photo: Path) -> None:
    with Client(f"{url}/") as client:
        answers = [client.detect(photo), client.detect(str(photo)), client.detect(JPEG)]
        assert [answer.boxes[0].px for answer in answers] == [(174.72, 145.92, 456.32, 325.92)] * 3
        model = client.model()
        assert (model.name, model.version, model.contract) == ("m", "7", CONTRACT.hash)


def test_a_refusal_says_which_photo_and_what_to_do(url: str, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no photo")
    with Client(url) as client:
        with pytest.raises(ServiceError, match="is not readable as a photo") as error:
            client.detect(text)
        assert (error.value.status, error.value.where, error.value.field) == (422, str(text), "image")
        assert str(error.value).endswith("Save it as JPEG, PNG or WebP.")
        with pytest.raises(DataError, match="cannot be read"):
            client.detect(tmp_path / "none.jpg")


def test_a_gateway_that_is_not_there_is_told(photo: Path) -> None:
    with Client("http://127.0.0.1:9") as client:
        for ask in (lambda: client.detect(photo), client.model):
            with pytest.raises(ServiceError, match=r"no answer from http://127\.0\.0\.1:9 \(ConnectError\)") as error:
                ask()
            assert "nutridet serve" in str(error.value.remedy)


def test_something_else_than_a_gateway_is_told(photo: Path) -> None:
    with running_app(FastAPI()) as url, Client(url) as client, pytest.raises(ServiceError, match="status 404") as error:
        client.detect(photo)
    assert "Is this a nutridet gateway?" in str(error.value)


@pytest.mark.parametrize("answer", [HTMLResponse("<html>log in</html>"), JSONResponse({}), Response(b"\xff\xfe")])
def test_an_answer_that_is_no_detection_is_told(photo: Path, answer: Response) -> None:
    async def login(request: Request) -> Response:
        return answer

    routes = [Route("/v1/detect", login, methods=["POST"]), Route("/readyz", login)]
    with running_app(Starlette(routes=routes)) as url, Client(url) as client:
        for ask in (lambda: client.detect(photo), client.model):
            with pytest.raises(ServiceError, match="answered with something else than") as error:
                ask()
            assert error.value.status == 200
            assert "Is this a nutridet gateway?" in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://127.0.0.1", "http://127.0.0.1:port", "http://", "http://[::1", "http://a..b",
     f"http://{'a' * 64}", "http://x\n"],
)  # fmt: skip
def test_what_is_no_address_is_told(photo: Path, url: str) -> None:
    result = nutridet(photo, "--url", url)
    assert result.exit_code == 1
    assert result.stderr == f"error: [url]: {url!r} is no address. Give http://HOST:PORT.\n"


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "\udcff"])
def test_a_key_that_no_header_can_carry_is_told(key: str) -> None:
    with pytest.raises(SettingsError, match=r"\[key\]: .*printable ASCII") as error:
        Client(key=key)
    assert key not in str(error.value)


def test_the_key_is_shown(photo: Path, engine: FakeEngine) -> None:
    with running(Holder(served(engine)), GatewayOptions(key="geheim")) as url:
        with Client(url, key="geheim") as client:
            assert client.detect(photo).boxes
        with Client(url) as client, pytest.raises(ServiceError, match="the key is missing or wrong"):
            client.detect(photo)


def test_a_full_queue_is_waited_for() -> None:
    """The gateway has one place, and somebody holds it until the client has been told to wait many times."""
    engine, pauses = HeldEngine(), list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 40:
            engine.let_go.set()
            first.result()

    from concurrent.futures import ThreadPoolExecutor

    from tests.gateway_server import until

    limits = Limits(places=1)
    with (
        running(Holder(served(engine)), GatewayOptions(limits=limits)) as url,
        ThreadPoolExecutor(1) as others,
        Client(url) as other,
        Client(url, sleep=sleep) as client,
        Client(url, sleep=sleep, patience=0) as impatient,
    ):
        first = others.submit(other.detect, JPEG)
        until(lambda: engine.sizes)
        with pytest.raises(ServiceError, match="as many photos are waiting") as error:
            impatient.detect(JPEG)
        assert error.value.status == 429
        assert pauses == []
        assert client.detect(JPEG).boxes
    assert len(pauses) == 40
    assert all(1 <= pause <= 1.5 for pause in pauses)


def test_a_server_with_too_many_connections_is_waited_for(engine: FakeEngine) -> None:
    """It says 503 in words of its own, as proxies do: here uvicorn, while somebody has the other connection."""
    pauses = list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            other.close()
        threading.Event().wait(0.005)

    with (
        running_app(create_app(Holder(served(engine)), GatewayOptions()), limit_concurrency=2) as url,
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as other,
        Client(url, sleep=sleep) as client,
        Client(url, sleep=sleep, patience=0) as impatient,
    ):
        with pytest.raises(ServiceError, match="answered with status 503"):
            impatient.detect(JPEG)
        assert pauses == []
        assert client.detect(JPEG).boxes
    assert len(pauses) >= 3
    assert all(1 <= pause <= 1.5 for pause in pauses)


def test_a_503_of_the_gateways_own_is_not_waited_for() -> None:
    refusal = RefusedError(503, "not_ready", "the engine does not answer", field="engine", remedy="Ask again.")

    async def refuse(request: Request) -> Response:
        return JSONResponse(refusal.body, refusal.status)

    routes = [Route("/v1/detect", refuse, methods=["POST"])]
    with running_app(Starlette(routes=routes)) as url, Client(url, sleep=lambda seconds: pytest.fail()) as client:
        with pytest.raises(ServiceError, match="the engine does not answer") as error:
            client.detect(JPEG)
        assert (error.value.status, error.value.field, error.value.remedy) == (503, "engine", "Ask again.")


def test_many_photos_come_back_in_order(url: str, tmp_path: Path) -> None:
    photos: list[Path | str | bytes] = [encode(picture(n, (100 + n, 60))) for n in range(12)]
    photos[5] = b"no photo"
    with Client(url) as client:
        answers = list(client.detect_all(photos))
    sizes = [answer.size if isinstance(answer, Detection) else None for answer in answers]
    assert sizes == [None if n == 5 else (100 + n, 60) for n in range(12)]
    assert isinstance(answers[5], ServiceError)


def test_the_command_prints_boxes_and_draws_them(url: str, photo: Path, tmp_path: Path) -> None:
    result = nutridet(photo, "--url", url, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{photo}: nutrition table(175, 146, 456, 326) (score 0.90, ")
    assert result.stdout.endswith(f" ms) -> {tmp_path / 'out' / 'pack.boxes.png'}\n")
    with Image.open(tmp_path / "out" / "pack.boxes.png") as drawn:
        assert drawn.width == 640


@pytest.mark.parametrize(
    ("text", "words"),
    [("no nutrition table", ": no nutrition table ("), ("bread", ": unreadable answer 'bread' (")],
)
def test_the_command_says_why_there_is_no_box(url: str, engine: FakeEngine, photo: Path, text: str, words: str) -> None:
    engine.text = text
    assert words in nutridet(photo, "--url", url).stdout


def test_the_command_goes_on_after_a_photo_that_failed(url: str, photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    result = nutridet(bad, photo, "--url", url)
    assert result.exit_code == 1
    assert f"error: {bad} [image]: photo is not readable as a photo" in result.stderr
    assert result.stdout.startswith(f"{photo}: nutrition table(")
    lines = [json.loads(line) for line in nutridet(bad, photo, "--url", url, "--json").stdout.splitlines()]
    assert [line["photo"] for line in lines] == [str(bad), str(photo)]
    assert "is not readable" in lines[0]["error"]
    assert lines[1]["boxes"][0]["unit"] == [0.273, 0.304, 0.713, 0.679]


DROP = """<script>
fetch("/test-photo").then((response) => response.blob()).then((blob) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([blob], "<b>pack</b>.jpg", { type: "image/jpeg" }));
  dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true, cancelable: true }));
});
</script></body>"""


def page_after_a_drop(engine: FakeEngine, tmp_path: Path, beside: dict[str, Holder] | None = None) -> tuple[str, Path]:
    """The page's document and picture after somebody dropped a photo on it, in a real browser."""
    app = create_app(Holder(served(engine, "m", "7")), GatewayOptions(), beside=beside)
    page = PLAYGROUND.read_text(encoding="utf-8").replace("</body>", DROP)
    app.get("/test-photo")(lambda: Response(JPEG, media_type="image/jpeg"))
    app.get("/test")(lambda: HTMLResponse(page, headers={"Content-Security-Policy": _POLICY}))
    picture_file = tmp_path / "page.png"
    with running_app(app) as url:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,700", "--virtual-time-budget=20000",
                 f"--user-data-dir={tmp_path / 'browser'}", f"--screenshot={picture_file}", "--dump-dom"]  # fmt: skip
        done = subprocess.run([str(CHROMIUM), *flags, f"{url}/test"], capture_output=True, text=True, check=True)
    return done.stdout, picture_file


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_photo_dropped_on_the_page_gets_its_box(engine: FakeEngine, tmp_path: Path) -> None:
    document, shot = page_after_a_drop(engine, tmp_path)
    assert 'data-answered="1"' in document
    assert "m version 7, fake, contract" in document
    assert "nutrition table (175, 146, 456, 326)" in document
    assert 'viewBox="0 0 640 480"' in document
    assert "&lt;b&gt;pack&lt;/b&gt;.jpg" in document
    with Image.open(shot) as page:
        colours = {colour for _, colour in page.convert("RGB").getcolors(2**24) or []}
    assert (255, 107, 0) in colours


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_models_side_by_side(engine: FakeEngine, tmp_path: Path) -> None:
    other = FakeEngine(
        "<|object_ref_start|>nutrition table<|object_ref_end|><|box_start|>(100,100),(500,900)<|box_end|>"
    )
    beside = {"base": Holder(served(FakeEngine("no nutrition table"), "b")), "fp8": Holder(served(other, "f"))}
    document, shot = page_after_a_drop(engine, tmp_path, beside)
    assert "beside it: base, fp8" in document
    found = [document.index(text) for text in ("(175, 146, 456, 326)", ">no nutrition table<", "(64, 48, 320, 432)")]
    assert found == sorted(found)
    assert document.count("<section") == 3
    assert shot.is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_what_a_model_writes_is_text_on_the_page(engine: FakeEngine, tmp_path: Path) -> None:
    engine.text = "<img src=x onerror=alert(1)>"
    document, _ = page_after_a_drop(engine, tmp_path)
    assert "&lt;img src=x onerror=alert(1)&gt;" in document
    assert "unreadable answer" in document
