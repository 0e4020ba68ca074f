"""A val that is predicted in a detector's boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pose.analysis.tables import Val
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples


@pytest.fixture
def detected_val(
    crop_table: CropTable,
    detected_table: CropTable,
    crop_settings: CropSettings,
    truth: dict[str, Any],
) -> Val:
    """Of the labelled people 11, 13, 14, 15, 16 (rows 0, 2 to 5) only 11 has a box, the second."""
    samples = TestSamples(detected_table, np.arange(4), 1.25, crop_settings.codec)
    return Val(samples, "detections.json", crop_table, truth, COCO_17, COCO_OKS_SIGMAS)
