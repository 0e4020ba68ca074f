"""What a stage reads and writes, noted inside its own process while dvc runs the chain.

No test itself, nor part of the product: Python imports a module of this name at its start, and
tests/pipeline/project.py puts this folder on PYTHONPATH. In a process that dvc started for a stage
it appends lines to $POSE_TEST_NOTES/<stage>.txt:

    param train.lr          a key of params.yaml that the stage took
    read data/cache/...     a file of the project that Python opened (not: C++ and Rust readers)
    wrote models/...        a file that was not there, or was another, when the stage began
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

STAGE = os.environ.get("DVC_STAGE")
NOTES = os.environ.get("POSE_TEST_NOTES")
ROOT = os.getcwd()
ASIDE = {".git", ".dvc", "__pycache__"}
noted: set[str] = set()


def note(line: str) -> None:
    if line not in noted:
        noted.add(line)
        with open(f"{NOTES}/{STAGE}.txt", "a") as stream:
            stream.write(f"{line}\n")


class ParamsFinder:
    """Wraps pose.common.params as it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "pose.common.params":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            watch_params(module)

        spec.loader.exec_module = exec_module
        return spec


def watch_params(module: Any) -> None:
    """Note each key that is taken from what load_params gave; its own validators do not count."""
    load, sections, loading = module.load_params, {}, []

    def load_params(*arguments: Any) -> Any:
        loading.append(True)
        try:
            params = load(*arguments)
        finally:
            loading.pop()
        for name, section in dict(params).items():
            sections[id(section)] = (name, section)
        return params

    def getattribute(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not loading and id(self) in sections and name in type(self).model_fields:
            note(f"param {sections[id(self)][0]}.{name}")
        return value

    module.load_params = load_params
    module.Section.__getattribute__ = getattribute


def watch_reads(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], (str, os.PathLike)):
        return
    path, flags = os.path.abspath(arguments[0]), arguments[2]
    relative = os.path.relpath(path, ROOT)
    if flags & (os.O_WRONLY | os.O_RDWR) or ASIDE & set(relative.split(os.sep)):
        return
    if not relative.startswith("..") and os.path.isfile(path):
        note(f"read {relative}")


def tree() -> dict[str, tuple[int, ...]]:
    """Of each file what changes when it is written."""
    found = {}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ASIDE]
        for path in (Path(folder, name) for name in files):
            info = path.lstat()
            found[str(path.relative_to(ROOT))] = (info.st_ino, info.st_mtime_ns, info.st_size)
    return found


def watch_writes() -> None:
    before = tree()

    @atexit.register
    def compare() -> None:
        for path, state in tree().items():
            if before.get(path) != state:
                note(f"wrote {path}")


if STAGE and NOTES:
    sys.meta_path.insert(0, ParamsFinder())
    sys.addaudithook(watch_reads)
    argv = [
        *sys.orig_argv,
        *sys.argv,
    ]  # the second of a fork, see tests/pipeline/preloaded_python.py
    if any(part.endswith(f"stages/{STAGE}.py") for part in argv):
        watch_writes()  # the stage's first process, not its helpers
