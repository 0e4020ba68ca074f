"""The graph from crops to keypoints with its network in float16; all else stays in float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pose.common import stage
from pose.common.errors import PoseError
from pose.crop_table import CropTable
from pose.data.samples import TestSamples
from pose.deploy.keypoints_graph import CROPS, KEYPOINTS
from pose.deploy.manifest import Manifest
from pose.deploy.predictor import OnnxNetwork

HALF_ONNX = "model_keypoints_fp16.onnx"
PEOPLE = 500  # of val, on which both graphs are compared
BATCH = 32
MEDIAN_TOLERANCE = 0.05  # largest median distance, pixels of the crop


class HalfNetwork(nn.Module):
    """A copy of a network in float16 that takes and returns float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network(images.half())
        return maps.float()


def val_crops(manifest: Manifest, people: int) -> NDArray[np.uint8]:
    """Crops (N, h, w, 3) RGB of the first people of val in their annotated boxes."""
    table = CropTable(stage.ROOT / stage.CACHE / "val")
    rows = np.arange(min(people, len(table)), dtype=np.intp)
    samples = TestSamples(table, rows, manifest.bbox_padding, manifest.codec)
    crops = [samples[i]["image"][..., ::-1] for i in range(len(samples))]
    width, height = manifest.codec.input_size
    return np.array(crops, dtype=np.uint8).reshape(-1, height, width, 3)


def compare_with_float32(half: Path, full: Path, crops: NDArray[np.uint8]) -> dict[str, Any]:
    """Median and largest distance of the keypoints of two graphs, in pixels of the crop.

    Raises PoseError if the median is above MEDIAN_TOLERANCE or NaN.
    """
    sessions = [OnnxNetwork(path).session for path in (half, full)]
    distances = []
    for start in range(0, len(crops), BATCH):
        batch = {CROPS: crops[start : start + BATCH]}
        first, second = (session.run([KEYPOINTS], batch)[0] for session in sessions)
        distances.append(np.linalg.norm(first - second, axis=2).ravel())
    found = np.concatenate([np.zeros(0), *distances])
    median, largest = (float(f(found)) if len(found) else 0.0 for f in (np.median, np.max))
    if not median <= MEDIAN_TOLERANCE:
        raise PoseError(
            f"{half.name}: half of its keypoints on val are {median:.1e} pixel or more from those "
            f"of {full.name}, more than {MEDIAN_TOLERANCE}; export without --half"
        )
    return {"median": median, "max": largest, "people": len(crops)}
