"""The README says what the result files say, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_results_are_those_of_the_files() -> None:
    assert subprocess.run([sys.executable, "-m", "benchmarks.readme", "--check"], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_its_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_its_settings_are_those_there_are() -> None:
    from nutridet_core.settings import Settings

    named = {name.removeprefix("NUTRIDET_").lower() for name in re.findall(r"`(NUTRIDET_\w+)`", README)}
    assert named == set(Settings.model_fields)
