"""A release whose folders and manifests are written by hand: everything the gate reads, without a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nutridet_core.answers import Form
from nutridet_core.artifacts.layout import Layout
from nutridet_core.artifacts.store import Manifest, digest, read_manifest, seal, write_json, writing
from nutridet_core.boxes import Box
from nutridet_core.data.dataset import load_records
from nutridet_core.evaluation.evaluate import load_scores, save_scores
from nutridet_core.evaluation.scores import Sample
from nutridet_core.pipeline.context import Context, scores_config
from nutridet_core.pipeline.release import POINTER, REPORT, subject
from nutridet_core.release.registry import CHAMPION, Registry
from nutridet_core.settings import Settings

EXPERIMENT = "exp1a"


def open_home(home: Path) -> Context:
    """The verbs' context in a home."""
    return Context(Settings(home=home), log=lambda line: None)


def make_context(home: Path, dataset: Path) -> Context:
    """A context whose dataset is a copy of `dataset`."""
    context = open_home(home)
    shutil.copytree(dataset, context.layout.dataset)
    return context


def write_release(context: Context, content: str, *, offset: float = 0.02) -> str:
    """Write everything that a release needs to pass the gate, and point to it.

    Args:
        content: what its weights consist of: another text is another release.
        offset: how far every box found lies from the true one, in parts of the photo.

    Returns:
        The name of the release.
    """
    layout = context.layout
    checkpoint = layout.adapter(EXPERIMENT) / "checkpoint-4"
    weights = write(context, checkpoint, "checkpoint", content, facts={"step": 4}).digest
    release = weights[:12]
    write(context, checkpoint.parent, "adapter", content, audits=("label_audit", "module_audit", "gradient_audit"))
    answers = _answers(context, offset)
    asked = ("contract_audit", "adapter_active")
    for name, split in ((f"{EXPERIMENT}/checkpoint-4", "selection"), (EXPERIMENT, "test")):
        _write_scores(context, name, split, answers, weights, asked)
    _write_leaderboard(context)
    merged, fp8 = layout.merged(release), layout.fp8(release)
    made = write(context, merged, "model", content, audits=("merge_base",), config={"adapter": weights})
    write(context, fp8, "model", f"{content} in FP8", audits=("fp8_modules",), config={"merged": made.digest})
    _write_parity(context, release)
    for name, folder in (("merged", merged), ("fp8", fp8)):
        _write_scores(context, subject(release, name), "test", answers, read_manifest(folder).digest)
    current = {"release": release, "experiment": EXPERIMENT, "checkpoint": checkpoint.name}
    with writing(layout.current_release) as draft:
        write_json(draft / POINTER, current)
        seal(draft, Manifest(kind="release", name=release, config=current))
    return release


def make_champion(registry: Registry, version: str, why: str = "planted") -> None:
    """Make a version champion, whoever it is now."""
    holder = registry.holder(CHAMPION)
    registry.promote(version, why, over=None if holder is None else holder[0])


def folders_of(layout: Layout, release: str) -> dict[str, Path]:
    """Where the gate finds what was audited, by the keys of `gate.REQUIRED`."""
    return {
        "adapter": layout.adapter(EXPERIMENT),
        "checkpoint_scores": layout.scores(f"{EXPERIMENT}/checkpoint-4", "selection"),
        "leaderboard": layout.leaderboard,
        "merged_model": layout.merged(release),
        "fp8_model": layout.fp8(release),
        "release_scores": layout.release_report,
    }


def change(folder: Path, **fields: Any) -> None:
    """Seal a folder again with other fields: a manifest that is whole and says something else."""
    manifest = read_manifest(folder, verify=False)
    seal(folder, manifest.model_copy(update=fields))


def flip_bit(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def audit(name: str, *, passed: bool = True) -> dict[str, Any]:
    """An audit as a manifest carries it."""
    return {"name": name, "passed": passed, "summary": "planted", "evidence": {}}


def write(
    context: Context,
    folder: Path,
    kind: str,
    content: str,
    *,
    audits: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> Manifest:
    """A folder with one file of `content`, sealed where it lies, as training seals its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(content, encoding="utf-8")
    manifest = Manifest(
        kind=kind,
        name=folder.name,
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config=config or {},
        facts={**(facts or {}), "audits": {name: audit(name) for name in audits}},
        mlflow_run_id=context.open_run("planted", {"folder": folder.name, "content": content}, stage="test"),
    )
    return seal(folder, manifest)


def _answers(context: Context, offset: float) -> list[Sample]:
    """Every table of the test photos found, a little too far down."""
    return [
        Sample(r.id, r.width, r.height, r.boxes, tuple(_lower(box, offset) for box in r.boxes), 0.9, "text",
               (Form.NATIVE if r.boxes else Form.NEGATIVE).value, (), 0.1)
        for r in load_records(context.layout.dataset, "test")
    ]  # fmt: skip


def _lower(box: Box, offset: float) -> Box:
    top = min(box.y0 + offset, (box.y0 + 3 * box.y1) / 4)
    return Box(box.x0, top, box.x1, box.y1)


def _write_scores(
    context: Context, name: str, split: str, answers: list[Sample], weights: str, audits: tuple[str, ...] = ()
) -> None:
    manifest = Manifest(
        kind="scores",
        name=f"{name}/{split}",
        contract=context.profile.contract.hash,
        data_fingerprint=context.fingerprint,
        config=scores_config(context, weights),
        facts={"audits": {name: audit(name) for name in audits}},
    )
    save_scores(context.layout.scores(name, split), name, split, answers, manifest)


def _write_leaderboard(context: Context) -> None:
    scored = load_scores(context.layout.scores(EXPERIMENT, "test"))
    rows = {EXPERIMENT: digest(scored.to_dict())}
    facts = {"winner": EXPERIMENT}
    write(
        context,
        context.layout.leaderboard,
        "leaderboard",
        "page",
        audits=("beats_baseline",),
        config={"rows": rows},
        facts=facts,
    )


def _write_parity(context: Context, release: str) -> None:
    layout = context.layout
    weights = {"merged": read_manifest(layout.merged(release)).digest, "fp8": read_manifest(layout.fp8(release)).digest}
    write(
        context, layout.release_report, "release_report", release, audits=("merge_parity", "fp8_parity"), config=weights
    )
    write_json(layout.release_report / REPORT, {})
    change(layout.release_report)
