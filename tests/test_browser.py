"""What people do with a mouse: materialise the graph, look at runs and models, schedule a re-evaluation.

One home, empty at first, and one `nutridet up`; the tests follow each other as a newcomer's first hour does.
With `NUTRIDET_SCREENSHOTS=docs/images` they leave the pictures of docs/first-hour.md there.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import dagster as dg
import pytest
from PIL import Image

from nutridet_assets.definitions import defs
from tests.services import Up, gone, up

if TYPE_CHECKING:
    from playwright.sync_api import Page

ASSETS = defs.resolve_job_def("pipeline").asset_layer.executable_asset_keys
CHROMIUM = shutil.which("chromium")
EXPERIMENT = '[{name}]\nsummary = "language model, rank 16"\nrank = 16\n'
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_JOB = "locations/nutridet_assets.definitions"
_PROGRESS = re.compile(r"rank16: step \d+/\d+, epoch [\d.]+, .*images/s, \d+ s left")
_ENDED = re.compile("^(Success|Failure|Canceled)$")
_PATIENCE_MS = 120_000
"""For a page to show what it already has; a run is waited for without end, but for pytest's own."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Few photos, an experiment of the user's own, a re-evaluation every minute."""
    folder = tmp_path_factory.mktemp("first-hour")
    (folder / "mine.toml").write_text(EXPERIMENT.format(name="rank16"), encoding="utf-8")
    settings = {
        "NUTRIDET_SOURCE": "generated:40",
        "NUTRIDET_EXPERIMENTS": str(folder / "mine.toml"),
        "NUTRIDET_REEVALUATION_CRON": "* * * * *",
    }
    with up(folder / "home", settings) as started:
        yield started


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    """One page of one browser for all tests: what was closed stays closed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_FLAGS])
        opened = browser.new_page(viewport={"width": 1280, "height": 800}, timezone_id="UTC", locale="en-GB")
        opened.set_default_timeout(_PATIENCE_MS)
        yield opened
        browser.close()


@pytest.fixture
def page(browser_page: Page, request: pytest.FixtureRequest) -> Iterator[Page]:
    """That page; a test that fails leaves a picture of what it saw."""
    failed = request.session.testsfailed
    yield browser_page
    if request.session.testsfailed > failed:
        picture(browser_page, f"failed-{request.node.name}")


@pytest.fixture(scope="module")
def materialised(running: Up, browser_page: Page) -> str:
    """The whole graph, materialised with the mouse; how the run ended, in the page's words."""
    page = browser_page
    page.goto(f"{running.dagster}/{_JOB}/jobs/pipeline")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_role("menuitem", name="rank16").click()
    page.keyboard.press("Escape")
    picture(page, "dagster-launch")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("Launch runs to materialize").wait_for(state="hidden")
    page.goto(f"{running.dagster}/runs")
    run = page.locator("a[href^='/runs/']").filter(has_text=re.compile("^[0-9a-f]{8}$")).first
    run.click()
    page.get_by_text(_PROGRESS).or_(page.get_by_text(_ENDED)).first.wait_for(timeout=0)
    page.goto(f"{running.dagster}/runs")  # the run's own page redraws its chart all the time, at the training's expense
    page.get_by_text(_ENDED).first.wait_for(timeout=0)
    run.click()
    page.get_by_text(_ENDED).first.wait_for()
    return page.get_by_text(_ENDED).first.inner_text()


def test_the_whole_graph_succeeds(materialised: str) -> None:
    assert materialised == "Success"


def test_the_run_tells_how_training_goes(running: Up, materialised: str, page: Page) -> None:
    """Step, loss, speed and time left, while it trains and afterwards."""
    page.get_by_placeholder("Filter").last.fill("images/s")
    page.get_by_text(_PROGRESS).first.wait_for()
    picture(page, "dagster-training")


def test_every_asset_has_what_people_look_at(running: Up, materialised: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data version and the way to what was made; where MLflow has a run of it, a link there."""
    monkeypatch.setenv("DAGSTER_HOME", str(running.home / "dagster"))
    with dg.DagsterInstance.get() as instance:
        made = {key.to_user_string(): instance.get_latest_materialization_event(key) for key in ASSETS}
    for name, event in made.items():
        assert event is not None and event.asset_materialization is not None, name
        assert "dagster/data_version" in (event.asset_materialization.tags or {}), name
        assert event.asset_materialization.metadata, name
    board = made["leaderboard"].asset_materialization.metadata
    assert isinstance(board["leaderboard"], dg.TableMetadataValue)
    assert isinstance(board["report"], dg.UrlMetadataValue)
    assert board["MLflow run"].value.startswith(f"{running.mlflow}/#/runs/")


def test_the_graph_shows_every_stage(running: Up, materialised: str, page: Page) -> None:
    groups = {spec.group_name for spec in defs.resolve_all_asset_specs()}
    opened = quote(",".join(f"global@global:{group}" for group in sorted(groups)))
    page.goto(f"{running.dagster}/asset-groups?expanded={opened}")
    page.get_by_text("registered_model").locator("visible=true").first.wait_for()
    page.wait_for_timeout(3000)  # the colours come after the names
    picture(page, "dagster-graph")


def test_the_leaderboard_leads_to_its_report(running: Up, materialised: str, page: Page) -> None:
    page.goto(f"{running.dagster}/assets/leaderboard")
    page.get_by_text("rank16 beats baseline").first.wait_for()
    page.get_by_text("finding", exact=True).first.evaluate("key => key.scrollIntoView()")
    picture(page, "dagster-leaderboard")
    with page.expect_popup() as opened:
        page.locator("a[href*='/artifacts/leaderboard/report.html']").first.click()
    report = opened.value.frame_locator("iframe").last
    report.get_by_text("rank16 beats baseline").first.wait_for()
    picture(opened.value, "mlflow-report")
    opened.value.close()


def test_the_overlays_open_in_the_asset(running: Up, materialised: str, page: Page) -> None:
    page.goto(f"{running.dagster}/assets/leaderboard")
    row = page.locator("tr", has=page.get_by_text("overlays picture"))
    row.get_by_text("Show Markdown").click()
    image = page.locator("img[alt=overlays]")
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 300
    page.wait_for_timeout(1000)
    picture(page, "dagster-overlays")


def test_an_experiment_leads_to_its_run_in_mlflow(running: Up, materialised: str, page: Page) -> None:
    page.goto(f"{running.dagster}/assets/experiment_scores?partition=rank16")
    with page.expect_popup() as opened:
        page.locator(f"a[href^='{running.mlflow}/#/runs/']").first.click()
    opened.value.get_by_text("test.mean_iou").first.wait_for()
    picture(opened.value, "mlflow-run")
    opened.value.close()


def test_mlflow_shows_the_registered_model(running: Up, materialised: str, page: Page) -> None:
    page.goto(f"{running.mlflow}/#/models/nutridet-tiny")
    page.get_by_text("champion").first.wait_for()
    picture(page, "mlflow-model")


def test_the_schedule_fires(running: Up, materialised: str, page: Page) -> None:
    page.goto(f"{running.dagster}/{_JOB}/schedules/reevaluation")
    page.locator("label:has(input[type=checkbox])").first.click()
    page.get_by_text("1 run requested").first.wait_for()
    page.goto(f"{running.dagster}/{_JOB}/jobs/reevaluate/runs")
    page.get_by_text(_ENDED).first.wait_for(timeout=0)
    assert page.get_by_text(_ENDED).first.inner_text() == "Success"
    page.goto(f"{running.dagster}/{_JOB}/schedules/reevaluation")
    page.get_by_text("1 run requested").first.wait_for()
    picture(page, "dagster-schedule")


def test_a_new_experiment_appears_after_reload(running: Up, materialised: str, page: Page) -> None:
    file = running.home.parent / "mine.toml"
    file.write_text(EXPERIMENT.format(name="rank16") + EXPERIMENT.format(name="another"), encoding="utf-8")
    page.goto(f"{running.dagster}/deployment/locations")
    page.get_by_role("button", name="Reload").first.click()
    page.wait_for_timeout(3000)
    page.goto(f"{running.dagster}/assets/adapter?view=partitions")
    page.get_by_text("another", exact=True).first.wait_for()


def test_a_termination_leaves_no_process(running: Up) -> None:
    below = running.descendants()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait() == 0
    assert all(gone(pid) for pid in below)


def picture(page: Page, name: str) -> None:
    """Keep what the page shows, in 256 colours."""
    folder = os.environ.get("NUTRIDET_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(2000)  # menus fade, charts come last
    with Image.open(io.BytesIO(page.screenshot())) as image:
        if folder:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
                Path(folder) / f"{name}.png", optimize=True
            )
