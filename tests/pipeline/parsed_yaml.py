"""Keeps what YAML().load read, by its text, so that no text is parsed twice. No test itself.

One `dvc exp run` parses dvc.yaml, dvc.lock and params.yaml up to 40 times at 0.1 to 0.3 s, most of
what DVC computes in a shrunken project. Each call still gets objects of its own; an error is found
again. DVC reads dvc.lock again after each stage: what it has written is kept as what it will read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

LOAD = YAML.load  # that of the library, for tests of parsing itself


def keep_parsed_yaml(folder: Path) -> None:
    """From now on, in this process and its forks: in files of the folder, which others share."""

    def load_once(yaml: YAML, stream: Any) -> Any:
        if not isinstance(stream, str) or yaml.allow_duplicate_keys or yaml.version:
            return LOAD(yaml, stream)
        kept = _kept(folder, stream, *yaml.typ, yaml.preserve_quotes)
        try:
            return pickle.loads(_bytes_of(kept))
        except FileNotFoundError:
            found = LOAD(yaml, stream)
        _keep(kept, found)
        return found

    folder.mkdir(exist_ok=True)
    YAML.load = load_once


def keep_written_locks(folder: Path) -> None:
    """The same for each dvc.lock that DVC writes, which has no comments: plain dicts and lists."""
    from dvc.utils.serialize import _yaml

    dump = _yaml._dump

    def dump_and_keep(data: Any, stream: Any) -> None:
        text = io.StringIO()
        dump(data, text)
        stream.write(text.getvalue())
        if "schema" in data:  # only a lock has one
            for kind in ("safe", "rt"):
                _keep(_kept(folder, text.getvalue(), kind, None), json.loads(json.dumps(data)))

    _yaml._dump = dump_and_keep


@lru_cache(64)
def _bytes_of(kept: Path) -> bytes:
    return kept.read_bytes()


def _kept(folder: Path, text: str, *kind: object) -> Path:
    name = repr(kind) + text
    return folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _keep(path: Path, found: Any) -> None:
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(found))
    part.replace(path)
