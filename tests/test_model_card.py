"""The model card: what the hub reads, what people read, and what neither may contain."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nutridet_core.artifacts.store import Manifest
from nutridet_core.errors import ContractError
from nutridet_core.evaluation.compare import compare
from nutridet_core.prompts import Contract
from nutridet_core.release.model_card import Card, front_matter, write_model_card
from tests.report_samples import (
    BEST,
    HOSTILE,
    PHOTOS,
    three_rows,
)

CONTRACT = Contract("qwen2-vl", 168 * 168, 252 * 252)
MANIFEST = Manifest(
    kind="model", name="m", contract=CONTRACT.hash, data_fingerprint="fingerprint-1", git_commit="commit-1",
    versions={"torch": "2.14.1"}, mlflow_run_id="run-1", created="2026-11-24T10:00:00+00:00",
)  # fmt: skip


def _card(**changes: Any) -> Card:
    plain = Card(
        name="someone/nutrition-tables",
        summary="Finds nutrition tables.",
        intended_use="Photos of packaged food.",
        licence="apache-2.0",
        library_name="transformers",
        base_model="Qwen/Qwen2-VL-7B-Instruct",
        base_revision="e" * 40,
        dataset="someone/photos",
        dataset_revision="d" * 40,
        contract=CONTRACT,
        max_new_tokens=77,
        manifest=MANIFEST,
        rows=three_rows(),
        subject="exp1",
        training={"rank": 64, "towers": "language"},
        limits=("Not for curved bottles.",),
        tags=("object-detection",),
    )
    return replace(plain, **changes)


def _write_card(folder: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    text = write_model_card(folder / "README.md", _card(**changes)).read_text(encoding="utf-8")
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), body


def test_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    matter, _ = _write_card(tmp_path)
    assert matter["library_name"] == "transformers"
    assert matter["base_model"] == "Qwen/Qwen2-VL-7B-Instruct"
    assert matter["datasets"] == ["someone/photos"]
    assert matter["pipeline_tag"] == "image-text-to-text"
    results = {r.metric_type: r for r in ModelCard.load(tmp_path / "README.md").data.eval_results}
    assert results["mean_iou"].metric_value == 0.6
    assert results["mean_iou"].metric_args == {
        "low": round(BEST.low, 4),
        "high": round(BEST.high, 4),
        "n": PHOTOS,
    }
    assert results["mean_iou"].dataset_split == "test"
    assert f"95 % interval {str(BEST)[6:]}, n = 24" in results["mean_iou"].metric_name
    assert "false_detection_rate" not in results, "undefined without negatives"


def test_the_card_shows_the_model_beside_baseline_and_priors(tmp_path: Path) -> None:
    rows = three_rows()
    comparisons = [compare("zero-shot", "exp1", rows[1].samples, rows[2].samples)]
    _, body = _write_card(tmp_path, comparisons=comparisons)
    assert "**exp1 beats zero-shot: +0.267" in body
    assert f"| **exp1** (this model) | experiment | {BEST} |" in body
    assert f"| zero-shot | baseline | {three_rows()[1].scores.metrics['mean_iou']} |" in body
    assert f"| median-box | prior | {three_rows()[0].scores.metrics['mean_iou']} |" in body
    assert "| exp1 against zero-shot | +0.267 [+0.267, +0.267] |" in body
    for fact in ("fingerprint-1", "commit-1", "run-1", CONTRACT.hash, "| rank | 64 |", "| torch | 2.14.1 |"):
        assert fact in body
    for table in re.findall(r"(?:^\|.*\n)+", body, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_card_names_its_own_failures_and_given_limits(tmp_path: Path) -> None:
    _, body = _write_card(tmp_path, subject="zero-shot")
    assert "- 24 of 24 test photos: a table whose best box has an IoU below 0.5." in body
    assert "- Not for curved bottles." in body


def test_local_folders_are_named_but_not_linked(tmp_path: Path) -> None:
    matter, body = _write_card(tmp_path, base_model="/some/place/base", base_revision=None, dataset_revision=None)
    assert "base_model" not in matter
    assert "datasets" not in matter
    assert "| base model | base |" in body
    assert "/some/place" not in body


def test_the_code_on_the_card_uses_the_contract(tmp_path: Path) -> None:
    contract = replace(CONTRACT, question='Where is the "table"? It\'s here')
    manifest = MANIFEST.model_copy(update={"contract": contract.hash})
    _, body = _write_card(tmp_path, contract=contract, manifest=manifest)
    code = re.search(r"```python\n(.*?)```", body, flags=re.DOTALL)
    assert code is not None
    assigned = {ast.unparse(node.targets[0]): node for node in ast.parse(code[1]).body if isinstance(node, ast.Assign)}
    messages = ast.literal_eval(assigned["messages"].value)
    assert messages[1]["content"][1]["text"] == contract.question
    assert {"28224", "63504", "max_new_tokens=77", "Qwen2VLForConditionalGeneration"} <= set(
        re.findall(r"[\w=]+", code[1])
    )
    assert "<|box_start|>(250,500),(750,875)<|box_end|>" in body
    assert "thousandths" in body


def test_values_cannot_break_the_card(tmp_path: Path) -> None:
    training = {"note|x": "a | b\n# c", "html": HOSTILE}
    matter, body = _write_card(tmp_path, summary=HOSTILE, training=training, licence='other: "yes"', limits=("a: [b",))
    assert matter["license"] == 'other: "yes"'
    assert "<script" not in body
    assert "<img" not in body
    assert r"| note\|x | a \| b # c |" in body


def test_a_card_without_its_own_row_is_refused() -> None:
    with pytest.raises(ValueError, match="no row is called 'other'"):
        _card(subject="other")


def test_a_card_teaches_the_contract_of_its_weights() -> None:
    with pytest.raises(ContractError, match="was made under contract"):
        _card(contract=replace(CONTRACT, question="Where?"))


def test_every_metric_on_the_card_is_finite() -> None:
    (model,) = front_matter(_card())["model-index"]
    values = [metric["value"] for metric in model["results"][0]["metrics"]]
    assert len(values) == 5
    assert all(math.isfinite(value) for value in values)
