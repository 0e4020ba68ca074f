"""How far keypoints of a graph of lower precision are from those of float32, on cached crops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.common import stage
from pose.common.errors import PoseError
from pose.crop_table import CropTable
from pose.data.samples import TestSamples
from pose.deploy.keypoints_graph import CROPS, KEYPOINTS
from pose.deploy.manifest import Manifest
from pose.deploy.predictor import OnnxNetwork

PEOPLE = 500  # of val, on which graphs are compared
BATCH = 32


def cached_crops(split: str, manifest: Manifest, people: int) -> NDArray[np.uint8]:
    """Crops (N, h, w, 3) RGB of at most so many people of train or val, evenly spaced."""
    table = CropTable(stage.ROOT / stage.CACHE / split)
    count = min(people, len(table))
    rows = np.linspace(0, max(len(table) - 1, 0), count).astype(np.intp)
    samples = TestSamples(table, rows, manifest.bbox_padding, manifest.codec)
    crops = [samples[i]["image"][..., ::-1] for i in range(count)]
    width, height = manifest.codec.input_size
    return np.array(crops, dtype=np.uint8).reshape(-1, height, width, 3)


def compare_with_float32(
    path: Path, full: Path, crops: NDArray[np.uint8], tolerance: float
) -> dict[str, Any]:
    """Median and largest distance of the keypoints of two graphs, in pixels of the crop.

    Raises PoseError if the median is above the tolerance or NaN.
    """
    sessions = [OnnxNetwork(file).session for file in (path, full)]
    distances = []
    for start in range(0, len(crops), BATCH):
        batch = {CROPS: crops[start : start + BATCH]}
        first, second = (session.run([KEYPOINTS], batch)[0] for session in sessions)
        distances.append(np.linalg.norm(first - second, axis=2).ravel())
    found = np.concatenate([np.zeros(0), *distances])
    median, largest = (float(f(found)) if len(found) else 0.0 for f in (np.median, np.max))
    if not median <= tolerance:
        raise PoseError(
            f"{path.name}: half of its keypoints on val are {median:.1e} pixel or more from those "
            f"of {full.name}, more than {tolerance}; export without it"
        )
    return {"median": median, "max": largest, "people": len(crops)}
