"""The demonstration with a tiny model: pictures of the photograph and of the clip."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

import demo
from loopback import failure
from pose.common.files import write_json
from pose.deploy.manifest import describe
from pose.models.checkpoint import save_weights
from tiny_model import random_model, tiny_manifest


def test_overlays_of_photo_and_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tmp_path / "model.safetensors", tmp_path / "demo"
    save_weights(model, random_model().state_dict(), {})
    write_json(tmp_path / "pose.json", describe(tiny_manifest()))
    demo.main(2, out, model)
    photo = cv2.imread(str(out / demo.PHOTO))
    drawn = cv2.imread(str(out / "overlays" / demo.PHOTO))
    assert photo.shape == drawn.shape == (600, 512, 3)
    assert (abs(photo.astype(int) - drawn).max(axis=2) > 60).mean() > 0.002
    assert cv2.VideoCapture(str(out / "overlays/clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2
    images = json.loads((out / "images.json").read_text())["images"]
    results = json.loads((out / "results.json").read_text())
    assert len(images) == 3
    assert len(results) == 1 + 2 * 2
    assert "rendered people only" in capsys.readouterr().out


def test_without_a_model(tmp_path: Path) -> None:
    missing = tmp_path / "models/ssl.safetensors"
    assert "no such file; run `make repro` first" in failure(demo.main, 2, tmp_path, missing)
    assert list(tmp_path.iterdir()) == []
