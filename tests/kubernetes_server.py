"""A Kubernetes API of the tests' own, for pods alone, and the node that runs them as processes of this machine.

It speaks over real HTTP what `nutridet_assets.launchers.kubernetes` uses: create, read, log (followed), delete. A pod
is refused that the published schemas refuse. What it cannot show is a scheduler, an image, a volume, or admission.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import kubernetes_validate
import yaml

VERSION = "1.32"
"""Of Kubernetes, whose schemas pods must follow."""
_PODS = "/api/v1/namespaces/food/pods"
Json = dict[str, Any]


@dataclass
class Node:
    """The pods, and what is to go wrong with them."""

    pods: dict[str, RunningPod] = field(default_factory=dict)
    seen: list[Json] = field(default_factory=list)
    """Manifests as they came."""
    unschedulable: int = 0
    """So many readings of a pod find that no node takes it."""
    waiting: str = ""
    """Why a container never starts."""
    unavailable: int = 0
    """So many requests are answered with 503."""
    lost: bool = False
    """What is deleted stays: nobody is there who could end it."""
    breaks: int = 0
    """So many times a followed log breaks off, after five lines."""


class RunningPod:
    """One pod: a process, and what it has printed with the times."""

    def __init__(self, manifest: Json, uid: str) -> None:
        self.manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": uid, "namespace": "food"}}
        self.process: subprocess.Popen[str] | None = None
        self.lines: list[tuple[datetime, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """As a container: its own environment, one stream, and a group of its own."""
        container = self.manifest["spec"]["containers"][0]
        environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        python = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, *container["command"][1:]], env={**python, **environment}, cwd=Path(__file__).parents[1],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader.start()

    def end(self, grace_seconds: float) -> None:
        """SIGTERM to the first process; after the grace period everything is killed."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=grace_seconds)
            self.kill()

    def kill(self) -> None:
        """What a container's end does to whatever runs in it."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def ended(self) -> bool:
        """Whether it has, and all that it printed was read."""
        return self.process is not None and self.process.poll() is not None and not self._reader.is_alive()

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((datetime.now(UTC), line.rstrip("\n")))

    def state(self) -> Json:
        """Of the container, as the API says it."""
        assert self.process is not None
        if not self.ended:
            return {"running": {}}
        code = self.process.wait()
        killed = {"reason": "OOMKilled", "exitCode": 137}
        return {"terminated": killed if code == -9 else {"reason": "Error" if code else "Completed", "exitCode": code}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        node, name = self.server.node, manifest["metadata"]["name"]
        if self._unavailable():
            return
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            self._answer(422, {"message": f"{'.'.join(map(str, error.path))}: {error.message}"})
            return
        if name in node.pods:
            self._answer(409, {"message": "exists"})
            return
        node.seen.append(manifest)
        node.pods[name] = RunningPod(manifest, uid=f"uid-{len(node.seen)}")
        self._answer(201, node.pods[name].manifest)

    def do_GET(self) -> None:
        if self._unavailable() or (pod := self._pod()) is None:
            return
        if urlparse(self.path).path.endswith("/log"):
            self._log(pod, {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()})
        else:
            self._answer(200, {**pod.manifest, "status": self._status(pod)})

    def do_DELETE(self) -> None:
        if self._unavailable() or (pod := self._pod()) is None:
            return
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        grace = float(query.get("gracePeriodSeconds", body.get("gracePeriodSeconds") or 30))
        threading.Thread(target=self._remove, args=(pod, grace), daemon=True).start()
        self._answer(200, pod.manifest)

    def _remove(self, pod: RunningPod, grace_seconds: float) -> None:
        pod.end(grace_seconds)
        if not self.server.node.lost:
            self.server.node.pods.pop(pod.manifest["metadata"]["name"], None)

    def _status(self, pod: RunningPod) -> Json:
        node = self.server.node
        if node.unschedulable > 0:
            node.unschedulable -= 1
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            return {
                "phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": message}],
            }  # fmt: skip
        name = pod.manifest["spec"]["containers"][0]["name"]
        container = {"name": name, "image": "", "imageID": "", "ready": True, "restartCount": 0}
        if node.waiting:
            state: Json = {"waiting": {"reason": node.waiting, "message": "not found"}}
            return {"phase": "Pending", "containerStatuses": [{**container, "state": state}]}
        if pod.process is None:
            pod.start()
        return {"phase": "Running", "containerStatuses": [{**container, "state": pod.state()}]}

    def _log(self, pod: RunningPod, query: dict[str, str]) -> None:
        since = datetime.now(UTC) - timedelta(seconds=int(query.get("sinceSeconds", 10**6)))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        told = sent = 0
        while True:
            ended = pod.ended
            for stamp, line in pod.lines[told:]:
                told += 1
                if stamp >= since:
                    self._chunk(f"{stamp:%Y-%m-%dT%H:%M:%S.%f}000Z {line}\n".encode())
                    sent += 1
                    if sent == 5 and self.server.node.breaks > 0:
                        self.server.node.breaks -= 1
                        self.close_connection = True  # without the last chunk: as a proxy that lost its server
                        return
            if ended:
                break
            time.sleep(0.02)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        """In two pieces, so that lines do not come whole."""
        halves = (data[: len(data) // 2], data[len(data) // 2 :]) if data else (b"",)
        for half in halves:
            self.wfile.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")

    def _pod(self) -> RunningPod | None:
        name = urlparse(self.path).path.removeprefix(f"{_PODS}/").removesuffix("/log")
        if name not in self.server.node.pods:
            self._answer(404, {"message": f'pods "{name}" not found'})
        return self.server.node.pods.get(name)

    def _unavailable(self) -> bool:
        if self.server.node.unavailable <= 0:
            return False
        self.server.node.unavailable -= 1
        self._answer(503, {"message": "etcdserver: leader changed"})
        return True

    def _answer(self, code: int, body: Json) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.node = Node()


@contextmanager
def kubernetes_server(folder: Path) -> Iterator[tuple[Node, Path]]:
    """The node, and a kubeconfig file for it; when the block ends, no pod is left."""
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "food"}}
    config = {
        "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
        "users": [{"name": "test", "user": {"token": "none"}}], "current-context": "test",
    }  # fmt: skip
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    try:
        yield server.node, file
    finally:
        for pod in [*server.node.pods.values()]:
            pod.end(0)
        server.shutdown()
        server.server_close()
