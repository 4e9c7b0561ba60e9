"""The compose file: its settings exist, its commands are ones that the installed programs take, its files are there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nutridet_core.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
SERVICES: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
OURS = ("code", "webserver", "daemon", "mlflow")


def test_its_settings_are_those_there_are() -> None:
    for name in OURS:
        used = {key for key in SERVICES[name]["environment"] if key.startswith("NUTRIDET_")}
        assert {key.removeprefix("NUTRIDET_").lower() for key in used} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", OURS)
def test_its_commands_are_taken(name: str) -> None:
    """Each program, asked for help with the options of its service, knows all of them."""
    words = shlex.split(SERVICES[name]["command"])
    words = shlex.split(words[2].removeprefix("exec ")) if words[0] == "sh" else words
    module = {"dagster-webserver": "dagster_webserver", "dagster-daemon": "dagster._daemon"}.get(words[0], words[0])
    command = [sys.executable, "-m", module, *words[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if re.fullmatch(r"--?[a-z-]+", word)):
        assert re.search(rf"(^|\s){option}[, ]", done.stdout), option


def test_pages_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_files_it_names_are_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in dockerfile.splitlines() if line.startswith("COPY ") for word in line.split()[1:-1]]
    mounted = [volume.split(":")[0] for volume in SERVICES["postgres"]["volumes"] if volume.startswith("./")]
    assert all((DEPLOY.parent / name).exists() for name in copied)
    assert all((DEPLOY / name).is_file() for name in mounted)
