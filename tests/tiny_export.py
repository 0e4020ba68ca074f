"""The folder that stages/export.py writes of the tiny model, in half a minute. No test itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import export
from pose.analysis.calibration import Calibration
from pose.common import stage
from pose.common.files import digest
from pose.models.checkpoint import save_weights
from tiny_model import random_model, tiny_manifest

SCORES = {"AP": 0.5, "AP50": 0.75, "AP75": 0.25, "AR": 0.625, "boxes": "ground truth"}


def write_tiny_export(root: Path) -> None:
    """Write root/exported over an earlier export, as the script does, from root/models."""
    manifest = tiny_manifest()
    weights = root / "models/ssl.safetensors"
    start = {"source": "facebook/sapiens/x.pth", "revision": "abc", "licence": "that of the file"}
    weights.parent.mkdir(parents=True)
    save_weights(weights, random_model(manifest).state_dict(), start)
    (root / "metrics/evaluate").mkdir(parents=True)
    (root / "metrics/evaluate/metrics.json").write_text(json.dumps(SCORES))
    out = root / "exported"
    out.mkdir()
    (out / "pose.json").write_text("{}")
    (out / "older").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "build_manifest", lambda params: manifest)
        patch.setattr(
            export, "project_weights", lambda name: root / "models" / f"{name}.safetensors"
        )
        patch.setattr(stage, "METRICS", root / "metrics")
        fitted = Calibration(digest(weights), True, 40, (0.25, 0.75), (0.5, 1.0))
        patch.setattr(export, "main_calibration", lambda: fitted)
        crops = np.random.default_rng(0).integers(0, 256, (40, 32, 24, 3), dtype=np.uint8)
        patch.setattr(export, "cached_crops", lambda split, manifest, people: crops)
        export.main("ssl", out, False, ("fp16", "int8"))
    assert sorted(path.name for path in root.iterdir()) == ["exported", "metrics", "models"]
