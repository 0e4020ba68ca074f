"""Files of plain URLs, resumed and verified.

Nothing here reads what it fetches. Trouble is a PoseError of one line that ends in the next step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError
from urllib3.util import Retry

from pose.errors import PoseError
from pose.files import digest
from pose.log import log

BLOCK = 1 << 16  # bytes; what a cut connection may lose
LOG_SECONDS = 60.0
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


def fetch_url(url: str, folder: Path, sha256: str, key: str = "sha256") -> Path:
    """folder/<last part of url>, fetched unless it is there already with that digest.

    A partial file stays on trouble and the next call goes on from it; it gets its final name once
    the digest is right. `key` is what the caller calls the digest. Raises PoseError, on a wrong
    digest with nothing left behind. One process at a time: there is no lock.
    """
    path = folder / _file_name(url)
    partial = path.with_name(f"{path.name}.{sha256[:12]}.part")
    with _one_line(url):
        if path.is_file() and digest(path) == sha256:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        found = _gather(url, partial, sha256)
        if found == sha256:
            os.replace(partial, path)
            return path
        partial.unlink()
    raise PoseError(f"{url}: sha256 is {found}, {key} says {sha256}; removed; correct url or {key}")


def _file_name(url: str) -> str:
    """Its end at most, since file systems bound names."""
    try:
        address = urlsplit(url)
    except ValueError:
        address = urlsplit("")
    if address.scheme not in ("http", "https") or not address.hostname:
        raise PoseError(f"{url}: not a http:// or https:// address; correct it")
    name = PurePosixPath(unquote(address.path)).name
    return address.hostname if name in ("", "..") else name[-100:]


def _gather(url: str, partial: Path, sha256: str) -> str:
    """Digest of the whole file, now in `partial`; of pieces that do not fit, it starts over."""
    with _session() as session:
        pieces = _fill(session, url, partial)
        if (found := digest(partial)) != sha256 and pieces > 1:
            log(f"{url}: its pieces are not of one file; starting over")
            partial.unlink()
            _fill(session, url, partial)
            found = digest(partial)
    return found


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"  # ranges and lengths of the file itself
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRY))
    return session


def _fill(session: requests.Session, url: str, partial: Path) -> int:
    """Connect until the file is whole, and count its pieces, one held from before included.

    Only attempts in a row that bring nothing are bounded.
    """
    best, patience = _size(partial), RETRY
    pieces = 2 if best else 1
    while not _receive(session, url, partial):
        pieces += 1
        if _size(partial) > best:
            best, patience = _size(partial), RETRY
        patience = patience.increment("GET", url, error=ProtocolError("connection closed early"))
        log(f"{url}: the connection ended at {_size(partial):,} bytes; going on from there")
        patience.sleep()
    return pieces


def _receive(session: requests.Session, url: str, partial: Path) -> bool:
    """Whether `partial` is whole after one more connection, resumed where the server can."""
    held = _size(partial)
    headers = {"Range": f"bytes={held}-"} if held else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if held and response.status_code == requests.codes.requested_range_not_satisfiable:
            return True  # nothing is left to send: whole, or another file, as its digest tells
        response.raise_for_status()
        if response.headers.get("ETag", "").startswith('"'):  # a weak one does not vouch for bytes
            session.headers["If-Range"] = response.headers["ETag"]
        start, total = _extent(response)
        if start not in (0, held):
            raise requests.RequestException(f"asked for bytes from {held}, got from {start}")
        need_space(url, (total or 0) - held, partial.parent)
        return _copy(response, partial, start, total)


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """First byte and size of the file, the latter None if the server does not tell."""
    if response.status_code != requests.codes.partial_content:
        return 0, response.raw.length_remaining
    text = response.headers.get("Content-Range", "")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text)
    if not span:
        raise requests.RequestException(f"HTTP 206 with Content-Range {text!r}")
    return int(span[1]), None if span[2] == "*" else int(span[2])


def _copy(response: requests.Response, partial: Path, start: int, total: int | None) -> bool:
    """Write the body behind `start`; whether the file is whole, False if the connection broke."""
    try:
        with partial.open("ab" if start else "wb") as stream:
            for block in _watched(response, Path(partial.stem).stem, start, total):
                stream.write(block)
    except HTTPError:
        return False
    except OSError as error:
        missing = None if total is None else total - _size(partial)
        raise PoseError(f"{response.url}: {trouble(error, missing)}") from None
    return total is None or _size(partial) >= total


def _watched(
    response: requests.Response, name: str, start: int, total: int | None
) -> Iterator[bytes]:
    """The body's blocks as sent, with a bar for eyes and a line a minute for logs."""
    due, done = time.monotonic() + LOG_SECONDS, start
    bar = tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None)
    with bar:
        for block in response.raw.stream(BLOCK, decode_content=False):
            yield block
            done += len(block)
            bar.update(len(block))
            if time.monotonic() > due:
                due += LOG_SECONDS
                log(f"{name}: {done:,} of {f'{total:,}' if total else '?'} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def need_space(what: str, need: int, folder: Path) -> None:
    """Raise PoseError if `need` bytes do not fit where folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise PoseError(f"{what}: needs {need:,} bytes, {free:,} are free in {there}; make room")


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn what requests and the file system raise into a PoseError of one line."""
    try:
        yield
    except requests.HTTPError as error:
        raise PoseError(f"{what}: {status_advice(error.response.status_code)}") from None
    except (OSError, MaxRetryError) as error:  # a RequestException is an OSError
        raise PoseError(f"{what}: {trouble(error)}") from None


def status_advice(status: int) -> str:
    if status in (401, 403):
        return f"HTTP {status}: not allowed; check the address and whether it needs a login"
    if status in (404, 410):
        return f"HTTP {status}: no such file; correct the address"
    if status == 429 or status >= 500:
        return f"HTTP {status}: the server is busy or in trouble; rerun later"
    return f"HTTP {status}: the server refuses; check the address"


def trouble(error: BaseException, missing: int | None = None) -> str:
    """One line for a failing disk or connection: the exception that began it tells most.

    missing: bytes yet to come, if known.
    """
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = "" if missing is None else f", {missing:,} bytes are missing"
        return f"the disk is full{need}; make room and rerun to go on"
    reason = first_line(error)
    if isinstance(error, OSError) and error.filename:
        return f"{reason}; check that path and rerun"
    return f"{reason}; check the network and the proxy, then rerun to go on"


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
