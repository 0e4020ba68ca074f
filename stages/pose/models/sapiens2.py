"""Sapiens2's backbone: RMSNorm, grouped-query attention, SwiGLU and a rotary position embedding.

Source: Sapiens2 (arXiv 2604.21681) and its released configurations and key names. This is our own
code, checked against numbers of the official code (tests/golden). The window tokenizer of the 4K
variant is not included.
"""

from __future__ import annotations

import math

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from pose.models.spec import ModelSpec

STORAGE_TOKENS = 8  # called registers elsewhere
FULL_BLOCKS = 8  # the first and the last 8 blocks have as many key heads as query heads
EPS = 1e-6
BASE_PERIOD = 100.0
LAYER_SCALE = 1e-4  # initial
ROPE_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Sapiens2(nn.Module):
    """The backbone of a spec; PoseModel runs its blocks.

    Tokens are [class token, storage tokens, patches row by row]. There is no position embedding,
    so images may have any size that is a multiple of the patch size.
    """

    num_prefix_tokens = 1 + STORAGE_TOKENS

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        width, height = spec.input_wh
        self.head_dim = spec.embed_dim // spec.num_heads
        self.rope_dtype = ROPE_DTYPES[spec.rope_dtype]
        self.patch_embed = PatchEmbed((height, width), spec.patch_size, 3, spec.embed_dim)
        self.patch_embed.proj.padding = (spec.patch_padding, spec.patch_padding)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.embed_dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, STORAGE_TOKENS, spec.embed_dim))
        self.blocks = nn.Sequential(*(Block(spec, i) for i in range(spec.depth)))
        self.norm = nn.RMSNorm(spec.embed_dim, EPS)
        self.apply(_init)
        for tokens in (self.cls_token, self.storage_tokens):
            nn.init.trunc_normal_(tokens, std=0.02)

    def embed(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Inputs of the blocks, which are tokens (B, N, D), sin and cos (N, D / heads); and the
        grid (h, w)."""
        embedded = self.patch_embed.proj(images)  # (B, D, grid h, grid w)
        grid: tuple[int, int] = embedded.shape[2:]
        first = (t.expand(images.shape[0], -1, -1) for t in (self.cls_token, self.storage_tokens))
        tokens = torch.cat([*first, embedded.flatten(2).transpose(1, 2)], dim=1)
        sin, cos = rotary_tables(grid, self.head_dim, self.rope_dtype, images.device)
        return (tokens, sin, cos), grid


class Block(nn.Module):
    """x + scaled attention, then x + SwiGLU; the second branch has no layer scale."""

    def __init__(self, spec: ModelSpec, index: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(spec.embed_dim, EPS)
        self.attn = Attention(spec.embed_dim, spec.num_heads, kv_heads(spec, index))
        self.norm2 = nn.RMSNorm(spec.embed_dim, EPS)
        self.ffn = SwiGlu(spec.embed_dim, spec.hidden_dim)

    def forward(self, tokens: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        attended: Tensor = tokens + self.attn(self.norm1(tokens), sin, cos)
        out: Tensor = attended + self.ffn(self.norm2(attended))
        return out


def kv_heads(spec: ModelSpec, index: int) -> int:
    """Number of key and value heads of a block: half of num_heads, except in the outer blocks."""
    outer = index < FULL_BLOCKS or index >= spec.depth - FULL_BLOCKS
    return spec.num_heads if outer else spec.num_heads // 2


class Attention(nn.Module):
    """Attention with normalised queries and keys, and a learned scale per output channel."""

    def __init__(self, dim: int, num_heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.repeats = num_heads // kv_heads
        self.wq = nn.Linear(dim, dim)
        self.wk = nn.Linear(dim, kv_heads * self.head_dim)
        self.wv = nn.Linear(dim, kv_heads * self.head_dim)
        self.q_norm = nn.RMSNorm(self.head_dim, EPS)
        self.k_norm = nn.RMSNorm(self.head_dim, EPS)
        self.proj = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), LAYER_SCALE))

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        query, key, value = (self._split(layer(x)) for layer in (self.wq, self.wk, self.wv))
        query, key = self.q_norm(query), self.k_norm(key)
        key, value = self._repeat(key), self._repeat(value)  # before the rotation, as officially
        query, key = (rotate(t, sin, cos).to(value.dtype) for t in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value)
        scaled: Tensor = self.gamma * self.proj(mixed.transpose(1, 2).flatten(2))
        return scaled

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, heads * d) -> (B, heads, N, d)."""
        heads: Tensor = x.unflatten(2, (-1, self.head_dim))
        return heads.transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        """Each head `repeats` times in a row: query head h uses head h // repeats."""
        if self.repeats == 1:
            return x
        return x[:, :, None].expand(-1, -1, self.repeats, -1, -1).flatten(1, 2)


class SwiGlu(nn.Module):
    """w3(silu(a) * b), where a and b are the halves of w12(x)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * up)
        return out


def rotary_tables(
    grid_hw: tuple[int, int], head_dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Signed sin and cos (9 + h * w, head_dim) of the angles; prefix tokens have angle 0.

    The first half of the sines is negated, which `rotate` needs.

    An axis has head_dim / 4 angles per patch: 2 pi times its centre, which is in -1..1, divided by
    the periods 100 ** (4 i / head_dim). Source: DINOv3's rotary embedding. Officially each
    operation is done in bfloat16; here in float32 and then rounded, which gives the same numbers
    and can be exported to ONNX.
    """

    def rounded(values: Tensor) -> Tensor:
        return values.to(dtype).float()

    def count(stop: int) -> Tensor:
        return torch.arange(stop, dtype=torch.float32, device=device)

    periods = rounded(BASE_PERIOD ** rounded(2 * count(head_dim // 4) / (head_dim / 2)))
    angles = []
    for length in grid_hw:
        centre = rounded(2 * rounded(rounded(count(length) + 0.5) / length) - 1)
        angles.append(rounded(rounded(2 * math.pi * centre)[:, None] / periods))
    (height, width), (y, x) = grid_hw, angles
    y, x = y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)
    grid = torch.cat([y, x], dim=2).flatten(0, 1).tile(1, 2)
    table = F.pad(grid, (0, 0, Sapiens2.num_prefix_tokens, 0))
    sign = torch.where(count(head_dim) < head_dim // 2, -1.0, 1.0)
    return (sign * table.sin()).to(dtype), table.cos().to(dtype)


def rotate(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate queries or keys (B, heads, N, d) by the angles of (N, d) tables, in the tables' dtype.

    (u, v) -> (u cos - v sin, v cos + u sin), where u and v are the halves of the d channels.

    In a program for export bfloat16 is replaced by float32, rounded after each operation: ONNX
    Runtime has no bfloat16 arithmetic on CPUs.
    """
    dtype = sin.dtype
    x = x.to(dtype)
    halves: Tensor = x.unflatten(-1, (2, -1))
    swapped = halves.flip(-2).flatten(-2)  # not torch.cat: autocast refuses it for bfloat16
    if not torch.compiler.is_exporting():
        return x * cos + swapped * sin
    straight, crossed = (
        (a.float() * b.float()).to(dtype).float() for a, b in ((x, cos), (swapped, sin))
    )
    return (straight + crossed).to(dtype)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
