"""The chain with the other codec and head, with phases of no epochs, from a pose checkpoint."""

from __future__ import annotations

import csv
import json

import pytest
from safetensors import safe_open

from pipeline.project import FirstRun, Project

COMBINED = {
    "codec.type": "combined",
    "model.head": "classic",
    "model.conv_channels": [],
    "phase1.epochs": 0,
}
SAPIENS2 = {  # besides the model's
    "codec.interpolation": "cubic",
    "codec.outside": "ignore",
    "codec.occluded_weight": 0.5,
    "augment.photometric_prob": 0.8,
    "augment.official_quirks": False,
    "train.loss_weight": 10.0,
    "train.schedule": "linear",
    "evaluate.nms_area": "keypoints",
    "ssl.occlude_jitter": 14.0,
}


@pytest.fixture(scope="module")
def combined(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = first_run.project.copy(tmp_path_factory.mktemp("combined"))
    project.set(**COMBINED)
    project.must("dvc", "repro")
    return project


def test_evaluation_compares_peaks_with_offsets(combined: Project) -> None:
    text = (combined.root / "metrics/evaluate/ablation.csv").read_text()
    found = {(row["model"], row["decoder"]) for row in csv.DictReader(text.splitlines())}
    assert found == {(m, d) for m in ("phase1", "phase2", "ssl") for d in ("argmax", "offset")}


def test_a_phase_of_no_epochs_hands_its_weights_on(combined: Project) -> None:
    assert combined.json("metrics/train_phase1/metrics.json")["step"] == 0
    start = tensors(combined, "data/weights/start.safetensors")
    handed = tensors(combined, "models/phase1.safetensors")
    assert {name: handed[name] for name in start} == start
    assert tensors(combined, "models/phase2.safetensors").keys() == handed.keys()
    assert tensors(combined, "models/phase2.safetensors") != handed


def test_the_report_does_without_a_curve(combined: Project) -> None:
    page = (combined.root / "report/index.html").read_text()
    assert "offset" in page


def test_a_pose_checkpoint_goes_on_as_it_is(project: Project) -> None:
    pose = project.root.parent / "pose.safetensors"
    (project.root / "models/phase2.safetensors").rename(pose)
    project.set(**{"weights.source": "file", "weights.file": str(pose), "weights.head": "keep"})
    project.set(**{"phase1.epochs": 0, "train.warmup_epochs": 0.5})
    log = project.must_stage("fetch_weights")
    assert "head in the file: model.head sapiens, deconv_channels [8, 8]" in log
    project.must_stage("train_phase1")
    assert tensors(project, "models/phase1.safetensors") == tensors(project, pose.as_posix())
    with safe_open(project.root / "models/phase1.safetensors", framework="pt") as stream:
        provenance = json.loads(stream.metadata()["provenance"])
    assert provenance["source"] == "pose.safetensors"
    assert len(provenance["sha256"]) == 64


def test_the_chain_runs_by_sapiens2s_rules(project: Project) -> None:
    project.set(**SAPIENS2)
    project.must("dvc", "repro")
    curves = (project.root / "metrics/train_phase2/curves.csv").read_text()
    rows = list(csv.DictReader(curves.splitlines()))
    assert float(rows[-1]["lr"]) < 0.5 * max(float(row["lr"]) for row in rows)
    pose = project.json("metrics/evaluate/metrics.json")
    assert 0 <= pose["AP"] <= 1


def tensors(project: Project, name: str) -> dict[str, list]:
    with safe_open(project.root / name, framework="pt") as stream:
        return {key: stream.get_tensor(key).tolist() for key in stream.keys()}  # noqa: SIM118
