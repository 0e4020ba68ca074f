"""Files that are either whole or absent: atomic writes, checksums, resumable download."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

from pose.errors import PoseError

CHUNK = 1 << 20  # bytes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved into place at the end, once it is on the disk.

    So a reader or a kill never meets a partial file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    yield beside
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(beside, path)


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside and move, see replacing."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Stable bytes: insertion order kept, NaN refused, newline at the end."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises PoseError naming the file if it is absent or broken."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; the stage that makes it has to run first") from None
    except ValueError as error:
        raise PoseError(f"{path}: not valid JSON ({error}); is it cut off?") from None


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file; of a folder, over its sorted relative names and contents."""
    state = hashlib.new(algorithm)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            state.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(CHUNK):
                state.update(block)
    return state.hexdigest()


def download(url: str, path: Path, size: int, md5: str, progress: Callable[[int], object]) -> None:
    """Fetch `url` to `path`, resuming a partial file, verified before it gets its final name.

    progress is called with the bytes gained. Raises PoseError on network trouble (the partial file
    stays and the next run goes on) and on a wrong size or md5 (the partial file is removed).
    """
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.exists() else 0
    if have < size:
        _fetch(url, partial, have, progress)
    _verify(url, partial, size, md5)
    os.replace(partial, path)


def _fetch(url: str, partial: Path, have: int, progress: Callable[[int], object]) -> None:
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as response:
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            progress(have if resumed else 0)
            with partial.open("ab" if resumed else "wb") as stream:
                for block in response.iter_content(CHUNK):
                    progress(stream.write(block))
    except requests.RequestException as error:
        raise PoseError(f"{url}: {error}; rerun to resume from {partial.name}") from None


def _verify(url: str, partial: Path, size: int, md5: str) -> None:
    found = partial.stat().st_size
    if found < size:
        raise PoseError(f"{url}: connection closed at {found} of {size} bytes; rerun to resume")
    if found > size or digest(partial, "md5") != md5:
        partial.unlink()
        raise PoseError(
            f"{url}: got {found} bytes that are not the known file ({size} bytes, md5 {md5}); "
            "removed; check data.base_url"
        )
