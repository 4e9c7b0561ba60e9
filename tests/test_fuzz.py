"""A short run of the fuzzer, what it once broke, and that it would notice what it looks for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from benchmarks.fuzz import child, photos
from benchmarks.fuzz.child import fuzz, remake
from benchmarks.fuzz.outcome import Outcome, judge, judged
from benchmarks.fuzz.targets import TARGETS, Target
from nutridet_core.answers import Problem, read_answer
from nutridet_core.artifacts.store import MANIFEST, Manifest, is_complete, read_manifest
from nutridet_core.data.photos import MAX_SCANS, PhotoError, Reason, decode_photo
from nutridet_core.data.sources import open_source
from nutridet_core.errors import ArtifactError, NutridetError, SettingsError
from nutridet_core.experiments import load_experiments
from nutridet_core.settings import Settings
from tests.photo_files import encode, picture

SEED = 7
SHORT = 4_000


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_anything(name: str) -> None:
    tally = fuzz(name, round(SHORT * TARGETS[name].share), SEED)
    assert tally.broken == []
    assert tally.n == sum(tally.outcomes.values())
    assert tally.outcomes["value"], "no input got through: nothing behind the first check was reached"
    assert tally.outcomes["refused"] + tally.outcomes["problem"], "no input was bad"


def test_an_input_can_be_made_again() -> None:
    assert [remake("answers", number, SEED) for number in range(50)] == [
        remake("answers", number, SEED) for number in range(50)
    ]
    assert remake("photos", 3, SEED) != remake("photos", 3, SEED + 1)


# ---------------------------------------------------------------- it would notice


def killed(given: int) -> Outcome:
    if given == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("value", "")


def stuck(given: int) -> Outcome:
    while given == 3:
        time.sleep(0.01)
    return Outcome("value", "")


def greedy(given: int) -> Outcome:
    held = bytearray(2**32 if given == 3 else 1)
    return Outcome("value", str(len(held) > 1))


def counted(random: Random) -> int:
    return random.randrange(5)


@pytest.mark.parametrize(("use", "said"), [(killed, "kills"), (stuck, "hangs"), (greedy, "MemoryError")])
def test_death_hang_and_greed_are_noticed(
    use: Callable[[int], Outcome], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process's copy of a child: the real one imports its targets afresh."""
    import multiprocessing

    monkeypatch.setitem(child.TARGETS, "planted", Target(1, counted, judged(use)))
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(child.multiprocessing, "get_context", lambda method: fork)
    numbers = [remake("planted", number, SEED) for number in range(8)]
    assert numbers[0] != 3
    tally = fuzz("planted", 8, SEED, hang_seconds=5)
    assert tally.n == 8
    assert len(tally.broken) == numbers.count(3) > 0
    assert all(said in line for line in tally.broken)


def test_errors_that_do_not_say_where_are_not_clear() -> None:
    def vague(given: str) -> Outcome:
        raise NutridetError("it failed", where=given or None)

    def foreign(given: str) -> Outcome:
        raise KeyError(given)

    assert judge(vague, "file.toml").kind == "refused"
    assert judge(vague, "").kind == "broken"
    assert judge(foreign, "x").kind == "broken"


# ---------------------------------------------------------------- what it broke


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded() -> None:
    """119 bytes a scan, each a pass over all pixels: a megabyte kept a core busy for an hour."""
    whole = encode(Image.new("L", (2_000, 2_000), 128), "JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(PhotoError, match="scans") as refused:
        decode_photo(whole[:-2] + scan * 1_000 + whole[-2:])
    assert refused.value.reason is Reason.TOO_MANY_SCANS
    assert decode_photo(whole[:-2] + scan * 20 + whole[-2:]).image.size == (2_000, 2_000)


def test_only_scans_of_the_photo_itself_count() -> None:
    """Not those of a thumbnail, nor what a phone appends: a film, in which two bytes may look like one."""
    exif = Image.Exif()
    exif[0x010F] = "\xff\xda" * MAX_SCANS
    block = exif.tobytes() + b"\xff\xda" * 2 * MAX_SCANS
    whole = encode(picture(1), "JPEG", progressive=True, exif=block)
    assert decode_photo(whole + b"\xff\xda\0\2" * 2 * MAX_SCANS).image.size == picture(1).size


@pytest.mark.parametrize(
    "text", [" " * 200_000, "\n" * 200_000 + "[", "<|box_start|>" + " " * 200_000, "(1,2,3,4)" * 20_000]
)
def test_an_answer_of_any_length_is_read_in_one_pass(text: str) -> None:
    """20,000 blanks took 11 s: this one would take twenty minutes, and pytest's own limit ends it before."""
    answer = read_answer(text, (1000, 1000))
    assert answer.failed or len(answer.boxes) == 1


def test_a_box_said_twice_is_one_box() -> None:
    answer = read_answer("(1,2,3,4) (1,2,3,4) (5,6,7,8)", (10, 10))
    assert (len(answer.boxes), answer.problems) == (2, (Problem.DUPLICATE_BOX,))


@pytest.mark.parametrize(
    "text", ["[a]\nrank = " + "9" * 5000, "[a]\nrank = 0x" + "f" * 5000, "a = " + "[" * 5000, "\udcff"]
)
def test_experiments_without_end_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "experiments.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=r"experiments\.toml"):
        load_experiments(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DAGSTER_PORT", "0"), ("MLFLOW_PORT", "http"), ("MAX_EPOCHS", "9" * 5000), ("HOME", "~nobody-here/x"),
        ("ALERT_WEBHOOK", "ftp://x"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"NUTRIDET_{name}", value)
    with pytest.raises(SettingsError, match=f"NUTRIDET_{name}"):
        Settings()


@pytest.mark.parametrize("source", ["generated:" + "9" * 5000, "coco:~nobody-here/x", "hub:" + "x" * 5000, "coco:a\0b"])
def test_a_source_that_is_no_path_or_number_is_refused(source: str) -> None:
    with pytest.raises(NutridetError):
        open_source(source)


def test_a_file_name_that_no_disk_takes_is_a_damaged_manifest(tmp_path: Path) -> None:
    manifest = Manifest(kind="model", name="a", files={"x" * 5000: "0" * 64})
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    assert not is_complete(tmp_path)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path)


def test_every_bomb_is_refused_or_fits() -> None:
    for make in photos._BOMBS:
        if make is not photos._largest_png:  # accepted, and decoded by the run above
            assert judge(photos.use, make(Random(0))).kind in ("refused", "value"), make.__name__
