"""Files and variables that people write by hand, or get from elsewhere: experiments, manifests, indexes, settings.

Belongs here: TOML, JSON and environment variables. Each `use` reads them as the product does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from PIL import Image

from benchmarks.fuzz import damage
from benchmarks.fuzz.outcome import Feed, Outcome, judge
from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import MANIFEST, Manifest, is_complete, read_manifest
from nutridet_core.data.sources import open_source
from nutridet_core.data.validate import accept
from nutridet_core.experiments import load_experiments
from nutridet_core.settings import Settings

_TOML = """[exp3]
summary = "vision and language"
towers = ["language", "vision"]
rank = 16
alpha = 32
learning_rate = 2e-4
mask_prompt = true
dropout = 0.1
[exp4]
epochs = 3
seed = 7
"""
_COCO: dict[str, Any] = {
    "categories": [{"id": 1, "name": "nutrition-table"}, {"id": 2, "name": "barcode"}],
    "images": [
        {"id": 1, "file_name": "a.png", "width": 40, "height": 30, "barcode": "400", "split": "train"},
        {"id": "two", "file_name": "a.png"},
    ],
    "annotations": [
        {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20]},
        {"image_id": "two", "category_id": 2, "bbox": [1, 1, 9, 9.5]},
    ],
}
_LINE: dict[str, Any] = {"file_name": "a.png", "boxes": [[4, 4, 20, 20]], "barcode": "400", "split": "test"}
_SETTINGS = {
    "HOME": "/tmp/nutridet", "PROFILE": "tiny", "SOURCE": "generated:4", "TEST_SOURCE": "generated:4:1",
    "MAX_EPOCHS": "2", "TRACKING_URI": "http://127.0.0.1:5000", "DAGSTER_PORT": "3000", "MLFLOW_PORT": "5000",
    "REVISION": "a" * 40, "ALERT_WEBHOOK": "https://example.org/hook", "EXPERIMENTS": "/nowhere.toml",
    "REEVALUATION_CRON": "0 6 * * 1",
}  # fmt: skip
_VALUES = (
    "", "0", "-1", "3.5", "true", "null", "tiny", "qwen2-vl-7b", "generated", "generated:", "generated:0",
    "hub", "hub@",
    "hub@main", "hub:/nowhere", "coco:", "coco:/etc/passwd", "coco:~nobody-here", "imagefolder:/etc",
    "generated:" + "9" * 5000,
    "generated:²", "generated:٣", "~nobody-here/x", "http://[::1", "https://", "file:///etc/passwd", "é" * 400,
    "x" * 5000,
    "9" * 5000, "NaN", " ", "\udcff", "{}", "[1]", "a\nb",
)  # fmt: skip


def in_folder(use: Callable[[Path, bytes], Outcome]) -> Callable[[], AbstractContextManager[Feed]]:
    """A target that reads a file in a folder of its own, a photo beside it."""

    @contextmanager
    def opened() -> Iterator[Feed]:
        with TemporaryDirectory() as name:
            folder = Path(name) / "folder"
            folder.mkdir()
            (folder / "a.png").write_bytes(_photo())
            yield lambda given: judge(lambda content: use(folder, content), given)

    return opened


def make_toml(random: Random) -> bytes:
    """Experiments."""
    text = _TOML
    if random.random() < 0.5:
        lines = text.splitlines()
        at = random.randrange(len(lines))
        name = lines[at].partition(" = ")[0]
        lines[at] = random.choice(
            (f"{name} = {_toml(random)}", _toml(random), lines[at] + lines[at - 1], f"[{_toml(random)}]")
        )
        text = "\n".join(lines)
    else:
        text = damage.spoil_text(text, random)
    return _bytes(text, random)


def use_experiments(folder: Path, content: bytes) -> Outcome:
    """Every experiment has a folder of its own name, inside the one for all."""
    file = folder / "experiments.toml"
    file.write_bytes(content)
    experiments = load_experiments(file)
    layout = Layout(folder / "artifacts")
    assert all(layout.adapter(name).resolve().parent == layout.root / "adapters" for name in experiments)
    return Outcome("value", f"{len(experiments)} experiments")


def make_manifest(random: Random) -> bytes:
    """Of a folder that holds `a.png`."""
    tree = Manifest(kind="model", name="a", files={"a.png": _photo_hash()}, config={"a": [1, {"b": 2}]}).model_dump()
    return _json(tree, random)


@cache
def _photo_hash() -> str:
    return hashlib.sha256(_photo()).hexdigest()


def _photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    return stream.getvalue()


def use_manifest(folder: Path, content: bytes) -> Outcome:
    """A manifest that is accepted vouches for files inside its folder, by their very hashes."""
    (folder / MANIFEST).write_bytes(content)
    complete = is_complete(folder)
    manifest = read_manifest(folder)
    assert complete
    assert all((folder / name).resolve().is_relative_to(folder.resolve()) for name in manifest.files)
    return Outcome("value", f"{len(manifest.files)} files")


def make_coco(random: Random) -> bytes:
    """An index."""
    return _json(_COCO, random)


def use_coco(folder: Path, content: bytes) -> Outcome:
    """As ingest does: the index, then every photo in it."""
    (folder / "annotations.json").write_bytes(content)
    return _ingest(f"coco:{folder}", folder)


def make_lines(random: Random) -> bytes:
    """An index of one object a line."""
    return b"\n".join((json.dumps(_LINE).encode(), _json(_LINE, random)))


def use_imagefolder(folder: Path, content: bytes) -> Outcome:
    """As ingest does."""
    (folder / "metadata.jsonl").write_bytes(content)
    return _ingest(f"imagefolder:{folder}", folder)


def make_settings(random: Random) -> dict[str, str]:
    """Environment variables."""
    chosen = random.sample(sorted(_SETTINGS), random.randint(1, 4))
    variables = {f"NUTRIDET_{name}": _SETTINGS[name] for name in chosen}
    spoiled = f"NUTRIDET_{random.choice(chosen)}"
    text = random.choice((random.choice(_VALUES), damage.spoil_text(variables[spoiled], random)))
    variables[spoiled] = text.replace("\0", "").replace("\ud800", "\udcff")  # what the system lets through
    return variables


def use_settings(variables: dict[str, str]) -> Outcome:
    """Everything that follows from settings alone, and the first photo's place."""
    with patch.dict(os.environ, variables):
        settings = Settings()
        assert settings.home.is_absolute()
        profile = settings.active_profile
        assert settings.artifacts.parent == settings.home / "artifacts"
        assert settings.mlflow_page, settings.mlflow_artifacts
        count = len(settings.all_experiments)
        if settings.source and not settings.source.startswith(("hub@", "imagefolder:/")):
            open_source(settings.source)
    return Outcome("value", f"{profile.name}, {count} experiments")


def _ingest(source: str, folder: Path) -> Outcome:
    candidates = list(islice(open_source(source), 100))
    assert all(Path(each.image).is_relative_to(folder.resolve()) for each in candidates if isinstance(each.image, Path))
    reasons = [found.reason.value for found in map(accept, candidates) if hasattr(found, "reason")]
    return Outcome("problem", reasons[0]) if reasons else Outcome("value", f"{len(candidates)} photos")


def _json(tree: Any, random: Random) -> bytes:
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        tree = damage.spoil_tree(tree, random)
    text = json.dumps(tree, ensure_ascii=random.random() < 0.9) if random.random() < 0.98 else "[" * 100_000
    return _bytes(damage.spoil_text(text, random) if random.random() < 0.2 else text, random)


def _bytes(text: str, random: Random) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return damage.spoil_bytes(content, random) if random.random() < 0.1 else content


def _toml(random: Random) -> str:
    value = random.choice(damage.ODD)
    return random.choice(
        (
            json.dumps(value) if not isinstance(value, dict) else "{a = 1}", "inf", "nan", "-1", "0", "1_000",
            "9" * 5000,
            "0x" + "f" * 5000, "1979-05-27", "'''", '"../../x"', "[" * 3000, '["language", ["vision"]]',
            "1e999", "true",
        )
    )  # fmt: skip
