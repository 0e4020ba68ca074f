"""Keeps what YAML().load read, by its text, so that no text is parsed twice. No test itself.

One `dvc exp run` parses dvc.yaml, dvc.lock and params.yaml up to 40 times at 0.1 s, most of what
DVC computes in a shrunken project. Each call still gets objects of its own, with their comments if
it asks for them; an error is found anew.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

KINDS = (["safe"], ["rt"])  # plain values; round trip, with comments
LOAD = YAML.load  # that of the library, for tests of parsing itself


@lru_cache(64)
def bytes_of(kept: Path) -> bytes:
    return kept.read_bytes()


def keep_parsed_yaml(folder: Path) -> None:
    """From now on, in this process and its forks: in files of the folder, which others share."""

    def load_once(yaml: YAML, stream: Any) -> Any:
        if yaml.typ not in KINDS or yaml.allow_duplicate_keys or not isinstance(stream, str):
            return LOAD(yaml, stream)
        text = f"{yaml.typ} {yaml.preserve_quotes} {stream}"
        kept = folder / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            return pickle.loads(bytes_of(kept))
        except FileNotFoundError:
            found = LOAD(yaml, stream)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_bytes(pickle.dumps(found))
        part.replace(kept)
        return found

    folder.mkdir(exist_ok=True)
    YAML.load = load_once
