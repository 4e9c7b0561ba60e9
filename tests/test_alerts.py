"""Alerts: who is told what, that a broken receiver costs nothing, and that the address stays secret."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from nutridet_assets import hooks
from nutridet_core.alerts import Alert, regression_alert, send_alert
from nutridet_core.artifacts.store import Manifest
from nutridet_core.errors import SettingsError
from nutridet_core.evaluation.evaluate import load_samples
from nutridet_core.pipeline import monitoring
from nutridet_core.pipeline.context import Context
from nutridet_core.pipeline.release import model_registry, register_release
from nutridet_core.release.registry import CHAMPION
from nutridet_core.settings import Settings
from tests.release_samples import open_home
from tests.webhook import SECRET, Receiver, receiving, status

ALERT = Alert("champion_regressed", "gone worse, \u22120.1", "nutridet-tiny", {"n": 4})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving(status(200)) as opened:
        yield opened


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that any library logs."""
    caplog.set_level(logging.DEBUG)
    return caplog


def send(url: str, seconds: float = 30.0) -> tuple[bool, str]:
    lines: list[str] = []
    accepted = send_alert(ALERT, SecretStr(url), lines.append, seconds=seconds)
    return accepted, "\n".join(lines)


# --- delivery ----------------------------------------------------------------------------------


def test_a_message_arrives_once_as_it_is(receiver: Receiver) -> None:
    assert send(receiver.url) == (True, "alert champion_regressed to 127.0.0.1: accepted")
    assert receiver.messages == [
        {"event": "champion_regressed", "text": "gone worse, \u22120.1", "model": "nutridet-tiny",
         "details": {"n": 4}, "links": {}},
    ]  # fmt: skip


@pytest.mark.parametrize("code", [400, 403, 500, 503])
def test_a_refusal_is_logged_and_raises_nothing(code: int) -> None:
    with receiving(status(code)) as receiver:
        assert send(receiver.url) == (False, f"alert champion_regressed to 127.0.0.1: refused with status {code}")
    assert len(receiver.messages) == 1


def test_a_redirect_is_no_delivery() -> None:
    """A redirected POST becomes a GET without the message, which would read as success."""
    with receiving(status(302, Location="/elsewhere")) as receiver:
        assert send(receiver.url) == (False, "alert champion_regressed to 127.0.0.1: refused with status 302")
    assert [method for method, _ in receiver.requests] == ["POST"]


def test_a_receiver_that_is_down_is_logged_and_raises_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening
        accepted, line = send(f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}")
    assert not accepted
    assert line.endswith("not reached (ConnectionRefusedError)")


@pytest.mark.parametrize("drip", [False, True])
def test_a_receiver_that_never_comes_to_an_end_is_left(drip: bool) -> None:
    """Silent, or a byte of a header now and then: that starts a socket's own timeout anew each time."""
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        while not over.wait(0.05):
            if drip:
                handler.wfile.write(b"x")
                handler.wfile.flush()

    with receiving(answer) as receiver:
        accepted, line = send(receiver.url, seconds=1.0)
        assert not over.is_set(), "it came back while the receiver was still at it"
        over.set()
    assert (accepted, line) == (False, "alert champion_regressed to 127.0.0.1: no answer within 1 s")


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1/a b/{SECRET}", f"http://[::1/{SECRET}", f"http:///{SECRET}"])
def test_an_address_that_is_none_raises_nothing_and_is_not_quoted(
    url: str, said: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    accepted, line = send(url)
    assert not accepted
    assert "no answer" not in line, "the thread came to its end"
    assert SECRET not in "".join([line, said.text, *capfd.readouterr()])


@pytest.mark.parametrize("answer", [status(200), status(500), status(302, Location="/x")])
def test_the_address_is_logged_by_nobody(answer: object, said: pytest.LogCaptureFixture) -> None:
    with receiving(answer) as receiver:  # type: ignore[arg-type]
        _, line = send(receiver.url)
    assert SECRET not in line + said.text


def test_settings_neither_show_nor_quote_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", f"https://hooks.example/{SECRET}")
    assert SECRET not in repr(Settings()) + str(Settings().model_dump())
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", f"ftp://hooks.example/{SECRET}")
    with pytest.raises(SettingsError, match="NUTRIDET_ALERT_WEBHOOK") as error:
        Settings()
    assert SECRET not in str(error.value)


# --- what is said ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registered_home(release_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Path(shutil.copytree(release_home, tmp_path_factory.mktemp("registered") / "home"))
    register_release(open_home(home))
    return home


@pytest.fixture
def context(registered_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A copy of a home with a champion, and Dagster's settings for it."""
    monkeypatch.setenv("NUTRIDET_HOME", str(tmp_path / "home"))
    return open_home(Path(shutil.copytree(registered_home, tmp_path / "home")))


def reevaluate(context: Context, *, blind: bool) -> Manifest:
    """Keep a re-evaluation: the answers of registration, or none at all, which is worse beyond chance."""
    holder = model_registry(context).holder(CHAMPION)
    assert holder is not None
    samples = load_samples(context.layout.reference_scores(holder[1].name))
    answers = [replace(sample, predicted=()) for sample in samples] if blind else samples
    return monitoring._keep(context, *holder, answers)


def test_a_regression_says_by_how_much_with_its_interval_and_n(context: Context) -> None:
    found = reevaluate(context, blind=True)
    alert = regression_alert("nutridet-tiny", found, {"mlflow_run": "http://here"})
    assert alert is not None
    said = json.loads(alert.body)
    change = said["details"]["change"]
    assert change["low"] <= change["value"] <= change["high"] < 0
    photos = len(load_samples(context.layout.reference_scores(said["details"]["release"])))
    assert (said["details"]["version"], said["details"]["n"], said["details"]["same_photos"]) == ("1", photos, True)
    assert (
        f"version 1, has regressed. now against at registration: worse; mean IoU {change['value']:+.3f}" in said["text"]
    )
    assert f"n = {photos}" in said["text"]
    assert "inputs_like_training" in said["details"]["other_checks"]
    assert said["links"] == {"mlflow_run": "http://here"}


def test_the_hook_tells_the_webhook(context: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", receiver.url)
    found = reevaluate(context, blind=True)
    hooks.alert_on_regression(dg.build_hook_context(run_id="run-1"))
    (message,) = receiver.messages
    assert message["event"] == "champion_regressed"
    assert message["links"] == {
        "dagster_run": "http://127.0.0.1:3000/runs/run-1",
        "mlflow_run": f"http://127.0.0.1:5000/#/runs/{found.mlflow_run_id}",
    }


def test_nothing_is_sent_when_all_is_well(
    context: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", receiver.url)
    reevaluate(context, blind=True)
    reevaluate(context, blind=False)
    hooks.alert_on_regression(dg.build_hook_context(run_id="run-1"))
    assert receiver.requests == []


def test_without_a_webhook_nobody_is_told(context: Context) -> None:
    reevaluate(context, blind=True)
    hooks.alert_on_regression(dg.build_hook_context(run_id="run-1"))


def test_a_champion_that_cannot_be_scored_is_told_with_the_reason(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUTRIDET_ALERT_WEBHOOK", receiver.url)
    failure = dg.Failure("weights of the champion: no manifest")
    hooks.alert_on_failure(dg.build_hook_context(run_id="run-1", op_exception=failure))
    (message,) = receiver.messages
    assert message["event"] == "reevaluation_failed"
    assert "weights of the champion: no manifest" in message["text"]
    assert message["links"]["dagster_run"].endswith("/runs/run-1")
