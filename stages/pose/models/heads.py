"""Heatmap heads: features (B, D, grid h, grid w) -> maps (B, C, H, W).

The parameters have the official names, so that published heads load unchanged.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class HeatmapHead(nn.Module):
    """Deconvolutions (each doubles the resolution), 1x1 convolutions, a final 1x1 convolution.

    Sapiens: InstanceNorm without affine, SiLU. Source: facebookresearch/sapiens
    pose/mmpose/models/heads/heatmap_heads/heatmap_head.py.
    """

    norm: type[nn.Module] = nn.InstanceNorm2d
    activation: type[nn.Module] = nn.SiLU

    def __init__(
        self,
        embed_dim: int,
        deconv_channels: tuple[int, ...],
        conv_channels: tuple[int, ...],
        maps: int,
    ) -> None:
        super().__init__()
        channels = [embed_dim, *deconv_channels]
        deconvs = [
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
            for c_in, c_out in pairwise(channels)
        ]
        channels = [channels[-1], *conv_channels]
        convs = [nn.Conv2d(c_in, c_out, 1) for c_in, c_out in pairwise(channels)]
        self.deconv_layers = self._with_norm(deconvs)
        self.conv_layers = self._with_norm(convs)
        self.final_layer = nn.Conv2d(channels[-1], maps, 1)
        self.apply(_init)

    def _with_norm(self, layers: list[nn.ConvTranspose2d] | list[nn.Conv2d]) -> nn.Sequential:
        parts = ((layer, self.norm(layer.out_channels), self.activation()) for layer in layers)
        return nn.Sequential(*(part for triple in parts for part in triple))

    def forward(self, features: Tensor) -> Tensor:
        heatmaps: Tensor = self.final_layer(self.conv_layers(self.deconv_layers(features)))
        return heatmaps


class ClassicHead(HeatmapHead):
    """HeatmapHead with BatchNorm and ReLU: ViTPose classic (no 1x1 convolutions), plain mmpose."""

    norm = nn.BatchNorm2d
    activation = nn.ReLU


class SimpleHead(nn.Module):
    """ViTPose simple: ReLU, bilinear x4, one 3x3 convolution."""

    def __init__(
        self,
        embed_dim: int,
        deconv_channels: tuple[int, ...],
        conv_channels: tuple[int, ...],
        maps: int,
    ) -> None:
        super().__init__()
        assert not [*deconv_channels, *conv_channels]  # checked by params.Model
        self.final_layer = nn.Conv2d(embed_dim, maps, 3, padding=1)
        self.apply(_init)

    def forward(self, features: Tensor) -> Tensor:
        upsampled = F.interpolate(
            features.relu(), scale_factor=4, mode="bilinear", align_corners=False
        )
        heatmaps: Tensor = self.final_layer(upsampled)
        return heatmaps


HEADS: dict[str, type[HeatmapHead] | type[SimpleHead]] = {
    "sapiens": HeatmapHead,
    "classic": ClassicHead,
    "simple": SimpleHead,
}


def _init(module: nn.Module) -> None:
    """Weights from N(0, 0.001), biases 0, as in the official heads."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.001)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_kaiming(module: nn.Module) -> None:
    """Kaiming normal weights (fan_out), biases 0, as in Sapiens2's head."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
