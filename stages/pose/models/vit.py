"""The backbone of Sapiens, ViTPose and MAE: timm's plain ViT with a padded patch convolution.

It has no class token, a learned position embedding and a final LayerNorm. Sapiens and ViTPose pad
the patch convolution by 2; without it, a pretrained model would see every window shifted by 2
pixels.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from pose.models.spec import ModelSpec


class Vit(VisionTransformer):
    """timm's ViT of a spec; PoseModel runs its blocks."""

    def __init__(self, spec: ModelSpec) -> None:
        width, height = spec.input_wh
        super().__init__(
            img_size=(height, width),
            patch_size=spec.patch_size,
            embed_dim=spec.embed_dim,
            depth=spec.depth,
            num_heads=spec.num_heads,
            mlp_ratio=Fraction(spec.hidden_dim, spec.embed_dim),  # type: ignore[arg-type]  # exact
            drop_path_rate=spec.drop_path,
            class_token=False,
            global_pool="",
            num_classes=0,
        )
        padding = spec.patch_padding
        self.patch_embed.proj.padding = (padding, padding)

    def embed(self, images: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        """Inputs of the blocks, which are the tokens (B, N, D), and the grid (h, w).

        For images (B, 3, h, w) of another size than the spec's, the position embedding is resized
        in this call, as in the official forward.
        """
        embedded = self.patch_embed.proj(images)  # (B, D, grid h, grid w)
        grid: tuple[int, int] = embedded.shape[2:]
        pos_embed: Tensor = self.pos_embed  # type: ignore[assignment]  # timm allows None
        positions = resize_pos_embed(pos_embed, self.patch_embed.grid_size, grid)
        return (embedded.flatten(2).transpose(1, 2) + positions,), grid


def resize_pos_embed(pos_embed: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Resize a position embedding (1, h * w, D) to another grid: bicubic, no antialiasing, float32.

    Source: Sapiens pretrain/mmpretrain/models/utils/embed.py. timm's function uses antialiasing by
    default and gives other values.
    """
    if tuple(from_hw) == tuple(to_hw):
        return pos_embed
    planes = pos_embed.float().unflatten(1, tuple(from_hw)).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=tuple(to_hw), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def sine_pos_embed(grid_hw: tuple[int, int], dim: int) -> Tensor:
    """A position embedding (1, h * w, dim) to start from without pretraining, float32.

    A quarter of the channels each is sin x, cos x, sin y and cos y of the patch's column x and row
    y times 10000 ** (-i / (dim / 4)), i = 0 .. dim / 4 - 1. Source: MAE, He et al. 2021, 4 (its
    sine-cosine embedding in two dimensions); the formula is that of Vaswani et al. 2017, 3.5.
    Raises ValueError if dim is no multiple of 4.
    """
    quarter, rest = divmod(dim, 4)
    if rest:
        raise ValueError(f"dim is {dim}; a sine embedding needs a multiple of 4")
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid_hw), indexing="ij")
    angles = [steps.flatten()[:, None] * frequencies for steps in (columns, rows)]
    channels = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(channels, dim=1)[None].float()
