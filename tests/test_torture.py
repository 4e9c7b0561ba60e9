"""A short torture: faults in verbs that need no model; `make torture` is the long one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUZZED = ROOT / "benchmarks" / "results" / "fuzz.json"


def test_a_campaign_loses_nothing(release_home: Path, tmp_path: Path) -> None:
    """One injection of each fault but damage, in registering, promoting and rolling back a release that was planted."""
    out = tmp_path / "torture.json"
    out.write_text(json.dumps({"metrics": {"soak": "of another day"}}), encoding="utf-8")
    options = ["--injections", "13", "--soak", "0", "--out", str(out), "--start", str(release_home)]
    command = [sys.executable, "-m", "benchmarks.torture", *options, "--verbs", "register", "promote_copy", "rollback"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads(out.read_text(encoding="utf-8"))["metrics"]
    assert (metrics["injections"], metrics["lost"]) == (13, 0)
    assert metrics["resumed"] + metrics["refused"] > 0, "no fault did anything"
    assert metrics["unclear"] == 0, f"refused without a remedy: {result.stdout}"
    assert metrics["soak"] == "of another day"
    assert metrics["fuzz_inputs"] == json.loads(FUZZED.read_text(encoding="utf-8"))["metrics"]["fuzz_inputs"]


def test_a_campaign_notices_a_loss(release_home: Path, tmp_path: Path) -> None:
    """What is damaged behind everybody's back, and mended by no verb, is told."""
    code = "\n".join((
        "import sys; from pathlib import Path",
        "from benchmarks.torture.homes import open_home; from benchmarks.torture.inspection import inspect",
        "from tests.release_samples import flip_bit",
        "context = open_home(Path(sys.argv[1])); layout = context.layout",
        "whole = inspect(context); assert not whole['broken'] and not whole['stale'], whole",
        "flip_bit(next(layout.root.glob('releases/*/merged/model.safetensors')))",
        "(layout.root / f'.leaderboard.{32 * chr(97)}').mkdir()",
        "found = inspect(context)",
        "assert len(found['broken']) == 1 and 'has changed' in found['broken'][0], found",
        "assert len(found['stale']) == 1, found",
        "assert found['content'] != whole['content']",
        "from benchmarks.torture.__main__ import options, result",
        "kept = result(options().parse_args(['--injections', '0', '--soak', '0']), [], None)",
        "assert kept['n'] == kept['metrics']['injections'] > 0, kept",
    ))  # fmt: skip
    home = shutil.copytree(release_home, tmp_path / "home")
    subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, check=True)


@pytest.mark.parametrize("page", ["promises.md", "security.md"])
def test_every_promise_names_a_test_that_there_is(page: str) -> None:
    """A name without a file is of the file before it in the same row, or of test_security.py."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "`test_" in row]
    assert len(rows) > 15
    for row in rows:
        file = "test_security.py"
        for named, test in re.findall(r"`(test_\w+\.py)?(?:::)?(test_\w+)?`", row):
            file = named or file
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in source, (file, test)
