"""The model on a whole picture gives what evaluate gives on the cache's crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from loopback import failure
from pose.coco.boxes import clip_bbox
from pose.coco.decode import PixelSettings
from pose.codecs.gaussian import Blur
from pose.codecs.geometry import bbox_to_center_scale, udp_affine, warp
from pose.codecs.udp import UdpCodec
from pose.common.files import write_json
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples, batch_loader
from pose.deploy.manifest import FILE, describe
from pose.deploy.media import read_picture
from pose.deploy.predictor import Predictor, to_results, warp_box
from pose.evaluation.coco_metrics import to_results as evaluated
from pose.models.checkpoint import save_weights
from predictions import predict_all
from tiny_coco import TinyCoco
from tiny_model import random_model, tiny_manifest

CPU = torch.device("cpu")


@pytest.fixture
def predictor() -> Predictor:
    manifest = replace(tiny_manifest(), blur=Blur(11))  # that of predict_all
    return Predictor(random_model(), manifest, True, 32, CPU)


class Lossless(CropTable):
    """The cache of tiny_coco with crops that no JPEG has touched."""

    images: dict[int, np.ndarray]

    def crop(self, row: int) -> np.ndarray:
        height, width = super().crop(row).shape[:2]
        x, y = self.crop_xy[row]
        image = self.images[int(self.image_id[row])][..., ::-1]
        return np.ascontiguousarray(image[y : y + height, x : x + width])


@pytest.fixture
def lossless(crop_table: CropTable, tiny_coco: TinyCoco) -> Lossless:
    table = Lossless(crop_table.folder)
    table.images = {i: read_picture(tiny_coco.image_path(i), PixelSettings())[0] for i in (1, 2, 3)}
    return table


def test_a_cut_of_the_picture_is_the_loaders_image(
    lossless: Lossless, crop_settings: CropSettings
) -> None:
    samples = TestSamples(lossless, np.arange(len(lossless)), 1.25, crop_settings.codec)
    assert len(samples) == 6
    for sample in samples:
        image = lossless.images[int(lossless.image_id[sample["row"]])]
        mine = warp_box(image, sample["center"], sample["scale"], crop_settings.codec)
        assert mine.std() > 10
        difference = np.abs(mine[..., ::-1].astype(int) - sample["image"])
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01


def test_pictures_give_what_evaluate_gives(lossless: Lossless, predictor: Predictor) -> None:
    codec = predictor.manifest.codec
    samples = TestSamples(lossless, np.arange(len(lossless)), 1.25, codec)
    loader = batch_loader(samples, [[0, 1, 2, 3], [4, 5]], 0)
    for flip in (False, True):
        key = ("flip" if flip else "none", "dark")
        expected = predict_all(predictor.network, codec, loader)[key]
        for image_id in (1, 2, 3):
            rows = np.flatnonzero(lossless.image_id == image_id)
            boxes = lossless.bbox_xywh[rows]
            mine = replace(predictor, flip=flip)(lossless.images[image_id], boxes)
            assert np.median(np.abs(mine[0] - expected.keypoints[rows])) < 1e-3
            np.testing.assert_allclose(mine[1], expected.scores[rows], atol=2e-3)


def test_the_flip_test_shows(predictor: Predictor) -> None:
    image, box = _noise(120, 90), [[10, 5, 60, 80]]
    plain = replace(predictor, flip=False)
    assert np.abs(predictor(image, box)[1] - plain(image, box)[1]).max() > 1e-2


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_a_cut_is_enlarged_as_the_codec_says(crop_settings: CropSettings, kind: str) -> None:
    """Pixels at the rim of the box need neighbours that are outside of it."""
    image, codec = _noise(200, 200), replace(crop_settings.codec, interpolation=kind)
    center, scale = np.array([100.25, 90.5]), np.array([30.0, 40.0])
    affine = udp_affine(center, scale, 0.0, codec.input_size)
    found = warp_box(image, center, scale, codec).astype(int)
    assert np.abs(found - warp(image, affine, codec.input_size, kind)).max() <= 1


def test_a_picture_of_black_where_the_box_is_outside(predictor: Predictor) -> None:
    codec = predictor.manifest.codec
    assert codec.input_size == (24, 32)
    image = np.full((40, 30, 3), 200, np.uint8)
    center, scale = bbox_to_center_scale(np.array([500.0, 500, 30, 40]), 1.25, (24, 32))
    assert not warp_box(image, center, scale, codec).any()
    center, scale = bbox_to_center_scale(np.array([-15.0, 0, 30, 40]), 1.0, (24, 32))
    half = warp_box(image, center, scale, codec)
    assert not half[:, :11].any()
    assert (half[1:-1, 13:] == 200).all()


def test_a_picture_larger_than_opencv_warps(predictor: Predictor) -> None:
    image = np.zeros((8, 40_000, 3), np.uint8)
    image[:, 39_000:] = _noise(1000, 8)
    keypoints, scores = predictor(image, [[39_100, 0, 6, 8]])
    near, _ = predictor(image[:, 39_000:], [[100, 0, 6, 8]])
    np.testing.assert_allclose(keypoints - [39_000, 0], near, atol=1e-3)
    assert np.isfinite(scores).all()


def test_batches_do_not_show_and_nobody_is_fine(predictor: Predictor) -> None:
    image = _noise(100, 80)
    boxes = np.random.default_rng(0).uniform(10, 60, (5, 4))
    whole, ones = predictor(image, boxes), replace(predictor, batch_size=1)(image, boxes)
    np.testing.assert_allclose(whole[0], ones[0], atol=1e-2)
    np.testing.assert_allclose(whole[1], ones[1], atol=1e-5)
    keypoints, scores = predictor(image, [])
    assert (keypoints.shape, scores.shape) == ((0, 17, 2), (0, 17))


BLACK = np.zeros((9, 9, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "boxes", "expected"),
    [
        (np.zeros((9, 9, 3)), [], "image is (9, 9, 3) float64, expected uint8 of (H, W, 3), RGB"),
        (np.zeros((9, 9, 4), np.uint8), [], "image is (9, 9, 4) uint8"),
        (np.zeros((9, 0, 3), np.uint8), [], "image is (9, 0, 3)"),
        (np.zeros(9, np.uint8), [], "image is (9,) uint8"),
        (PIL.Image.new("RGBA", (9, 9)), [], "mode RGBA, expected RGB or L; use image.convert"),
        (torch.zeros(9, 9, 3), [], "image is a Tensor, expected an array, a PIL image or a path"),
        (None, [], "image is a NoneType"),
        ("lost.jpg", [], "lost.jpg: cannot be read: No such file or directory"),
        (BLACK, [1, 2, 3, 4], "boxes are (4,), expected (N, 4)"),
        (BLACK, [[1, 2, 3, 4], [1, 2]], "boxes are [[1, 2, 3, 4], [1, 2]], expected (N, 4)"),
        (BLACK, [[1, 2, np.nan, 4]], "box 0 is [1.0, 2.0, nan, 4.0], expected 4 finite numbers"),
        (BLACK, [[1, 2, 3, 4], [1, 2, 0, 4]], "box 1 is [1.0, 2.0, 0.0, 4.0]"),
        (BLACK, [[1, 2, 4, -1]], "the last two above 0"),
    ],
)
def test_refusals(predictor: Predictor, image: object, boxes: list, expected: str) -> None:
    said = failure(predictor, image, boxes)
    assert expected in said
    assert "\n" not in said


def test_a_truncated_pil_image_is_one_line(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    PIL.Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    said = failure(predictor, PIL.Image.open(path), [])
    assert said.startswith("image is a PIL image that cannot be read: ")


def test_every_kind_of_image_gives_the_same_poses(predictor: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (60, 40), np.uint8)
    path, boxes = tmp_path / "grey.png", [[5, 5, 20, 40]]
    PIL.Image.fromarray(grey).save(path)
    expected = predictor(np.stack([grey] * 3, axis=2), boxes)
    opened = PIL.Image.open(path)
    for image in (grey, opened, opened.convert("RGB"), path, str(path)):
        keypoints, scores = predictor(image, boxes)
        np.testing.assert_array_equal(keypoints, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


def test_ranks_and_results_are_evaluates(lossless: Lossless, predictor: Predictor) -> None:
    """Twice the same boxes with other scores: NMS has work, rescoring too."""
    rows = np.flatnonzero(lossless.image_id == 2).repeat(2)
    box_scores = np.array([0.3, 0.9, 0.8, 0.2])
    boxes = lossless.bbox_xywh[rows]
    keypoints, scores = predictor(lossless.images[2], boxes)
    scores = np.abs(scores) + np.linspace(0, 0.5, 17)
    kept, totals = predictor.rank(boxes, box_scores, keypoints, scores)
    assert len(kept) == 2
    mine = to_results(2, 1, keypoints[kept], scores[kept], totals[kept])

    class Table:
        bbox_score, image_id = box_scores.astype(np.float32), np.full(4, 2)

    class Twice:
        pass

    found = Twice()
    found.keypoints, found.scores, found.rows = keypoints, scores, np.arange(4)  # type: ignore[attr-defined]
    areas = np.array([np.prod(predictor.box(box)[1]) for box in boxes])
    law = predictor.manifest
    expected = evaluated(
        Table(), found, areas, law.keypoint_score_thr, law.oks_nms_thr, law.sigmas, 1
    )
    for one, other in zip(mine, expected, strict=True):
        assert one.keys() == other.keys()
        assert one["keypoints"] == pytest.approx(other["keypoints"], abs=1e-4)
        assert one["score"] == pytest.approx(other["score"], rel=1e-6)


@pytest.mark.parametrize(("pixels", "kept"), [(1, [1]), (6, [1, 0])])
def test_poses_a_pixel_apart_are_one_by_the_padded_boxs_area(
    predictor: Predictor, pixels: float, kept: list[int]
) -> None:
    boxes, scores = np.array([[0.0, 0, 30, 40]] * 2), np.ones((2, 17))
    keypoints = np.random.default_rng(0).uniform(0, 30, (1, 17, 2)).repeat(2, axis=0)
    keypoints[1, :, 0] += pixels
    found, totals = predictor.rank(boxes, np.array([0.5, 0.75]), keypoints, scores)
    assert (found.tolist(), totals.tolist()) == (kept, [0.5, 0.75])


def test_poses_a_pixel_apart_by_their_own_extent(predictor: Predictor) -> None:
    """Small poses in large boxes: two by nms_area keypoints, one by nms_area box."""
    boxes, scores = np.array([[0.0, 0, 30, 40]] * 2), np.ones((2, 17))
    keypoints = np.random.default_rng(0).uniform(0, 8, (1, 17, 2)).repeat(2, axis=0)
    keypoints[1, :, 0] += 1
    by_extent = replace(predictor, manifest=replace(predictor.manifest, nms_area="keypoints"))
    kept = [
        one.rank(boxes, np.array([0.5, 0.75]), keypoints, scores)[0].tolist()
        for one in (predictor, by_extent)
    ]
    assert kept == [[1], [1, 0]]


def test_weights_beside_their_manifest_are_enough(tmp_path: Path, predictor: Predictor) -> None:
    save_weights(tmp_path / "model.safetensors", predictor.network.state_dict(), {})
    write_json(tmp_path / FILE, describe(predictor.manifest))
    loaded = Predictor.load(tmp_path / "model.safetensors")
    assert loaded.manifest == predictor.manifest
    image, boxes = _noise(100, 80), [[10, 5, 60, 70]]
    np.testing.assert_array_equal(loaded(image, boxes)[0], predictor(image, boxes)[0])
    assert not Predictor.load(tmp_path / "model.safetensors", flip=False).flip
    assert "model.onnx: no such file; export the model again" in failure(Predictor.load, tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"noise")
    assert "model.onnx: not a readable ONNX model" in failure(Predictor.load, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_is_one_line(predictor: Predictor, value: float) -> None:
    torch.nn.init.constant_(predictor.network.head.final_layer.bias, value)
    said = failure(predictor, _noise(60, 50), [[1, 2, 30, 40], [3, 4, 30, 40]])
    assert said == (
        "the pose in the box [1.0, 2.0, 30.0, 40.0] has NaN or infinity (2 of 2 poses predicted "
        "together have); use other weights"
    )


def test_combined_maps_are_decoded_too() -> None:
    law = tiny_manifest(maps_per_keypoint=3)
    codec = UdpCodec("combined", (24, 32), (12, 16), 1.5, 0.0546875, law.codec.flip_indices)
    law = replace(law, codec=codec)
    keypoints, _ = Predictor(random_model(law), law, True, 32, CPU)(_noise(50, 50), [[0, 0, 9, 9]])
    assert keypoints.shape == (1, 17, 2)


def test_a_box_is_padded_and_widened(predictor: Predictor) -> None:
    center, scale = predictor.box(clip_bbox(np.array([-5.0, 10, 25, 60]), (100, 100)))
    np.testing.assert_allclose(center, [10, 40])
    np.testing.assert_allclose(scale, [56.25, 75])


def _noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
