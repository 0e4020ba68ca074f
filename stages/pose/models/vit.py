"""timm's plain ViT under a heatmap head.

Patch convolution with padding 2 (Sapiens and ViTPose; without it a pretrained model sees every
window 2 pixels off), no class token, learned position embedding, final LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from pose.common.params import Params
from pose.models.heads import HEADS

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255, ImageNet
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelSpec:
    """Sizes of a model; the names and units of params.yaml's `model`, and the input's (w, h)."""

    input_wh: tuple[int, int]
    patch_size: int
    patch_padding: int
    embed_dim: int
    depth: int
    num_heads: int
    drop_path: float
    head: str  # see heads.HEADS
    deconv_channels: tuple[int, ...]
    conv_channels: tuple[int, ...]
    grad_checkpointing: bool
    maps_per_keypoint: int  # 1, or 3 for the combined codec
    num_keypoints: int  # K


def model_spec(params: Params, num_keypoints: int) -> ModelSpec:
    """Sizes of the model of params."""
    model, codec = params.model, params.codec
    return ModelSpec(
        input_wh=codec.input_size,
        patch_size=model.patch_size,
        patch_padding=model.patch_padding,
        embed_dim=model.embed_dim,
        depth=model.depth,
        num_heads=model.num_heads,
        drop_path=model.drop_path,
        head=model.head,
        deconv_channels=model.deconv_channels,
        conv_channels=model.conv_channels,
        grad_checkpointing=model.grad_checkpointing,
        maps_per_keypoint=codec.maps_per_keypoint,
        num_keypoints=num_keypoints,
    )


class PoseModel(nn.Module):
    """images (B, 3, h, w), normalised -> maps (B, K or 3 K, H, W)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = build_backbone(spec)
        maps = spec.num_keypoints * spec.maps_per_keypoint
        self.head = HEADS[spec.head](spec.embed_dim, spec.deconv_channels, spec.conv_channels, maps)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Feature map (B, D, grid h, grid w); another image size than the spec's has its own grid.

        The position embedding is then resized on the fly, as the official forward does.
        """
        vit = self.backbone
        embedded = vit.patch_embed.proj(images)  # (B, D, grid h, grid w)
        grid: tuple[int, int] = embedded.shape[2:]
        pos_embed: Tensor = vit.pos_embed  # type: ignore[assignment]  # timm allows for none
        positions = resize_pos_embed(pos_embed, vit.patch_embed.grid_size, grid)
        tokens = embedded.flatten(2).transpose(1, 2) + positions  # (B, grid h * grid w, D)
        if vit.grad_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint_seq(vit.blocks, tokens)
        else:
            tokens = vit.blocks(tokens)
        return vit.norm(tokens).transpose(1, 2).unflatten(2, grid)


def resize_pos_embed(pos_embed: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """(1, h * w, D) from one grid to another: bicubic without antialiasing, in float32.

    Source: pretrain/mmpretrain/models/utils/embed.py. timm antialiases by default: other numbers.
    """
    if tuple(from_hw) == tuple(to_hw):
        return pos_embed
    planes = pos_embed.float().unflatten(1, tuple(from_hw)).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=tuple(to_hw), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def build_backbone(spec: ModelSpec) -> VisionTransformer:
    """timm ViT whose grid is that of the padded patch convolution."""
    width, height = spec.input_wh
    backbone = VisionTransformer(
        img_size=(height, width),
        patch_size=spec.patch_size,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        drop_path_rate=spec.drop_path,
        class_token=False,
        global_pool="",
        num_classes=0,
    )
    padding = spec.patch_padding
    backbone.patch_embed.proj.padding = (padding, padding)
    backbone.set_grad_checkpointing(spec.grad_checkpointing)
    return backbone


def build_on_meta(spec: ModelSpec) -> PoseModel:
    """The model without memory: names, shapes and counts of any size, on any machine."""
    with torch.device("meta"):
        return PoseModel(spec)


def normalise(images_bgr: Tensor) -> Tensor:
    """Network input (B, 3, h, w) float32 from uint8 BGR (B, h, w, 3), on its device."""
    mean = images_bgr.new_tensor(PIXEL_MEAN, dtype=torch.float32)
    std = images_bgr.new_tensor(PIXEL_STD, dtype=torch.float32)
    return ((images_bgr.flip(3).float() - mean) / std).permute(0, 3, 1, 2).contiguous()
