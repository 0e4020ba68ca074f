"""The graph from crops to keypoints with its network in float16; all else stays in float32."""

from __future__ import annotations

import copy

from torch import Tensor, nn

HALF_ONNX = "model_keypoints_fp16.onnx"
MEDIAN_TOLERANCE = 0.05  # largest median distance from float32's keypoints, pixels of the crop


class HalfNetwork(nn.Module):
    """A copy of a network in float16 that takes and returns float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network(images.half())
        return maps.float()
