"""Atomic writes, JSON, digests of files and folders, and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pose.common.errors import PoseError

FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127


CHUNK = 1 << 20  # bytes
TEMPORARY = "/.dvc/tmp/exps/"  # in the path of a copy that `dvc exp run --temp` works in
# Names that `digest` ignores in a folder, as .dvcignore does: bytecode and backups of editors.
UNTRACKED = ("__pycache__", "*.pyc", "*.orig", "*.rej", "*.swp", "*~", ".DS_Store")

# Raised by zipfile for archives and members that are damaged, encrypted or hostile.
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
    """A temporary path next to `path`, which is synced and renamed to `path` at the end.

    So no reader and no kill ever leaves a partial file at `path`. After an error the temporary file
    is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    try:
        yield beside
        move_into_place(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def move_into_place(beside: Path, path: Path) -> None:
    """Sync a finished file, rename it to `path`, and sync the folder."""
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder, so that it survives a power loss."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def replace_folder(finished: Path, target: Path) -> None:
    """Move a finished folder to `target`, whose old content stays until all of it is there.

    `finished` may lie on another file system, such as a volume of its own for data/resume: then it
    is copied beside `target` first.
    """
    beside = target.with_name(target.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(finished, beside)
    shutil.rmtree(target, ignore_errors=True)
    beside.replace(target)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically, see replacing."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with stable bytes: keys in insertion order, no NaN, newline at the end."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises PoseError that names the file if it is absent or invalid."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise PoseError(f"{path}: no such file; run the stage that writes it first") from None


def parse_json(content: bytes, name: str) -> Any:
    """Parsed JSON. Raises PoseError that names the file if it is invalid or nested too deeply."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PoseError(f"{name}: not valid JSON ({error}){_json_advice(error)}") from None


def _json_advice(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        is_zip = bytes(error.object[:2]) == b"PK"
        return "; it is a zip: unpack it and name the JSON file" if is_zip else "; save it as UTF-8"
    if not isinstance(error, json.JSONDecodeError):
        return ""
    if error.msg.startswith("Unterminated") or not error.doc[error.pos :].strip():
        return "; the file ends before the JSON does: copy or download it again"
    return f"; found {error.doc[error.pos : error.pos + 20]!r} there"


def existing_path(key: str, value: str) -> Path:
    """The path that params.yaml gives for `key`, its `~` expanded.

    Raises PoseError if nothing is there, with the folder in which a relative path was looked for:
    `dvc exp run --temp` and --queue run in a copy of the project without its untracked files.
    """
    path, folder = Path(value).expanduser(), Path.cwd()
    if path.exists():
        return path
    where, advice = "" if path.is_absolute() else f" in {folder}", "correct the path"
    if where and TEMPORARY in folder.as_posix():
        advice = "`dvc exp run` with --temp or --queue needs an absolute path, or a file in git"
    raise PoseError(f"params.yaml: {key} = {value!r}: no such file{where}; {advice}")


def size_of(path: Path) -> int:
    """Size in bytes of a file, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file, or of a folder: over its sorted relative names and their contents.

    Files in a folder that match UNTRACKED are ignored, as .dvcignore does.
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
    files = []
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(fnmatch(part, p) for part in parts for p in UNTRACKED):
            files.append(file)
    return sorted(files)


@contextlib.contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold folder/lock, created if absent. Raises PoseError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by forks
        except (BlockingIOError, PermissionError):
            raise PoseError(f"{folder}: another {purpose} is running; wait for it") from None
        yield


def finite_numbers(values: Any, count: int) -> bool:
    """Whether values is a list of `count` numbers that are finite in float32."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and abs(v) <= FLOAT32_MAX for v in values)
    )
