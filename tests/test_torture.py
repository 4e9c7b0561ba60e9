"""A short torture: faults in verbs that need no model, and writers that are killed; `make torture` is the long one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import Manifest, clear_abandoned, read_manifest, reusable, seal, writing
from nutridet_core.errors import ArtifactError

ROOT = Path(__file__).parents[1]
FUZZED = ROOT / "benchmarks" / "results" / "fuzz.json"
_WRITER = """
import sys, time
from pathlib import Path
from nutridet_core.artifacts.store import Manifest, seal, writing
with writing(Path(sys.argv[1])) as draft:
    (draft / "weights").write_bytes(b"w" * 2**20)
    print("writing", flush=True)
    if sys.argv[2] == "forever":
        time.sleep(3600)
    seal(draft, Manifest(kind="model", name="m", config={"by": sys.argv[2]}))
"""


def writer(folder: Path, how: str) -> subprocess.Popen[str]:
    """Another process that has begun to write an artefact."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def make(folder: Path, by: str) -> Manifest:
    with writing(folder) as draft:
        (draft / "weights").write_text(by)
        return seal(draft, Manifest(kind="model", name="m", config={"by": by}))


@pytest.mark.parametrize("asked", ["written again", "asked for"])
def test_what_a_killed_writer_left_is_cleared_by_the_next(tmp_path: Path, asked: str) -> None:
    folder = tmp_path / "m"
    make(folder, "before")
    process = writer(folder, "forever")
    process.kill()
    process.wait()
    assert len(list(tmp_path.iterdir())) == 2, "the test must leave a draft"
    if asked == "asked for":
        assert reusable(folder, "model", {"by": "before"})
    else:
        make(folder, "after")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_draft_of_a_living_writer_stays(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    process = writer(folder, "forever")
    try:
        clear_abandoned(folder)
        make(folder, "meanwhile")
        assert sorted(path.name == "m" for path in tmp_path.iterdir()) == [False, True]
    finally:
        process.kill()
        process.wait()


def test_of_two_writers_one_artefact_is_left_and_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    processes = [writer(folder, str(number)) for number in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert read_manifest(folder).config["by"] in ("0", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_is_claimed_once_and_given_back_by_a_death(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from nutridet_core.artifacts.locks import claimed\n"
    code += "with claimed(Path(sys.argv[1])): print('claimed', flush=True); time.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(ArtifactError, match="another process is writing here"), claimed(tmp_path):
        pass
    process.kill()
    process.wait()
    with claimed(tmp_path):
        pass


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
