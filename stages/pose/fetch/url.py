"""Downloads over HTTP: resumed, verified, several at once; the first error ends them all."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import Retry

from pose.common.errors import PoseError
from pose.common.files import publish, size_of
from pose.common.log import log
from pose.fetch.checksums import Pin, ZipPin
from pose.fetch.errors import need_space, one_line, trouble

AT_ONCE = 4  # connections
END_SECONDS = 2.0  # that all get to end once one failed


def fetch_all(wanted: Sequence[tuple[str, Pin | ZipPin]], folder: Path) -> list[Path]:
    """Paths of (url, pin) files, a few fetched at once, each as by fetch_url; in no certain order.

    Raises PoseError before the first byte if the disk is too small for all that is missing. The
    first trouble, or Ctrl-C, ends all within seconds; what came so far stays for the next call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    need_space("the download", sum(_missing(url, folder, pin) for url, pin in wanted), folder)
    waiting, stop = deque(wanted), threading.Event()
    done: queue.SimpleQueue[Path | BaseException] = queue.SimpleQueue()

    def work() -> None:
        with contextlib.suppress(IndexError):  # nothing waits any more
            while not stop.is_set():
                done.put(_outcome(*waiting.popleft(), folder, stop))

    # daemons: nobody waits for one that hangs in a silent connection
    threads = [threading.Thread(target=work, daemon=True) for _ in wanted[:AT_ONCE]]
    try:
        for thread in threads:
            thread.start()
        return [_path(done.get()) for _ in wanted]
    finally:
        stop.set()
        for thread in threads:
            thread.join(END_SECONDS / len(threads))


def _outcome(
    url: str, pin: Pin | ZipPin, folder: Path, stop: threading.Event
) -> Path | BaseException:
    try:
        return fetch_url(url, folder, pin, stop)
    except BaseException as error:
        return error


def _path(outcome: Path | BaseException) -> Path:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _missing(url: str, folder: Path, pin: Pin | ZipPin) -> int:
    """Bytes still to come, as far as known."""
    path = folder / file_name(url)
    return max(0, pin.expected_bytes - max(size_of(path), size_of(partial_path(path, pin))))


BLOCK = 1 << 16  # bytes; what a cut connection may lose
LOG_SECONDS = 60.0
BAR: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": None, "leave": False}
TIMEOUT = (10.0, 60.0)  # seconds: to connect, between bytes

# Waits 0, 2, 4, 8, 16 s; a server's Retry-After counts up to a minute. A name that is not found or
# a refused connection is told after 6 s.
RETRY = Retry(
    total=5,
    connect=3,
    backoff_factor=1,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    raise_on_status=False,
    retry_after_max=60,
)


class _StopError(Exception):
    """Another fetch failed, or somebody pressed Ctrl-C."""


@dataclass(frozen=True)
class _Fetch:
    """One file on its way: what it has to be, where its bytes gather, what ends it early."""

    url: str
    pin: Pin | ZipPin
    partial: Path
    session: requests.Session
    stop: threading.Event

    @property
    def held(self) -> int:
        """Bytes that are here."""
        return size_of(self.partial)


def fetch_url(
    url: str, folder: Path, pin: Pin | ZipPin, stop: threading.Event | None = None
) -> Path:
    """folder/<last part of url>, fetched unless it is there already and as the pin says.

    A partial file stays on trouble and the next call goes on from it; it gets its final name once
    the pin finds no fault. Raises PoseError, on a fault with nothing left behind. One process at a
    time: there is no lock.
    """
    path = folder / file_name(url)
    with one_line(url), _session() as session:
        one = _Fetch(url, pin, partial_path(path, pin), session, stop or threading.Event())
        if path.is_file():
            if not (fault := pin.fault(path)):
                return path
            log(f"{path}: {fault}; fetching it again")
        folder.mkdir(parents=True, exist_ok=True)
        fault = _gather(one)
        if not fault:
            publish(one.partial, path)
            log(f"{path.name}: verified")
            return path
        one.partial.unlink()
    raise PoseError(f"{url}: {fault}; removed; correct the address or {pin.key}")


def file_name(url: str) -> str:
    """The last part of the address's path, at most 100 characters, since file systems bound names.

    >>> file_name("https://example.org/zips/val2017.zip?download=1")
    'val2017.zip'
    """
    try:
        address = urlsplit(url)
    except ValueError:
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise PoseError(f"{url}: not a http:// or https:// address; correct it")
    name = PurePosixPath(unquote(address.path)).name
    return address.hostname if name in ("", "..") else name[-100:]


def partial_path(path: Path, pin: Pin | ZipPin) -> Path:
    return path.with_name(f"{path.name}.{pin.label}.part")


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # ranges and lengths of the file itself
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRY))
    return session


def _gather(one: _Fetch) -> str | None:
    """Fault of the whole file, now in `partial`; of pieces that do not fit, it starts over."""
    pieces = _fill(one)
    log(f"{file_name(one.url)}: {one.held:,} bytes are here; verifying")
    if (fault := one.pin.fault(one.partial)) and pieces > 1:
        log(f"{one.url}: its pieces are not of one file; starting over")
        one.partial.unlink()
        _fill(one)
        fault = one.pin.fault(one.partial)
    return fault


def _fill(one: _Fetch) -> int:
    """Connect until the file is whole, and count its pieces, one held from before included.

    Only attempts in a row that bring nothing are bounded.
    """
    best, patience = one.held, RETRY
    pieces = 2 if best else 1
    if best and one.pin.size and best >= one.pin.size:
        return pieces
    while not _receive(one):
        pieces += 1
        if one.held > best:
            best, patience = one.held, RETRY
        patience = patience.increment(
            "GET", one.url, error=ProtocolError("connection closed early")
        )
        log(f"{one.url}: the connection ended at {one.held:,} bytes; going on from there")
        patience.sleep()
    return pieces


def _receive(one: _Fetch) -> bool:
    """Whether `partial` is whole after one more connection, resumed where the server can."""
    held = one.held
    headers = {"Range": f"bytes={held}-"} if held else {}
    with one.session.get(one.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if held and response.status_code == requests.codes.requested_range_not_satisfiable:
            _refuse_size(one, held)  # nothing is left to send: whole, or another file
            return True
        response.raise_for_status()
        start, total = _extent(response)
        _refuse_size(one, total)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise PoseError(f"{one.url}: answers with a web page; check the address and the proxy")
        if response.headers.get("ETag", "").startswith('"'):  # a weak one does not vouch for bytes
            one.session.headers["If-Range"] = response.headers["ETag"]
        if start not in (0, held):
            raise requests.RequestException(f"asked for bytes from {held}, got from {start}")
        need_space(one.url, (total or 0) - held, one.partial.parent)
        return _copy(one, response, start, total)


def _refuse_size(one: _Fetch, total: int | None) -> None:
    """Raise PoseError for a file that cannot be the pinned one, before a byte of it is written."""
    if one.pin.size is not None and total != one.pin.size:
        found = "a file of unknown size" if total is None else f"{total:,} bytes"
        wanted = f"{one.pin.key} says {one.pin.size:,}"
        raise PoseError(f"{one.url}: the server offers {found}, {wanted}; check the address")


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """First byte and size of the file, the latter None if the server does not tell."""
    if response.status_code != requests.codes.partial_content:
        return 0, response.raw.length_remaining
    text = response.headers.get("Content-Range", "")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    if not span:
        raise requests.RequestException(f"HTTP 206 with Content-Range {text!r}")
    return int(span[1]), None if span[2] == "*" else int(span[2])


def _copy(one: _Fetch, response: requests.Response, start: int, total: int | None) -> bool:
    """Write the body from `start`; whether the file is whole, False if the connection broke."""
    try:
        with one.partial.open("r+b" if one.partial.exists() else "w+b") as stream:
            stream.seek(start)
            for block in _watched(one, response, start, total):
                _put(stream, block)
            if total in (None, stream.tell()):
                stream.truncate()
    except HTTPError:
        return False
    except OSError as error:
        missing = None if total is None else total - one.held
        raise PoseError(f"{response.url}: {trouble(error, missing)}") from None
    return total is None or one.held >= total


def _put(stream: BinaryIO, block: bytes) -> None:
    """Write a block unless it is there; what differs behind it goes.

    So a server that knows no Range, and sends all from the first byte, costs nothing held.
    """
    place = stream.tell()
    if stream.read(len(block)) != block:
        stream.seek(place)
        stream.write(block)
        stream.truncate()


def _watched(
    one: _Fetch, response: requests.Response, start: int, total: int | None
) -> Iterator[bytes]:
    """The body's blocks as sent, with a bar for eyes and a line a minute for logs."""
    due, done, name = time.monotonic() + LOG_SECONDS, start, file_name(one.url)
    with tqdm(desc=name, total=total, initial=start, **BAR) as bar:
        for block in response.raw.stream(BLOCK, decode_content=False):
            if one.stop.is_set():
                raise _StopError
            yield block
            done += len(block)
            bar.update(len(block))
            if time.monotonic() > due:
                due += LOG_SECONDS
                log(f"{name}: {done:,} of {f'{total:,}' if total else '?'} bytes")
