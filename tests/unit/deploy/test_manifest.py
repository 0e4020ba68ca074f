"""pose.json: it round-trips, and an invalid file is an error of one line."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from loopback import failure
from pose.analysis.calibration import Calibration
from pose.common import stage
from pose.common.files import digest, write_json
from pose.common.params import load_params
from pose.common.skeleton import COCO_17, Skeleton
from pose.deploy.manifest import (
    build_manifest,
    describe,
    project_calibration,
    project_params,
    read_manifest,
)
from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD
from tiny_model import tiny_manifest


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "pose.json"
    path.write_text(json.dumps(describe(tiny_manifest()) | changes), encoding="utf-8")
    return path


def test_there_and_back(tmp_path: Path) -> None:
    assert read_manifest(written(tmp_path, versions={"torch": "0"})) == tiny_manifest()


CALIBRATION = Calibration("ab", True, 40, (0.25, 0.75), (0.5, 1.0))


def test_there_and_back_with_a_calibration(tmp_path: Path) -> None:
    path = tmp_path / "pose.json"
    manifest = replace(tiny_manifest(), calibration=CALIBRATION)
    path.write_text(json.dumps(describe(manifest)), encoding="utf-8")
    assert read_manifest(path) == manifest


@pytest.mark.parametrize("same", [True, False])
def test_a_calibration_is_of_the_same_weights(monkeypatch, tmp_path: Path, same: bool) -> None:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    weights = tmp_path / "ssl.safetensors"
    weights.write_bytes(b"weights")
    assert project_calibration(weights) is None
    write_json(tmp_path / "data/predictions/calibration.json", None)
    assert project_calibration(weights) is None
    fitted = replace(CALIBRATION, weights_sha256=digest(weights) if same else "ab")
    write_json(tmp_path / "data/predictions/calibration.json", asdict(fitted))
    assert project_calibration(weights) == (fitted if same else None)


def test_a_manifest_of_the_project(monkeypatch, tmp_path: Path, bent_params) -> None:
    """Keypoints and category are those of data/cache; test settings those of params."""
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    write_json(tmp_path / stage.SKELETON, TypeAdapter(Skeleton).dump_python(COCO_17, mode="json"))
    truth = {"categories": [{"id": 7, "name": "person"}]}
    write_json(tmp_path / stage.CACHE / "ground_truth.json", truth)
    changes = {"evaluate.nms_area": "keypoints", "codec.interpolation": "cubic"}
    params = load_params(bent_params(changes))
    found = build_manifest(params)
    assert (found.nms_area, found.codec.interpolation) == ("keypoints", "cubic")
    assert (found.category_id, found.oks_nms_thr) == (7, params.evaluate.oks_nms_thr)


def test_all_categories_of_the_model(monkeypatch, tmp_path: Path, bent_params) -> None:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    write_json(tmp_path / stage.SKELETON, TypeAdapter(Skeleton).dump_python(COCO_17, mode="json"))
    truth = {"categories": [{"id": 3, "name": "cat, dog"}]}
    write_json(tmp_path / stage.CACHE / "ground_truth.json", truth)
    params = load_params(bent_params({}))
    assert build_manifest(params).category_ids == (3,)
    write_json(tmp_path / stage.CATEGORY_IDS, [3, 5])
    assert build_manifest(params).category_ids == (3, 5)


def test_it_holds_what_other_programs_need() -> None:
    found = describe(tiny_manifest())
    assert found["input"]["size"] == [24, 32]
    assert found["input"]["colour_order"] == "RGB"
    assert (found["input"]["mean"], found["input"]["std"]) == ([*PIXEL_MEAN], [*PIXEL_STD])
    assert found["skeleton"]["names"][:2] == ["nose", "left_eye"]
    assert found["skeleton"]["flip_pairs"][0] == [1, 2]
    assert found["codec"]["heatmap_size"] == [12, 16]


def test_a_file_of_before_means_what_was_done_then(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("interpolation", "outside", "occluded_weight"):
        del content["codec"][key]
    del content["nms_area"], content["calibration"], content["category_ids"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = read_manifest(path)
    assert (found.codec.interpolation, found.codec.outside) == ("linear", "window")
    assert (found.codec.occluded_weight, found.nms_area) == (1.0, "box")
    assert found.category_ids == (1,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"codec": {"type": "gaussian"}}, "pose.json: codec.input_size: field required"),
        ({"nms_area": "disc"}, "pose.json: nms_area: input should be 'box' or 'keypoints'"),
        ({"bbox_padding": "wide"}, "pose.json: bbox_padding: input should be a valid number"),
        ({"skeleton": {"names": ["a"]}}, "pose.json: skeleton.flip_pairs: field required"),
        ({"oks_sigmas": [0.1]}, "have [1, 17] keypoints; export the model again"),
        ({"input": {"mean": [0, 0, 0]}}, "pose.json: input = {'mean': [0, 0, 0]}, expected"),
    ],
)
def test_what_cannot_serve(tmp_path: Path, changes: dict, expected: str) -> None:
    assert expected in failure(read_manifest, written(tmp_path, **changes))


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "pose.json").write_text('{"input": ')
    assert "pose.json: not valid JSON" in failure(read_manifest, tmp_path / "pose.json")
    assert "no such file" in failure(read_manifest, tmp_path / "another.json")


def test_the_projects_own_model_is_asked_for_its_files(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    assert "params.yaml: no such file" in failure(project_params)
