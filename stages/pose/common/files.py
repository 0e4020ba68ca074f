"""Files that are either whole or absent: atomic writes, checksums, locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from pose.common.errors import PoseError

FLOAT32_MAX = float(np.finfo(np.float32).max)


def finite_numbers(values: Any, count: int) -> bool:
    """Whether values is a list of so many numbers that float32 can hold."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and abs(v) <= FLOAT32_MAX for v in values)
    )


CHUNK = 1 << 20  # bytes
# Names inside a folder of code that say nothing about it: bytecode and backups of editors.
UNTRACKED = ("__pycache__", "*.pyc", "*.orig", "*.rej", "*.swp", "*~", ".DS_Store")

# What zipfile raises on archives that are damaged, encrypted or hostile, and on their members.
BAD_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    RuntimeError,  # and NotImplementedError
    ValueError,
    struct.error,
    OverflowError,
    MemoryError,
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; moved into place at the end, once it is on the disk.

    So a reader or a kill never meets a partial file; what a full disk cut short is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        yield beside
        publish(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def publish(beside: Path, path: Path) -> None:
    """Give a finished file its name, once it is on the disk; then put the name there too."""
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, would outlast a power loss."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; run the stage that writes it first") from None


def parse_json(content: bytes, name: str) -> Any:
    """Raises PoseError naming the file for what is cut off, no text, or nested without end."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PoseError(f"{name}: not valid JSON ({error}); is it cut off?") from None


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file; of a folder, over its sorted relative names and contents.

    In a folder, what .dvcignore leaves out is left out here too: see UNTRACKED.
    """
    state = hashlib.new(algorithm)
    for file in _tracked_files(path) if path.is_dir() else [path]:
        if path.is_dir():
            state.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(CHUNK):
                state.update(block)
    return state.hexdigest()


def _tracked_files(folder: Path) -> list[Path]:
    found = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(fnmatch(part, p) for part in parts for p in UNTRACKED):
            found.append(file)
    return sorted(found)


@contextlib.contextmanager
def locked(folder: Path, whose: str) -> Iterator[None]:
    """Hold folder/lock, made if absent. Raises PoseError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not kept by forks
        except (BlockingIOError, PermissionError):
            raise PoseError(f"{folder}: another {whose} is at work; wait for it") from None
        yield
