"""The gateway as a process: where it listens, how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from nutridet_core import cli
from nutridet_core.errors import SettingsError
from nutridet_core.serving.client import Client
from nutridet_core.serving.command import ServeArguments, gateway_options, launch_options
from nutridet_core.serving.run import is_loopback, listen
from nutridet_core.serving.schemas import Detection
from tests.gateway_server import CLIENT, process, until
from tests.photo_files import encode, picture

PNG = encode(picture(1))


SLOW = """
from pathlib import Path
from nutridet_core.serving.engine import FakeEngine
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.holder import Holder, Identity, Served
from nutridet_core.serving.launch import Launched
from nutridet_core.serving.run import listen, serve
from nutridet_core.profiles import TINY

class Slow(FakeEngine):
    async def close(self):
        print("closed", flush=True)

async def launch():
    return Launched(Holder(Served(Slow(seconds=1.0), TINY.contract, Identity("slow", None, ""))))

serve(listen("127.0.0.1", 0, key=None), launch, GatewayOptions(), lambda line: print(line, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_told_to_end_answers_what_is_under_way(number: signal.Signals) -> None:
    with process(SLOW) as (gateway, url), ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(httpx.post, f"{url}/v1/detect", files={"image": PNG}, timeout=60) for _ in range(3)]
        until(lambda: "nutridet_photos_under_way 3.0" in CLIENT.get(f"{url}/metrics").text)
        gateway.send_signal(number)
        assert [each.result().status_code for each in asked] == [200, 200, 200]
        assert gateway.stdout is not None
        assert gateway.stdout.read().split() == ["closed", "ended"]
        assert gateway.wait() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


LOADING = """
import asyncio
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.run import listen, serve

async def launch():
    print("listening on nothing yet", flush=True)
    try:
        await asyncio.sleep(3600)
    finally:
        print("cleaned up", flush=True)

serve(listen("127.0.0.1", 0, key=None), launch, GatewayOptions())
"""


def test_a_gateway_told_to_end_while_it_loads_ends() -> None:
    with process(LOADING) as (gateway, _):
        gateway.send_signal(signal.SIGTERM)
        assert gateway.stdout is not None
        told, cleaned, *_ = gateway.stdout.read().split("\n")
        assert "a second signal ends at once" in told
        assert cleaned == "cleaned up"
        assert gateway.wait() == 0


STUCK = """
import asyncio, sys
from nutridet_core.serving.gateway import GatewayOptions
from nutridet_core.serving.run import listen, serve

async def launch():
    print("listening on nothing yet", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # as a model is loaded: a thread that nobody can end

serve(listen("127.0.0.1", 0, key=None), launch, GatewayOptions(), lambda line: print(line, flush=True))
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_told_to_end_while_a_thread_loads_says_when_it_will(number: signal.Signals) -> None:
    with process(STUCK, stdin=subprocess.PIPE) as (gateway, _):
        assert gateway.stdout is not None
        assert gateway.stdin is not None
        gateway.send_signal(number)
        assert "when the model is loaded; a second signal ends at once" in gateway.stdout.readline()
        assert gateway.poll() is None
        gateway.stdin.close()
        assert gateway.stdout.read() == "ended\n"
        assert gateway.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_a_thread_loads_ends_at_once(second: signal.Signals) -> None:
    with process(STUCK, stdin=subprocess.PIPE) as (gateway, _):
        assert gateway.stdout is not None
        gateway.send_signal(signal.SIGINT)
        assert "a second signal" in gateway.stdout.readline()
        gateway.send_signal(second)
        assert gateway.wait() == 128 + second
        assert gateway.stdout.read() == ""


SERVE = "import nutridet_core.cli as cli\ncli.app(['serve', '--engine', 'fake', '--port', '0', '--places', '2'])"


def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    with process(SERVE, NUTRIDET_HOME=str(tmp_path)) as (_, url), ExitStack() as idle:
        address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for _ in range(16):
            idle.enter_context(socket.create_connection(address))
        assert CLIENT.get(f"{url}/healthz").status_code == 200
        assert CLIENT.post(f"{url}/v1/detect", files={"image": PNG}).status_code == 200


def test_a_client_with_more_connections_than_there_are_places_loses_no_photo(tmp_path: Path) -> None:
    with (
        process(SERVE, NUTRIDET_HOME=str(tmp_path)) as (_, url),
        Client(url, sleep=lambda seconds: time.sleep(seconds / 50)) as client,
    ):
        answers = list(client.detect_all([PNG] * 40, at_once=16))
    assert [answer for answer in answers if not isinstance(answer, Detection)] == []


def test_the_command_serves(tmp_path: Path) -> None:
    code = "import nutridet_core.cli as cli\ncli.app(['serve', '--engine', 'fake', '--port', '0'])"
    with process(code, NUTRIDET_HOME=str(tmp_path)) as (gateway, url):
        assert CLIENT.post(f"{url}/v1/detect", files={"image": PNG}).json()["model"]["engine"] == "fake"
        assert CLIENT.get(url, headers={"Host": "evil.example"}).status_code == 421
        gateway.terminate()
        assert gateway.wait() == 0


def test_only_with_a_key_is_the_network_listened_to() -> None:
    with pytest.raises(SettingsError, match="open to other machines, and no key is set"):
        listen("0.0.0.0", 0, key=None)
    with listen("0.0.0.0", 0, key="geheim") as bound:
        assert bound.getsockname()[0] == "0.0.0.0"


def test_answers_are_not_held_back_for_an_acknowledgement() -> None:
    """Else every answer is 40 ms late: headers and body are two writes."""
    with listen("127.0.0.1", 0, key=None) as bound, socket.create_connection(bound.getsockname()):
        connection, _ = bound.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0, key=None) as bound, pytest.raises(SettingsError, match="cannot listen on"):
        listen("127.0.0.1", bound.getsockname()[1], key=None)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("192.168.1.7", False), ("localhost.example.org", False), ("::", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "tensorrt"], ["[engine]", "no such value 'tensorrt'", "transformers, vllm"]),
        (["--weights", "int4"], ["[weights]", "no such value 'int4'", "merged, fp8"]),
        (["--engine", "openai"], ["[url]", "runs elsewhere", "--url"]),
        (["--engine", "fake", "--host", "0.0.0.0"], ["[host]", "no key is set", "NUTRIDET_API_KEY"]),
        (["--engine", "fake", "--port", "-1"], ["[port]", "-1 is no port", "up to 65535"]),
        (["--engine", "fake", "--port", "65536"], ["[port]", "65536 is no port"]),
        (["--engine", "fake", "--allow-host", "ftp://x"], ["[allow-host]", "'ftp://x' is no host"]),
        (["--engine", "fake", "--allow-host", "x.org/photos"], ["[allow-host]", "is no host"]),
        (["--engine", "fake", "--beside", "base"], ["[beside]", "the engine 'fake' has one model"]),
        (["no/such/folder"], ["no/such/folder", "no such folder", "Correct the path"]),
        (["models:/nutridet-other@champion"], ["[MODEL]", "is no alias of the profile 'tiny'"]),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path))
    monkeypatch.delenv("NUTRIDET_API_KEY", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    result = CliRunner().invoke(cli.app, ["serve", "--port", "0", *arguments])
    for number, handler in before.items():
        signal.signal(number, handler)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


def test_the_commands_limits_are_the_gateways() -> None:
    given = ServeArguments(
        model=None, engine="fake", url=None, weights="merged", host="127.0.0.1", port=0, places=7, seconds=9.0,
        max_mb=3, max_megapixels=2, allow_host=("Images.Example.org", "http://127.0.0.1:81"), poll_seconds=1.0,
        vllm="vllm", gpu_share=0.5, drafts=True, vllm_flags=("--max-num-seqs=7",),
    )  # fmt: skip
    options, vllm = gateway_options(given, "geheim"), launch_options(given).vllm
    assert (options.limits.places, options.limits.seconds, options.key) == (7, 9.0, "geheim")
    assert (options.limits.photo.bytes, options.limits.photo.pixels) == (3 * 2**20, 2_000_000)
    assert (vllm.gpu_share, vllm.drafts, vllm.flags) == (0.5, True, ("--max-num-seqs=7",))
    assert options.allowed_origins == (("https", "images.example.org", 443), ("http", "127.0.0.1", 81))


def test_what_is_imported_when() -> None:
    """`dagster definitions validate` and `--help` load nothing of this; a gateway in front of a server no torch."""
    code = (
        "import sys, nutridet_core.cli, nutridet_assets.definitions\n"
        "print({'nutridet_core.serving', 'fastapi', 'prometheus_client'} & set(sys.modules))\n"
        "import nutridet_core.serving.command, nutridet_core.serving.remote\n"
        "print({'torch', 'transformers', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["set()", "set()"]
