"""Training state on disk: saved atomically, the one before it kept, read without unpickling."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from pose.common.errors import PoseError
from pose.common.files import replacing, sync
from pose.common.log import log
from pose.models.checkpoint import UNREADABLE, _reason, _require_checksums


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """One file; the one that was there stays as previous(path), until the next.

    Kill or power loss at any moment leaves one of the two whole. Bytes do not depend on the name.
    """
    with replacing(path) as beside:
        with beside.open("wb") as stream:
            torch.save(state, stream)
        sync(beside)
        if path.exists():
            os.replace(path, previous(path))


def previous(path: Path) -> Path:
    """state.previous.pt of state.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def newest_training_state(path: Path) -> dict[str, Any] | None:
    """The state at path, or if that is damaged or absent the one before; None if neither is there.

    What is damaged is told in the log.
    """
    for one in (path, previous(path)):
        try:
            if (found := read_training_state(one)) is not None:
                return found
        except PoseError as error:
            log(f"{error}; an older one is taken, or else the phase starts again")
    return None


def read_training_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None if there is none. Raises PoseError if a byte of it has changed."""
    if not path.exists():
        return None
    try:
        _require_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, zipfile.BadZipFile, zlib.error) as error:
        raise PoseError(f"{path}: damaged ({_reason(path, error)})") from None
