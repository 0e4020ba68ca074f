"""Laws that hold for any box, keypoint and score."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pose.codecs import encode, gaussian, geometry
from pose.codecs.udp import UdpCodec
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.evaluation import coco_metrics

oks = partial(coco_metrics.oks, sigmas=COCO_OKS_SIGMAS)
oks_nms = partial(coco_metrics.oks_nms, sigmas=COCO_OKS_SIGMAS)

SIZES = st.sampled_from([((192, 256), (48, 64)), ((72, 96), (36, 48)), ((768, 1024), (192, 256))])
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


@few
@given(SIZES, SEEDS)
def test_to_the_input_to_the_heatmap_and_back_is_exact(sizes, seed: int) -> None:
    input_wh, heatmap_wh = sizes
    rng = np.random.default_rng(seed)
    bbox = np.array([*rng.uniform(-100, 2000, 2), *rng.uniform(0.1, 1500, 2)])
    center, scale = geometry.bbox_to_center_scale(bbox, 1.25, input_wh)
    points = center + rng.uniform(-1, 1, (9, 2)) * scale  # also outside the box
    affine = geometry.udp_affine(center, scale, 0.0, input_wh)
    cells = geometry.apply_affine(affine, points) * geometry.input_to_heatmap_factor(*sizes)
    found = geometry.heatmap_to_image(cells, center, scale, heatmap_wh)
    np.testing.assert_allclose(found, points, atol=1e-9)


@few
@given(SEEDS, st.floats(-180, 180))
def test_an_affine_and_its_inverse(seed: int, angle: float) -> None:
    rng = np.random.default_rng(seed)
    center, scale = rng.uniform(0, 500, 2), rng.uniform(1, 500, 2)
    affine = geometry.udp_affine(center, scale, angle, (192, 256))
    middle = geometry.apply_affine(affine, center)
    np.testing.assert_allclose(middle, (95.5, 127.5), atol=1e-7)
    assert np.linalg.det(affine[:, :2]) == pytest.approx(191 / scale[0] * 255 / scale[1])


@few
@given(SEEDS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 180))
def test_context_grows_with_every_dial(
    seed: int, factor: float, shift: float, angle: float
) -> None:
    scale = np.random.default_rng(seed).uniform(1, 500, 2)
    still = geometry.context_size(scale, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(still, scale)
    full = geometry.context_size(scale, factor, shift, angle)
    for part in ((factor, 0, 0), (0, shift, 0), (0, 0, angle), (factor, shift, angle / 2)):
        assert (geometry.context_size(scale, *part) <= full + 1e-9).all()


@st.composite
def interior(draw):
    """Map size, sigma and seven centres at least 2 * sigma + 5 cells from the border.

    DARK's blur of 11 cells must not meet the map's edge.
    """
    sigma = draw(st.sampled_from([1.5, 2.0, 3.0]))
    map_wh = draw(st.sampled_from([(36, 48), (48, 64), (40, 40)]))
    margin = 2 * sigma + 5
    rng = np.random.default_rng(draw(SEEDS))
    centers = margin + rng.random((7, 2)) * (np.array(map_wh) - 1 - 2 * margin)
    return map_wh, sigma, centers


@few
@given(interior())
def test_encode_render_decode_returns_the_centre(case) -> None:
    map_wh, sigma, centers = case
    targets = torch.from_numpy(encode.gaussian_targets(centers, np.ones(7), map_wh, sigma))
    maps = gaussian.render_heatmaps(targets[None], map_wh, sigma)
    found, scores = gaussian.dark_decode(maps, gaussian.Blur(11))
    np.testing.assert_allclose(found[0].numpy(), centers, atol=0.05)
    assert (scores > np.exp(-0.25 / sigma**2) - 1e-5).all()


def any_targets(seed: int, map_wh) -> np.ndarray:
    """Seventeen centres in and around the map, some unlabelled."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.3, 1.3, (17, 2)) * map_wh
    return encode.gaussian_targets(centers, rng.integers(0, 2, 17).astype(float), map_wh, 2.0)


@few
@given(SEEDS)
def test_flip_commutes_with_encode(seed: int) -> None:
    """Mirrored keypoints make the mirrored map; borders included, halves excepted.

    At centres of exactly i + 0.5 the nearest cell is rounded to the right both times.
    """
    map_wh = (36, 48)
    inside = np.random.default_rng(seed).uniform(0, 1, (17, 2)) * (35, 47)
    inside[abs(inside % 1 - 0.5) < 1e-3] += 2e-3
    mirrored = (np.array([35, 0]) - inside * (1, -1))[list(COCO_17.flip_indices)]
    maps, back = (
        gaussian.render_heatmaps(
            torch.from_numpy(encode.gaussian_targets(points, np.ones(17), map_wh, 2.0))[None],
            map_wh,
            2.0,
        )
        for points in (inside, mirrored)
    )
    codec = UdpCodec("gaussian", (72, 96), map_wh, 2.0, 0.0546875, COCO_17.flip_indices)
    torch.testing.assert_close(codec.flip_back(back), maps, atol=2e-6, rtol=0)


@few
@given(SEEDS, st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_weightless_keypoints_are_inert(seed: int, junk: float) -> None:
    map_wh = (36, 48)
    rng = np.random.default_rng(seed)
    centers, weights = rng.uniform(0, 30, (17, 2)), rng.integers(0, 2, 17).astype(float)
    junked = np.where(weights[:, None] > 0, centers, junk)
    clean, dirty = (encode.gaussian_targets(c, weights, map_wh, 2.0) for c in (centers, junked))
    np.testing.assert_array_equal(clean, dirty)
    maps = gaussian.render_heatmaps(torch.from_numpy(dirty)[None], map_wh, 2.0)
    assert torch.isfinite(maps).all()
    assert not maps[0, weights == 0].any()


@few
@given(SEEDS)
def test_batches_are_rendered_and_decoded_one_by_one(seed: int) -> None:
    map_wh = (24, 32)
    targets = np.stack([any_targets(seed, map_wh), any_targets(seed ^ 1, map_wh)])
    maps = gaussian.render_heatmaps(torch.from_numpy(targets), map_wh, 2.0)
    alone = [gaussian.render_heatmaps(torch.from_numpy(t)[None], map_wh, 2.0) for t in targets]
    assert torch.equal(maps, torch.cat(alone))
    together, scores = gaussian.dark_decode(maps, gaussian.Blur(11))
    single = torch.cat([gaussian.dark_decode(m, gaussian.Blur(11))[0] for m in alone])
    finds = scores > 0.1  # a faint edge of a gaussian has no curvature to divide by
    torch.testing.assert_close(together[finds], single[finds], atol=1e-3, rtol=0)


def people(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints, scores and areas of people in clusters, so that some are alike."""
    rng = np.random.default_rng(seed)
    seats = rng.uniform(0, 400, (3, 17, 2))
    poses = seats[rng.integers(0, 3, count)] + rng.normal(0, 5, (count, 17, 2))
    return poses, rng.permutation(count) / count, rng.uniform(500, 20000, count)


@few
@given(SEEDS, st.integers(1, 12))
def test_oks_lies_in_0_1_and_is_1_at_identity(seed: int, count: int) -> None:
    poses, _, areas = people(seed, count)
    found = oks(poses[0], poses, areas[0], areas)
    assert found[0] == 1
    assert ((found >= 0) & (found <= 1)).all()
    mirrored = [oks(p, poses[:1], a, areas[:1])[0] for p, a in zip(poses, areas, strict=True)]
    np.testing.assert_allclose(found, mirrored)


@few
@given(SEEDS, st.integers(0, 12), st.floats(0.1, 0.95))
def test_oks_nms_keeps_the_best_and_nothing_alike(seed: int, count: int, threshold: float) -> None:
    poses, scores, areas = people(seed, count)
    kept = oks_nms(poses, scores, areas, threshold)
    assert len(set(kept.tolist())) == len(kept)
    assert list(scores[kept]) == sorted(scores[kept], reverse=True)
    if count:
        assert kept[0] == scores.argmax()
    for i in range(count):
        alike = oks(poses[i], poses[kept], areas[i], areas[kept]) > threshold
        better = scores[kept] > scores[i]
        assert bool((alike & better).any()) == (i not in kept)
