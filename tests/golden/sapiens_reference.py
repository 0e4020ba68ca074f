"""Sapiens' forward pass in plain torch, under the official parameter names; see PROVENANCE.md.

Restated from the official pre-LN ViT (mmpretrain VisionTransformer) and HeatmapHead with SiLU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def heatmaps(state: State, images: Tensor, patch: int, heads: int) -> Tensor:
    """(B, 17, H, W) of images (B, 3, h, w)."""
    x = features(state, images, patch, heads)
    for i in (0, 3):
        x = F.conv_transpose2d(x, state[f"head.deconv_layers.{i}.weight"], stride=2, padding=1)
        x = F.silu(F.instance_norm(x))
    for i in (0, 3):
        name = f"head.conv_layers.{i}"
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = F.silu(F.instance_norm(x))
    return F.conv2d(x, state["head.final_layer.weight"], state["head.final_layer.bias"])


def features(state: State, images: Tensor, patch: int, heads: int) -> Tensor:
    """(B, D, grid h, grid w)."""
    weight, bias = (state[f"backbone.patch_embed.projection.{n}"] for n in ("weight", "bias"))
    x = F.conv2d(images, weight, bias, stride=patch, padding=2)
    grid = x.shape[2:]
    x = x.flatten(2).transpose(1, 2) + state["backbone.pos_embed"]
    depth = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("backbone.layers."))
    for i in range(depth):
        x = _block(state, f"backbone.layers.{i}", x, heads)
    return _norm(state, "backbone.ln1", x).transpose(1, 2).unflatten(2, grid)


def _block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    batch, count, width = x.shape
    qkv = _linear(state, f"{name}.attn.qkv", _norm(state, f"{name}.ln1", x))
    q, k, v = qkv.view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attention = torch.softmax(q @ k.transpose(2, 3) * (width // heads) ** -0.5, dim=-1)
    mixed = (attention @ v).transpose(1, 2).reshape(batch, count, width)
    x = x + _linear(state, f"{name}.attn.proj", mixed)
    hidden = F.gelu(_linear(state, f"{name}.ffn.layers.0.0", _norm(state, f"{name}.ln2", x)))
    return x + _linear(state, f"{name}.ffn.layers.1", hidden)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)
