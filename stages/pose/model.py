"""timm's plain ViT and the Sapiens heatmap head.

Backbone: patch convolution with padding 2 (Sapiens and ViTPose; without it a pretrained model sees
every window 2 pixels off), no class token, learned position embedding, final LayerNorm. Head:
deconvolutions, 1x1 convolutions, each followed by InstanceNorm without affine and SiLU, then a 1x1
to K maps: facebookresearch/sapiens pose/mmpose/models/heads/heatmap_heads/heatmap_head.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pose.skeleton import NUM_KEYPOINTS

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
    deconv_channels: tuple[int, ...]
    conv_channels: tuple[int, ...]


class PoseModel(nn.Module):
    """images (B, 3, h, w), normalised -> heatmaps (B, K, H, W)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone = build_backbone(spec)
        self.head = HeatmapHead(spec)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Feature map (B, D, grid h, grid w)."""
        tokens = self.backbone.forward_features(images)  # (B, grid h * grid w, D)
        grid = self.backbone.patch_embed.grid_size
        return tokens.transpose(1, 2).unflatten(2, grid)


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
    return backbone


class HeatmapHead(nn.Module):
    """features (B, D, h, w) -> heatmaps (B, K, h * 2^n, w * 2^n), n deconvolutions.

    Names of the parameters are the official ones, so released heads load as they are.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = [spec.embed_dim, *spec.deconv_channels]
        self.deconv_layers = nn.Sequential(
            *[
                layer
                for c_in, c_out in pairwise(channels)
                for layer in (
                    nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                    nn.InstanceNorm2d(c_out),
                    nn.SiLU(),
                )
            ]
        )
        channels = [channels[-1], *spec.conv_channels]
        self.conv_layers = nn.Sequential(
            *[
                layer
                for c_in, c_out in pairwise(channels)
                for layer in (
                    nn.Conv2d(c_in, c_out, 1),
                    nn.InstanceNorm2d(c_out),
                    nn.SiLU(),
                )
            ]
        )
        self.final_layer = nn.Conv2d(channels[-1], NUM_KEYPOINTS, 1)
        self.apply(_init_head)

    def forward(self, features: Tensor) -> Tensor:
        return self.final_layer(self.conv_layers(self.deconv_layers(features)))


def _init_head(module: nn.Module) -> None:
    """Weights N(0, 0.001), biases 0, as the official head."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def normalise(images_bgr: Tensor) -> Tensor:
    """Network input (B, 3, h, w) float32 from uint8 BGR (B, h, w, 3), on its device."""
    mean = images_bgr.new_tensor(PIXEL_MEAN, dtype=torch.float32)
    std = images_bgr.new_tensor(PIXEL_STD, dtype=torch.float32)
    return ((images_bgr.flip(3).float() - mean) / std).permute(0, 3, 1, 2).contiguous()
