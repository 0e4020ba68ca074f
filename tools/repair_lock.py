"""Repair dvc.lock and .dvc/tmp/rwlock after DVC was killed while it wrote them.

    python tools/repair_lock.py

DVC writes both files in place, so a kill or a full disk can leave only the beginning of one. `make
repro` runs this script first.

- A truncated dvc.lock is replaced by the one of the last commit. Finished stages are not lost:
  `dvc repro` restores them from DVC's run cache.
- A truncated .dvc/tmp/rwlock is deleted. It only lists running DVC processes, and the process that
  wrote it has ended.
- A dvc.lock with merge conflicts, and any other invalid content, is left as it is. The script
  prints one line that says what it found and what to do, and exits with 1.

Valid and missing files are left as they are. Reads plain files and git only; takes about a second.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

ROOT = Path(__file__).resolve().parents[1]
LOCK = Path("dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
FIRST_LINE = b"schema: '2.0'"
FIELDS = {"path": str, "hash": str, "md5": str, "size": int, "nfiles": int, "isexec": bool}
MD5 = re.compile(r"[0-9a-f]{32}([.]dir)?")


class LockError(Exception):
    """A file that this script must not change; the message says what to do."""


def main() -> None:
    errors = []
    for repair in (repair_rwlock, repair_lock):
        try:
            repair()
        except LockError as error:
            errors.append(str(error))
    if errors:
        sys.exit("\n".join(errors))


def repair_lock() -> None:
    """Restore a truncated dvc.lock. Raises LockError if it is invalid in any other way."""
    try:
        content = LOCK.read_bytes()
    except FileNotFoundError:
        return  # `dvc repro` writes a new one
    problem = find_problem(content)
    if problem is None:
        return
    refuse_conflicts(content)
    if not is_truncated(content):
        restore = f"`git checkout HEAD -- {LOCK}` restores the committed one"
        raise LockError(f"{LOCK}: {problem}; not truncated, so it was left as it is; {restore}")
    part = LOCK.with_name(f"{LOCK.name}.part")
    part.write_bytes(committed())
    os.replace(part, LOCK)
    print(f"{LOCK}: truncated ({problem}); restored the committed one, `dvc repro` resumes from it")


def refuse_conflicts(content: bytes) -> None:
    """Raises LockError for conflict markers and for a file that git's index has as unmerged."""
    state = f"{LOCK}: has merge conflicts, so it was left as it is"
    if git("ls-files", "--unmerged", "--", str(LOCK)):
        take = f"`git restore --source=HEAD --staged --worktree {LOCK} metrics`, then `dvc repro`"
        raise LockError(f"{state}; {take} (docs/experiments.md, Merge two branches)")
    if marker := re.search(rb"^(<{7}|>{7})( |$)", content, re.MULTILINE):
        line = content.count(b"\n", 0, marker.start()) + 1
        take = f"restore a version without them: `git checkout COMMIT -- {LOCK}`, then `dvc repro`"
        raise LockError(f"{state} (marker in line {line}); {take}")


def find_problem(content: bytes) -> str | None:
    """What is wrong with a dvc.lock, or None. Checks the layout of schema 2.0.

    As strict as DVC about the fields that DVC writes, and stricter with md5: DVC reads a truncated
    digest.
    """
    try:
        return find_layout_problem(YAML(typ="safe").load(content.decode()))
    except UnicodeDecodeError as error:
        return f"line {content.count(10, 0, error.start) + 1}: not UTF-8"
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return f"{line}{error.problem}"
    except YAMLError as error:  # for example a control character
        return " ".join(str(error).split())


def find_layout_problem(data: Any) -> str | None:
    if not isinstance(data, dict) or data.get("schema") != "2.0":
        return "`schema: '2.0'` is missing"
    stages = data.get("stages", {})
    if not isinstance(stages, dict):
        return "`stages` is no mapping"
    problems = (
        problem for name, stage in stages.items() for problem in stage_problems(stage, name)
    )
    return next(problems, None)


def stage_problems(stage: Any, name: str) -> Iterator[str]:
    if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str | list):
        yield f"stage {name} has no cmd"
        return
    params = stage.get("params", {})
    if not isinstance(params, dict) or not all(isinstance(v, dict) for v in params.values()):
        yield f"stage {name}: params is no mapping of files"
    for kind in ("deps", "outs"):
        entries = stage.get(kind, [])
        if not isinstance(entries, list):
            yield f"stage {name}: {kind} is no list"
            continue
        for entry in entries:
            if not isinstance(entry, dict) or "path" not in entry:
                yield f"stage {name}: {kind} has an entry without path"
            elif bad := [k for k, v in entry.items() if not isinstance(v, FIELDS.get(k, object))]:
                yield f"stage {name}: {kind} has {bad[0]} = {entry[bad[0]]!r}"
            elif not MD5.fullmatch(md5 := entry.get("md5", "0" * 32)):
                yield f"stage {name}: {kind} has md5 = {md5!r}"


def is_truncated(content: bytes) -> bool:
    """Whether an invalid dvc.lock is the beginning of a valid one.

    True if its complete lines are valid once the keys at the very end that have no value yet are
    removed. An error anywhere before that is not a truncation.
    """
    complete = content[: content.rfind(b"\n") + 1]
    if not complete:
        return FIRST_LINE.startswith(content)
    try:
        data = YAML(typ="safe").load(complete.decode())
    except UnicodeDecodeError:
        return False
    except YAMLError as error:  # the end lies within a quoted string of several lines
        return "unexpected end of stream" in str(error)
    if isinstance(data, dict):
        remove_unfinished_(data)
    return find_layout_problem(data) is None


def remove_unfinished_(node: dict[str, Any] | list[Any]) -> None:
    """Remove the last key or item at every level, in place, if it has no value."""
    last: Any = list(node)[-1] if isinstance(node, dict) else -1
    if isinstance(node[last], dict | list) and node[last]:
        remove_unfinished_(node[last])
    if node[last] is None or node[last] == {} or node[last] == []:
        del node[last]


def committed() -> bytes:
    """dvc.lock of the last commit. Raises LockError if there is none, or no valid one."""
    remove = f"delete it: `dvc repro` writes a new {LOCK}"
    content = git("show", f"HEAD:./{LOCK}")
    if not content:
        raise LockError(f"{LOCK}: truncated, and git has no committed one; {remove}")
    if problem := find_problem(content):
        raise LockError(
            f"{LOCK}: truncated, and the committed one is invalid ({problem}); {remove}"
        )
    return content


def git(*arguments: str) -> bytes:
    """Standard output; empty outside a git checkout, before the first commit and without git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""


def repair_rwlock() -> None:
    """Delete a truncated rwlock. Raises LockError if it is invalid in any other way."""
    if not RWLOCK.exists():
        return
    with guard() as is_free:
        if not is_free:
            return
        text = RWLOCK.read_text(encoding="utf-8", errors="replace")
        try:
            json.loads(text)
            return
        except json.JSONDecodeError as error:
            if not ends_early(text, error):
                delete = "if no DVC command is running, delete it"
                raise LockError(f"{RWLOCK}: {error}; left as it is; {delete}") from None
        RWLOCK.unlink()
        print(f"{RWLOCK}: truncated; deleted")


@contextmanager
def guard() -> Iterator[bool]:
    """Hold DVC's lock on rwlock; False if a running DVC holds it, which then writes the file.

    DVC takes it by flock, unless its option core.hardlink_lock is set.
    """
    try:
        stream = RWLOCK.with_name(f"{RWLOCK.name}.lock").open("r+b")
    except FileNotFoundError:
        yield True
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def ends_early(text: str, error: json.JSONDecodeError) -> bool:
    """Whether JSON is invalid only because its end is missing."""
    inside_string = error.msg.startswith(("Unterminated string", "Invalid \\u"))
    return inside_string or error.pos >= len(text.rstrip())


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    os.chdir(ROOT)
    main()
