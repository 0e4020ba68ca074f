"""The laws of augmentation over many draws, and pixels that go where keypoints go."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pose.codecs import geometry
from pose.common.params import Augment
from pose.common.skeleton import COCO_17
from pose.data import augment
from sections import NO_AUGMENT, changed

INPUT_WH = (48, 64)
DRAWS = 4000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_truncated_normal(rng) -> None:
    """Standard deviation of the normal cut at one: sqrt(1 - 2 phi(1) / 0.6827) = 0.5396."""
    draws = augment.truncated_normal(rng, DRAWS)
    assert np.abs(draws).max() <= 1
    assert draws.std() == pytest.approx(0.5396, abs=0.02)
    assert draws.mean() == pytest.approx(0, abs=0.03)
    assert len(augment.truncated_normal(rng, 0)) == 0


def test_box_laws(rng) -> None:
    settings = changed(
        NO_AUGMENT,
        shift_factor=0.16,
        shift_prob=0.3,
        scale_factor=0.5,
        rotate_deg=80,
        rotate_prob=0.6,
    )
    center, scale = np.array([100.0, 200.0]), np.array([30.0, 40.0])
    drawn = [augment.transform_box(rng, settings, center, scale) for _ in range(DRAWS)]
    zoom = np.array([s / scale for _, s, _ in drawn])
    shift = np.array([(c - center) / scale for c, _, _ in drawn])
    angle = np.array([a for _, _, a in drawn])
    np.testing.assert_allclose(zoom[:, 0], zoom[:, 1])  # the aspect is kept
    assert 0.5 <= zoom.min() < 0.55
    assert 1.45 < zoom.max() <= 1.5
    assert zoom[:, 0].std() == pytest.approx(0.54 * 0.5, abs=0.01)
    moved = (shift != 0).any(axis=1)
    assert moved.mean() == pytest.approx(0.3, abs=0.03)
    assert (shift[moved] != 0).all()  # one draw for x and y
    assert 0.15 < np.abs(shift).max() <= 0.16
    assert shift[moved].std() == pytest.approx(0.54 * 0.16, abs=0.004)
    assert abs(np.corrcoef(shift[moved].T)[0, 1]) < 0.1  # but two distances
    turned = angle != 0
    assert turned.mean() == pytest.approx(0.6, abs=0.03)
    assert 76 < np.abs(angle).max() <= 80
    assert (turned & moved).mean() == pytest.approx(0.6 * 0.3, abs=0.03)  # independent draws
    assert angle[turned].std() == pytest.approx(0.54 * 80, abs=2)


@pytest.mark.parametrize(
    ("upper", "lower", "expected"),
    [
        (0, 0, {None}),
        (8, 0, {None}),  # 8 labelled are too few
        (11, 0, {"upper"}),
        (9, 2, {"upper"}),
        (7, 2, {"upper"}),
        (5, 3, {None}),
        (6, 3, {"upper", "lower"}),
        (11, 6, {"upper", "lower"}),
    ],
)
def test_half_body_choice(rng, upper: int, lower: int, expected) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0)
    visibility = np.zeros(17)
    visibility[:upper] = 2
    visibility[11 : 11 + lower] = 1
    halves = {None: None, "upper": [*range(upper)], "lower": [*range(11, 11 + lower)]}
    drawn = [augment.half_body(rng, settings, COCO_17, visibility) for _ in range(40)]
    found = [None if chosen is None else chosen.tolist() for chosen in drawn]
    assert all(chosen in [halves[name] for name in expected] for chosen in found)
    assert all(halves[name] in found for name in expected)


def test_lower_body_alone_and_too_small_halves(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0, half_body_min_keypoints=1)
    for labelled, expected in (([0, 11, 12, 13], [11, 12, 13]), ([0, 11, 12], None)):
        visibility = np.zeros(17)
        visibility[labelled] = 2
        found = augment.half_body(rng, settings, COCO_17, visibility)
        assert (None if found is None else found.tolist()) == expected


def test_half_body_shares(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=0.3)
    drawn = [augment.half_body(rng, settings, COCO_17, np.full(17, 2.0)) for _ in range(DRAWS)]
    chosen = [d for d in drawn if d is not None]
    assert len(chosen) / DRAWS == pytest.approx(0.3, abs=0.03)
    assert np.mean([d[0] == 0 for d in chosen]) == pytest.approx(0.7, abs=0.04)


def test_half_body_box_is_mean_and_extent_of_its_keypoints(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0)
    keypoints = np.zeros((17, 3))
    keypoints[:11] = np.column_stack([rng.uniform(50, 90, 11), rng.uniform(20, 160, 11), [2] * 11])
    bbox = np.array([40.0, 10.0, 60.0, 170.0])
    affine, _ = augment.draw_affine(rng, settings, COCO_17, bbox, keypoints, (400, 300), INPUT_WH)
    middle = geometry.apply_affine(affine, keypoints[:11, :2].mean(axis=0))
    np.testing.assert_allclose(middle, (23.5, 31.5), atol=1e-9)
    height = 1.5 * np.ptp(keypoints[:11, 1])  # the tall side decides, the aspect follows
    assert affine[1, 1] == pytest.approx(63 / height)


def test_the_still_law_is_the_padded_box(rng) -> None:
    bbox = np.array([40.0, 10.0, 60.0, 170.0])
    affine, flipped = augment.draw_affine(
        rng, NO_AUGMENT, COCO_17, bbox, np.zeros((17, 3)), (400, 300), INPUT_WH
    )
    center, scale = geometry.bbox_to_center_scale(bbox, 1.25, INPUT_WH)
    np.testing.assert_allclose(affine, geometry.udp_affine(center, scale, 0.0, INPUT_WH))
    assert not flipped


def dot(image_wh: tuple[int, int], point) -> np.ndarray:
    x, y = np.meshgrid(*(np.arange(n) for n in image_wh))
    level = 250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * 2.5**2))
    return np.repeat(level[..., None], 3, axis=2).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    level = image[..., 0].astype(float)
    y, x = np.indices(level.shape)
    return np.array([(x * level).sum(), (y * level).sum()]) / level.sum()


@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_pixels_go_where_keypoints_go(rng, flip_prob: float) -> None:
    """A dot at each keypoint shows up at the warped place of the same, or mirrored, keypoint."""
    image_wh, bbox = (120, 100), np.array([35.0, 15.0, 45.0, 60.0])
    settings = changed(
        NO_AUGMENT, flip_prob=flip_prob, rotate_deg=40, rotate_prob=1, scale_factor=0.2
    )
    keypoints = np.column_stack(
        [rng.uniform(48, 66, 17), rng.uniform(35, 55, 17), rng.integers(1, 3, 17)]
    )
    affine, flipped = augment.draw_affine(
        rng, settings, COCO_17, bbox, keypoints, image_wh, INPUT_WH
    )
    points, visibility = augment.move_keypoints(affine, keypoints, flipped, COCO_17.flip_indices)
    assert flipped == bool(flip_prob)
    assert (np.linalg.det(affine[:, :2]) < 0) == flipped
    for k in range(17):
        shown = COCO_17.flip_indices[k] if flipped else k
        seen = geometry.warp(dot(image_wh, keypoints[k, :2]), affine, INPUT_WH)
        np.testing.assert_allclose(centroid(seen), points[shown], atol=0.15)
        assert visibility[shown] == keypoints[k, 2]


def test_flip_share(rng) -> None:
    settings = changed(NO_AUGMENT, flip_prob=0.5)
    bbox = np.array([35.0, 15.0, 45.0, 60.0])
    flips = [
        augment.draw_affine(rng, settings, COCO_17, bbox, np.zeros((17, 3)), (120, 100), INPUT_WH)[
            1
        ]
        for _ in range(1000)
    ]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.05)


def test_warp_is_bilinear_and_black_outside(rng) -> None:
    crop = cv2.GaussianBlur(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (5, 5), 0)
    affine = geometry.udp_affine(np.array([20.0, 15.0]), np.array([50.0, 60.0]), 15.0, (24, 32))
    found = geometry.warp(crop, affine, (24, 32))
    padded = np.pad(crop.astype(float), ((1, 1), (1, 1), (0, 0)))
    inverse = np.linalg.inv(affine[:, :2])
    for y in range(32):
        for x in range(24):
            u, v = inverse @ (np.array([x, y]) - affine[:, 2]) + 1
            i, j = int(np.floor(u)), int(np.floor(v))
            expected = np.zeros(3)
            if 0 <= i <= 40 and 0 <= j <= 30:
                a, b = u - i, v - j
                top = padded[j, i] * (1 - a) + padded[j, i + 1] * a
                bottom = padded[j + 1, i] * (1 - a) + padded[j + 1, i + 1] * a
                expected = top * (1 - b) + bottom * b
            assert np.abs(found[y, x] - expected).max() <= 2.5
    assert (found[0, 0] == 0).all()


def distorted(rng: np.random.Generator, settings: Augment, image: np.ndarray) -> np.ndarray:
    return augment.recolour(image, augment.draw_colours(rng, settings))


def occluded(
    rng: np.random.Generator, occlusion: augment.Occlusion, image: np.ndarray
) -> np.ndarray:
    blurs, hole = occlusion.draw(rng, (image.shape[1], image.shape[0]))
    found = augment.blurred(image, blurs).copy()
    augment.drop_(found, hole)
    return found


def grey(level: int) -> np.ndarray:
    return np.full((12, 10, 3), level, np.uint8)


def test_the_plain_law_changes_nothing(rng) -> None:
    image = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    outs = [distorted(rng, changed(NO_AUGMENT), grey(90)) for _ in range(20)]
    assert all((out == 90).all() for out in outs)
    occlusion = augment.Occlusion(NO_AUGMENT)
    np.testing.assert_array_equal(occluded(rng, occlusion, image), image)


def test_contrast_is_applied_twice_or_never(rng) -> None:
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 0.5))
    levels = [int(distorted(rng, settings, grey(200))[0, 0, 0]) for _ in range(1000)]
    assert set(levels) == {50, 200}
    assert np.mean(np.array(levels) == 50) == pytest.approx(0.25, abs=0.04)


def test_contrast_once_with_half_the_odds_without_quirks(rng) -> None:
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 0.5), official_quirks=False)
    levels = [int(distorted(rng, settings, grey(200))[0, 0, 0]) for _ in range(1000)]
    assert set(levels) == {100, 200}
    assert np.mean(np.array(levels) == 100) == pytest.approx(0.5, abs=0.05)


def test_both_contrasts_are_one_factor_and_each_clips(rng) -> None:
    """With two factors 1.5 and 0.6, say, white would come out darker than the slope tells."""
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 1.5))
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 1, 3)
    outs = np.array([distorted(rng, settings, ramp)[:, 0, 0] for _ in range(400)], float)
    slopes, tops = outs[:, 100] / 100, outs[:, 255] / 255
    assert (slopes != 1).mean() == pytest.approx(0.25, abs=0.08)
    assert slopes.min() < 0.35
    assert slopes.max() > 1.8
    np.testing.assert_allclose(tops, np.minimum(slopes, 1), atol=0.03)


def test_brightness_is_clipped_before_contrast(rng) -> None:
    settings = changed(NO_AUGMENT, brightness_delta=32, contrast_range=(0.5, 0.5))
    levels = {int(distorted(rng, settings, grey(250))[0, 0, 0]) for _ in range(1000)}
    assert max(level for level in levels if level < 200) == 63  # 255 * 0.5 * 0.5


def test_brightness(rng) -> None:
    settings = changed(NO_AUGMENT, brightness_delta=32)
    levels = np.array([distorted(rng, settings, grey(100))[0, 0, 0] for _ in range(1000)])
    assert (levels != 100).mean() == pytest.approx(0.5, abs=0.06)
    assert 68 <= levels.min() < 72
    assert 128 < levels.max() <= 132


def test_channel_swap_permutes(rng) -> None:
    settings = changed(NO_AUGMENT, channel_swap_prob=1.0)
    image = grey(0) + np.array([10, 20, 30], np.uint8)
    seen = {tuple(distorted(rng, settings, image)[0, 0].tolist()) for _ in range(100)}
    assert len(seen) == 6
    assert all(sorted(colour) == [10, 20, 30] for colour in seen)


def test_hue_wraps_at_256_not_at_180(rng) -> None:
    """Red (hue 0) minus a few steps becomes green, as in the official code; modulo: magenta."""
    settings = changed(NO_AUGMENT, hue_delta=18)
    red = grey(0)
    red[..., 2] = 200
    outs = [distorted(rng, settings, red)[0, 0].tolist() for _ in range(200)]
    assert np.mean([g > r for _, g, r in outs]) == pytest.approx(0.25, abs=0.1)
    assert not any(b > g for b, g, _ in outs)


def test_hue_wraps_at_180_without_quirks(rng) -> None:
    settings = changed(NO_AUGMENT, hue_delta=18, official_quirks=False)
    red = grey(0)
    red[..., 2] = 200
    outs = [distorted(rng, settings, red)[0, 0].tolist() for _ in range(200)]
    assert np.mean([b > g for b, g, _ in outs]) == pytest.approx(0.25, abs=0.1)
    assert all(r == 200 for *_, r in outs)


def test_saturation(rng) -> None:
    settings = changed(NO_AUGMENT, saturation_range=(0.0, 0.0))
    image = grey(0) + np.array([40, 80, 160], np.uint8)
    outs = [distorted(rng, settings, image)[0, 0] for _ in range(400)]
    bare = np.array([np.ptp(out) == 0 for out in outs])
    assert bare.mean() == pytest.approx(0.5, abs=0.08)  # modes 1 and 3 of 4


def test_dropout_is_one_black_hole_of_the_size_asked(rng) -> None:
    """albumentations 1.x argument names are ignored by 2.x; then holes are 10-20 % and some two."""
    occlusion = augment.Occlusion(changed(NO_AUGMENT, dropout_prob=1.0))
    shares = []
    for _ in range(80):
        black = (occluded(rng, occlusion, np.full((100, 80, 3), 255, np.uint8)) == 0).all(2)
        rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
        assert black.sum() == len(rows) * len(columns)
        assert len(rows) == np.ptp(rows) + 1
        assert len(columns) == np.ptp(columns) + 1
        shares.append((len(rows) / 100, len(columns) / 80))
    shares = np.array(shares)
    assert 0.19 <= shares.min() < 0.24
    assert 0.36 < shares.max() <= 0.41


def test_dropout_and_blur_shares(rng) -> None:
    image = np.full((40, 30, 3), 255, np.uint8)
    occlusion = augment.Occlusion(changed(NO_AUGMENT, dropout_prob=0.3))
    holes = [(occluded(rng, occlusion, image) == 0).any() for _ in range(400)]
    assert np.mean(holes) == pytest.approx(0.3, abs=0.07)
    image[20] = 0
    for settings in (changed(NO_AUGMENT, blur_prob=1.0), changed(NO_AUGMENT, median_blur_prob=1.0)):
        seen = occluded(rng, augment.Occlusion(settings), image)
        assert (seen[20] > 0).all()


def test_randomness_comes_from_rng_alone() -> None:
    occlusion = augment.Occlusion(changed(NO_AUGMENT, dropout_prob=1.0))
    image = np.full((40, 30, 3), 255, np.uint8)
    first, again, other = (
        occluded(np.random.default_rng(seed), occlusion, image) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_blur_and_dropout_strike_independently() -> None:
    """Seeded one by one, all transforms of a pipeline would draw alike."""
    occlusion = augment.Occlusion(changed(NO_AUGMENT, blur_prob=0.5, dropout_prob=0.5))
    dots = np.full((64, 64, 3), 255, np.uint8)
    dots[::8, ::8] = 0
    struck = np.zeros((2, 2), int)
    for seed in range(400):
        found = occluded(np.random.default_rng(seed), occlusion, dots)
        blurred, hole = ((found > 0) & (found < 255)).any(), (found == 0).mean() > 0.03
        struck[int(blurred), int(hole)] += 1
    assert (np.abs(struck - 100) < 35).all()
