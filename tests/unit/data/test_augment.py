"""Distributions of the random augmentation, and agreement of warped pixels with keypoints."""

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


def test_box_jitter_distributions(rng) -> None:
    settings = changed(
        NO_AUGMENT,
        shift_factor=0.16,
        shift_prob=0.3,
        scale_factor=0.5,
        rotate_deg=80,
        rotate_prob=0.6,
    )
    center, scale = np.array([100.0, 200.0]), np.array([30.0, 40.0])
    drawn = [augment.jitter_box(rng, settings, center, scale) for _ in range(DRAWS)]
    resize = np.array([s / scale for _, s, _ in drawn])
    shift = np.array([(c - center) / scale for c, _, _ in drawn])
    angle = np.array([a for _, _, a in drawn])
    np.testing.assert_allclose(resize[:, 0], resize[:, 1])  # the aspect is unchanged
    assert 0.5 <= resize.min() < 0.55
    assert 1.45 < resize.max() <= 1.5
    assert resize[:, 0].std() == pytest.approx(0.54 * 0.5, abs=0.01)
    shifted = (shift != 0).any(axis=1)
    assert shifted.mean() == pytest.approx(0.3, abs=0.03)
    assert (shift[shifted] != 0).all()  # one decision for x and y
    assert 0.15 < np.abs(shift).max() <= 0.16
    assert shift[shifted].std() == pytest.approx(0.54 * 0.16, abs=0.004)
    assert abs(np.corrcoef(shift[shifted].T)[0, 1]) < 0.1  # but two amounts
    rotated = angle != 0
    assert rotated.mean() == pytest.approx(0.6, abs=0.03)
    assert 76 < np.abs(angle).max() <= 80
    assert (rotated & shifted).mean() == pytest.approx(0.6 * 0.3, abs=0.03)  # independent draws
    assert angle[rotated].std() == pytest.approx(0.54 * 80, abs=2)


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
def test_half_body_is_chosen_by_labelled_counts(rng, upper: int, lower: int, expected) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0)
    visibility = np.zeros(17)
    visibility[:upper] = 2
    visibility[11 : 11 + lower] = 1
    halves = {None: None, "upper": [*range(upper)], "lower": [*range(11, 11 + lower)]}
    drawn = [augment.choose_half_body(rng, settings, COCO_17, visibility) for _ in range(40)]
    chosen = [None if indices is None else indices.tolist() for indices in drawn]
    assert all(indices in [halves[name] for name in expected] for indices in chosen)
    assert all(halves[name] in chosen for name in expected)


def test_lower_body_only_and_too_few_keypoints(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0, half_body_min_keypoints=1)
    for labelled, expected in (([0, 11, 12, 13], [11, 12, 13]), ([0, 11, 12], None)):
        visibility = np.zeros(17)
        visibility[labelled] = 2
        chosen = augment.choose_half_body(rng, settings, COCO_17, visibility)
        assert (None if chosen is None else chosen.tolist()) == expected


def test_half_body_probabilities(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=0.3)
    drawn = [
        augment.choose_half_body(rng, settings, COCO_17, np.full(17, 2.0)) for _ in range(DRAWS)
    ]
    chosen = [d for d in drawn if d is not None]
    assert len(chosen) / DRAWS == pytest.approx(0.3, abs=0.03)
    assert np.mean([d[0] == 0 for d in chosen]) == pytest.approx(0.7, abs=0.04)


def test_half_body_box_is_the_mean_and_extent_of_its_keypoints(rng) -> None:
    settings = changed(NO_AUGMENT, half_body_prob=1.0)
    keypoints = np.zeros((17, 3))
    keypoints[:11] = np.column_stack([rng.uniform(50, 90, 11), rng.uniform(20, 160, 11), [2] * 11])
    bbox = np.array([40.0, 10.0, 60.0, 170.0])
    affine, _ = augment.draw_affine(rng, settings, COCO_17, bbox, keypoints, (400, 300), INPUT_WH)
    middle = geometry.apply_affine(affine, keypoints[:11, :2].mean(axis=0))
    np.testing.assert_allclose(middle, (23.5, 31.5), atol=1e-9)
    height = 1.5 * np.ptp(
        keypoints[:11, 1]
    )  # the height decides, the width follows from the aspect
    assert affine[1, 1] == pytest.approx(63 / height)


def test_without_augmentation_the_box_is_padded(rng) -> None:
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
def test_warped_pixels_agree_with_keypoints(rng, flip_prob: float) -> None:
    """A dot drawn at a keypoint is at the transformed position of the same or mirrored keypoint."""
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
    points, visibility = augment.transform_keypoints(
        affine, keypoints, flipped, COCO_17.flip_indices
    )
    assert flipped == bool(flip_prob)
    assert (np.linalg.det(affine[:, :2]) < 0) == flipped
    for k in range(17):
        target = COCO_17.flip_indices[k] if flipped else k
        warped = geometry.warp(dot(image_wh, keypoints[k, :2]), affine, INPUT_WH)
        np.testing.assert_allclose(centroid(warped), points[target], atol=0.15)
        assert visibility[target] == keypoints[k, 2]


def test_flip_probability(rng) -> None:
    settings = changed(NO_AUGMENT, flip_prob=0.5)
    bbox = np.array([35.0, 15.0, 45.0, 60.0])
    flips = [
        augment.draw_affine(rng, settings, COCO_17, bbox, np.zeros((17, 3)), (120, 100), INPUT_WH)[
            1
        ]
        for _ in range(1000)
    ]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.05)


def test_warp_is_bilinear_with_black_border(rng) -> None:
    crop = cv2.GaussianBlur(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (5, 5), 0)
    affine = geometry.udp_affine(np.array([20.0, 15.0]), np.array([50.0, 60.0]), 15.0, (24, 32))
    warped = geometry.warp(crop, affine, (24, 32))
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
            assert np.abs(warped[y, x] - expected).max() <= 2.5
    assert (warped[0, 0] == 0).all()


def with_jitter(rng: np.random.Generator, settings: Augment, image: np.ndarray) -> np.ndarray:
    return augment.apply_colour_jitter(image, augment.draw_colour_jitter(rng, settings))


def with_blur_dropout(rng: np.random.Generator, settings: Augment, image: np.ndarray) -> np.ndarray:
    blurs, hole = augment.BlurDropout(settings).draw(rng, (image.shape[1], image.shape[0]))
    result = augment.apply_blurs(image, blurs).copy()
    augment.fill_hole_(result, hole)
    return result


def grey(level: int) -> np.ndarray:
    return np.full((12, 10, 3), level, np.uint8)


def test_without_augmentation_images_are_unchanged(rng) -> None:
    image = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    outs = [with_jitter(rng, NO_AUGMENT, grey(90)) for _ in range(20)]
    assert all((out == 90).all() for out in outs)
    np.testing.assert_array_equal(with_blur_dropout(rng, NO_AUGMENT, image), image)


def test_contrast_with_quirks_is_applied_twice_or_not_at_all(rng) -> None:
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 0.5))
    levels = [int(with_jitter(rng, settings, grey(200))[0, 0, 0]) for _ in range(1000)]
    assert set(levels) == {50, 200}
    assert np.mean(np.array(levels) == 50) == pytest.approx(0.25, abs=0.04)


def test_contrast_without_quirks_is_applied_once_with_probability_half(rng) -> None:
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 0.5), official_quirks=False)
    levels = [int(with_jitter(rng, settings, grey(200))[0, 0, 0]) for _ in range(1000)]
    assert set(levels) == {100, 200}
    assert np.mean(np.array(levels) == 100) == pytest.approx(0.5, abs=0.05)


def test_both_contrasts_have_one_factor_and_each_clips(rng) -> None:
    """With two factors, for example 1.5 and 0.6, white would be darker than the slope implies."""
    settings = changed(NO_AUGMENT, contrast_range=(0.5, 1.5))
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 1, 3)
    outs = np.array([with_jitter(rng, settings, ramp)[:, 0, 0] for _ in range(400)], float)
    slopes, tops = outs[:, 100] / 100, outs[:, 255] / 255
    assert (slopes != 1).mean() == pytest.approx(0.25, abs=0.08)
    assert slopes.min() < 0.35
    assert slopes.max() > 1.8
    np.testing.assert_allclose(tops, np.minimum(slopes, 1), atol=0.03)


def test_brightness_is_clipped_before_contrast(rng) -> None:
    settings = changed(NO_AUGMENT, brightness_delta=32, contrast_range=(0.5, 0.5))
    levels = {int(with_jitter(rng, settings, grey(250))[0, 0, 0]) for _ in range(1000)}
    assert max(level for level in levels if level < 200) == 63  # 255 * 0.5 * 0.5


def test_brightness(rng) -> None:
    settings = changed(NO_AUGMENT, brightness_delta=32)
    levels = np.array([with_jitter(rng, settings, grey(100))[0, 0, 0] for _ in range(1000)])
    assert (levels != 100).mean() == pytest.approx(0.5, abs=0.06)
    assert 68 <= levels.min() < 72
    assert 128 < levels.max() <= 132


def test_channel_swap_permutes_channels(rng) -> None:
    settings = changed(NO_AUGMENT, channel_swap_prob=1.0)
    image = grey(0) + np.array([10, 20, 30], np.uint8)
    seen = {tuple(with_jitter(rng, settings, image)[0, 0].tolist()) for _ in range(100)}
    assert len(seen) == 6
    assert all(sorted(colour) == [10, 20, 30] for colour in seen)


def test_hue_with_quirks_wraps_at_256(rng) -> None:
    """Red (hue 0) minus a few steps becomes green as in the official code, not magenta."""
    settings = changed(NO_AUGMENT, hue_delta=18)
    red = grey(0)
    red[..., 2] = 200
    outs = [with_jitter(rng, settings, red)[0, 0].tolist() for _ in range(200)]
    assert np.mean([g > r for _, g, r in outs]) == pytest.approx(0.25, abs=0.1)
    assert not any(b > g for b, g, _ in outs)


def test_hue_without_quirks_wraps_at_180(rng) -> None:
    settings = changed(NO_AUGMENT, hue_delta=18, official_quirks=False)
    red = grey(0)
    red[..., 2] = 200
    outs = [with_jitter(rng, settings, red)[0, 0].tolist() for _ in range(200)]
    assert np.mean([b > g for b, g, _ in outs]) == pytest.approx(0.25, abs=0.1)
    assert all(r == 200 for *_, r in outs)


@pytest.mark.parametrize(("official_quirks", "highest"), [(True, 2), (False, 3)])
def test_largest_hue_changes(rng, official_quirks: bool, highest: int) -> None:
    """Python's randint has both ends, NumPy's has not; all changes are equally likely."""
    settings = changed(NO_AUGMENT, hue_delta=3, official_quirks=official_quirks)
    hues = [int(augment.draw_colour_jitter(rng, settings).hue[100]) - 100 for _ in range(4000)]
    values, counts = np.unique(hues, return_counts=True)
    assert values.tolist() == list(range(-3, highest + 1))
    assert np.delete(counts, 3) / 4000 == pytest.approx(0.5 / len(values), abs=0.02)  # 3 is 0


@pytest.mark.parametrize("official_quirks", [True, False])
def test_photometric_prob_is_of_all_colours_together(rng, official_quirks: bool) -> None:
    settings = changed(
        NO_AUGMENT,
        channel_swap_prob=1.0,
        brightness_delta=32,
        photometric_prob=0.8,
        official_quirks=official_quirks,
    )
    jitters = [augment.draw_colour_jitter(rng, settings) for _ in range(2000)]
    untouched = np.array([jitter is augment.NO_JITTER for jitter in jitters])
    assert untouched.mean() == pytest.approx(0.2, abs=0.03)
    brighter = [(j.before != augment.IDENTITY).any() for j in jitters if j is not augment.NO_JITTER]
    assert np.mean(brighter) == pytest.approx(0.5, abs=0.04)
    never = changed(settings, photometric_prob=0.0)
    assert augment.draw_colour_jitter(rng, never) is augment.NO_JITTER


def test_a_certain_distortion_takes_no_draw() -> None:
    """So that the default's draws are those from before photometric_prob."""
    settings = changed(NO_AUGMENT, brightness_delta=32, photometric_prob=1.0)
    for seed in range(20):
        first = np.random.default_rng(seed).uniform(-32, 32)  # of the brightness
        jitter = augment.draw_colour_jitter(np.random.default_rng(seed), settings)
        change = int(jitter.before[100]) - 100
        assert change in (0, int(np.floor(100 + first)) - 100)


def test_saturation(rng) -> None:
    settings = changed(NO_AUGMENT, saturation_range=(0.0, 0.0))
    image = grey(0) + np.array([40, 80, 160], np.uint8)
    outs = [with_jitter(rng, settings, image)[0, 0] for _ in range(400)]
    is_grey = np.array([np.ptp(out) == 0 for out in outs])
    assert is_grey.mean() == pytest.approx(0.5, abs=0.08)  # modes 1 and 3 of 4


def test_dropout_is_one_black_hole_of_dropout_size(rng) -> None:
    """2.x ignores 1.x argument names: holes would measure 10-20 % and some images have two."""
    settings = changed(NO_AUGMENT, dropout_prob=1.0)
    shares = []
    for _ in range(80):
        image = np.full((100, 80, 3), 255, np.uint8)
        black = (with_blur_dropout(rng, settings, image) == 0).all(2)
        rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
        assert black.sum() == len(rows) * len(columns)
        assert len(rows) == np.ptp(rows) + 1
        assert len(columns) == np.ptp(columns) + 1
        shares.append((len(rows) / 100, len(columns) / 80))
    shares = np.array(shares)
    assert 0.19 <= shares.min() < 0.24
    assert 0.36 < shares.max() <= 0.41


def test_dropout_and_blur_probabilities(rng) -> None:
    image = np.full((40, 30, 3), 255, np.uint8)
    settings = changed(NO_AUGMENT, dropout_prob=0.3)
    holes = [(with_blur_dropout(rng, settings, image) == 0).any() for _ in range(400)]
    assert np.mean(holes) == pytest.approx(0.3, abs=0.07)
    image[20] = 0
    for settings in (changed(NO_AUGMENT, blur_prob=1.0), changed(NO_AUGMENT, median_blur_prob=1.0)):
        blurred = with_blur_dropout(rng, settings, image)
        assert (blurred[20] > 0).all()


def test_blur_and_dropout_depend_only_on_rng() -> None:
    settings = changed(NO_AUGMENT, dropout_prob=1.0)
    image = np.full((40, 30, 3), 255, np.uint8)
    first, again, other = (
        with_blur_dropout(np.random.default_rng(seed), settings, image) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_blur_and_dropout_are_independent() -> None:
    """Transforms with the same seed each would make the same draws."""
    settings = changed(NO_AUGMENT, blur_prob=0.5, dropout_prob=0.5)
    dots = np.full((64, 64, 3), 255, np.uint8)
    dots[::8, ::8] = 0
    counts = np.zeros((2, 2), int)
    for seed in range(400):
        image = with_blur_dropout(np.random.default_rng(seed), settings, dots)
        blurred, hole = ((image > 0) & (image < 255)).any(), (image == 0).mean() > 0.03
        counts[int(blurred), int(hole)] += 1
    assert (np.abs(counts - 100) < 35).all()


def test_people_of_a_map_keep_their_keypoints_in_flips_and_half_bodies(rng) -> None:
    """As of AI Challenger on COCO's keypoints: 12 of the body, none of the face."""
    keypoints = np.column_stack([rng.uniform(20, 80, (17, 2)), [0] * 5 + [2] * 12])
    settings = changed(NO_AUGMENT, half_body_prob=1.0)
    halves = set()
    for _ in range(40):
        chosen = augment.choose_half_body(rng, settings, COCO_17, keypoints[:, 2])
        assert chosen is not None
        halves.add(tuple(chosen.tolist()))
    assert halves == {tuple(range(5, 11)), tuple(range(11, 17))}
    flip = np.eye(2, 3), keypoints, True, COCO_17.flip_indices
    _, visibility = augment.transform_keypoints(*flip)
    assert visibility.tolist() == keypoints[:, 2].tolist()
