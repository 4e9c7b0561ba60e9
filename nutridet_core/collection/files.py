"""Files of a collection: those below a folder, or below a prefix of a bucket behind S3's API.

Belongs here: listing them in order, reading their bytes. Does not belong here: what is in them (`references`).

Both list in ascending order of the address, as S3 does, and hold one page or one directory in memory: two listings can
then be compared as streams, whatever their length.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from nutridet_core.errors import DataError, SettingsError

_BUCKET = "s3://"
_MISSING = ("NoSuchKey", "404")
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


@dataclass(frozen=True)
class File:
    """A file as a listing shows it."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """Changes with the content: size and time of a local file, ETag of an object."""


class MissingError(Exception):
    """A file that was listed and is not there any more, is another one now, or may not be read."""


class Files(Protocol):
    """A folder or prefix. Can be pickled: replicas read what the driver listed."""

    @property
    def uri(self) -> str:
        """Address of the whole."""

    def list(self) -> Iterator[File]:
        """All files below, ascending by address."""

    def read(self, uri: str, most: int, version: str | None = None) -> bytes:
        """The first `most` bytes.

        Raises:
            MissingError: when there is no such file, or not in this version.
        """

    def version(self, uri: str) -> str:
        """Of the file as it is now.

        Raises:
            MissingError: when there is no such file.
        """

    def table(self, uri: str) -> Any:
        """A parquet file, opened as `pyarrow.parquet.ParquetFile`."""


def open_files(text: str) -> Files:
    """What `--input` names: a folder, a file, or `s3://BUCKET/PREFIX`.

    Raises:
        DataError: when nothing lies there.
        SettingsError: when it is another kind of address, or the extra for it is not installed.
    """
    if text.startswith(_BUCKET):
        return Bucket(text)
    if "://" in text:
        raise SettingsError(
            f"{text[:200]!r} is no folder or bucket", field="input", remedy=f"Use a path or {_BUCKET}BUCKET/PREFIX."
        )
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise DataError("does not exist", where=path, field="input", remedy="Check the path.")
    return Folder(str(path))


@dataclass(frozen=True)
class Folder:
    """A folder, or one file. On several machines it must be a shared disk, mounted at the same place."""

    uri: str

    def list(self) -> Iterator[File]:
        """Symbolic links to files are followed, those to folders are not: they may lead in circles."""
        root = Path(self.uri)
        return _walk(root) if root.is_dir() else iter([_file(root, root.stat())])

    def read(self, uri: str, most: int, version: str | None = None) -> bytes:
        """From the disk."""
        try:
            with Path(uri).open("rb") as stream:
                content = stream.read(most)
                _require(version, _version(os.fstat(stream.fileno())))
        except _GONE as error:
            raise MissingError(str(error.strerror)) from error
        return content

    def version(self, uri: str) -> str:
        """Size and time."""
        try:
            return _version(Path(uri).stat())
        except _GONE as error:
            raise MissingError(str(error.strerror)) from error

    def table(self, uri: str) -> Any:
        """Mapped by pyarrow."""
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(uri)


def _walk(folder: Path) -> Iterator[File]:
    """A directory's name sorts with its slash, else `a-b/x` would come after `a/x` and before it in another listing."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file():
            yield _file(Path(entry.path), entry.stat())


def _file(path: Path, stat: os.stat_result) -> File:
    return File(str(path), stat.st_size, _version(stat))


def _version(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _require(wanted: str | None, found: str) -> None:
    if wanted not in (None, found):
        raise MissingError("has changed since it was listed")


@dataclass(frozen=True)
class Bucket:
    """Objects behind S3's API, as boto3 finds it: credentials, region and `AWS_ENDPOINT_URL` from the environment."""

    uri: str

    def list(self) -> Iterator[File]:
        """A thousand at a time; S3 lists in ascending order of the UTF-8 key."""
        bucket, prefix = _split(self.uri)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in _reached(pages, self.uri):
            for entry in page.get("Contents", ()):
                yield File(f"{_BUCKET}{bucket}/{entry['Key']}", entry["Size"], _etag(entry))

    def read(self, uri: str, most: int, version: str | None = None) -> bytes:
        """One request, repeated by boto3 where the network fails."""
        found = self._ask("get_object", uri)
        _require(version, _etag(found))
        return bytes(found["Body"].read(most))

    def version(self, uri: str) -> str:
        """ETag."""
        return _etag(self._ask("head_object", uri))

    def _ask(self, operation: str, uri: str) -> Any:
        bucket, key = _split(uri)
        try:
            return getattr(self._client, operation)(Bucket=bucket, Key=key)
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                raise MissingError("no such object") from error
            raise _unreachable(uri, error) from error

    def table(self, uri: str) -> Any:
        """Read in ranges by pyarrow."""
        import pyarrow.fs
        import pyarrow.parquet

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        there = pyarrow.fs.S3FileSystem(**({"endpoint_override": endpoint} if endpoint else {}))
        return pyarrow.parquet.ParquetFile(uri.removeprefix(_BUCKET), filesystem=there)

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise SettingsError(
                "reading buckets needs boto3", where=self.uri, remedy="pip install 'nutridet[s3]'"
            ) from error
        return boto3.client(
            "s3", config=Config(retries={"mode": "standard", "max_attempts": 8}, max_pool_connections=64)
        )

    def __getstate__(self) -> dict[str, str]:
        """Without the client, which cannot be pickled."""
        return {"uri": self.uri}


def _reached(pages: Iterator[Any], uri: str) -> Iterator[Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from pages
    except (BotoCoreError, ClientError) as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> DataError:
    return DataError(
        f"cannot be read ({error})", where=uri, field="input", remedy="Check bucket, credentials and AWS_ENDPOINT_URL."
    )


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')


def _split(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri, allow_fragments=False)
    bucket = parts.netloc
    return bucket, uri.removeprefix(f"{_BUCKET}{bucket}").removeprefix("/")
