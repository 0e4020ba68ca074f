"""The backbone of Sapiens, ViTPose and MAE: timm's plain ViT with a padded patch convolution.

It has no class token, a learned position embedding and a final LayerNorm. Sapiens and ViTPose pad
the patch convolution by 2; without it, a pretrained model would see every window shifted by 2
pixels.
"""

from __future__ import annotations

from fractions import Fraction

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
