"""train_ssl.py: warnings, start of the second network, teachers, outputs without epochs."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train_ssl
from pose.common.params import Params, load_params
from pose.common.skeleton import COCO_17
from pose.draw import enlarge
from pose.engine.ema import WeightEma
from pose.engine.fit import ONE_BATCH
from pose.models.build import build_model
from pose.ssl.students import network_teacher

CPU = torch.device("cpu")


@pytest.fixture
def default() -> Params:
    path = Path(__file__).resolve().parents[3] / "params.yaml"
    params = load_params(path)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2}
    model = params.model.model_copy(update={**sizes, "deconv_channels": (8, 8)})
    return params.model_copy(update={"model": model})


def with_ssl(params: Params, **values: object) -> Params:
    return params.model_copy(update={"ssl": params.ssl.model_copy(update=values)})


def row(step: int, mask: float = 0.5, peak: float = 0.6) -> dict[str, float]:
    return {"step": float(step), "mask": mask, "peak": peak}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="pose")
    return caplog


def test_no_warning_for_a_healthy_run(log: pytest.LogCaptureFixture) -> None:
    monitor = train_ssl.UnlabelledMonitor()
    for step in range(100, 2000, 100):
        monitor(row(step, mask=0.1 if step % 500 == 0 else 0.0, peak=0.31 + 0.01 * (step == 100)))
    assert not log.messages


def test_one_warning_after_500_steps_with_an_empty_mask(log: pytest.LogCaptureFixture) -> None:
    monitor = train_ssl.UnlabelledMonitor()
    for step in range(50, 500, 50):
        monitor(row(step, mask=0.0))
    assert not log.messages
    for step in range(500, 1500, 50):
        monitor(row(step, mask=0.0))
    (line,) = log.messages
    assert line.startswith(
        "train_ssl: warning: no unlabelled keypoint was above the threshold in 500 steps"
    )
    assert "ssl.min_peak" in line


def test_one_warning_for_fallen_peaks(log: pytest.LogCaptureFixture) -> None:
    monitor = train_ssl.UnlabelledMonitor()
    for step, peak in enumerate((0.6, 0.9, 0.31, 0.29, 0.2), start=1):
        monitor(row(step, peak=peak))
    (line,) = log.messages
    assert "peak value fell from 0.600 to 0.290" in line


def test_second_network_has_the_backbone_of_the_first(default: Params) -> None:
    first = build_model(default, COCO_17)
    assert train_ssl.second_networks(default, COCO_17, first) == []
    (second,) = train_ssl.second_networks(with_ssl(default, networks=2), COCO_17, first)
    state, other = first.state_dict(), second.state_dict()
    equal = {name: torch.equal(state[name], other[name]) for name in state}
    assert all(value for name, value in equal.items() if name.startswith("backbone."))
    assert not equal["head.deconv_layers.0.weight"]


@pytest.mark.parametrize(("networks", "ema_decay"), [(1, 0.0), (1, 0.9), (2, 0.0), (2, 0.9)])
def test_teacher_of_each_student(default: Params, networks: int, ema_decay: float) -> None:
    """The other network, or itself if there is one; with ssl.ema_decay its averaged weights."""
    params = with_ssl(default, networks=networks, ema_decay=ema_decay)
    students = [build_model(params, COCO_17) for _ in range(networks)]
    ema = WeightEma(torch.nn.ModuleList(students), ema_decay) if ema_decay else None
    teachers = [deepcopy(student).eval() for student in students] if ema_decay else students
    for i, student in enumerate(students):  # so that the averages differ from the weights
        torch.nn.init.normal_(student.head.final_layer.weight, std=0.1 * (i + 1))
    step = train_ssl.build_consistency(params, COCO_17, students, ema, CPU, 100, ONE_BATCH)
    images = torch.randint(0, 256, (2, 96, 72, 3), dtype=torch.uint8)
    for i in range(networks):
        teacher = teachers[(i + 1) % networks]
        expected = network_teacher(teacher, step.codec, CPU, "none")
        maps = step.teachers[i](images, torch.zeros(0))
        assert torch.equal(maps, expected(images, torch.zeros(0)))


def test_unlabelled_weight_rises_to_its_maximum(default: Params) -> None:
    params = with_ssl(default, unlabelled_weight=2.0, ramp_fraction=0.1)
    model = build_model(params, COCO_17)
    step = train_ssl.build_consistency(params, COCO_17, [model], None, CPU, 100, ONE_BATCH)
    assert [step.weight_at(n) for n in (0, 4, 9, 99)] == pytest.approx([0.2, 1.0, 2.0, 2.0])


def test_picture_has_every_view_and_is_repeatable(default: Params) -> None:
    params = with_ssl(default, paths=("joco", "mu"), loss="ensemble")
    model = build_model(params, COCO_17)
    step = train_ssl.build_consistency(params, COCO_17, [model], None, CPU, 100, ONE_BATCH)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 96, 72, 3), dtype=torch.uint8)
    empty = torch.zeros(3, 17, 3)
    picture = train_ssl.picture_views(step, images, empty, 7)
    cell_h, cell_w = 144 + 22 + 6, 108 + 6
    assert picture.shape == (3 * cell_h, 7 * cell_w, 3)
    assert np.array_equal(picture, train_ssl.picture_views(step, images, empty, 7))
    weak_view = picture[25 : 25 + 144, 3 : 3 + 108].astype(int)
    assert np.array_equal(weak_view, enlarge(images[0].numpy(), 144))  # channels are in BGR order


def test_without_epochs_the_other_declared_outputs_are_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/ssl.safetensors").write_bytes(b"weights")
    train_ssl.write_skipped_outputs("ssl.epochs is 0")
    assert (tmp_path / "models/ssl_second.safetensors").read_bytes() == b"weights"
    picture = cv2.imread("metrics/train_ssl/plots/images/views.jpg")
    assert picture is not None
