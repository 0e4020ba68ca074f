"""Prediction: flip test and decoders, from heatmaps to image pixels."""

from __future__ import annotations

import copy
from itertools import chain

import numpy as np
import pytest
import torch

from pose import distributed
from pose.codecs import encode, gaussian, geometry
from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17
from pose.data.samples import test_batches
from pose.evaluation.predict import (
    Ensemble,
    Predictions,
    PredictionsByView,
    gather_predictions,
    predict_maps,
    predict_views,
)
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from predictions import predict_all

CPU = torch.device("cpu")
INPUT_WH, MAP_WH, SIGMA = (96, 128), (48, 64), 2.0
CODEC = UdpCodec("gaussian", INPUT_WH, MAP_WH, SIGMA, 0.0546875, COCO_17.flip_indices)
flip_back = CODEC.flip_back


def test_flip_back_twice_is_identity() -> None:
    maps = torch.randn(2, 17, 4, 5)
    assert torch.equal(flip_back(flip_back(maps)), maps)


def test_flip_back_mirrors_columns_and_swaps_sides() -> None:
    maps = torch.zeros(1, 17, 4, 5)
    maps[0, 5, 3, 0] = 1  # left shoulder
    maps[0, 0, 2, 1] = 2  # nose
    found = flip_back(maps)
    assert found.nonzero().tolist() == [[0, 0, 2, 3], [0, 6, 3, 4]]


@pytest.fixture
def model(tiny_model_spec: ModelSpec) -> PoseModel:
    torch.manual_seed(0)
    model = PoseModel(tiny_model_spec).eval()
    torch.nn.init.normal_(model.head.final_layer.weight)
    return model


@torch.no_grad()
def test_flip_test_is_the_mean_of_both_views_and_mirror_invariant(model: PoseModel) -> None:
    images = torch.randn(2, 3, 32, 24)
    plain, both = (predict_maps(model, CODEC, images, flip) for flip in (False, True))
    assert torch.equal(plain, model(images))
    torch.testing.assert_close(both, (model(images) + flip_back(model(images.flip(3)))) / 2)
    assert (both - plain).abs().max() > 0.1
    torch.testing.assert_close(predict_maps(model, CODEC, images.flip(3), True), flip_back(both))


class Oracle(torch.nn.Module):
    """Answers with known heatmaps, mirrored when it is shown the mirrored image."""

    def __init__(self, heatmaps: torch.Tensor) -> None:
        super().__init__()
        self.heatmaps = heatmaps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mirrored = bool(images[0, 0, 0, 0] < images[0, 0, 0, -1])
        return flip_back(self.heatmaps) if mirrored else self.heatmaps


def oracle_batch(seed: int) -> tuple[np.ndarray, Oracle, dict]:
    """Keypoints (B, K, 2) in the image, their oracle, and the batch it answers."""
    rng = np.random.default_rng(seed)
    centers, scales = rng.uniform(100, 300, (3, 2)), rng.uniform(50, 100, (3, 1)) * (3, 4)
    keypoints = centers[:, None] + rng.uniform(-0.3, 0.3, (3, 17, 2)) * scales[:, None]
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    targets = []
    for center, scale, points in zip(centers, scales, keypoints, strict=True):
        affine = geometry.udp_affine(center, scale, 0.0, INPUT_WH)
        cells = geometry.apply_affine(affine, points) * factor
        targets.append(encode.gaussian_targets(cells, np.ones(17), MAP_WH, SIGMA))
    heatmaps = gaussian.render_heatmaps(torch.from_numpy(np.stack(targets)), MAP_WH, SIGMA)
    images = torch.zeros(3, 128, 96, 3, dtype=torch.uint8)
    images[:, :, :10] = 200
    batch = {
        "image": images,
        "center": torch.from_numpy(centers),
        "scale": torch.from_numpy(scales),
        "row": torch.arange(3) + 3 * seed,
    }
    return keypoints, Oracle(heatmaps), batch


def test_known_heatmaps_give_back_the_image_keypoints() -> None:
    keypoints, oracle, batch = oracle_batch(0)
    found = predict_all(oracle, CODEC, [batch])
    assert set(found) == {(f, d) for f in ("none", "flip") for d in ("argmax", "dark")}
    cell = (batch["scale"].numpy() / (np.array(MAP_WH) - 1))[:, None]
    for (_, decoder), predictions in found.items():
        error = np.abs(predictions.keypoints - keypoints)
        if decoder == "dark":
            assert error.max() < 0.1
        else:
            assert (error <= cell / 2 + 1e-6).all()
            assert error.max() > 0.5  # DARK has work to do
        assert predictions.scores.shape == (3, 17)
        assert 0.8 < predictions.scores.min() <= predictions.scores.max() <= 1


def test_batches_are_joined_in_order() -> None:
    whole = [oracle_batch(0), oracle_batch(1)]
    heatmaps = iter([oracle for _, oracle, _ in whole for _ in range(2)])

    class Turns(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return next(heatmaps)(images)

    found = predict_all(Turns(), CODEC, [batch for *_, batch in whole])["flip", "dark"]
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 5]
    expected = np.concatenate([keypoints for keypoints, *_ in whole])
    assert np.abs(found.keypoints - expected).max() < 0.1


def test_a_batch_changes_no_ones_prediction(model: PoseModel) -> None:
    """Alone or in company: InstanceNorm and per-map decoding know no neighbours."""
    rng = np.random.default_rng(0)
    batch = {
        "image": torch.from_numpy(rng.integers(0, 256, (4, 32, 24, 3), dtype=np.uint8)),
        "center": torch.full((4, 2), 50.0, dtype=torch.float64),
        "scale": torch.full((4, 2), 80.0, dtype=torch.float64),
        "row": torch.arange(4),
    }
    together = predict_all(model, CODEC, [batch])["flip", "argmax"]
    alone = predict_all(
        model, CODEC, [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    )["flip", "argmax"]
    np.testing.assert_allclose(together.keypoints, alone.keypoints, atol=1e-9)
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


def test_multiscale_is_the_mean_in_the_boxs_own_cells() -> None:
    """The maps of a box seen larger, mapped back, have their peaks where the box's own have."""
    keypoints, oracle, batch = oracle_batch(2)
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    answers = [oracle.heatmaps]
    for zoom in (0.8, 1.25):
        targets = []
        for center, scale, points in zip(batch["center"], batch["scale"], keypoints, strict=True):
            affine = geometry.udp_affine(center.numpy(), scale.numpy() * zoom, 0.0, INPUT_WH)
            cells = geometry.apply_affine(affine, points) * factor
            targets.append(encode.gaussian_targets(cells, np.ones(17), MAP_WH, SIGMA))
        targets = torch.from_numpy(np.stack(targets))
        answers.append(gaussian.render_heatmaps(targets, MAP_WH, SIGMA))
    both = iter([view for maps in answers for view in (maps, flip_back(maps))])

    class Turns(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return next(both)

    batch["scaled"] = batch["image"][:, None].repeat(1, 2, 1, 1, 1)
    found = predict_all(Turns(), CODEC, [batch], ("multiscale",), (0.8, 1.25))
    assert list(found) == [("multiscale", "argmax"), ("multiscale", "dark")]
    error = np.abs(found["multiscale", "dark"].keypoints - keypoints)
    assert error.max() < 0.25


@torch.no_grad()
def test_multiscale_is_mirror_invariant(model: PoseModel) -> None:
    """As each of its scales is averaged with the mirrored image."""
    images = torch.randint(0, 256, (2, 3, 32, 24, 3), dtype=torch.uint8)
    batch = {"image": images[:, 0], "scaled": images[:, 1:]}
    mirrored = {name: some.flip(-2) for name, some in batch.items()}
    one, other = (
        predict_views(model, CODEC, some, CPU, ("multiscale",), (0.8, 1.25))["multiscale"]
        for some in (batch, mirrored)
    )
    torch.testing.assert_close(other, flip_back(one), atol=1e-5, rtol=1e-4)


def test_where_a_smaller_box_shows_nothing_the_others_count() -> None:
    """Of maps that are 1 everywhere the mean is 1, at the border too."""
    _, _, batch = oracle_batch(0)
    batch["scaled"] = batch["image"][:, None].repeat(1, 2, 1, 1, 1)
    ones = Oracle(torch.ones(3, 17, 64, 48))
    maps = predict_views(ones, CODEC, batch, CPU, ("multiscale",), (0.8, 1.25))["multiscale"]
    torch.testing.assert_close(maps, ones.heatmaps)


def test_an_ensemble_is_the_mean_of_its_members_maps(model: PoseModel) -> None:
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.head.final_layer.weight)
    images = torch.randn(2, 3, 32, 24)
    with torch.no_grad():
        expected = (model(images) + other(images)) / 2
        torch.testing.assert_close(Ensemble([model, other])(images), expected)


@pytest.mark.parametrize(("ttas", "views"), [(("none",), 1), (("flip",), 2), (("none", "flip"), 2)])
def test_a_view_is_run_once_and_only_if_asked_for(ttas: tuple[str, ...], views: int) -> None:
    _, oracle, batch = oracle_batch(0)
    seen = []
    oracle.register_forward_pre_hook(lambda *_: seen.append(1))
    found = predict_all(oracle, CODEC, [batch], ttas)
    assert len(seen) == views
    assert list(found) == [(tta, d) for tta in ttas for d in ("argmax", "dark")]


def of_samples(indices: list[int]) -> PredictionsByView:
    """Predictions that tell their sample; none if there are no samples."""
    rows = np.array(indices) * 10
    points = np.repeat(np.array(indices, float)[:, None, None], 17, axis=1).repeat(2, axis=2)
    return {("flip", "dark"): Predictions(points, points[..., 0], rows)} if indices else {}


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_gathered_predictions_are_in_order_and_once(monkeypatch, world_size: int) -> None:
    shares = [list(chain(*test_batches(11, 2, rank, world_size))) for rank in range(world_size)]
    parts = [of_samples(share) for share in shares]
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    monkeypatch.setattr(distributed, "all_gather", lambda found: parts)
    (found,) = gather_predictions(parts[0], 11, 2).values()
    assert found.rows.tolist() == [10 * i for i in range(11)]
    assert found.keypoints[:, 0, 0].tolist() == list(range(11))
    assert found.scores[:, 16].tolist() == list(range(11))
