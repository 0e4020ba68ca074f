"""Keeps what YAML(typ="safe") read, by its text, so that no text is parsed twice. No test itself.

One `dvc exp run` parses dvc.yaml, dvc.lock and params.yaml up to 40 times at 0.1 s, most of what
DVC computes in a shrunken project. Each call still gets objects of its own; an error is found anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

LOAD = YAML.load  # that of the library, for tests of parsing itself


def keep_parsed_yaml(folder: Path) -> None:
    """From now on, in this process and its forks: in files of the folder, which others share."""

    def load_once(yaml: YAML, stream: Any) -> Any:
        if yaml.typ != ["safe"] or yaml.allow_duplicate_keys or not isinstance(stream, str):
            return LOAD(yaml, stream)
        kept = folder / hashlib.sha256(stream.encode("utf-8", "surrogatepass")).hexdigest()
        if kept.exists():
            return pickle.loads(kept.read_bytes())
        found = LOAD(yaml, stream)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(found))
        part.replace(kept)
        return found

    folder.mkdir(exist_ok=True)
    YAML.load = load_once
