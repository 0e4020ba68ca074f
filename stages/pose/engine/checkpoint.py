"""Training state on disk: written atomically, with the previous one; read without unpickling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from pose.common.errors import PoseError
from pose.common.files import replacing, sync
from pose.common.log import log
from pose.models.integrity import UNREADABLE, require_zip_checksums, unreadable_reason


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state to path; the file that was there becomes previous(path).

    A kill or power loss at any moment leaves at least one of the two complete. The bytes do not
    depend on the file's name.
    """
    with replacing(path) as beside:
        with beside.open("wb") as stream:
            torch.save(state, stream)
        sync(beside)
        if path.exists():
            os.replace(path, previous(path))


def previous(path: Path) -> Path:
    """state.previous.pt for state.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def newest_training_state(path: Path) -> dict[str, Any] | None:
    """The state at path, else the previous one; None if neither can be read.

    Damaged files are named in the log.
    """
    for candidate in (path, previous(path)):
        try:
            if (state := read_training_state(candidate)) is not None:
                return state
        except PoseError as error:
            log(f"{error}; trying the previous checkpoint, else the phase starts from step 0")
    return None


def read_training_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None if there is none. Raises PoseError if its checksum is wrong."""
    if not path.exists():
        return None
    try:
        require_zip_checksums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except UNREADABLE as error:
        raise PoseError(f"{path}: damaged ({unreadable_reason(path, error)})") from None
