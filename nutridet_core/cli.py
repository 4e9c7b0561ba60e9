"""The `nutridet` command: the pipeline's verbs, without an orchestrator.

Belongs here: arguments and printing. Does not belong here: anything that another program might call.
Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nutridet_core.errors import NutridetError, SettingsError
from nutridet_core.failures import told_plainly
from nutridet_core.settings import Settings
from nutridet_core.threads import let_threads_sleep

if TYPE_CHECKING:
    from nutridet_core.pipeline.context import Context

app = typer.Typer(
    help="Find nutrition tables in product photos: train, measure, release.", no_args_is_help=True, add_completion=False
)
Experiments = Annotated[list[str] | None, typer.Argument(help="Experiments; all when none is named.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command that prints an error of this project as one line and exits with 1."""

    @app.command(name=function.__name__)
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        let_threads_sleep()  # before the command loads torch
        try:
            with told_plainly():
                function(*args, **kwargs)
        except NutridetError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(1) from error

    return run


@command
def plan(experiments: Experiments = None) -> None:
    """Print what a run would download, and the disk and GPU memory it needs; nothing is begun."""
    from nutridet_core.training.plan import make_plan

    context = _context()
    names = _names(context, experiments)
    typer.echo(make_plan(context.settings, [context.experiment(name) for name in names]).text)


@command
def data() -> None:
    """Load, validate and split the photos; write the dataset report."""
    from nutridet_core.pipeline.dataset import prepare_dataset, report_dataset

    context = _context()
    prepare_dataset(context)
    report_dataset(context)
    typer.echo(f"dataset in {context.layout.dataset}, report in {context.layout.dataset_report}")


@command
def train(experiments: Experiments = None) -> None:
    """Fine-tune experiments; a killed run continues from its last complete checkpoint."""
    from nutridet_core.pipeline.training import train_experiments

    context = _context()
    for manifest in train_experiments(context, _names(context, experiments)):
        typer.echo(f"{manifest.name}: {manifest.facts['steps']} steps, {manifest.facts['images_per_s']} images/s")


@command
def checkpoints(experiments: Experiments = None) -> None:
    """Score every checkpoint on selection and choose the best of each experiment."""
    from nutridet_core.pipeline.training import choose_checkpoint, score_checkpoints

    context = _context()
    names = _names(context, experiments)
    score_checkpoints(context, names)
    for name in names:
        facts = choose_checkpoint(context, name).facts
        typer.echo(
            f"{name}: {facts['chosen']}, selection mean IoU {facts['mean_iou']['value']:.3f}, n = {facts['photos']}"
        )


@command
def evaluate(
    experiments: Experiments = None,
    peer: Annotated[bool, typer.Option(help="Also score the OCR peer.")] = True,
) -> None:
    """Score the baseline, the peer and each chosen checkpoint on test."""
    from nutridet_core.pipeline.baseline import score_baseline, score_peer
    from nutridet_core.pipeline.training import score_experiments

    context = _context()
    names = _names(context, experiments)
    typer.echo(score_baseline(context)["test"].text)
    if peer:
        typer.echo(score_peer(context).text)
    for scores in score_experiments(context, names).values():
        typer.echo(scores.text)


@command
def compare(experiments: Experiments = None) -> None:
    """Print the leaderboard and write the HTML report."""
    from nutridet_core.pipeline.comparison import build_leaderboard

    context = _context()
    manifest = build_leaderboard(context, _names(context, experiments))
    typer.echo(manifest.facts["text"])
    typer.echo(f"report: {context.layout.leaderboard / 'report.html'}")


@command
def merge(experiments: Experiments = None) -> None:
    """Merge the best checkpoint into pristine weights."""
    from nutridet_core.pipeline.release import merge_best

    context = _context()
    typer.echo(f"{merge_best(context, _names(context, experiments)).name} in {context.layout.root / 'releases'}")


@command
def adopt(
    adapter: Annotated[Path, typer.Argument(help="Folder that PEFT wrote, in the names of any transformers.")],
    out: Annotated[Path, typer.Argument(help="Folder for the merged model, e.g. for `predict --model`.")],
) -> None:
    """Merge a LoRA adapter that was trained elsewhere into the profile's base."""
    from nutridet_core.release.adopt import merge_foreign

    merge_foreign(_context().profile, adapter, out)
    typer.echo(f"merged model in {out}")


@command
def quantize() -> None:
    """Write the current release in FP8, score it, and compare."""
    from nutridet_core.pipeline.release import quantize_merged, score_release

    context = _context()
    quantize_merged(context)
    for audit in score_release(context).facts["audits"].values():
        typer.echo(f"{audit['name']}: {'passed' if audit['passed'] else 'FAILED'}; {audit['summary']}")


@command
def register() -> None:
    """Register the current release, if it passes the gate; promote it, if it may."""
    from nutridet_core.pipeline.release import register_release

    facts = register_release(_context())
    typer.echo(f"{facts['model']} version {facts['version']}: {facts['verdict']}")


@command
def rollback(
    to: Annotated[
        str | None, typer.Option(help="Version that becomes champion; the one before it when not given.")
    ] = None,
    why: Annotated[str, typer.Option(help="Written down in the registry.")] = "rolled back",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make another version champion, after verifying its files; gateways that serve the alias follow."""
    from nutridet_core.pipeline.rollback import plan_rollback

    plan = plan_rollback(_context(), to)
    typer.echo(plan.text)
    if not yes:
        typer.confirm("Move the alias?", abort=True)
    plan.carry_out(why)
    typer.echo(f"champion: version {plan.target}")


@command
def reevaluate() -> None:
    """Score the champion again and compare with its registration."""
    from nutridet_core.pipeline.monitoring import reevaluate_champion

    audit = reevaluate_champion(_context()).facts["audits"]["not_regressed"]
    typer.echo(audit["summary"])
    if not audit["passed"]:
        raise typer.Exit(1)


@command
def predict(
    photos: Annotated[list[Path] | None, typer.Argument(help="JPEG, PNG or WebP files.")] = None,
    model: Annotated[str | None, typer.Option(help="Merged or FP8 folder; the current release when not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for what was found.")] = Path("predictions"),
    input: Annotated[  # noqa: A002
        str | None, typer.Option(help="A collection instead: folder, parquet file or s3://BUCKET/PREFIX.")
    ] = None,
    column: Annotated[str, typer.Option(help="Of parquet files: photos, or paths of photos.")] = "image",
    engine: Annotated[str, typer.Option(help="For a collection: transformers, vllm or openai.")] = "transformers",
    url: Annotated[str | None, typer.Option(help="Of a running server, for openai.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="One per GPU, or core, when not given.")] = None,
    shard: Annotated[int, typer.Option(min=1, help="Photos in a shard of a collection.")] = 1000,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
) -> None:
    """Find the nutrition tables in photos and draw their boxes; of a whole collection, as rows of parquet files."""
    if input is not None:
        from nutridet_core.collection.detection import Request, answer_collection

        if photos:
            raise SettingsError("photos and a collection are named, not both", field="input", remedy="Name one.")
        request = Request(input, out.absolute(), model, engine, url, replicas, shard, column, local)
        typer.echo(answer_collection(_context(), request).text)
        return
    if not photos:
        raise SettingsError("no photo is named", field="PHOTOS", remedy="Name some, or a collection with --input.")
    if (engine, url, replicas, local) != ("transformers", None, None, False):
        raise SettingsError(
            "is for a collection", field="engine, url, replicas, local", remedy="Name one with --input."
        )
    from nutridet_core.pipeline.prediction import predict_files

    _tell(predict_files(_context(), photos, model=Path(model) if model else None, out=out))


@command
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder, or registry alias such as models:/nutridet-tiny@champion, which is followed when it moves. "
            "The champion when not given; before there is one, what `predict` uses. For openai: the served name."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="transformers, vllm, openai, triton or fake.")] = "transformers",
    url: Annotated[str | None, typer.Option(help="Of a running server, for openai and triton.")] = None,
    weights: Annotated[str, typer.Option(help="merged or fp8: which weights of a registered release.")] = "merged",
    host: Annotated[str, typer.Option(help="Other than loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    places: Annotated[int, typer.Option(min=1, help="Photos under way; the next one gets a 429.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest time for one photo.")] = 60.0,
    max_mb: Annotated[int, typer.Option(min=1, help="Largest photo as a file, MiB.")] = 16,
    max_megapixels: Annotated[int, typer.Option(min=1, max=89, help="Largest photo decoded.")] = 50,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Fetch photos from this host (https), or scheme://host:port; may be repeated."),
    ] = None,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="Between two looks at an alias.")] = 30.0,
    vllm: Annotated[str, typer.Option(help="The vllm program; may lie in another environment.")] = "vllm",
    gpu_share: Annotated[float, typer.Option(min=0.05, max=1.0, help="Of the GPU's memory, for vllm.")] = 0.8,
    drafts: Annotated[bool, typer.Option(help="Draft the grammar's tokens for vllm: few clients wait less.")] = False,
    graphs: Annotated[bool, typer.Option(help="CUDA graphs for all that vllm does; for few and many.")] = False,
    vllm_flag: Annotated[list[str] | None, typer.Option(help="A further flag of vllm's own; may be repeated.")] = None,
    beside: Annotated[
        list[str] | None, typer.Option(help="Another model to compare with: base, merged, fp8 or NAME=FOLDER.")
    ] = None,
) -> None:
    """Serve a model over HTTP, with a page to try it; NUTRIDET_API_KEY is what clients must show."""
    from nutridet_core.serving.command import ServeArguments, serve_model

    serve_model(
        _context(),
        ServeArguments(
            model=model, engine=engine, url=url, weights=weights, host=host, port=port, places=places,
            seconds=seconds, max_mb=max_mb, max_megapixels=max_megapixels, allow_host=tuple(allow_host or ()),
            poll_seconds=poll_seconds, vllm=vllm, gpu_share=gpu_share, drafts=drafts, graphs=graphs,
            vllm_flags=tuple(vllm_flag or ()), beside=tuple(beside or ()),
        ),
    )  # fmt: skip


@command
def client(
    photos: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    url: Annotated[
        str, typer.Option(help="Of the gateway; NUTRIDET_API_KEY is shown to it.")
    ] = "http://127.0.0.1:8000",
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Photos asked about at the same time.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON per photo.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the photos with their boxes drawn.")] = None,
) -> None:
    """Ask a running gateway about photos; those it cannot answer are told, and the exit code is 1."""
    from nutridet_core.serving.ask import ask_gateway

    _tell(ask_gateway(photos, url=url, at_once=at_once, as_json=as_json, out=out), all_out=as_json)


@command
def up() -> None:
    """Start Dagster and MLflow on this machine and print their addresses; Ctrl-C stops both."""
    # A program of its own, since this package knows no orchestrator; it takes over this process and its signals.
    os.execv(sys.executable, [sys.executable, "-m", "nutridet_assets.up"])


def _tell(answers: Iterable[tuple[str, bool]], *, all_out: bool = False) -> None:
    """A line per photo, of those without an answer on stderr unless `all_out`; for them the exit code is 1."""
    failed = 0
    for line, answered in answers:
        typer.echo(line, err=not answered and not all_out)
        failed += not answered
    if failed:
        raise typer.Exit(1)


def _context() -> Context:
    from nutridet_core.pipeline.context import Context

    return Context(Settings(), log=lambda line: typer.secho(line, dim=True, err=True))


def _names(context: Context, given: list[str] | None) -> list[str]:
    return [context.experiment(name).name for name in given] if given else list(context.settings.all_experiments)


if __name__ == "__main__":
    app()
