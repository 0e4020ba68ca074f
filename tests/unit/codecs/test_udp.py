"""Both codecs through one object: maps as formulas say, every piece the inverse of its own."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from one_person import decode_person, encode_person
from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec, build_codec
from pose.common.skeleton import COCO_17
from sections import DEFAULT, changed

GAUSSIAN = UdpCodec("gaussian", (96, 128), (24, 32), 2.0, 0.0546875, COCO_17.flip_indices)
COMBINED = UdpCodec("combined", (96, 128), (24, 32), 2.0, 0.1, COCO_17.flip_indices)
BOTH = pytest.mark.parametrize("codec", [GAUSSIAN, COMBINED], ids=lambda codec: codec.type)
BLUR = Blur(11)


@pytest.fixture
def keypoints() -> np.ndarray:
    """(17, 2) input pixels well inside."""
    return np.random.default_rng(0).uniform((30, 30), (65, 97), (17, 2))


@BOTH
def test_a_round_trip_in_numpy_ends_where_it_began(codec: UdpCodec, keypoints) -> None:
    maps, weights = encode_person(codec, keypoints, np.full(17, 2.0))
    assert maps.shape == (51 if codec is COMBINED else 17, 32, 24)
    assert weights.tolist() == [1.0] * 17
    found, scores = decode_person(codec, maps, BLUR)
    np.testing.assert_allclose(found, keypoints, atol=0.05)
    assert (scores > (0.9 if codec is GAUSSIAN else 0.1)).all()


@BOTH
def test_without_refinement_the_answer_is_the_nearest_cell(codec: UdpCodec, keypoints) -> None:
    maps, _ = encode_person(codec, keypoints, np.ones(17))
    cells = codec.decode(torch.from_numpy(maps)[None], BLUR, refine=False)[0][0].numpy()
    ours = keypoints * (np.array(codec.heatmap_size) - 1) / (np.array(codec.input_size) - 1)
    assert np.abs(cells - ours).max() <= (0.5 if codec is GAUSSIAN else 1.0)
    np.testing.assert_array_equal(cells, np.round(cells))


@BOTH
def test_a_batch_equals_its_persons_one_by_one(codec: UdpCodec) -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform((-20, -20), (116, 148), (5, 17, 2))
    visibility = rng.integers(0, 3, (5, 17)).astype(float)
    targets = [codec.encode(p, np.minimum(v, 1)) for p, v in zip(points, visibility, strict=True)]
    maps = codec.render(torch.from_numpy(np.stack(targets)))
    together = codec.decode(maps, BLUR, refine=True)
    for i in range(5):
        alone, weights = encode_person(codec, points[i], visibility[i])
        np.testing.assert_array_equal(alone, maps[i].numpy())
        np.testing.assert_array_equal(weights, targets[i][:, 2])
        cells, scores = codec.decode(maps[i : i + 1], BLUR, refine=True)
        np.testing.assert_allclose(cells[0], together[0][i], atol=1e-5)
        np.testing.assert_allclose(scores[0], together[1][i], atol=1e-6)


@BOTH
def test_maps_of_a_mirrored_person_flip_back_to_the_persons(codec: UdpCodec, keypoints) -> None:
    maps, _ = encode_person(codec, keypoints, np.ones(17))
    mirrored = keypoints[list(COCO_17.flip_indices)]
    mirrored[:, 0] = codec.input_size[0] - 1 - mirrored[:, 0]
    seen, _ = encode_person(codec, mirrored, np.ones(17))
    back = codec.flip_back(torch.from_numpy(seen)[None])[0].numpy()
    offsets = back - maps
    np.testing.assert_allclose(offsets, 0, atol=2e-5)


@BOTH
def test_a_map_that_shows_nothing_gives_a_cell_and_no_find(codec: UdpCodec) -> None:
    """Officially undefined: 0 / 0 in the gaussian's rescaling, an index of -1 in both."""
    shape = (1, 51 if codec is COMBINED else 17, 32, 24)
    for level in (0.0, -0.5):
        cells, scores = codec.decode(torch.full(shape, level), BLUR, refine=True)
        assert torch.isfinite(cells).all()
        assert ((cells >= 0) & (cells <= 31)).all()
        assert (scores <= 0).all()


def test_combined_keeps_the_weight_of_a_keypoint_off_the_map() -> None:
    far = np.full((17, 2), -500.0)
    maps, weights = encode_person(COMBINED, far, np.ones(17))
    assert (weights == 1).all()
    assert (maps[::3] == 0).all()
    assert (encode_person(GAUSSIAN, far, np.ones(17))[1] == 0).all()


@pytest.mark.parametrize("zoom", [0.8, 1.25])
@BOTH
def test_maps_of_a_box_of_another_size_come_back_to_the_boxs_cells(codec, keypoints, zoom) -> None:
    """What the larger or smaller box's maps say of a keypoint, in image pixels the same."""
    middle = (np.array(codec.input_size) - 1) / 2
    maps, _ = encode_person(codec, (keypoints - middle) / zoom + middle, np.ones(17))
    found, covered = codec.zoom_back(torch.from_numpy(maps)[None], zoom)
    assert covered.shape == found.shape[2:] == (32, 24)
    back, _ = decode_person(codec, found[0].numpy(), BLUR)
    np.testing.assert_allclose(back, keypoints, atol=1.0 if codec is COMBINED else 0.4)
    inside = 1 if zoom > 1 else 0
    assert covered[0, 0] == covered[-1, -1] == inside
    assert covered[16, 12] == 1


@BOTH
def test_no_zoom_changes_nothing(codec: UdpCodec, keypoints) -> None:
    maps = torch.from_numpy(encode_person(codec, keypoints, np.ones(17))[0])[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, covered = codec.zoom_back(maps, 1.0)
    torch.testing.assert_close(found, maps, atol=1e-4, rtol=1e-4)
    assert covered.all()


@pytest.mark.parametrize("zoom", [0.8, 1.25])
def test_offsets_grow_with_the_box(keypoints, zoom: float) -> None:
    """They are linear over the map, so what comes back is the box's own, to rounding."""
    middle = (np.array(COMBINED.input_size) - 1) / 2
    larger, _ = encode_person(COMBINED, (keypoints - middle) / zoom + middle, np.ones(17))
    own, _ = encode_person(COMBINED, keypoints, np.ones(17))
    found, covered = COMBINED.zoom_back(torch.from_numpy(larger)[None], zoom)
    for plane in (1, 2):
        expected = torch.from_numpy(own[plane::3]) * covered
        torch.testing.assert_close(found[0, plane::3], expected, atol=1e-3, rtol=0)


@BOTH
def test_an_occluded_keypoint_has_a_weight_of_its_own(codec: UdpCodec, keypoints) -> None:
    visibility = np.arange(17) % 3.0
    half = replace(codec, occluded_weight=0.5)
    assert codec.keypoint_weights(visibility)[:3].tolist() == [0, 1, 1]
    assert half.keypoint_weights(visibility)[:3].tolist() == [0, 0.5, 1]
    (maps, weights), (full, _) = (encode_person(c, keypoints, visibility) for c in (half, codec))
    assert weights.tolist() == (visibility / 2).tolist()
    np.testing.assert_array_equal(maps, full)  # the weight is the loss's alone
    hidden = replace(codec, occluded_weight=0.0)
    assert encode_person(hidden, keypoints, visibility)[1].tolist() == (visibility // 2).tolist()


def test_a_codec_has_every_value_of_params() -> None:
    section = changed(
        DEFAULT.codec,
        type="combined",
        sigma=3.0,
        radius_factor=0.25,
        interpolation="cubic",
        outside="ignore",
        occluded_weight=0.5,
    )
    found = build_codec(section, COCO_17.flip_indices)
    for name in {field.name for field in fields(found)} - {"flip_indices"}:
        assert getattr(found, name) == getattr(section, name), name
    assert found.flip_indices == COCO_17.flip_indices


EDGES = np.array([[0, 0], [-0.01, 50], [50, -0.01], [95.99, 127.99], [96, 50], [50, 128]], float)


@BOTH
def test_keypoints_outside_of_the_input(codec: UdpCodec) -> None:
    """The last pixel's centre is at 95, so sapiens2's bound at 96 is beyond the last cell."""
    weights = np.ones(len(EDGES))
    assert (codec.encode(EDGES, weights)[:, 2] == 1).all()  # within the window of the gaussian
    targets = replace(codec, outside="ignore").encode(EDGES, weights)
    assert targets[:, 2].tolist() == [1, 0, 0, 1, 0, 0]
    assert (targets[[1, 2, 4, 5]] == 0).all()
    nowhere = replace(codec, outside="ignore").encode(np.full((1, 2), np.nan), np.zeros(1))
    assert nowhere.tolist() == [[0, 0, 0]]
