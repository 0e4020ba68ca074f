"""What is looked at while training: numbers and pictures that leave the training as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pose.codecs.udp import UdpCodec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import Train, load_params
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.crop_table import CropTable
from pose.data.samples import TestSamples, batch_loader, test_batches
from pose.engine import validation
from pose.engine.ema import WeightEma
from pose.engine.fit import TrainState, fit, supervised_step
from pose.engine.optim import Schedule, build_adamw
from pose.evaluation.coco_metrics import coco_eval, to_results
from pose.evaluation.predict import Predictions
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from predictions import predict_all
from sections import DEFAULT, changed
from tiny_coco import TinyCoco

STEPS, PER_EPOCH = 8, 2
CPU = torch.device("cpu")
SCHEDULE = Schedule("cosine", 1e-2, STEPS, PER_EPOCH, 2, 1e-5, (9,), 0.1)


@pytest.fixture
def codec() -> UdpCodec:
    return UdpCodec("gaussian", (48, 64), (24, 32), 1.5, 0.0546875, COCO_17.flip_indices)


@pytest.fixture
def law(params_text: str, bent_params) -> Train:
    train = load_params(bent_params({"train.batch_size": "2"})).train
    return train.model_copy(update={"picture_epochs": 3})


@pytest.fixture
def val(tmp_path: Path, tiny_coco: TinyCoco, crop_table: CropTable, monkeypatch) -> CropTable:
    """tiny_coco as the cache's val."""
    (tmp_path / "cache").rename(tmp_path / "val")
    truth = {key: tiny_coco.raw[key] for key in ("images", "annotations", "categories")}
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 1]
    (tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    monkeypatch.setattr(stage, "CACHE", tmp_path)
    return CropTable(tmp_path / "val")


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    """With all that could be disturbed: drop path draws, batch norms have running statistics."""
    changes = {"drop_path": 0.3, "head": "classic", "conv_channels": ()}
    return replace(tiny_model_spec, input_wh=(48, 64), **changes)


def watch(
    state: TrainState,
    law: Train,
    codec: UdpCodec,
    pictures: list | None = None,
    sigmas: np.ndarray = COCO_OKS_SIGMAS,
) -> validation.Validation:
    seen = pictures if pictures is not None else []
    return validation.Validation(
        "x", state.model, law, codec, 1.25, COCO_17, sigmas, SCHEDULE, seen.append
    )


def fresh(spec: ModelSpec, decay: float = 0.0) -> TrainState:
    torch.manual_seed(0)
    model = PoseModel(spec)
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    ema = WeightEma(model, decay) if decay else None
    return TrainState(model, build_adamw(model, 0.1, 1.0, (0.9, 0.999)), ema=ema)


def batch(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (2, 64, 48, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(2, 17, 3, generator=generator) * torch.tensor([23, 31, 0.0])
    return [images, targets + torch.tensor([0, 0, 1.0])]


def train(state: TrainState, codec: UdpCodec, **others) -> None:
    torch.manual_seed(1)
    fit(
        "x",
        changed(DEFAULT.train, clip_grad_norm=1.0, log_steps=4, checkpoint_steps=100, batch_size=2),
        state,
        (batch(step) for step in range(STEPS)),
        supervised_step(state.model, codec, CPU, "none"),
        SCHEDULE,
        on_row=lambda row: None,
        save=lambda state: None,
        **others,
    )


def test_a_val_without_keypoints_stops_before_the_first_step(
    val, law, codec, spec, monkeypatch
) -> None:
    monkeypatch.setattr(CropTable, "labelled", lambda table: np.empty(0, np.intp))
    with pytest.raises(PoseError, match="nobody has keypoints, so val_AP and pictures are imposs"):
        watch(fresh(spec), law, codec)
    watch(fresh(spec), changed(law, val_epochs=0, picture_epochs=0), codec)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_watched_run_ends_with_the_same_bits(val, law, codec, spec, decay: float) -> None:
    alone, watched, pictures = fresh(spec, decay), fresh(spec, decay), []
    train(alone, codec)
    draws = torch.get_rng_state()
    train(watched, codec, validate=watch(watched, law, codec, pictures))
    assert torch.equal(torch.get_rng_state(), draws)
    for (name, a), b in zip(
        alone.model.state_dict().items(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert watched.model.training
    rows = [row for row in watched.history if "val_AP" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert [row for row in watched.history if "val_AP" not in row] == alone.history
    assert len(pictures) == 2
    assert watched.picture is pictures[-1]


def test_a_frozen_part_stays_in_its_mode(val, law, codec, spec) -> None:
    state = fresh(spec)
    state.model.backbone.eval()
    state.step = PER_EPOCH
    assert "val_AP" in watch(state, law, codec)(state)
    assert (state.model.training, state.model.backbone.training) == (True, False)
    assert torch.is_grad_enabled()


def test_off_is_off(val, law, codec, spec) -> None:
    state = fresh(spec)
    state.step = STEPS
    off = law.model_copy(update={"val_epochs": 0, "picture_epochs": 0})
    assert watch(state, off, codec)(state) == {}
    assert (state.best, state.picture) == ({}, None)


@pytest.mark.parametrize("sigmas", [COCO_OKS_SIGMAS, np.linspace(0.03, 0.2, 17)])
def test_val_ap_is_cocos_of_the_highest_cells(
    val, law, codec, spec, monkeypatch, tmp_path, sigmas: np.ndarray
) -> None:
    """The same number as by evaluate's way, of predictions near the truth, as it is 0 else."""
    rng = np.random.default_rng(0)
    rows = val.labelled()
    samples = TestSamples(val, rows, 1.25, codec)
    model = fresh(spec).model.eval()
    batches = test_batches(len(samples), 2, 0, 1)
    found = predict_all(model, codec, batch_loader(samples, batches, 0))
    ours = validation.predict_peaks(model, samples, 2, "none")
    theirs = found["none", "argmax"]
    for one in ("keypoints", "scores", "rows"):
        np.testing.assert_array_equal(getattr(ours, one), getattr(theirs, one))

    near = val.keypoints[rows][..., :2] + rng.normal(0, 3, (len(rows), 17, 2))
    made_up = Predictions(near.astype(np.float64), rng.random((len(rows), 17)), rows)
    monkeypatch.setattr(validation, "predict_peaks", lambda *_: made_up)
    state = fresh(spec)
    state.step = PER_EPOCH
    row = watch(state, law, codec, sigmas=sigmas)(state)
    areas = np.array([np.prod(samples.box(int(r))[1]) for r in rows])
    truth = json.loads((tmp_path / "ground_truth.json").read_text())
    results = to_results(val, made_up, areas, 0.0, 1.0, sigmas, 1)
    assert row["val_AP"] == coco_eval(truth, results, sigmas)["AP"]
    assert 0.1 < row["val_AP"] < 1
    others = np.full(17, 0.3)
    assert row["val_AP"] != coco_eval(truth, results, others)["AP"]


def test_the_first_persons_and_their_company(val) -> None:
    """Persons 11, 13, 14, 15 and 16 have keypoints; 13 and 14 share an image."""
    assert [validation.first_rows(val, n).tolist() for n in (1, 2, 3, 99)] == [
        val.labelled()[:n].tolist() for n in (1, 3, 3, 5)
    ]
    truth = {"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 2}], "categories": 3}
    assert validation.restrict_to_images(truth, {1}) == {
        "images": [{"id": 1}],
        "annotations": [],
        "categories": 3,
    }


def test_the_best_are_kept_and_of_equals_the_later(val, law, codec, spec, monkeypatch) -> None:
    state = fresh(spec)
    eye = watch(state, law, codec)
    bias = state.model.head.final_layer.bias
    for step, ap in ((2, 0.3), (4, 0.5), (6, 0.5), (8, 0.4)):
        state.step = step
        with torch.no_grad():
            bias.fill_(step)
        monkeypatch.setattr(eye, "_ap", lambda ap=ap: ap)
        eye(state)
    assert (state.best["step"], state.best["val_AP"]) == (6, 0.5)
    assert state.best["weights"]["head.final_layer.bias"].eq(6).all()


def test_the_average_is_what_is_seen(val, law, codec, spec) -> None:
    state = fresh(spec, decay=0.9)
    with torch.no_grad():
        state.model.head.final_layer.bias.fill_(7.0)
    state.step = PER_EPOCH
    watch(state, law, codec)(state)
    assert not state.best["weights"]["head.final_layer.bias"].eq(7).any()
    assert state.model.head.final_layer.bias.eq(7).all()


def test_a_picture_is_the_same_bytes_each_time(val, law, codec, spec) -> None:
    state, (one, other) = fresh(spec), ([], [])
    state.step = STEPS
    watch(state, law, codec, one)(state)
    watch(state, law, codec, other)(state)
    assert torch.equal(one[0], other[0])
    image = cv2.imdecode(one[0].numpy(), cv2.IMREAD_COLOR)
    assert image.shape == (3 * (144 + 6), 8 * (108 + 6), 3)  # five persons of four views, two a row
    assert image.std() > 20
