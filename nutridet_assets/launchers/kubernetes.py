"""A worker on Kubernetes: a pod of its own, followed to its end and deleted.

    NUTRIDET_K8S_POD=worker-pod.yaml python -m nutridet_assets.launchers.kubernetes -m nutridet_assets.worker VERB …

Belongs here: the life of the pod. Does not belong here: what it looks like (`pod`), or what the worker does.

Not `dagster_k8s.PipesK8sClient`: it raises when the container's code is not 0, and the message with the failed audit
is lost with its session; it waits in silence for a pod that nothing can schedule; it does not see a deleted pod off.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from nutridet_assets.launchers.client import main, worker_variables
from nutridet_assets.launchers.pod import Manifest, read_template, worker_pod
from nutridet_assets.launchers.processes import GRACE_SECONDS
from nutridet_core.errors import NutridetError
from nutridet_core.settings import Settings

T = TypeVar("T")

_POLL_SECONDS = 1.0
_GRACE = int(GRACE_SECONDS)
_PATIENCE_SECONDS = 120.0
"""For an API server that does not answer: it may be restarting."""
_LOG_SECONDS = 60.0
"""Without a line, after which the connection is made anew: it may have been dropped on the way."""
_HOPELESS = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def run(arguments: Sequence[str]) -> int:
    """Run a worker in a pod; its exit code."""
    settings = Settings()
    template = read_template(settings.k8s_pod)
    api, namespace = connect(template.get("metadata", {}).get("namespace"))
    owner = run_pod(api, namespace)
    manifest = worker_pod(template, arguments, worker_variables(), settings.worker_gpus, owner)
    pod = Pod(api, namespace, manifest["metadata"]["name"])
    with pod.created(manifest):
        pod.wait_until_started()
        return pod.follow()


def connect(namespace: str | None) -> tuple[client.CoreV1Api, str]:
    """The API of the cluster that this process runs in, or that kubectl would talk to, and the namespace to use."""
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config()
            current = _NAMESPACE.read_text(encoding="utf-8")
        else:
            config.load_kube_config()
            current = config.list_kube_config_contexts()[1]["context"].get("namespace", "default")
    except config.ConfigException as error:
        raise NutridetError(f"no Kubernetes cluster: {error}", remedy="Set KUBECONFIG.") from error
    return client.CoreV1Api(), namespace or current


def run_pod(api: client.CoreV1Api, namespace: str) -> Manifest | None:
    """The pod that this process runs in, as the owner of the worker's: who deletes a run deletes its worker."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    name = os.environ.get("HOSTNAME", "")
    try:
        found = insist(lambda: api.read_namespaced_pod(name, namespace))
    except ApiException:
        print(f"this is no pod of namespace {namespace}: the worker's pod will have no owner", flush=True)
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": found.metadata.uid}


def insist(call: Callable[[], T]) -> T:
    """The answer of the API server, asked again while it is not there."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except (ApiException, HTTPError) as error:
            passing = not isinstance(error, ApiException) or error.status == 429 or error.status >= 500
            if not passing or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)


class Pod:
    """One pod, from its creation to its deletion."""

    def __init__(self, api: client.CoreV1Api, namespace: str, name: str) -> None:
        self.api, self.namespace, self.name = api, namespace, name
        self._told = ""
        self._last, self._at_last = "", 0
        """The time of the last line printed, and how many lines had it."""

    @contextmanager
    def created(self, manifest: Manifest) -> Iterator[None]:
        """The pod is there; after the block it is not."""
        try:
            self._create(manifest)
            print(f"pod {self.namespace}/{self.name} created", flush=True)
            yield
        finally:  # also when an interrupt came before the answer to the creation
            self.delete()

    def wait_until_started(self) -> None:
        """Until the container runs or has ended; says meanwhile what it waits for."""
        while True:
            pod = self._read()
            state = _state(pod)
            if state is not None and state.waiting is None:
                return
            reason = state.waiting.reason if state is not None else None
            if reason in _HOPELESS:
                raise NutridetError(f"pod {self.name} cannot start: {reason}: {state.waiting.message}")
            self._require_not_failed(pod)
            self._tell(_obstacle(pod) or reason or "Pending")
            time.sleep(_POLL_SECONDS)

    def follow(self) -> int:
        """Print what it prints, until it has ended; its exit code."""
        while True:
            self._print_log()
            pod = self._read()
            state = _state(pod)
            if state is not None and state.terminated is not None:
                self._print_rest()
                if state.terminated.reason not in {"Completed", "Error"}:
                    print(f"the container ended: {state.terminated.reason}", flush=True)
                return int(state.terminated.exit_code)
            self._require_not_failed(pod)
            time.sleep(_POLL_SECONDS)

    def delete(self) -> None:
        """Delete it, and wait until it is gone. One on a node that is lost stays: it is said, and not waited for."""
        problem, deadline = "it does not end", time.monotonic() + _GRACE + _PATIENCE_SECONDS
        try:
            insist(lambda: self.api.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=_GRACE))
            while time.monotonic() < deadline:
                insist(lambda: self.api.read_namespaced_pod(self.name, self.namespace))
                time.sleep(_POLL_SECONDS)
        except ApiException as error:
            if error.status == 404:
                return
            problem = f"{error.status} {error.reason}"
        print(f"pod {self.name} may still be there: {problem}", file=sys.stderr, flush=True)

    def _create(self, manifest: Manifest) -> None:
        try:
            insist(lambda: self.api.create_namespaced_pod(self.namespace, manifest))
        except ApiException as error:
            if error.status != 409:  # the name is new: it was created, and the answer got lost
                raise NutridetError(f"the API server refuses the worker's pod: {_words(error)}") from error

    def _read(self) -> Any:
        try:
            pod = insist(lambda: self.api.read_namespaced_pod(self.name, self.namespace))
        except ApiException as error:
            if error.status == 404:
                raise NutridetError(f"pod {self.name} was deleted: evicted, or its node drained") from error
            raise
        leaving = pod.metadata.deletion_timestamp
        if leaving is not None and datetime.now(UTC) > leaving + timedelta(seconds=GRACE_SECONDS):
            raise NutridetError(f"pod {self.name} was deleted and does not end: its node {pod.spec.node_name} is lost")
        return pod

    def _require_not_failed(self, pod: Any) -> None:
        if pod.status.phase == "Failed":
            raise NutridetError(f"pod {self.name} failed: {pod.status.reason}: {pod.status.message}")

    def _print_rest(self) -> None:
        """The whole log of a container that has ended: its last line is the result."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._print_log():
            if time.monotonic() > deadline:
                print(f"the end of the log of pod {self.name} cannot be read", file=sys.stderr, flush=True)
                return
            time.sleep(_POLL_SECONDS)

    def _print_log(self) -> bool:
        """What it has printed since the last time; whether the stream came to its end and did not break off."""
        try:
            for stamp, text in self._new_lines():
                self._at_last = self._at_last + 1 if stamp == self._last else 1
                self._last = stamp
                print(text, flush=True)
            return True
        except (ApiException, HTTPError):
            return False  # the caller looks at the pod, and comes back

    def _new_lines(self) -> Iterator[tuple[str, str]]:
        """With their times, which have a fixed width; not those that an earlier connection brought."""
        known, at_known = self._last, self._at_last
        for line in _lines(self._open_log()):
            stamp, _, text = line.partition(" ")
            at_known -= stamp == known
            if stamp > known or (stamp == known and at_known < 0):
                yield stamp, text

    def _open_log(self) -> Any:
        since = {"since_seconds": _seconds_since(self._last)} if self._last else {}
        return self.api.read_namespaced_pod_log(
            self.name, self.namespace, follow=True, timestamps=True, _preload_content=False,
            _request_timeout=(10, _LOG_SECONDS), container=self._container(), **since,
        )  # fmt: skip

    def _container(self) -> str:
        return str(self._read().spec.containers[0].name)

    def _tell(self, obstacle: str) -> None:
        if obstacle != self._told:
            self._told = obstacle
            print(f"pod {self.name} waits: {obstacle}", flush=True)


def _state(pod: Any) -> Any:
    """Of the first container: waiting, running or terminated; None before the node has said anything."""
    named = {status.name: status.state for status in pod.status.container_statuses or []}
    return named.get(pod.spec.containers[0].name)


def _obstacle(pod: Any) -> str | None:
    """Why no node takes it."""
    conditions = [found for found in pod.status.conditions or [] if found.type == "PodScheduled"]
    return conditions[0].message if conditions and conditions[0].status == "False" else None


def _lines(response: Any) -> Iterator[str]:
    """Lines of a streamed answer, whose pieces end anywhere."""
    rest = b""
    try:
        for piece in response.stream():
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")
    finally:
        response.close()


def _seconds_since(stamp: str) -> int:
    """Rounded up, with room for a clock that differs; lines that were printed before are known by their stamps."""
    seconds = datetime.fromisoformat(stamp[:19]).replace(tzinfo=UTC)
    return max(1, int((datetime.now(UTC) - seconds).total_seconds()) + 60)


def _words(error: ApiException) -> str:
    return f"{error.status} {error.reason}: {(error.body or '')[:500]}"


if __name__ == "__main__":
    sys.exit(main(run, sys.argv[1:]))
