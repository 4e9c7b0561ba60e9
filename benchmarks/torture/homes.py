"""Homes to break: one before each verb of the graph, made once by the verbs themselves.

Belongs here: the verbs in their order, and copies of homes. Does not belong here: breaking them (`faults`).

Every home is used at the same path: MLflow and the registry keep absolute ones.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.torture.inspection import inspect
from benchmarks.torture.processes import ask, fork, work
from nutridet_core.artifacts.locks import claimed
from nutridet_core.artifacts.store import is_complete, read_manifest, writing
from nutridet_core.pipeline import baseline, comparison, dataset, monitoring, publication, release, rollback, training
from nutridet_core.pipeline.context import Context
from nutridet_core.settings import Settings

EXPERIMENT = "exp1a"
NAMES = (EXPERIMENT,)
SETTINGS = {"source": "generated:20:6", "max_epochs": 2}
"""14 photos for training, 2 for selection, 4 for the test; two epochs: the smallest that pass the gate."""

Verb = Callable[[Context], Any]
VERBS: dict[str, Verb] = {
    "prepare_dataset": dataset.prepare_dataset,
    "report_dataset": dataset.report_dataset,
    "score_baseline": baseline.score_baseline,
    "train": lambda context: training.train_experiments(context, NAMES),
    "score_checkpoints": lambda context: training.score_checkpoints(context, NAMES),
    "choose_checkpoint": lambda context: training.choose_checkpoint(context, EXPERIMENT),
    "score_experiment": lambda context: training.score_experiments(context, NAMES),
    "build_leaderboard": lambda context: comparison.build_leaderboard(context, NAMES),
    "merge": lambda context: release.merge_best(context, NAMES),
    "quantize": release.quantize_merged,
    "score_release": release.score_release,
    "write_card": lambda context: publication.write_card(context, NAMES),
    "build_triton_repository": publication.build_triton_repository,
    "register": release.register_release,
    "reevaluate": monitoring.reevaluate_champion,
    "promote_copy": lambda context: promote_copy(context),
    "rollback": lambda context: roll_back(context),
}
"""In the order of the graph. `promote_copy` is here to give `rollback` something to do."""


def open_home(home: Path, tracking_uri: str | None = None) -> Context:
    """The verbs' context in a home."""
    return Context(Settings(home=home, tracking_uri=tracking_uri, **SETTINGS), log=lambda line: print(line, flush=True))


def promote_copy(context: Context) -> None:
    """A second champion: the first release's files under another name."""
    registry = release.model_registry(context)
    first, layout = release.read_release(context, release.current_release(context)), context.layout
    second = replace(first, name="copy", merged=layout.merged("copy"), fp8=layout.fp8("copy"))
    run = str(read_manifest(layout.release_report).mlflow_run_id)
    with claimed(layout.current_release):
        for source, target in ((first.merged, second.merged), (first.fp8, second.fp8)):
            if not is_complete(target):
                with writing(target) as draft:
                    shutil.copytree(source, draft, dirs_exist_ok=True)
        holder = registry.holder("champion")
        registry.promote(registry.register(second, run, {}, "copy"), "torture", over=holder and holder[0])


def roll_back(context: Context) -> None:
    """To the first release, unless it is champion again already."""
    registry = release.model_registry(context)
    holder = registry.holder("champion")
    if holder is None or holder[1].name == "copy":
        rollback.plan_rollback(context).carry_out("torture")


@dataclass(frozen=True)
class Homes:
    """Prepared homes below a folder, and what each verb does when nobody disturbs it."""

    root: Path
    seconds: dict[str, float]
    expected: dict[str, dict[str, Any]]
    """What an `inspection` finds after each verb."""

    @property
    def home(self) -> Path:
        """Where every verb finds its home."""
        return self.root / "home"

    @property
    def verbs(self) -> list[str]:
        """Those that were prepared, in order."""
        return list(self.seconds)

    def before(self, verb: str) -> Path:
        """The kept home."""
        return self.root / "before" / verb

    @property
    def end(self) -> Path:
        """The kept home after all verbs."""
        return self.before("end")

    def reset(self, verb: str, *, after: bool = False) -> None:
        """Put the home before (or after) a verb in its place. The folder itself stays: it may be a mount point."""
        self.home.mkdir(exist_ok=True)
        for path in self.home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        names = [*self.verbs, "end"]
        copy(self.before(names[names.index(verb) + 1] if after else verb), self.home)


def prepare_homes(root: Path, verbs: Sequence[str], start: Path | None, say: Callable[[str], None] = print) -> Homes:
    """Run every verb once, from an empty home or a copy of `start`, and keep the homes.

    Those that are there already are used again.
    """
    kept = root / "homes.json"
    if not kept.is_file():
        _prepare(root, verbs, start, say)
    return Homes(root, **json.loads(kept.read_text(encoding="utf-8")))


def _prepare(root: Path, verbs: Sequence[str], start: Path | None, say: Callable[[str], None]) -> None:
    homes = Homes(root, {}, {})
    for folder in (homes.home, root / "before"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if start:
        copy(start, homes.home)
    for name in verbs:
        copy(homes.home, homes.before(name))
        _run_undisturbed(homes, name)
        say(f"{name}: {homes.seconds[name]} s undisturbed")
    copy(homes.home, homes.end)
    (root / "homes.json").write_text(json.dumps({"seconds": homes.seconds, "expected": homes.expected}))


def _run_undisturbed(homes: Homes, name: str) -> None:
    verb, home = VERBS[name], homes.home
    began = time.monotonic()
    child = fork(lambda: work(lambda: verb(open_home(home))), homes.root / "log")
    if child.wait() != 0:
        raise RuntimeError(f"{name} failed undisturbed: {child.log.read_text(errors='replace')[-3000:]}")
    homes.seconds[name] = round(time.monotonic() - began, 2)
    homes.expected[name] = ask(lambda: inspect(open_home(home)), homes.root / "inspection")


def copy(source: Path, target: Path) -> None:
    """Everything in a folder, its times included."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(target)], check=True)


def used_bytes(folder: Path) -> int:
    """What the files below take, in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())
