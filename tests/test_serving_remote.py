"""Engines behind HTTP: what they send, what they make of what comes back, and a server that dies."""

from __future__ import annotations

import asyncio
import base64
import inspect
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nutridet_core.artifacts.store import Manifest, seal
from nutridet_core.data.photos import OpenedPhoto, Photo, decode_photo
from nutridet_core.errors import ContractError, SettingsError
from nutridet_core.profiles import TINY
from nutridet_core.prompts import prompt_text
from nutridet_core.release.triton import engine_arguments, write_repository
from nutridet_core.serving.engine import Engine, EngineError, Reply
from nutridet_core.serving.holder import Holder
from nutridet_core.serving.launch import EngineKind, LaunchOptions, launch
from nutridet_core.serving.remote import OpenAIEngine, TritonEngine, first_model
from nutridet_core.serving.vllm import VllmEngine, start
from nutridet_core.serving.vllm_command import VllmOptions, command
from tests.gateway_server import CLIENT, CONTRACT, arriving, running, running_app, served, until
from tests.openai_server import TEXT, Server, completion
from tests.photo_files import encode, picture
from tests.release_samples import open_home
from tests.services import gone

ROOT = Path(__file__).parents[1]
JPEG = encode(picture(1, (160, 120)), "JPEG")
PROMPT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>where?<|im_end|>\n<|im_start|>assistant\n"


def openai(url: str) -> OpenAIEngine:
    return OpenAIEngine(url, "weights", CONTRACT, max_new_tokens=64, key="geheim")


def triton(url: str) -> TritonEngine:
    return TritonEngine(url, PROMPT, TINY)


def ask(engine: Engine, content: bytes = JPEG) -> Reply:
    async def run() -> Reply:
        try:
            return await engine.answer(arriving(content))
        finally:
            await engine.close()

    return asyncio.run(run())


def sent_photo(encoded: str) -> Photo:
    return decode_photo(base64.b64decode(encoded.removeprefix("data:image/jpeg;base64,")))


def test_an_openai_server_is_asked_the_contracts_question() -> None:
    server = Server(completion(f"{TEXT}<|im_end|>", [-0.1, -0.3]))
    with running_app(server.app) as url:
        reply = ask(openai(f"{url}/"))
    assert reply == Reply(TEXT, pytest.approx(math.exp(-0.2)))
    (request,) = server.requests
    system, user = request.pop("messages")
    assert request == {
        "model": "weights", "max_tokens": 64, "temperature": 0, "logprobs": True, "skip_special_tokens": False,
    }  # fmt: skip
    assert system == {"role": "system", "content": [{"type": "text", "text": CONTRACT.system}]}
    photo, question = user["content"]
    assert question == {"type": "text", "text": CONTRACT.question}
    assert photo["image_url"]["url"] == f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    assert server.headers[0]["authorization"] == "Bearer geheim"


def test_the_messages_render_to_the_prompt_of_training(processor: Any) -> None:
    """As vLLM does it: an image part becomes the template's own placeholder."""
    server = Server(completion("no nutrition table"))
    with running_app(server.app) as url:
        ask(openai(url))
    messages = server.requests[0]["messages"]
    for message in messages:
        message["content"] = [{"type": "image"} if "image_url" in part else part for part in message["content"]]
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == prompt_text(CONTRACT, processor)


def test_triton_is_asked_with_the_rendered_prompt() -> None:
    server = Server({"model_name": "nutridet", "text_output": TEXT, "cumulative_logprob": -0.9, "num_output_tokens": 3})
    with running_app(server.app) as url:
        reply = ask(triton(url))
    assert reply == Reply(TEXT, pytest.approx(math.exp(-0.3)))
    (request,) = server.requests
    assert request["text_input"] == PROMPT
    assert request["image"] == [base64.b64encode(JPEG).decode()]
    assert request["exclude_input_in_output"] is True
    assert (request["return_cumulative_logprob"], request["return_num_output_tokens"]) == (True, True)
    assert json.loads(request["sampling_parameters"]) == {
        "temperature": 0, "max_tokens": TINY.max_new_tokens, "skip_special_tokens": False, "logprobs": 1,
    }  # fmt: skip


@pytest.mark.parametrize("make", [openai, triton])
def test_a_turned_photo_is_sent_upright(make: Any) -> None:
    """The server would not turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(picture(1, (160, 120)), "JPEG", exif=exif)
    server = Server({**completion("no nutrition table"), "text_output": "no nutrition table"})
    with running_app(server.app) as url:
        ask(make(url), content)
    (request,) = server.requests
    encoded = request["image"][0] if make is triton else request["messages"][1]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(encoded.removeprefix("data:image/png;base64,"))))
    assert (sent.format, sent.size) == ("PNG", (120, 160))
    assert sent.tobytes() == decode_photo(content).image.tobytes()


def test_the_page_about_engines_shows_their_methods() -> None:
    text = (ROOT / "docs" / "add-a-serving-engine.md").read_text()
    shown: dict[str, Any] = {"ArrivingPhoto": "ArrivingPhoto", "Reply": "Reply"}
    exec("from __future__ import annotations\n" + text.split("```python\n")[1].split("```")[0], shown)
    for name in ("answer", "ready", "close"):
        assert inspect.signature(getattr(shown["MyEngine"], name)) == inspect.signature(getattr(Engine, name))


@pytest.mark.parametrize(("kind", "waits"), [("JPEG", False), ("PNG", True)])
def test_a_plain_jpeg_is_sent_while_it_is_decoded(kind: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG is not: what turns it may come after its pixels."""
    server, decode = Server(completion(TEXT)), OpenedPhoto.decode
    early = []

    def once_sent(opened: OpenedPhoto) -> Photo:
        early.append(server.came.wait(0.5 if waits else 30))
        return decode(opened)

    monkeypatch.setattr(OpenedPhoto, "decode", once_sent)
    with running_app(server.app) as upstream, running(Holder(served(openai(upstream)))) as url:
        found = CLIENT.post(f"{url}/v1/detect", files={"image": encode(picture(1, (160, 120)), kind)}).json()
    assert (early, found["size"], len(found["boxes"])) == ([not waits], [160, 120], 1)
    timing = found["timing_ms"]
    assert timing["total"] == pytest.approx(timing["decode"] + timing["wait"] + timing["answer"], abs=0.01)
    assert not waits or timing["decode"] > 400


def test_a_photo_that_is_cut_off_is_told_as_such_although_the_engine_failed_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, decode = Server({}, status=400), OpenedPhoto.decode

    def late(opened: OpenedPhoto) -> Photo:
        server.came.wait(30)
        time.sleep(0.1)
        return decode(opened)

    monkeypatch.setattr(OpenedPhoto, "decode", late)
    with running_app(server.app) as upstream, running(Holder(served(openai(upstream)))) as url:
        refused = CLIENT.post(f"{url}/v1/detect", files={"image": JPEG[:-200]})
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "truncated")


def test_the_answer_about_a_photo_that_is_cut_off_is_not_waited_for() -> None:
    server = Server(completion(TEXT), held=True)
    with running_app(server.app) as upstream, running(Holder(served(openai(upstream)))) as url:
        refused = CLIENT.post(f"{url}/v1/detect", files={"image": JPEG[:-200]})
        server.let_go.set()
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "truncated")


@pytest.mark.parametrize("make", [openai, triton])
def test_without_probabilities_there_is_no_score(make: Any) -> None:
    server = Server({**completion("no nutrition table"), "text_output": "no nutrition table"})
    with running_app(server.app) as url:
        assert ask(make(url)) == Reply("no nutrition table", None)


@pytest.mark.parametrize("make", [openai, triton])
@pytest.mark.parametrize(
    ("answer", "status", "problem"),
    [
        ({"error": "photo of Mr X"}, 500, "status 500"),
        ("<html>", 200, "did not answer"),
        ([1], 200, "something else than an object"),
        ({}, 200, "the engine's answer"),
        ({"choices": []}, 200, "the engine's answer"),
        ({"choices": [{"message": {}}], "text_outputs": "x"}, 200, "the engine's answer"),
    ],
)
def test_an_answer_that_is_none_is_an_engine_error(make: Any, answer: Any, status: int, problem: str) -> None:
    server = Server(answer, status)
    with running_app(server.app) as url, pytest.raises(EngineError, match=problem) as error:
        ask(make(url))
    assert "Mr X" not in str(error.value)


@contextmanager
def stub(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An OpenAI-compatible server that can be killed."""
    process = subprocess.Popen([sys.executable, "-m", "tests.openai_server", "--port", str(port)], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_server_that_is_killed_and_comes_back() -> None:
    from nutridet_core.serving.vllm import free_port

    port = free_port()

    def status(path: str) -> int:
        return CLIENT.get(url + path).status_code

    def detect() -> int:
        return CLIENT.post(f"{url}/v1/detect", files={"image": JPEG}).status_code

    with running(Holder(served(openai(f"http://127.0.0.1:{port}")))) as url:
        with stub(port):
            until(lambda: status("/readyz") == 200)
            assert detect() == 200
        assert (detect(), status("/readyz"), status("/healthz")) == (502, 503, 200)
        with stub(port):
            until(lambda: status("/readyz") == 200)
            assert detect() == 200


def test_the_first_model_listed_is_taken() -> None:
    with running_app(Server({}).app) as url:
        assert asyncio.run(first_model(url, None)) == "weights"
    with pytest.raises(EngineError, match="does not answer") as error:
        asyncio.run(first_model("http://127.0.0.1:9", None))
    assert "Is the server up?" in str(error.value)


def test_a_running_server_is_launched_as_an_engine(tmp_path: Path) -> None:
    with running_app(Server(completion(TEXT)).app) as url:
        options = LaunchOptions(EngineKind.OPENAI, url=url)
        held = asyncio.run(launch(open_home(tmp_path), options)).holder.served
    assert (held.identity.name, held.engine.name, held.contract) == ("weights", "openai", CONTRACT)


def test_triton_is_launched_with_the_prompt_of_its_repository(tmp_path: Path) -> None:
    context = open_home(tmp_path)
    folder = context.layout.triton
    write_repository(folder, profile=TINY, weights=folder / "fp8", prompt=PROMPT)
    seal(folder, Manifest(kind="triton_repository", name="abc", contract=CONTRACT.hash, config={"fp8": "digest"}))
    server = Server({"text_output": TEXT})
    with running_app(server.app) as url:
        held = asyncio.run(launch(context, LaunchOptions(EngineKind.TRITON, url=url))).holder.served
        assert ask(held.engine).text == TEXT
    assert server.requests[0]["text_input"] == PROMPT
    assert (held.identity.name, held.identity.digest) == ("abc", "digest")


def flags(line: list[str]) -> dict[str, str]:
    return {name: value for name, value in zip(line, [*line[1:], ""], strict=True) if name.startswith("--")}


def test_vllm_is_started_closed_and_with_the_contracts_pixels() -> None:
    given = flags(command(TINY, "/weights", 8123, VllmOptions(gpu_share=0.4)))
    assert (given["--host"], given["--port"]) == ("127.0.0.1", "8123")
    assert json.loads(given["--limit-mm-per-prompt"]) == {"image": 1, "video": 0}
    pixels = {"min_pixels": CONTRACT.min_pixels, "max_pixels": CONTRACT.max_pixels}
    assert json.loads(given["--mm-processor-kwargs"]) == pixels
    assert given["--max-model-len"] == str(engine_arguments(TINY, Path("/weights"))["max_model_len"])
    assert given["--gpu-memory-utilization"] == "0.4"
    assert given["--allowed-media-domains"] == "none.invalid"
    assert not {"--trust-remote-code", "--api-key", "--enable-lora", "--model"} & given.keys()


def write_adapter(folder: Path, tower: str, rank: int) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    name = f"base_model.model.model.{tower}.layers.0.mlp.up_proj.lora_A.weight"
    save_file({name: np.zeros((rank, 4), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


@pytest.mark.parametrize(("rank", "largest"), [(8, "8"), (24, "32"), (64, "64")])
def test_an_adapter_is_served_over_its_base(tmp_path: Path, rank: int, largest: str) -> None:
    adapter = write_adapter(tmp_path / "a", "language_model", rank)
    given = flags(command(TINY, "/weights", 1, VllmOptions(adapter=adapter)))
    assert given["--lora-modules"] == f"nutridet={adapter}"
    assert given["--max-lora-rank"] == largest
    assert given["--served-model-name"] == "nutridet-base"


def test_an_adapter_that_vllm_would_ignore_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", "visual", 8)
    with pytest.raises(SettingsError, match="LoRA on the vision tower"):
        command(TINY, "/weights", 1, VllmOptions(adapter=adapter))


PROGRAM = """#!{python}
# What stands in for vLLM: a real server, with a worker of its own as vLLM has.
import os, runpy, subprocess, sys
sys.path.insert(0, {root!r})
worker = subprocess.Popen(["sleep", "3600"])
open({notes!r}, "w").write(f"{{os.getpid()}} {{worker.pid}} {{os.environ['VLLM_API_KEY']}}")
runpy.run_module("tests.openai_server", run_name="__main__")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file, notes = tmp_path / "vllm", tmp_path / "notes"
    file.write_text(PROGRAM.format(python=sys.executable, root=str(ROOT), notes=str(notes)))
    file.chmod(0o755)
    return file


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_vllm_and_its_workers_end_with_the_engine(program: Path) -> None:
    async def run() -> tuple[Reply, bool, bool, VllmEngine]:
        lines: list[str] = []
        engine = await start(TINY, "/weights", VllmOptions(program=str(program)), lines.append)
        key = program.with_name("notes").read_text().split()[2]
        assert len(key) > 30
        assert key not in lines[0]
        reply, ready = await engine.answer(arriving(JPEG)), await engine.ready()
        await engine.close()
        return reply, ready, await engine.ready(), engine

    reply, before, after, engine = asyncio.run(run())
    assert (reply.text, before, after) == (TEXT, True, False)
    server, worker, _ = program.with_name("notes").read_text().split()
    until(lambda: gone(int(server)) and gone(int(worker)))
    with pytest.raises(EngineError, match="vLLM has ended"):
        ask(engine)


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (("base", "base"), r"\[beside\]: two models are called 'base'"),
        (("base", "base=."), r"\[beside\]: two models are called 'base'"),
        (("base", "int4"), "no model 'int4'"),
    ],
)
def test_models_beside_are_known_before_one_is_loaded(
    tmp_path: Path, program: Path, beside: tuple[str, ...], words: str
) -> None:
    options = LaunchOptions(EngineKind.VLLM, vllm=VllmOptions(program=str(program)), beside=beside)
    with pytest.raises(SettingsError, match=words):
        asyncio.run(launch(open_home(tmp_path / "home"), options))
    assert not program.with_name("notes").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_model_that_does_not_load_closes_those_loaded_before(tmp_path: Path, program: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    seal(other, Manifest(kind="model", name="other", contract="another"))
    options = LaunchOptions(EngineKind.VLLM, vllm=VllmOptions(program=str(program)), beside=(f"other={other}",))
    with pytest.raises(ContractError, match="was made under contract another"):
        asyncio.run(launch(open_home(tmp_path / "home"), options))
    server, worker, _ = program.with_name("notes").read_text().split()
    assert (gone(int(server)), gone(int(worker))) == (True, True)


LOADING = """
import asyncio, sys
from nutridet_core.profiles import TINY
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.run import listen, serve
from nutridet_core.serving.vllm import start
from nutridet_core.serving.vllm_command import VllmOptions

async def launch():
    await start(TINY, "/weights", VllmOptions(program=sys.argv[1]), lambda line: None)
    print("loaded one", flush=True)
    await asyncio.to_thread(sys.stdin.read)

serve(listen("127.0.0.1", 0, key=None), launch, GatewayOptions(), lambda line: print(line, flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to tell the child")
def test_vllm_ends_with_a_gateway_whose_loading_is_ended_at_once(program: Path) -> None:
    command = [sys.executable, "-c", LOADING, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "loaded one\n"
        server, worker, _ = program.with_name("notes").read_text().split()
        gateway.terminate()
        assert "a second signal ends at once" in gateway.stdout.readline()
        gateway.terminate()
        assert gateway.wait() == 128 + signal.SIGTERM
    until(lambda: gone(int(server)))
    os.kill(int(worker), signal.SIGKILL)  # vLLM ends its own


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel to tell the child")
def test_vllm_ends_with_a_gateway_that_is_killed(program: Path) -> None:
    code = (
        "import os, signal, asyncio\n"
        "from nutridet_core.profiles import TINY\n"
        "from nutridet_core.serving.vllm import start\n"
        "from nutridet_core.serving.vllm_command import VllmOptions\n"
        "async def run():\n"
        f"    await start(TINY, '/weights', VllmOptions(program={str(program)!r}), print)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(run())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL)
    server, worker, _ = program.with_name("notes").read_text().split()
    os.kill(int(worker), signal.SIGKILL)  # vLLM ends its own
    until(lambda: gone(int(server)))


def test_a_vllm_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no program 'vllm-that-is-not-there'"):
        asyncio.run(start(TINY, "/w", VllmOptions(program="vllm-that-is-not-there"), print))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(EngineError, match="ended with status 3 before it answered"):
        asyncio.run(start(TINY, "/w", VllmOptions(program=str(broken)), print))
    mute = tmp_path / "mute"
    mute.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 3600\n")
    mute.chmod(0o755)
    with pytest.raises(EngineError, match="did not answer within"):
        asyncio.run(start(TINY, "/w", VllmOptions(program=str(mute), start_seconds=0.5), print))
    if sys.platform == "linux":
        assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_vllm_that_dies_is_started_again(program: Path) -> None:
    """At the same address, with the same key, its workers gone; meanwhile it is not ready and requests fail at once."""

    async def run() -> tuple[str, str, list[str]]:
        options = VllmOptions(program=str(program))
        engine = await start(TINY, "/weights", options, lambda line: None, first_pause=0.05)
        first, worker, key = program.with_name("notes").read_text().split()
        os.kill(int(first), signal.SIGKILL)
        errors = []
        while not errors or not await engine.ready():
            try:
                await engine.answer(arriving(JPEG))
            except EngineError as error:
                errors.append(str(error))
            await asyncio.sleep(0.01)
        text = (await engine.answer(arriving(JPEG))).text
        second, _, same_key = program.with_name("notes").read_text().split()
        await engine.close()
        assert (first != second, key == same_key, gone(int(worker))) == (True, True, True)
        return text, second, errors

    text, second, errors = asyncio.run(run())
    assert text == TEXT
    assert any("started again" in error for error in errors)
    assert gone(int(second))


def test_a_vllm_that_cannot_start_again_is_tried_ever_more_rarely(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[list[float], bool]:
        pauses: list[float] = []
        engine = await start(TINY, "/weights", VllmOptions(program=str(program)), lambda line: None, first_pause=0.01)
        sleep = asyncio.sleep

        async def note(seconds: float) -> None:
            pauses.append(seconds)
            await sleep(0)

        program.write_text("#!/bin/sh\nexit 3\n")
        os.kill(int(program.with_name("notes").read_text().split()[0]), signal.SIGKILL)
        monkeypatch.setattr("nutridet_core.serving.vllm.asyncio.sleep", note)
        while len(pauses) < 16 or max(pauses) < 60:
            await sleep(0.01)
        monkeypatch.undo()
        ready = await engine.ready()
        await engine.close()
        return [each for each in pauses if each not in (0, 0.2)], ready

    pauses, ready = asyncio.run(run())
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.08]
    assert max(pauses) == 60
    assert not ready
