"""On val's pictures and boxes, predict finds what evaluate found on the cache's crops."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipeline.project import FirstRun
from pose.common import stage
from pose.crop_table import CropTable
from pose.deploy.manifest import build_manifest, project_params, project_weights
from pose.deploy.predictor import Predictor, torch_network

CPU = torch.device("cpu")


@pytest.fixture
def root(first_run: FirstRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stage, "ROOT", first_run.project.root)
    return first_run.project.root


def val_pictures(root: Path) -> dict[int, np.ndarray]:
    """RGB pictures by image id, out of the chain's zip."""
    with zipfile.ZipFile(root / "data/coco/val2017.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        pixels = {name: np.frombuffer(archive.read(name), np.uint8) for name in names}
    return {
        int(Path(name).stem): cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]
        for name, jpeg in pixels.items()
    }


def test_the_same_poses_but_for_the_crops_jpeg(root: Path, first_run: FirstRun) -> None:
    """This model has learnt next to nothing: near-flat maps turn grey levels into pixels."""
    params = project_params()
    manifest = build_manifest(params)
    network = torch_network(manifest, project_weights("ssl"), CPU)
    predictor = Predictor(network, manifest, manifest.flip_test, 32, CPU)
    table, pictures = CropTable(root / "data/cache/val"), val_pictures(root)
    evaluated = first_run.project.json("data/predictions/persons.json")
    assert len(evaluated) >= 4
    differences = []
    for person in evaluated:
        row = person["row"]
        image = pictures[int(table.image_id[row])]
        keypoints, _ = predictor(image, [table.bbox_xywh[row]])
        differences.append(np.abs(keypoints[0] - person["keypoints"]))
    assert np.median(differences) < 0.5


def test_the_manifest_is_of_params_and_cache(root: Path) -> None:
    params = project_params()
    manifest = build_manifest(params)
    assert manifest.codec.input_size == params.codec.input_size
    assert (manifest.category, manifest.category_id) == ("person", 1)
    assert manifest.model.num_keypoints == manifest.skeleton.num_keypoints == 17
    assert manifest.bbox_padding == params.augment.bbox_padding
    assert manifest.flip_test == params.evaluate.flip_test
