"""Further vals are read as build_cache wrote them, with the sigmas of their keypoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pose.analysis.further_vals import read_further_vals
from pose.analysis.tables import Val
from pose.common import stage
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples
from pose.evaluation.predict import Predictions
from sections import DEFAULT


@pytest.fixture
def val(crop_table: CropTable, crop_settings: CropSettings) -> Val:
    samples = TestSamples(crop_table, crop_table.labelled(), 1.25, crop_settings.codec)
    truth = {"images": [], "annotations": [], "categories": [{"id": 1}]}
    return Val(samples, "boxes.json", crop_table, truth, COCO_17, COCO_OKS_SIGMAS)


def test_a_further_val(
    val: Val, crop_table: CropTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "CACHE", tmp_path)
    assert read_further_vals(DEFAULT, val) == []
    shutil.copytree(crop_table.folder, tmp_path / "vals" / "aic")
    content = {"keypoints": [5, 0], "truth": {"annotations": [1]}, "images": {}}
    (tmp_path / "vals" / "aic.json").write_text(json.dumps(content))
    (further,) = read_further_vals(DEFAULT, val)
    assert (further.name, further.val.boxes, further.val.truth) == (
        "aic",
        "ground truth",
        {"annotations": [1]},
    )
    assert further.val.sigmas.tolist() == [0.079, 0.026]
    assert further.val.samples.rows.tolist() == crop_table.labelled().tolist()
    poses = Predictions(np.arange(34.0).reshape(1, 17, 2), np.arange(17.0)[None], np.array([3]))
    chosen = further.select(poses)
    assert chosen.keypoints.tolist() == [[[10, 11], [0, 1]]]
    assert (chosen.scores.tolist(), chosen.rows.tolist()) == ([[5, 0]], [3])
