"""Convert checkpoints of other projects: parameter names, position embeddings, patch size, heads.

Source formats, recognised by their parameter names (keys as in the projects' own files):

- Sapiens and mmpose 1.x (mmpretrain names): `layers.N.ln1`, `ffn.layers.0.0`, final norm `ln1`;
- ViTPose, mmpose 0.x: timm's names with `last_norm`, `keypoint_head`;
- Hugging Face ViTPose: `encoder.layer.N`, separate query, key, value;
- timm and MAE ViTs: timm's names with `norm`.

Our ViT has no class token. Both ViTPose formats add the class token's row of the position embedding
to all other rows (vit.py of ViTPose); the other formats drop it (Sapiens' vision_transformer.py).
MAE's row is zero, so both rules give the same.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from pose.common.errors import PoseError
from pose.models.checkpoint import State, require_same, shorten
from pose.models.vit import PoseModel, resize_pos_embed
from pose.pretrained.select import no_backbone

RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^keypoint_head\.", "head."),
        # mmpretrain: Sapiens, mmpose 1.x
        (r"^backbone\.patch_embed\.projection\.", "backbone.patch_embed.proj."),
        (r"^backbone\.layers\.(\d+)\.ln([12])\.", r"backbone.blocks.\1.norm\2."),
        (r"^backbone\.layers\.(\d+)\.attn\.", r"backbone.blocks.\1.attn."),
        (r"^backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r"backbone.blocks.\1.mlp.fc1."),
        (r"^backbone\.layers\.(\d+)\.ffn\.layers\.1\.", r"backbone.blocks.\1.mlp.fc2."),
        (r"^backbone\.(ln1|last_norm|layernorm)\.", "backbone.norm."),
        # Hugging Face ViTPose
        (r"^backbone\.embeddings\.position_embeddings$", "backbone.pos_embed"),
        (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
        (r"^backbone\.encoder\.layer\.", "backbone.blocks."),
        (r"(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
        (r"(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
        (r"(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
        (r"^head\.deconv1\.", "head.deconv_layers.0."),
        (r"^head\.batchnorm1\.", "head.deconv_layers.1."),
        (r"^head\.deconv2\.", "head.deconv_layers.3."),
        (r"^head\.batchnorm2\.", "head.deconv_layers.4."),
        (r"^head\.conv\.", "head.final_layer."),
    )
]
HF_QKV = re.compile(r"^(backbone\.blocks\.\d+)\.attention\.attention\.(query|key|value)\.(.+)$")
IN_HEAD = re.compile(r"^head\.(deconv_layers|conv_layers|final_layer)\.")
UNUSED = re.compile(  # tensors of other projects that our backbone does not have
    r"^backbone\.(cls_token|mask_token|decoder_.*|head\..*|fc_norm\..*|pre_logits\..*)$"
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


def convert(state: State, model: PoseModel, keep_head: bool) -> tuple[State, LoadReport]:
    """Weights with `model`'s names and shapes, and a report on each tensor of `state`.

    Names are as those of pose.pretrained.select: without wrappers and prefixes.
    The backbone is always converted, the head only if keep_head. Raises PoseError if a tensor of
    these is missing, unexpected or of another shape. A wrong num_heads cannot be detected, because
    no shape depends on it. The model may be on the meta device.
    """
    adds_class_row = any(re.search(r"last_norm\.|embeddings\.position_", n) for n in state)
    renamed = _our_names(state)
    if not any(name.startswith("backbone.blocks.") for name in renamed):
        raise no_backbone(state)
    if keep_head and not any(IN_HEAD.match(name) for name in renamed):
        others = [name for name in renamed if not name.startswith("backbone.")]
        beside = f" (beside the backbone: {shorten(others)})" if others else ""
        raise PoseError(f"has no head of a pose model{beside}; set weights.head: fresh")
    report = LoadReport()
    report.notes += [describe_backbone(renamed), describe_head(renamed)]
    weights: State = {}
    for name, tensor in renamed.items():
        wanted = name.startswith("backbone.") and not UNUSED.match(name)
        if wanted or (keep_head and IN_HEAD.match(name)):
            weights[name] = tensor
        else:
            report.dropped.append(name)
    _require_floats(weights)
    expected = {k: v for k, v in model.state_dict().items() if keep_head or k[:5] != "head."}
    report.missing = [k for k in model.state_dict() if k not in expected]
    _fit_embeddings(weights, model, adds_class_row, report)
    for part, note in zip(("backbone.", "head."), report.notes, strict=True):
        _require_part(part, expected, weights, note)
    if not keep_head:
        report.notes.append("the model's head is newly initialised")
    _require_finite(weights)
    report.loaded = sorted(weights)
    return weights, report


def _require_finite(state: State) -> None:
    """Raise PoseError that names the first tensors with a NaN or Inf."""
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


def _our_names(state: State) -> State:
    """The same tensors with our names; names of the backbone start with `backbone.`."""
    prefixed = any(name.startswith("backbone.") for name in state)
    renamed: State = {}
    for name, tensor in state.items():
        bare = name if prefixed or name.startswith("keypoint_head.") else f"backbone.{name}"
        for pattern, replacement in RENAMES:
            bare = pattern.sub(replacement, bare)
        renamed[bare] = tensor
    return _rename_final(_merge_qkv(renamed))


def _merge_qkv(state: State) -> State:
    """Hugging Face's query, key and value stacked as timm's qkv."""
    merged = {name: tensor for name, tensor in state.items() if not HF_QKV.match(name)}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        if match := HF_QKV.match(name):
            block, role, kind = match.groups()
            parts.setdefault(f"{block}.attn.qkv.{kind}", {})[role] = tensor
    for name, roles in parts.items():
        if len(roles) == 3 and len({(t.shape, t.dtype) for t in roles.values()}) == 1:
            merged[name] = torch.cat([roles[role] for role in ("query", "key", "value")])
    return merged


def _rename_final(state: State) -> State:
    """mmpose 0.x's final_layer.N: the last is our final_layer, the others are conv_layers."""
    pattern = re.compile(r"^head\.final_layer\.(\d{1,4})\.")
    last = max((int(m[1]) for name in state if (m := pattern.match(name))), default=0)

    def ours(match: re.Match[str]) -> str:
        number = int(match[1])
        return "head.final_layer." if number == last else f"head.conv_layers.{number}."

    return {pattern.sub(ours, name): tensor for name, tensor in state.items()}


def describe_backbone(state: State) -> str:
    """One line: the backbone in a file (with our names), as values of params.yaml's model."""
    kernel = state.get("backbone.patch_embed.proj.weight")
    blocks = [
        int(m[1]) for name in state if (m := re.match(r"backbone\.blocks\.(\d{1,4})\.", name))
    ]
    if kernel is None or kernel.ndim != 4 or not blocks:
        return "backbone in the file: none"
    return (
        f"backbone in the file: model.embed_dim {kernel.shape[0]}, depth {max(blocks) + 1}, "
        f"patch_size {kernel.shape[-1]}"
    )


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
