"""Weights in and out: safetensors of ours, official .pth layouts, training state to resume from.

Nothing downloaded is ever unpickled: .pth files are read with weights_only=True, which admits
tensors and plain containers and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from pose.errors import PoseError
from pose.files import write_atomic

State = dict[str, Tensor]

# What torch and safetensors raise on files that are cut off, damaged or hostile.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
)

# Sapiens (mmpretrain) names -> timm names; ViTPose and timm files already carry timm's.
RENAMES = (
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
    (re.compile(r"^layers\.(\d+)\.ln([12])\."), r"blocks.\1.norm\2."),
    (re.compile(r"^layers\.(\d+)\.attn\."), r"blocks.\1.attn."),
    (re.compile(r"^layers\.(\d+)\.ffn\.layers\.0\.0\."), r"blocks.\1.mlp.fc1."),
    (re.compile(r"^layers\.(\d+)\.ffn\.layers\.1\."), r"blocks.\1.mlp.fc2."),
    (re.compile(r"^(ln1|last_norm)\."), "norm."),
)


@dataclass
class LoadReport:
    """What became of each tensor of a checkpoint; names, sorted as in the file."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [f"resized: {', '.join(self.resized)}"] if self.resized else []
        parts += [f"dropped: {', '.join(self.dropped)}"] if self.dropped else []
        return "; ".join(parts)


def save_weights(path: Path, state: State, provenance: dict[str, Any]) -> None:
    """safetensors file with `provenance` as JSON under one metadata key, so bytes are stable."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
    write_atomic(path, safetensors.torch.save(tensors, metadata))


def read_weights(path: Path) -> State:
    """Tensors of a .safetensors or .pth file. Raises PoseError if it cannot be read safely."""
    if not path.is_file():
        raise PoseError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        return _tensors(torch.load(path, map_location="cpu", weights_only=True), path)
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0]
        raise PoseError(f"{path}: not a readable checkpoint ({reason}); fetch it again") from None


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance that save_weights stored."""
    with safe_open(path, framework="pt") as stream:
        return json.loads((stream.metadata() or {}).get("provenance", "{}"))


def _tensors(content: Any, path: Path) -> State:
    """The tensor dictionary inside a .pth: flat, or under 'state_dict' or 'model'."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise PoseError(f"{path}: holds no tensors")
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise PoseError(f"{path}: holds no tensors")
    return state


def backbone_state(state: State) -> tuple[State, list[str]]:
    """Backbone tensors under timm names, and the names that are none (heads, optimiser, mask)."""
    kept: State = {}
    dropped: list[str] = []
    prefixed = any(re.match(r"^(module\.)?backbone\.", name) for name in state)
    for name, tensor in state.items():
        bare = name.removeprefix("module.")
        if prefixed and not bare.startswith("backbone."):
            dropped.append(name)
            continue
        bare = bare.removeprefix("backbone.")
        for pattern, replacement in RENAMES:
            bare = pattern.sub(replacement, bare)
        kept[bare] = tensor
    if any(name.endswith("last_norm.weight") for name in state):
        kept["pos_embed"] = _without_class_row(kept["pos_embed"])
    return kept, dropped


def _without_class_row(pos_embed: Tensor) -> Tensor:
    """ViTPose adds the class row to all others: (1, 1 + n, D) -> (1, n, D).

    Source: ViTPose mmpose/models/backbones/vit.py, the only family with a `last_norm`. Sapiens and
    MAE files drop the row instead, see resize_pos_embed.
    """
    return pos_embed[:, 1:] + pos_embed[:, :1]


def load_backbone(backbone: torch.nn.Module, path: Path) -> LoadReport:
    """Load a checkpoint's backbone; its position embedding is resized to the model's grid.

    Raises PoseError if a backbone tensor is missing, unexpected or of another shape.
    """
    state, dropped = backbone_state(read_weights(path))
    report = LoadReport(dropped=dropped)
    expected = backbone.state_dict()
    for name in ("cls_token", "mask_token"):
        if state.pop(name, None) is not None:
            report.dropped.append(name)
    if "pos_embed" in state:
        grid: tuple[int, int] = backbone.patch_embed.grid_size  # type: ignore[assignment, union-attr]
        resized = resize_pos_embed(state["pos_embed"], grid)
        if resized.shape != state["pos_embed"].shape:
            report.resized.append("pos_embed")
        state["pos_embed"] = resized
    _require_same(expected, state, path)
    backbone.load_state_dict(state)
    report.loaded = list(state)
    return report


def _require_same(expected: State, state: State, path: Path) -> None:
    if missing := sorted(expected.keys() - state.keys()):
        raise PoseError(f"{path}: lacks backbone tensors {_some(missing)}; is model.depth right?")
    if unknown := sorted(state.keys() - expected.keys()):
        raise PoseError(f"{path}: has unexpected tensors {_some(unknown)}; is model.depth right?")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise PoseError(
                f"{path}: {name} is {list(tensor.shape)}, the model of params.yaml needs "
                f"{list(expected[name].shape)}"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def resize_pos_embed(pos_embed: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """(1, h * w, D) for the grid, from a square one; bicubic without antialiasing, as official.

    An odd row count holds a class row, which Sapiens drops
    (pretrain/mmpretrain/models/backbones/vision_transformer.py and utils/embed.py).
    """
    count = grid_hw[0] * grid_hw[1]
    if pos_embed.shape[1] == count:
        return pos_embed
    if pos_embed.shape[1] == count + 1 or pos_embed.shape[1] % 2:
        pos_embed = pos_embed[:, 1:]
    if pos_embed.shape[1] == count:
        return pos_embed
    side = math.isqrt(pos_embed.shape[1])
    if side * side != pos_embed.shape[1]:
        raise PoseError(f"pos_embed has {pos_embed.shape[1]} rows: neither the grid nor a square")
    square = pos_embed.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid_hw, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Load weights that a training stage of ours wrote; every tensor must match."""
    state = read_weights(path)
    _require_same(model.state_dict(), state, path)
    model.load_state_dict(state)


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    """One atomic file; bytes do not depend on the file's name."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def read_training_state(path: Path) -> dict[str, Any] | None:
    """The saved state, or None if there is none. Raises PoseError if it is damaged."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0]
        raise PoseError(
            f"{path}: damaged ({reason}); delete it to start this phase again"
        ) from None
