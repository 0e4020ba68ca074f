"""An exported folder runs without the project's model code and says all about itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from huggingface_hub import ModelCard

import apply
import export
from loopback import failure
from pose.analysis.calibration import Calibration
from pose.common import stage
from pose.common.files import digest, write_json
from pose.common.licence import CC_BY_NC, SAPIENS2
from pose.deploy import keypoints_graph
from pose.deploy.export import verify
from pose.deploy.half import HALF_ONNX
from pose.deploy.int8 import INT8_ONNX
from pose.deploy.keypoints_graph import KeypointsGraph
from pose.deploy.manifest import project_params, read_manifest
from pose.deploy.predictor import OnnxNetwork, Predictor
from pose.models.adapter import Base
from pose.models.checkpoint import read_weights, save_weights
from sections import DEFAULT
from tiny_export import SCORES
from tiny_model import random_model, tiny_manifest

MANIFEST = tiny_manifest()


def test_all_files_are_there_and_old_ones_gone(exported: Path) -> None:
    models = {"model.onnx", "model.pt2", "model.safetensors", "model_keypoints.onnx"}
    models |= {HALF_ONNX, INT8_ONNX}
    assert {path.name for path in exported.iterdir()} == {"README.md", "pose.json"} | models
    expected, found = (
        random_model(MANIFEST).state_dict(),
        read_weights(exported / "model.safetensors"),
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_onnx_graph_takes_any_batch_and_states_its_opset(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model)
    onnx_info = json.loads((exported / "pose.json").read_text())["onnx"]
    keypoints = onnx_info.pop("keypoints")
    assert onnx_info == {"opset": 18, "input": "images", "output": "heatmaps"}
    differences = keypoints.pop("largest_difference_to_torch")
    for name, file, limit in (("fp16", HALF_ONNX, 0.05), ("int8", INT8_ONNX, 1.0)):
        entry = keypoints.pop(name)
        assert entry["file"] == file
        assert entry["pixels_from_float32"]["people"] == 40
        assert 0 < entry["pixels_from_float32"]["median"] < limit
    assert differences["keypoints"] < 1e-3
    assert differences["scores"] < 1e-4
    assert keypoints == {
        "file": "model_keypoints.onnx",
        "input": "crops",
        "outputs": ["keypoints", "scores"],
        "flip_test": False,
    }
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    for (value,), name, rest in (
        (model.graph.input, "images", [3, 32, 24]),
        (model.graph.output, "heatmaps", [17, 16, 12]),
    ):
        assert value.name == name
        batch, *others = value.type.tensor_type.shape.dim
        assert (batch.dim_param, [dim.dim_value for dim in others]) == ("batch", rest)


def test_onnx_and_torch_find_the_same_poses(exported: Path) -> None:
    """At the network's output to 1e-4, on batches that the export never saw; and as poses."""
    by_onnx = Predictor.load(exported)
    by_torch = Predictor.load(exported / "model.safetensors")
    assert (
        by_onnx.manifest == by_torch.manifest == MANIFEST == read_manifest(exported / "pose.json")
    )
    images = torch.randn(5, 3, 32, 24)
    with torch.no_grad():
        for some in (images, images[:1], images[:2]):
            expected, found = by_torch.network(some), by_onnx.network(some)
            assert (expected - found).abs().max() <= 1e-4 < expected.abs().max()
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = [[10, 5, 60, 80], [-5, 30, 40, 50]]
    (points, scores), (others, other_scores) = (p(picture, boxes) for p in (by_onnx, by_torch))
    np.testing.assert_allclose(scores, other_scores, atol=1e-4)
    assert np.median(np.abs(points - others)) < 1e-3


def test_flip_reaches_the_graph_and_pose_json(exported: Path, tmp_path: Path) -> None:
    """The graph of the folder does no flip test; that of --flip does."""
    model = random_model(MANIFEST)
    entry = export._write_keypoints(model, MANIFEST, tmp_path, True, 1e-5)
    assert entry["flip_test"] is True
    differences = entry["largest_difference_to_torch"]
    assert set(differences) == {"keypoints", "scores"}
    assert 0 < differences["keypoints"] < 1e-3
    assert differences["scores"] < 1e-4
    crops = torch.randint(0, 256, (4, 32, 24, 3), dtype=torch.uint8)
    for folder, flip in ((exported, False), (tmp_path, True)):
        session = OnnxNetwork(folder / "model_keypoints.onnx").session
        _, scores = session.run(None, {"crops": crops.numpy()})
        with torch.no_grad():
            expected = KeypointsGraph(model, MANIFEST, flip)(crops)[1]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_difference_of_the_graph_leaves_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are those of `exported`, copied instead of written again."""
    monkeypatch.setattr(keypoints_graph, "PIXEL_TOLERANCE", -1.0)
    monkeypatch.setattr(export, "build_manifest", lambda params: MANIFEST)
    weights = exported / "model.safetensors"
    monkeypatch.setattr(export, "project_weights", lambda name: weights)
    program = torch.export.load(exported / "model.pt2")
    monkeypatch.setattr(export, "trace", lambda *_: program)
    copied: list[str] = []

    def copy(graph: object, example: object, path: Path) -> None:
        copied.append(shutil.copy(exported / path.name, path).name)

    monkeypatch.setattr(export, "write_onnx", copy)
    monkeypatch.setattr(export, "write_keypoints_onnx", copy)
    line = failure(export.main, "ssl", tmp_path / "exported", False)
    assert "model_keypoints.onnx: its keypoints differ from torch's by" in line
    assert copied == ["model.onnx", "model_keypoints.onnx"]
    assert not list(tmp_path.iterdir())


def test_the_program_is_the_model(exported: Path) -> None:
    program = torch.export.load(exported / "model.pt2").module()
    images = torch.randn(4, 3, 32, 24)
    with torch.no_grad():
        torch.testing.assert_close(program(images), random_model(MANIFEST)(images))


def test_differences_are_stored_and_a_large_one_is_an_error(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads((exported / "pose.json").read_text())["largest_difference_to_torch"]
    assert set(found) == {"model.onnx", "model.pt2"}
    assert max(found.values()) < 1e-4
    same = SimpleNamespace(module=lambda: random_model(MANIFEST))
    monkeypatch.setattr(torch.export, "load", lambda path: same)
    other = random_model(MANIFEST)
    other.head.final_layer.bias.data[3] += 2e-4
    files = exported / "model.onnx", exported / "model.pt2"
    line = failure(verify, other, torch.randn(2, 3, 32, 24), *files)
    assert "model.onnx: its heatmaps differ from torch's by 2.0e-04, more than 1e-04" in line
    other.head.final_layer.bias.data[3] = float("nan")
    assert "by nan" in failure(verify, other, torch.randn(2, 3, 32, 24), *files)


def test_the_card_is_one_that_the_hub_reads(exported: Path) -> None:
    card = ModelCard((exported / "README.md").read_text())
    assert card.data.license == "cc-by-nc-4.0"
    scores = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert scores == {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "AR": 0.625}
    for part in (
        "| 0.500 | 0.750 | 0.250 | 0.625 |",
        "facebook/sapiens/x.pth; revision abc",
        "input 24 x 32, heatmaps 12 x 16",
        "do not apply to photographs",
        "| model_keypoints.onnx | crops to keypoints",
        "pixel at most |\n| model_keypoints_fp16.onnx | the same",
        "`crops` (batch, h, w, 3) uint8 RGB to `keypoints`",
        "right_ankle",
    ):
        assert part in card.text
    assert "{" not in card.text.split("```")[2]


def test_pose_json_has_the_licence_of_the_card(exported: Path) -> None:
    licence = json.loads((exported / "pose.json").read_text())["licence"]
    assert licence == asdict(CC_BY_NC)
    assert CC_BY_NC.terms in (exported / "README.md").read_text()


def test_the_card_of_a_sapiens2_model_links_its_licence(exported: Path) -> None:
    params = project_params()
    family = params.model.model_copy(update={"family": "sapiens2"})
    info = json.loads((exported / "pose.json").read_text()) | {"licence": asdict(SAPIENS2)}
    named = params.model_copy(update={"model": family})
    card = ModelCard(export._card("mine", named, MANIFEST, info, export.TEMPLATE))
    assert (card.data.license, card.data.license_name) == ("other", "sapiens2-license")
    assert card.data.license_link == SAPIENS2.link
    assert f"{SAPIENS2.terms} The licence: {SAPIENS2.link}\n\n- Starting" in card.text
    assert "A Sapiens2 vision transformer" in card.text


@pytest.mark.parametrize("template", [export.TEMPLATE, export.TRANSFORMERS_TEMPLATE])
def test_the_card_has_the_digest_of_the_file_that_was_written(
    exported: Path, tmp_path: Path, template: str
) -> None:
    """Of a model that holds only what was trained, the file is merged with its base."""
    start, trained = tmp_path / "weights/start.safetensors", tmp_path / "models/ssl.safetensors"
    state = random_model(MANIFEST).state_dict()
    save_weights(start, state, {})
    head = {name: tensor + 1 for name, tensor in state.items() if name.startswith("head.")}
    save_weights(trained, head, {}, Base("weights/start.safetensors", digest(start)))
    out = tmp_path / "out"
    out.mkdir()
    export._write_weights(trained, out)
    info = json.loads((exported / "pose.json").read_text())
    info |= export._provenance("ssl", trained, "vit")
    export._write_settings(out, out, DEFAULT, MANIFEST, info, template)
    written, card = digest(out / "model.safetensors"), (out / "README.md").read_text()
    assert json.loads((out / "pose.json").read_text())["weights"]["sha256"] == written
    assert f"sha256 {written} |" in card
    assert f"has sha256 {digest(trained)}\n" in card


def test_the_card_names_the_further_sets(exported: Path) -> None:
    params = apply.resolve("vitpose_b_coco_aic_mpii")
    info = json.loads((exported / "pose.json").read_text())
    card = export._card("mine", params, MANIFEST, info, export.TEMPLATE)
    assert (
        "- Trained on: COCO 2017 (annotations CC BY 4.0; the images are under their Flickr terms); "
        "also aic, mpii, each with terms of its own\n- Trained stage: "
    ) in card
    info["trained"]["model"] = "phase1"
    card = export._card("mine", project_params(), MANIFEST, info, export.TEMPLATE)
    assert "- Trained on: rendered people of this project\n- Trained stage: phase1;" in card


def test_a_folder_for_transformers(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = {"head": "simple", "deconv_channels": (), "conv_channels": ()}
    simple = replace(MANIFEST, model=replace(MANIFEST.model, **head))
    model = random_model(simple)
    weights = tmp_path / "trained.safetensors"
    save_weights(weights, model.state_dict(), {"source": "facebook/sapiens/x.pth"})
    monkeypatch.setattr(export, "build_manifest", lambda params: simple)
    monkeypatch.setattr(export, "project_weights", lambda name: weights)
    monkeypatch.setattr(stage, "METRICS", exported.parent / "metrics")
    out = tmp_path / "mine"
    export.main_transformers("ssl", out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "pose.json",
        "README.md",
    }
    assert read_manifest(out / "pose.json") == simple
    from transformers import VitPoseForPoseEstimation  # takes a second

    theirs = VitPoseForPoseEstimation.from_pretrained(out)
    images = torch.randn(2, 3, 32, 24)
    with torch.no_grad():
        assert (theirs(images).heatmaps - model(images)).abs().max() <= 1e-4
    card = ModelCard((out / "README.md").read_text())
    assert (card.data.library_name, card.data.license) == ("transformers", "cc-by-nc-4.0")
    assert "VitPoseForPoseEstimation.from_pretrained(name)" in card.text
    assert "model.onnx" not in card.text
    monkeypatch.setattr(export, "build_manifest", lambda params: MANIFEST)
    line = failure(export.main_transformers, "ssl", tmp_path / "other")
    assert "model.head = sapiens, but VitPoseForPoseEstimation of transformers has" in line
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--format", "transformers", "--half"], "--flip, --half and --int8 are of --format onnx"),
        (["--format", "transformers", "--int8"], "--flip, --half and --int8 are of --format onnx"),
        (["--public"], "--public is of --push"),
    ],
)
def test_options_that_do_not_fit(options: list[str], text: str) -> None:
    command = [sys.executable, export.__file__, "--out", "x", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert text in done.stderr


def test_a_push_without_a_token_stops_before_the_export(tmp_path: Path) -> None:
    command = [sys.executable, export.__file__, "--out", str(tmp_path / "x"), "--push", "me/mine"]
    environment = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "--push me/mine: HF_TOKEN is not set; set it to a write token of" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes metrics.json and calibration.json of an evaluation of weights with the digest "ab"."""
    monkeypatch.setattr(stage, "ROOT", tmp_path)

    def write(metrics: dict, flip: bool = True) -> None:
        write_json(tmp_path / "metrics/evaluate/metrics.json", metrics)
        fitted = Calibration("ab", flip, 40, (0.25, 0.75), (0.5, 1.0))
        write_json(tmp_path / "data/predictions/calibration.json", asdict(fitted))

    return write


def card_of(exported: Path, sha256: str) -> str:
    info = json.loads((exported / "pose.json").read_text())
    info["trained"]["sha256"] = sha256
    return export._card("mine", DEFAULT, MANIFEST, info, export.TEMPLATE)


def test_a_models_numbers_are_its_own(exported: Path, evaluated: Callable[..., None]) -> None:
    """Those of other weights of the same name are not."""
    evaluated(SCORES)
    assert "| 0.500 | 0.750 | 0.250 | 0.625 |" in card_of(exported, "ab")
    other = card_of(exported, "cd")
    assert "Not measured." in other
    assert "0.500" not in other
    (stage.ROOT / "data/predictions/calibration.json").unlink()
    assert "Not measured." in card_of(exported, "ab")


def test_the_card_says_how_the_numbers_were_measured(
    exported: Path, evaluated: Callable[..., None]
) -> None:
    evaluated(SCORES)
    assert ". Boxes: ground truth. Flip test: yes; refined" in card_of(exported, "ab")
    evaluated({"AP": 0.5, "AP50": -1, "AR": -1.0, "boxes": "detections.json"}, flip=False)
    found = card_of(exported, "ab")
    assert ". Boxes: a detector's. Flip test: no; refined" in found
    assert "\n\n| AP |\n|---|\n| 0.500 |\n" in found
