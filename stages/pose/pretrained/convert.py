"""Convert checkpoints of other projects: parameter names, position embeddings, patch size, heads.

Source formats are those of pose.pretrained.names, recognised by their parameter names.

Our ViT has no class token. Both ViTPose formats add the class token's row of the position embedding
to all other rows (vit.py of ViTPose); the other formats drop it (Sapiens' vision_transformer.py).
MAE's row is zero, so both rules give the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17
from pose.models.checkpoint import State, require_same, shorten
from pose.models.pose_model import PoseModel
from pose.models.sapiens2 import Sapiens2
from pose.models.vit import resize_pos_embed
from pose.pretrained.experts import take_expert
from pose.pretrained.keypoints_308 import COUNT, rows_for
from pose.pretrained.names import our_names
from pose.pretrained.select import no_backbone

IN_HEAD = re.compile(r"^head\.(deconv_layers|conv_layers|final_layer)\.")
UNUSED = re.compile(  # tensors of other projects that our backbone does not have
    r"^backbone\.(cls_token|mask_token|decoder_.*|head\..*|fc_norm\..*|pre_logits\..*"
    r"|rope_embed\.periods)$"
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class LoadReport:
    """What was done with each tensor, by name; `notes` describes the file and the model."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A table with one line per list."""
        lists = {key: getattr(self, key) for key in ("loaded", "resized", "dropped", "missing")}
        lines = [f"{key:8} {len(names):5}  {shorten(names)}" for key, names in lists.items()]
        return "\n".join([*lines, *self.notes])


def convert(
    state: State,
    model: PoseModel,
    keep_head: bool,
    expert: int | None = None,
    names: Sequence[str] = COCO_17.names,
) -> tuple[State, LoadReport]:
    """Weights with `model`'s names and shapes, and a report on each tensor of `state`.

    Names of tensors are as those of pose.pretrained.select: without wrappers and prefixes. The
    backbone is always converted, the head only if keep_head. expert: see experts.take_expert.
    names: of the model's keypoints, which a head of Sapiens' 308 keypoints is reduced to, and which
    an expert's head must be for. Raises PoseError if it is not, or if a tensor is missing,
    unexpected or of another shape. A wrong num_heads of a ViT cannot be detected, because no shape
    depends on it. The model may be on the meta device.
    """
    state, expert_notes = take_expert(state, expert, keep_head, names)
    adds_class_row = any(re.search(r"last_norm\.|embeddings\.position_", n) for n in state)
    renamed = our_names(state)
    if not any(name.startswith("backbone.blocks.") for name in renamed):
        raise no_backbone(state)
    _require_family(renamed, model)
    if keep_head and not any(IN_HEAD.match(name) for name in renamed):
        others = [name for name in renamed if not name.startswith("backbone.")]
        beside = f" (beside the backbone: {shorten(others)})" if others else ""
        raise PoseError(f"has no head of a pose model{beside}; set weights.head: fresh")
    report = LoadReport()
    report.notes += [describe_backbone(renamed), describe_head(renamed)]
    own = model.state_dict()
    weights: State = {}
    for name, tensor in renamed.items():
        wanted = name.startswith("backbone.") and (name in own or not UNUSED.match(name))
        if wanted or (keep_head and IN_HEAD.match(name)):
            weights[name] = tensor
        else:
            report.dropped.append(name)
    _require_floats(weights)
    expected = {k: v for k, v in own.items() if keep_head or k[:5] != "head."}
    report.missing = [k for k in own if k not in expected]
    _fit_embeddings(weights, model, adds_class_row, report)
    head_notes = _fit_final_layer(weights, own, names)
    for part, note in zip(("backbone.", "head."), report.notes, strict=True):
        _require_part(part, expected, weights, note)
    report.notes += [*expert_notes, *head_notes]
    if not keep_head:
        report.notes.append("the model's head is newly initialised")
    _require_finite(weights)
    report.loaded = sorted(weights)
    return weights, report


def _require_family(state: State, model: PoseModel) -> None:
    """Raise PoseError unless the backbone in a file (with our names) is of model.family."""
    is_sapiens2 = "backbone.storage_tokens" in state
    if any(name.startswith("backbone.tokenizer.") for name in state):
        raise PoseError(
            "has the window tokenizer of the 4K variant, which model.family sapiens2 does not "
            "have; take the file of another size"
        )
    if is_sapiens2 != isinstance(model.backbone, Sapiens2):
        family, other = ("sapiens2", "vit") if is_sapiens2 else ("vit", "sapiens2")
        raise PoseError(
            f"model.family = {other!r}, but the file has a backbone of {family}; set model.family: "
            f"{family} ({describe_backbone(state)})"
        )


def _fit_final_layer(state: State, own: State, names: Sequence[str]) -> list[str]:
    """Reduce a final layer of 308 maps in `state` to the model's keypoints; returns a note.

    Maps of COCO-WholeBody's face, which the 308 do not have, start at 0.
    """
    parts = [f"head.final_layer.{kind}" for kind in ("weight", "bias")]
    found = [state[name] for name in parts if name in state]
    if not all(len(t) == COUNT for t in found if t.ndim) or not found:
        return []
    rows = rows_for(names)
    if rows is None or len(own[parts[0]]) != len(rows):
        return []
    known = [k for k, row in enumerate(rows) if row is not None]
    taken = [row for row in rows if row is not None]
    for name in parts:
        if name in state:
            whole = state[name]
            state[name] = whole.new_zeros((len(rows), *whole.shape[1:]))
            state[name][known] = whole[taken]
    new = f"; the {len(rows) - len(known)} of the face are new" * (len(known) < len(rows))
    return [f"the head's {len(known)} maps are rows {taken} of its {COUNT}, by keypoint names{new}"]


def _require_finite(state: State) -> None:
    """Raise PoseError that names the first tensors without values, or with a NaN or Inf."""
    if empty := [key for key, tensor in state.items() if tensor.is_meta]:
        raise PoseError(f"has no values in {shorten(empty)}: they were saved on the meta device")
    if bad := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise PoseError(
            f"has NaN or Inf in {shorten(bad)}; take a checkpoint from before its training diverged"
        )


def _require_floats(state: State) -> None:
    """Raise PoseError for weights that are not floats."""
    others = [k for k, v in state.items() if v.dtype not in FLOATS and not k.endswith("_tracked")]
    if others:
        raise PoseError(f"{shorten(others)} are {state[others[0]].dtype}; convert them to float32")


def _require_part(part: str, expected: State, state: State, note: str) -> None:
    """require_same of the tensors of one part; `note` describes the part in the file."""
    wanted, given = ({k: v for k, v in s.items() if k.startswith(part)} for s in (expected, state))
    try:
        require_same(wanted, given)
    except PoseError as error:
        raise PoseError(f"{error} ({note})") from None


def describe_backbone(state: State) -> str:
    """One line: the backbone in a file (with our names), as values of params.yaml's model."""
    kernel = state.get("backbone.patch_embed.proj.weight")
    blocks = [
        int(m[1]) for name in state if (m := re.match(r"backbone\.blocks\.(\d{1,4})\.", name))
    ]
    if kernel is None or kernel.ndim != 4 or not blocks:
        return "backbone in the file: none"
    sizes = f"model.embed_dim {kernel.shape[0]}, depth {max(blocks) + 1}"
    norm, down = (
        state.get(f"backbone.blocks.0.{name}.weight") for name in ("attn.q_norm", "ffn.w3")
    )
    if norm is not None and down is not None and len(norm) and down.ndim == 2:
        sizes += f", num_heads {kernel.shape[0] // len(norm)}, mlp_dim {down.shape[1]}"
    up = state.get("backbone.blocks.0.mlp.fc1.weight")
    if up is not None and up.ndim == 2:
        sizes += f", mlp_dim {len(up)}"
    return f"backbone in the file: {sizes}, patch_size {kernel.shape[-1]}"


def describe_head(state: State) -> str:
    """One line: the head in a file (with our names), as values of params.yaml's model."""
    final = state.get("head.final_layer.weight")
    if final is None or final.ndim != 4:
        return "head in the file: none"
    kind = "sapiens"
    if final.shape[-1] == 3:
        kind = "simple"
    elif any(name.endswith(".running_mean") for name in state if IN_HEAD.match(name)):
        kind = "classic"
    deconvs = _channels(state, "deconv_layers", 1)
    convs = _channels(state, "conv_layers", 0)
    return (
        f"head in the file: model.head {kind}, deconv_channels {deconvs}, conv_channels {convs}, "
        f"{final.shape[0]} maps"
    )


def _channels(state: State, part: str, axis: int) -> list[int]:
    pattern = re.compile(rf"^head\.{part}\.(\d{{1,4}})\.weight$")
    layers = {int(m.group(1)): t for n, t in state.items() if (m := pattern.match(n))}
    return [layers[i].shape[axis] for i in sorted(layers) if layers[i].ndim == 4]


def _fit_embeddings(
    state: State, model: PoseModel, adds_class_row: bool, report: LoadReport
) -> None:
    """Resize pos_embed and pad the patch kernel in `state` to the model's; note it in report."""
    expected = model.state_dict()
    if (name := "backbone.pos_embed") in state and state[name].ndim == 3:
        grid: tuple[int, int] = model.backbone.patch_embed.grid_size
        rows = state[name]
        state[name] = fit_pos_embed(rows, grid, adds_class_row)
        if state[name].shape != rows.shape:
            report.resized.append(name)
    if (name := "backbone.patch_embed.proj.weight") in state and state[name].ndim == 4:
        kernel = state[name]
        state[name] = pad_kernel(kernel, expected[name].shape[-1])
        if state[name].shape != kernel.shape:
            report.resized.append(name)


def fit_pos_embed(pos_embed: Tensor, grid_hw: tuple[int, int], adds_class_row: bool) -> Tensor:
    """Convert a position embedding (1, rows, D) to (1, h * w, D) of the model's grid.

    An embedding of another size is a square grid, or a grid of the model's aspect ratio (Sapiens'
    loader supports only squares). Its first row is a class row if it has one row more than the
    model or than a square, or if its rows are no grid. Sapiens' loader drops the first row of any
    odd number of rows: where that differs, it fails. Raises PoseError if no grid is left.
    """
    rows, count = pos_embed.shape[1], grid_hw[0] * grid_hw[1]
    if rows != count and (adds_class_row or _has_class_row(rows, grid_hw)):
        first, rest = pos_embed[:, :1], pos_embed[:, 1:]
        pos_embed = rest + first if adds_class_row else rest
    if pos_embed.shape[1] == count:
        return pos_embed
    source = _source_grid(pos_embed.shape[1], grid_hw)
    if source is None:
        raise PoseError(
            f"pos_embed has {rows} rows: neither a square nor of the aspect ratio of a grid of "
            f"{grid_hw[0]} x {grid_hw[1]} (h x w); check codec.input_size"
        )
    return resize_pos_embed(pos_embed, source, grid_hw)


def _has_class_row(rows: int, grid_hw: tuple[int, int]) -> bool:
    if (more := rows - grid_hw[0] * grid_hw[1]) in (0, 1):
        return more == 1
    if _is_square(rows) or _is_square(rows - 1):
        return not _is_square(rows)
    return _source_grid(rows, grid_hw) is None


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def _source_grid(rows: int, grid_hw: tuple[int, int]) -> tuple[int, int] | None:
    """The grid (h, w) with so many cells: a square, else one of grid_hw's aspect ratio."""
    if _is_square(rows):
        return math.isqrt(rows), math.isqrt(rows)
    common = math.gcd(*grid_hw)
    tall, wide = grid_hw[0] // common, grid_hw[1] // common
    unit = math.isqrt(rows // (tall * wide))
    return (unit * tall, unit * wide) if rows > 0 and unit * unit * tall * wide == rows else None


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """Pad a patch kernel (D, 3, p, p) with zeros to (D, 3, size, size), if size - p is even.

    MAE's ViT-H has patches of 14; ViTPose-H pads them to 16 (mmcv_custom/checkpoint.py).
    """
    padding = size - kernel.shape[-1]
    return F.pad(kernel, [padding // 2] * 4) if padding > 0 and padding % 2 == 0 else kernel
