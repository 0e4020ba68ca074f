"""Save weights as safetensors, and load them into a model.

Files of phases that train a part of the model are merged with their base in `with_base`, and
nowhere else. pose.pretrained reads the checkpoints of other projects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pose.common.errors import PoseError, printable
from pose.common.files import replacing
from pose.models.adapter import Base, find_base, merge, parse_base
from pose.models.integrity import UNREADABLE, unreadable_reason

State = dict[str, Tensor]


def save_weights(
    path: Path, state: State, provenance: dict[str, Any], base: Base | None = None
) -> None:
    """Write safetensors; `provenance` is JSON under one metadata key, so that bytes are stable.

    base: the file that has the other weights, if state holds only trained ones.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
    metadata |= {"base": base.to_json()} if base else {}
    with replacing(path) as beside:
        try:
            safetensors.torch.save_file(tensors, beside, metadata)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(str(error)) from None


def read_weights(path: Path) -> State:
    """All weights of a file of save_weights, merged with its base if it has one.

    Raises PoseError if it cannot be read, or if its base is absent or another file.
    """
    return with_base(path, read_own(path))


def with_base(path: Path, own: State, base_path: Path | None = None) -> State:
    """The tensors of a safetensors file, merged with the base that its metadata name, if any.

    base_path: where that base is, if not where find_base looks.
    """
    base = read_base(path)
    return merge(read_own(find_base(path, base, base_path)), own, base) if base else own


def read_own(path: Path) -> State:
    """The tensors that a file holds itself. Raises PoseError if it cannot be read."""
    if not path.is_file():
        raise PoseError(f"{path}: no such checkpoint")
    try:
        return dict(safetensors.torch.load_file(path))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance that save_weights stored."""
    try:
        provenance = json.loads(_metadata(path).get("provenance", "{}"))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    return provenance if isinstance(provenance, dict) else {}


def read_base(path: Path) -> Base | None:
    """The base of a file that holds only what was trained; None if it holds all weights."""
    try:
        text = _metadata(path).get("base")
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    return parse_base(text, path)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as stream:
        return stream.metadata() or {}


def _unreadable(path: Path, error: Exception) -> PoseError:
    return PoseError(
        f"{path}: not readable as safetensors ({unreadable_reason(path, error)}); rerun the stage "
        "that writes it, or copy it again"
    )


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Load weights that a training stage wrote; every tensor must match."""
    load_state(model, read_weights(path), path)


def load_start(model: torch.nn.Module, path: Path) -> str:
    """Load the output of fetch_weights: the backbone, and the head if the file has one.

    Without a head in the file, the model's head keeps its initial weights. Returns a text that says
    what was loaded.
    """
    state = read_weights(path)
    has_head = any(name.startswith("head.") for name in state)
    initial_head = {
        k: v for k, v in model.state_dict().items() if k.startswith("head.") and not has_head
    }
    load_state(model, {**initial_head, **state}, path)
    return "backbone and head" if has_head else "backbone; the head is newly initialised"


def load_state(model: torch.nn.Module, state: State, path: Path) -> None:
    """Load the tensors of a file; every one must match."""
    try:
        require_same(model.state_dict(), state)
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None
    model.load_state_dict(state)


def require_same(expected: State, state: State) -> None:
    """Raise PoseError unless names and shapes are equal."""
    if missing := sorted(expected.keys() - state.keys()):
        raise PoseError(f"missing tensors {shorten(missing)}; check model in params.yaml")
    if unknown := sorted(state.keys() - expected.keys()):
        raise PoseError(f"unexpected tensors {shorten(unknown)}; check model in params.yaml")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise PoseError(
                f"{name} is {list(tensor.shape)}, the model of params.yaml needs "
                f"{list(expected[name].shape)}{_maps_hint(name, tensor, expected[name])}"
            )


def _maps_hint(name: str, tensor: Tensor, expected: Tensor) -> str:
    """The next step for a head that was trained for other keypoints; else an empty text."""
    if not name.startswith("head.final_layer.") or tensor.shape[:1] == expected.shape[:1]:
        return ""
    maps = len(tensor) if tensor.ndim else 0
    return (
        f": its head has {maps} maps, the keypoints here need {len(expected)}; set "
        "weights.head: fresh, or check keypoints.names and codec.type"
    )


def shorten(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    shown = [printable(name[:100]) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
