"""The stage's choices and borders, without a network: what it refuses, what it writes of none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evaluate
from pose.analysis.further_vals import FurtherVal
from pose.analysis.tables import COLUMNS, Val
from pose.coco.annotations import read_annotations
from pose.coco.files import coco_files
from pose.coco.further import mapped
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import load_params
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples
from pose.evaluation.coco_metrics import STATS
from pose.evaluation.predict import Predictions, PredictionsByView, empty_predictions
from sections import DEFAULT
from tiny_coco import SPLIT

KEYS = [(tta, decoder) for tta in ("none", "flip") for decoder in ("argmax", "dark")]


@pytest.fixture
def params(bent_params) -> Any:
    return load_params(bent_params({}))


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder that the stage works in."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def val(tiny_coco, crop_table: CropTable, crop_settings: CropSettings) -> Val:
    found = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    truth = {
        "images": found.images,
        "annotations": found.annotations,
        "categories": [found.category.entry],
    }
    samples = TestSamples(crop_table, crop_table.labelled(), 1.25, crop_settings.codec)
    return Val(samples, "ground truth", crop_table, truth, COCO_17, COCO_OKS_SIGMAS)


def written(
    home: Path, params: Any, val: Val, found: Predictions, further: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """metrics.json after the headline alone was predicted as `found`; further: rows."""
    every: PredictionsByView = {key: found for key in KEYS}
    write_atomic(home / "models/ssl.safetensors", b"weights")
    rows = evaluate._scores(params, val, "ssl", every)
    results = evaluate._results(params, val, found)
    evaluate._write(params, val, rows, found, results, [*further])
    return json.loads((home / "metrics/evaluate/metrics.json").read_text())


def table(home: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(home / f"metrics/evaluate/{name}.csv")


def perfect(val: Val) -> Predictions:
    rows = val.persons.labelled()
    keypoints = val.persons.keypoints[rows][..., :2].astype(float)
    return Predictions(keypoints, np.full((len(rows), 17), 0.9), rows)


def test_perfect_poses(at_home: Path, params, val) -> None:
    metrics = written(at_home, params, val, perfect(val))
    assert metrics["AP"] == pytest.approx(1)
    assert (metrics["PCK"], metrics["ECE"], metrics["boxes"]) == (1.0, 0.1, "ground truth")
    for name, columns in COLUMNS.items():
        assert list(table(at_home, name)) == columns
        assert len(table(at_home, name)) > 0
    errors = table(at_home, "errors").set_index("kind")
    assert errors.loc["good"].tolist() == [1.0, 0.0]
    assert table(at_home, "keypoints")["AP"].tolist() == pytest.approx([1.0] * 17)
    persons = json.loads((at_home / "data/predictions/persons.json").read_text())
    assert [{*one} for one in persons] == [{"row", "keypoints", "oks", "score"}] * 5
    assert {(one["oks"], one["score"]) for one in persons} == {(1.0, 0.9)}


def test_a_further_val_is_scored_on_its_keypoints_alone(
    at_home: Path, tiny_coco, params, val: Val
) -> None:
    """The others are predicted anywhere: they change neither its AP nor the main val's rows."""
    keypoints = [0, 5, 6, 7, 8, 9, 10]
    names = [COCO_17.names[k] for k in keypoints]
    split = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None)
    truth = val.truth | {"annotations": mapped(split, names, keypoints).annotations}
    part = replace(val, truth=truth, sigmas=val.sigmas[keypoints])
    poses = perfect(val)
    poses.keypoints[:, [k for k in range(17) if k not in keypoints]] += 500
    further = FurtherVal("aic", part, keypoints)
    row = evaluate._further_row(params, further, "ssl", poses)
    assert row["AP"] == pytest.approx(1)
    metrics = written(at_home, params, val, poses, [row])
    assert metrics["AP_aic"] == pytest.approx(1)
    assert metrics["AP"] < 0.5
    assert table(at_home, "ablation")["val"].dropna().tolist() == ["aic"]
    assert list(table(at_home, "ablation")) == [*COLUMNS["ablation"], "val"]
    poses.keypoints[:, keypoints[1:5]] += 500
    assert evaluate._further_row(params, further, "ssl", poses)["AP"] < 0.5


def test_scores_are_mapped_to_probabilities(at_home: Path, params, val) -> None:
    """All labelled keypoints are right, so that each score is; raw scores promise 0.9."""
    metrics = written(at_home, params, val, perfect(val))
    assert (metrics["keypoint_ECE"], metrics["keypoint_ECE_calibrated"]) == (0.1, 0.0)
    found = json.loads((at_home / "data/predictions/calibration.json").read_text())
    assert found == {
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "flip_test": True,
        "keypoints": 17 * 3 + 8 + 12,
        "scores": [0.9],
        "probabilities": [1.0],
    }


def test_nms_by_the_area_of_the_box_or_of_the_pose(bent_params, val) -> None:
    """Two small poses, a few pixels apart, in the two large boxes of image 2."""
    rows = np.flatnonzero(val.persons.image_id == 2)
    keypoints = np.random.default_rng(0).uniform(40, 70, (1, 17, 2)).repeat(2, axis=0)
    keypoints[1] += 3
    found = Predictions(keypoints, np.full((2, 17), 0.9), rows)
    counts = [
        len(evaluate._results(load_params(bent_params({"evaluate.nms_area": kind})), val, found))
        for kind in ("box", "keypoints")
    ]
    assert counts == [1, 2]


def test_people_by_oks_with_their_images(at_home: Path, params, val) -> None:
    poses = perfect(val)
    poses.keypoints[2] += 10
    poses.keypoints[4] += 1000
    written(at_home, params, val, poses)
    found = pd.read_csv(at_home / "data/predictions/instances.csv")
    assert list(found) == ["oks", "image", "image_id", "ann_id", "score", "area"]
    rows, table_ = poses.rows[[4, 2]], val.persons
    assert found["ann_id"].tolist()[:2] == table_.ann_id[rows].tolist()
    assert found["image_id"].tolist()[:2] == table_.image_id[rows].tolist()
    assert found["image"].tolist() == [f"{i:012d}.jpg" for i in found["image_id"]]
    assert found["oks"].tolist()[0] == 0 < found["oks"][1] < 1 == found["oks"][2]
    assert found["area"].tolist()[:2] == pytest.approx(table_.area[rows].tolist(), abs=0.01)
    assert len(found) == 5


def test_no_prediction_is_ap_0_with_a_reason(
    at_home: Path, params, val, crop_settings: CropSettings
) -> None:
    boxes = CropTable(val.persons.folder)  # a detector's, of which none was left
    none = TestSamples(boxes, np.empty(0, np.intp), 1.25, crop_settings.codec)
    empty = replace(val, samples=none, boxes="detections.json")
    metrics = written(at_home, params, empty, empty_predictions(17))
    assert [metrics[name] for name in (*STATS, "PCK")] == [0.0] * 11
    assert metrics["reason"] == "no predictions: there is no box to predict in (detections.json)"
    assert json.loads((at_home / "data/predictions/keypoints.json").read_text()) == []
    assert table(at_home, "errors")["share"].eq(0).all()
    assert table(at_home, "keypoints")["labelled"].gt(0).all()
    assert table(at_home, "pr").empty
    assert table(at_home, "keypoint_scores").empty
    assert json.loads((at_home / "data/predictions/calibration.json").read_text()) is None


def test_without_truth_there_are_poses_alone(at_home: Path, params, val) -> None:
    blind = replace(val, boxes="detections.json", truth={**val.truth, "annotations": []})
    metrics = written(at_home, params, blind, perfect(val))
    assert metrics == {"boxes": "detections.json", "scored": False, "poses": 5}
    assert len(json.loads((at_home / "data/predictions/keypoints.json").read_text())) == 5
    assert all(table(at_home, name).empty for name in COLUMNS)
    assert pd.read_csv(at_home / "data/predictions/instances.csv").empty


def test_poses_of_what_is_not_asked_for_any_more_go(at_home: Path, params, val) -> None:
    old = stage.PREDICTIONS / "ensemble.json"
    old.parent.mkdir(parents=True)
    old.write_text("[]")
    written(at_home, params, val, perfect(val))
    assert not old.exists()


def test_scales_beyond_the_cached_crops() -> None:
    evaluate._require_room((1.0, 1.4, 1.5), 1.5)
    said = "[1.0, 1.4, 1.5], but the cached crops reach 1.430 boxes; lower 1.5"
    with pytest.raises(PoseError, match=re.escape(said)):
        evaluate._require_room((1.0, 1.4, 1.5), 1.43)


def test_networks_and_their_checkpoints(at_home: Path, bent_params) -> None:
    """Names of the chain come first, then paths; headline asks for one model alone."""
    stage.MODELS.mkdir()
    (stage.MODELS / "ssl.safetensors").write_bytes(b"1")
    (at_home / "mine.safetensors").write_bytes(b"2")
    values = {"evaluate.models": "[phase2, ssl]", "evaluate.ensemble": "[ssl, mine.safetensors]"}
    found = evaluate._networks(load_params(bent_params(values)))
    assert list(found) == ["phase2", "ssl", "ensemble"]
    assert found["ensemble"] == [stage.MODELS / "ssl.safetensors", Path("mine.safetensors")]
    before = evaluate._digest(found["ensemble"])
    (at_home / "mine.safetensors").write_bytes(b"3")
    assert evaluate._digest(found["ensemble"]) != before
    values["evaluate.ablation"] = "headline"
    assert list(evaluate._networks(load_params(bent_params(values)))) == ["ssl"]
    values |= {"evaluate.ensemble": "[ssl, lost]", "evaluate.ablation": "full"}
    with pytest.raises(PoseError, match=r"evaluate.ensemble = 'lost': no such file in "):
        evaluate._networks(load_params(bent_params(values)))


def test_a_missing_dependency_is_one_line(at_home: Path, params_text: str) -> None:
    (at_home / "params.yaml").write_text(params_text)
    (at_home / "dvc.yaml").write_text("stages: {evaluate: {params: [run], deps: [models/lost]}}")
    said = "models/lost: no such file; run the stage that writes it first"
    with pytest.raises(PoseError, match=said), stage.resume_folder("evaluate"):
        pass
