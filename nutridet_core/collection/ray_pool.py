"""Many replicas: Ray Data hands shards to a pool of actors, on this machine or on a cluster.

Belongs here: Ray. Does not belong here: what a replica does with a shard (`replica`).

Ray carries the numbers of shards out and their counts back, never a photo: replicas read photos where they lie and
write rows where they belong, so neither the driver nor Ray's object store grows with the collection. A shard whose node
dies is given to another replica. A cluster is the one that `RAY_ADDRESS` names; without it one is started on loopback,
without a dashboard, reports to nobody, lets in nobody without a token, and ends with this process.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nutridet_core.collection.replica import Job, Outcome, Replica, Seen, Shard
from nutridet_core.errors import MachineError, NutridetError, SettingsError
from nutridet_core.threads import PASSIVE, let_threads_sleep

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE_BYTES = 256 * 2**20  # shards' numbers and counts are all that goes in
_KEEP_TO_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""On Linux too: else Ray takes 127.0.0.1 for this machine's address in the network, and listens there."""
_STARTING = {
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_ATTEMPTS = 3
_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Resources:
    """What each replica takes of the cluster."""

    replicas: int
    cpus: float
    gpus: float


def score_with_ray(job: Job, shards: Sequence[Shard], wanted: int | None, seen: Seen) -> Iterator[Outcome]:
    """Answer shards with replicas on a cluster, each outcome as it comes.

    Args:
        wanted: replicas; None takes one per GPU, or one per core where there is none.
        seen: called from another thread.

    Raises:
        NutridetError: what stopped a replica.
    """
    with cluster():
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = share(nodes, wanted, len(shards))
        tally = _tally()
        with _watched(tally, seen):
            yield from _outcomes(job, shards, resources, tally)


def share(nodes: Sequence[dict[str, float]], wanted: int | None, shards: int) -> Resources:
    """Divide a cluster: a GPU for each replica where there are GPUs, and as many cores as every replica can have.

    Args:
        nodes: what each has, as Ray tells it. Where some have GPUs, the others are left alone.

    Raises:
        SettingsError: when there is nothing to compute on.
    """
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    cores = [node["CPU"] for node in nodes if node.get("CPU") and (not gpus or node.get("GPU"))]
    if not cores:
        raise SettingsError("has no CPU to give", where="the Ray cluster", remedy="Start a node with --num-cpus.")
    replicas = min(wanted or int(gpus or sum(cores)), shards)
    return Resources(replicas, _cores_for_each(cores, replicas), min(1.0, gpus / replicas))


def _cores_for_each(cores: Sequence[float], replicas: int) -> float:
    """The most that `replicas` can have at the same time; none can be spread over two nodes."""
    shares = {core / parts for core in cores for parts in range(1, replicas + 1)}
    most = max(each for each in shares if sum(int(core / each + 1e-9) for core in cores) >= replicas)
    return float(int(most)) if most >= 1 else most


@contextmanager
def cluster() -> Iterator[None]:
    """Be connected to Ray; a cluster that was started here ends with the block.

    Raises:
        SettingsError: when Ray is not installed.
        MachineError: when it does not start, or the cluster named does not answer.
    """
    named = os.environ.get("RAY_ADDRESS")
    let_threads_sleep()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not named or named.startswith(f"{_LOOPBACK}:"):
        os.environ.update(_KEEP_TO_LOOPBACK)
    if not named and "ray" not in sys.modules:  # which reads them when it is imported
        os.environ.update(_STARTING)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_urlsafe(32))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SettingsError(
            "Ray is not installed",
            field="replicas",
            remedy="pip install 'nutridet[ray]', or work in one process: --local.",
        ) from error
    _be_quiet()
    handler = signal.getsignal(signal.SIGTERM)
    _connect(named)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place
    try:
        yield
    finally:
        ray.shutdown()


def _connect(named: str | None) -> None:
    """Join the cluster named, or start one. Ray gives a part of it 15 s to start, too few on a busy machine."""
    import ray

    local = {"_node_ip_address": _LOOPBACK, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    for attempt in range(_ATTEMPTS):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if named else local))
            return
        except Exception as error:
            ray.shutdown()
            if named or attempt == _ATTEMPTS - 1:
                raise MachineError(
                    f"no Ray cluster ({str(error).splitlines()[0][:200]})", where=named or "this machine",
                    remedy="Check RAY_ADDRESS, or work in one process: --local.",
                ) from error  # fmt: skip


class _Worker:
    """A replica as Ray Data calls it: a batch is one shard."""

    def __init__(self, job: Job, shards: Any, tally: Any) -> None:
        let_threads_sleep()
        self._replica, self._shards, self._tally = Replica(job), shards, tally

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found = [self._replica.score(self._shards[int(number)], self._seen) for number in batch["shard"]]
        return {
            "shard": list(batch["shard"]),
            "seconds": [outcome.seconds for outcome in found],
            "counts": [list(outcome.counts.items()) for outcome in found],
        }

    def _seen(self, photos: int) -> None:
        self._tally.add.remote(photos)


def _outcomes(job: Job, shards: Sequence[Shard], resources: Resources, tally: Any) -> Iterator[Outcome]:
    import ray.data

    numbers = ray.data.from_items([{"shard": number} for number in range(len(shards))], override_num_blocks=len(shards))
    done = numbers.map_batches(
        _Worker,
        fn_constructor_args=(job, list(shards), tally),
        compute=ray.data.ActorPoolStrategy(size=resources.replicas, max_tasks_in_flight_per_actor=1),
        batch_size=1,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        runtime_env={"env_vars": PASSIVE},
    )
    try:
        for row in done.iter_rows():
            shard, counts = shards[int(row["shard"])], {str(name): int(count) for name, count in row["counts"]}
            yield Outcome(shard, shard.photos, float(row["seconds"]), counts)
    except ray.exceptions.RayError as error:
        raise _told(error) from error


def _told(error: Exception) -> NutridetError:
    """What stopped a replica, without Ray's wrapping."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, NutridetError):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return MachineError(f"a replica failed ({str(error).strip().splitlines()[-1][:300]})", remedy="See Ray's logs.")


def _tally() -> Any:
    """An actor beside the driver that adds up photos as replicas answer them; who dies of the others cannot take it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Tally:
        def __init__(self) -> None:
            self.photos = 0

        def add(self, photos: int) -> None:
            self.photos += photos

        def total(self) -> int:
            return self.photos

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Tally).options(num_cpus=0, scheduling_strategy=here).remote()


@contextmanager
def _watched(tally: Any, seen: Seen) -> Iterator[None]:
    """Pass on what the tally counts, every few seconds."""
    import ray

    ended = threading.Event()

    def watch() -> None:
        told = 0
        while not ended.wait(_POLL_SECONDS):
            total = ray.get(tally.total.remote())
            seen(total - told)
            told = total

    thread = threading.Thread(target=watch, daemon=True, name="nutridet-tally")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _be_quiet() -> None:
    """Ray Data's own bars and lines: this project has its own."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
