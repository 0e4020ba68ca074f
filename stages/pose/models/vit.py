"""The pose model: timm's plain ViT with a heatmap head.

The ViT has no class token, a learned position embedding, a final LayerNorm, and a patch convolution
with padding 2 as in Sapiens and ViTPose. Without the padding, a pretrained model would see every
window shifted by 2 pixels.
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
    """Sizes of a model, named as in params.yaml's `model`, and the input size (w, h) in pixels."""

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
        heatmaps: Tensor = self.head(self.features(images))
        return heatmaps

    def features(self, images: Tensor) -> Tensor:
        """Feature map (B, D, grid h, grid w) of images (B, 3, h, w).

        For images of another size than the spec's, the position embedding is resized in this call,
        as in the official forward.
        """
        vit = self.backbone
        embedded = vit.patch_embed.proj(images)  # (B, D, grid h, grid w)
        grid: tuple[int, int] = embedded.shape[2:]
        pos_embed: Tensor = vit.pos_embed  # type: ignore[assignment]  # timm allows None
        positions = resize_pos_embed(pos_embed, vit.patch_embed.grid_size, grid)
        tokens = embedded.flatten(2).transpose(1, 2) + positions  # (B, grid h * grid w, D)
        if vit.grad_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint_seq(vit.blocks, tokens)
        else:
            tokens = vit.blocks(tokens)
        features: Tensor = vit.norm(tokens).transpose(1, 2).unflatten(2, grid)
        return features


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


def build_backbone(spec: ModelSpec) -> VisionTransformer:
    """timm's ViT of this spec, with a padded patch convolution."""
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
    """The model on the meta device: names, shapes and counts without allocating memory."""
    with torch.device("meta"):
        return PoseModel(spec)


def normalise(images_bgr: Tensor) -> Tensor:
    """Normalised float32 RGB (B, 3, h, w) of uint8 BGR images (B, h, w, 3), on their device."""
    mean = images_bgr.new_tensor(PIXEL_MEAN, dtype=torch.float32)
    std = images_bgr.new_tensor(PIXEL_STD, dtype=torch.float32)
    return ((images_bgr.flip(3).float() - mean) / std).permute(0, 3, 1, 2).contiguous()
