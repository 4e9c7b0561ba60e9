"""A Hugging Face hub on loopback: real files at made-up commits, over the HTTP interface that downloads use."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse


@dataclass
class Hub:
    """What the server serves, and what it was asked."""

    commits: dict[tuple[str, str], Path] = field(default_factory=dict)
    """(repository, commit) to a folder; datasets are called `datasets/owner/name`."""
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, file and Range of every request for a file's content or size."""
    cut_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which its connection breaks, once."""
    broken: set[str] = field(default_factory=set)
    """Files that are answered with an error."""

    def fetched(self) -> list[str]:
        """Files whose content was asked for, in order."""
        return [name for method, name, _ in self.requests if method == "GET"]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(head=True)

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if tree := re.fullmatch(r"/api/(?:models/|(datasets/))(.+)/tree/([^/]+)/?", path):
            self._tree(f"{tree[1] or ''}{tree[2]}", tree[3])
        else:
            self._file(head=False)

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _tree(self, repo: str, commit: str) -> None:
        folder = self.hub.commits.get((repo, commit))
        if folder is None:
            self._refuse(404, "RevisionNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        entries = [
            {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": _etag(path)}
            for path in files
        ]
        body = json.dumps(entries).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, *, head: bool) -> None:
        match = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", unquote(urlparse(self.path).path))
        folder = self.hub.commits.get((match[1], match[2])) if match else None
        if match is None or folder is None or not (folder / match[3]).is_file():
            self._refuse(404, "EntryNotFound" if folder else "RevisionNotFound")
            return
        wanted = self.headers.get("Range")
        self.hub.requests.append((self.command, match[3], wanted))
        if match[3] in self.hub.broken and not head:
            self._refuse(500, "Broken")
        else:
            self._send(folder / match[3], match, wanted, head=head)

    def _send(self, path: Path, match: re.Match[str], wanted: str | None, *, head: bool) -> None:
        content, start = path.read_bytes(), 0
        if wanted:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("X-Repo-Commit", match[2])
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not head:
            end = self.hub.cut_after.pop(match[3], None)
            self.wfile.write(content[start:end])
            self.close_connection = end is not None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
