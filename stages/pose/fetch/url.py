"""HTTP downloads that are resumed, verified and run in parallel."""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from pose.common.errors import PoseError
from pose.common.files import move_into_place, size_of
from pose.common.log import Progress, log
from pose.fetch.checksums import Checksum, ZipChecksums
from pose.fetch.errors import describe_error, one_line, require_disk_space

CONNECTIONS = 4  # downloads at the same time
JOIN_SECONDS = 2.0  # for all other downloads to end after one has failed
BLOCK = 1 << 16  # bytes; the most that a closed connection may lose
BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False}
TIMEOUT = (10.0, 60.0)  # seconds: to connect, between bytes

# Waits 0, 2, 4, 8, 16 s; a server's Retry-After is followed up to a minute. An unknown host or a
# refused connection is reported after 6 s.
RETRY = Retry(
    total=5,
    connect=3,
    backoff_factor=1,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=60,
)


def download_all(files: Sequence[tuple[str, Checksum | ZipChecksums]], folder: Path) -> list[Path]:
    """Download (url, checksum) pairs in parallel, each as `download` does; returns their paths.

    The order of the paths is undefined. Raises PoseError before the first byte if the disk is too
    small for all missing files. The first error, or Ctrl-C, ends all downloads within seconds;
    partial files stay for the next call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(_missing_bytes(url, folder, checksum) for url, checksum in files)
    require_disk_space("the download", missing, folder)
    waiting, stop = deque(files), threading.Event()
    results: queue.SimpleQueue[Path | BaseException] = queue.SimpleQueue()

    def work() -> None:
        while waiting and not stop.is_set():
            try:
                url, checksum = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                results.put(download(url, folder, checksum, stop))
            except BaseException as error:
                results.put(error)

    # daemon threads: the process can exit while one of them hangs in a silent connection
    threads = [threading.Thread(target=work, daemon=True) for _ in files[:CONNECTIONS]]
    paths = []
    try:
        for thread in threads:
            thread.start()
        for _ in files:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            paths.append(result)
    finally:
        stop.set()
        for thread in threads:
            thread.join(JOIN_SECONDS / len(threads))
    return paths


def download(
    url: str,
    folder: Path,
    checksum: Checksum | ZipChecksums,
    stop: threading.Event | None = None,
) -> Path:
    """Download url to folder/<last part of url>, unless a file that matches is already there.

    After an error the partial file stays and the next call resumes it; it gets its final name once
    it matches the checksum. Raises PoseError; after a mismatch the file is removed. Only one
    process at a time may download to a folder: there is no lock.
    """
    path = folder / file_name(url)
    with one_line(url), _session() as session:
        if path.is_file():
            if not (mismatch := checksum.mismatch(path)):
                return path
            log(f"{path}: {mismatch}; downloading it again")
        folder.mkdir(parents=True, exist_ok=True)
        partial = partial_path(path, checksum)
        job = _Download(url, checksum, partial, session, stop or threading.Event())
        mismatch = job.complete()
        if not mismatch:
            move_into_place(partial, path)
            log(f"{path.name}: verified")
            return path
        partial.unlink()
    raise PoseError(f"{url}: {mismatch}; removed; correct the URL or {checksum.source}")


def file_name(url: str) -> str:
    """The last part of the URL's path: its last 100 characters, since file systems limit names.

    >>> file_name("https://example.org/zips/val2017.zip?download=1")
    'val2017.zip'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PoseError(f"{url}: not an http:// or https:// URL; correct it")
    name = PurePosixPath(unquote(parts.path)).name
    return parts.hostname if name in ("", "..") else name[-100:]


def partial_path(path: Path, checksum: Checksum | ZipChecksums) -> Path:
    """Where an unfinished download of `path` is stored."""
    return path.with_name(f"{path.name}.{checksum.label}.part")


def _missing_bytes(url: str, folder: Path, checksum: Checksum | ZipChecksums) -> int:
    """Bytes still to download, as far as the size is known."""
    path = folder / file_name(url)
    existing = max(size_of(path), size_of(partial_path(path, checksum)))
    return max(0, checksum.expected_bytes - existing)


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # ranges and lengths of the file itself
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRY))
    return session


class _StopError(Exception):
    """Another download failed, or Ctrl-C was pressed."""


@dataclass(frozen=True)
class _Download:
    """One download in progress. The bytes collect in `partial`; `stop` ends it early."""

    url: str
    checksum: Checksum | ZipChecksums
    partial: Path
    session: requests.Session
    stop: threading.Event

    @property
    def size(self) -> int:
        """Bytes in `partial`."""
        return size_of(self.partial)

    def complete(self) -> str | None:
        """Download to `partial` and verify it; returns the mismatch, or None if it matches.

        If pieces of several connections do not fit together, the download starts again.
        """
        pieces = self._receive_all()
        log(f"{file_name(self.url)}: {self.size:,} bytes received; verifying")
        mismatch = self.checksum.mismatch(self.partial)
        if mismatch and pieces > 1:
            log(f"{self.url}: the pieces are not of one file; downloading it again")
            self.partial.unlink()
            self._receive_all()
            mismatch = self.checksum.mismatch(self.partial)
        return mismatch

    def _receive_all(self) -> int:
        """Connect until the file is complete; returns the number of pieces that it consists of.

        A partial file of an earlier call is a piece. Only consecutive attempts that bring no new
        bytes are limited.
        """
        largest, retry = self.size, RETRY
        pieces = 2 if largest else 1
        if largest and self.checksum.size and largest >= self.checksum.size:
            return pieces
        while not self._receive():
            pieces += 1
            if self.size > largest:
                largest, retry = self.size, RETRY
            retry = retry.increment("GET", self.url, error=ProtocolError("connection closed early"))
            log(f"{self.url}: the connection closed at {self.size:,} bytes; resuming")
            retry.sleep()
        return pieces

    def _receive(self) -> bool:
        """Open one connection, from the end of `partial` if the server supports ranges.

        Returns whether the file is complete.
        """
        offset = self.size
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self.session.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if offset and response.status_code == requests.codes.requested_range_not_satisfiable:
                self._require_size(offset)  # the file is complete, or is another one
                return True
            response.raise_for_status()
            start, total = _start_and_total(response)
            self._require_size(total)
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise PoseError(
                    f"{self.url}: the answer is a web page; check the URL and the proxy"
                )
            if response.headers.get("ETag", "").startswith('"'):  # a weak one says nothing of bytes
                self.session.headers["If-Range"] = response.headers["ETag"]
            if start not in (0, offset):
                raise requests.RequestException(f"asked for bytes from {offset}, got from {start}")
            require_disk_space(self.url, (total or 0) - offset, self.partial.parent)
            return self._write(response, start, total)

    def _require_size(self, total: int | None) -> None:
        """Raise PoseError for a file of another size before one of its bytes is written."""
        if self.checksum.size is not None and total != self.checksum.size:
            offered = "a file of unknown size" if total is None else f"{total:,} bytes"
            expected = f"{self.checksum.source} says {self.checksum.size:,}"
            raise PoseError(f"{self.url}: the server offers {offered}, {expected}; check the URL")

    def _write(self, response: requests.Response, start: int, total: int | None) -> bool:
        """Write the body from `start`; returns False if the connection closed too early."""
        try:
            with self.partial.open("r+b" if self.partial.exists() else "w+b") as stream:
                stream.seek(start)
                for block in self._blocks(response, start, total):
                    _write_block(stream, block)
                if total in (None, stream.tell()):
                    stream.truncate()
        except HTTPError:
            return False
        except OSError as error:
            missing = None if total is None else total - self.size
            raise PoseError(f"{response.url}: {describe_error(error, missing)}") from None
        return total is None or self.size >= total

    def _blocks(
        self, response: requests.Response, start: int, total: int | None
    ) -> Iterator[bytes]:
        """Blocks of the body, with their progress."""
        with Progress(file_name(self.url), total, start, **BAR) as bar:
            for block in response.raw.stream(BLOCK, decode_content=False):
                if self.stop.is_set():
                    raise _StopError
                yield block
                bar.update(len(block))


def _start_and_total(response: requests.Response) -> tuple[int, int | None]:
    """Offset of the body's first byte and size of the file; None if the server sends no size."""
    if response.status_code != requests.codes.partial_content:
        return 0, response.raw.length_remaining
    text = response.headers.get("Content-Range", "")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    if not span:
        raise requests.RequestException(f"HTTP 206 with Content-Range {text!r}")
    return int(span[1]), None if span[2] == "*" else int(span[2])


def _write_block(stream: BinaryIO, block: bytes) -> None:
    """Write a block unless the stream already has it; cut off what follows a difference.

    So a server without ranges, which sends everything from the first byte, loses nothing that was
    already received.
    """
    offset = stream.tell()
    if stream.read(len(block)) != block:
        stream.seek(offset)
        stream.write(block)
        stream.truncate()
