"""The pose model: a backbone, and a head that turns its features into heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pose.models.heads import HEADS, init_kaiming
from pose.models.sapiens2 import Sapiens2
from pose.models.spec import ModelSpec
from pose.models.vit import Vit

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, 0..255, ImageNet
PIXEL_STD = (58.395, 57.12, 57.375)


class PoseModel(nn.Module):
    """images (B, 3, h, w), normalised -> maps (B, K or 3 K, H, W)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = build_backbone(spec)
        self.grad_checkpointing = spec.grad_checkpointing
        maps = spec.num_keypoints * spec.maps_per_keypoint
        self.head = HEADS[spec.head](spec.embed_dim, spec.deconv_channels, spec.conv_channels, maps)
        if spec.family == "sapiens2":
            self.head.apply(init_kaiming)

    def forward(self, images: Tensor) -> Tensor:
        heatmaps: Tensor = self.head(self.features(images))
        return heatmaps

    def features(self, images: Tensor) -> Tensor:
        """Feature map (B, D, grid h, grid w) of images (B, 3, h, w), which may have any size."""
        inputs, grid = self.backbone.embed(images)
        tokens = self.backbone.norm(self.run_blocks(*inputs))
        patches: Tensor = tokens[:, self.backbone.num_prefix_tokens :]
        features: Tensor = patches.transpose(1, 2).unflatten(2, grid)
        return features

    def run_blocks(self, tokens: Tensor, *tables: Tensor) -> Tensor:
        """Tokens (B, N, D) after all blocks; arguments as backbone.embed gives them."""
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.backbone.blocks:
            if recompute:
                tokens = checkpoint(block, tokens, *tables, use_reentrant=False)
            else:
                tokens = block(tokens, *tables)
        return tokens


def build_backbone(spec: ModelSpec) -> Vit | Sapiens2:
    """The backbone of model.family, newly initialised."""
    return Sapiens2(spec) if spec.family == "sapiens2" else Vit(spec)


def build_on_meta(spec: ModelSpec) -> PoseModel:
    """The model on the meta device: names, shapes and counts without allocating memory."""
    with torch.device("meta"):
        return PoseModel(spec)


def normalise(images_bgr: Tensor) -> Tensor:
    """Normalised float32 RGB (B, 3, h, w) of uint8 BGR images (B, h, w, 3), on their device."""
    mean = images_bgr.new_tensor(PIXEL_MEAN, dtype=torch.float32)
    std = images_bgr.new_tensor(PIXEL_STD, dtype=torch.float32)
    return ((images_bgr.flip(3).float() - mean) / std).permute(0, 3, 1, 2).contiguous()
