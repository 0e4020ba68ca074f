"""Strong augmentations: rigid warps, boxes at keypoints, colour changes that move no pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pose.codecs import gaussian, geometry
from pose.common.params import Ssl
from pose.ssl.hard_views import (
    PATHS,
    HardViews,
    draw_box,
    draw_theta,
    rigid_theta,
    stays_inside,
    warp_maps,
)
from pose.ssl.randaugment import OPERATIONS, randaugment
from sections import DEFAULT, changed

INPUT_WH, MAP_WH = (72, 96), (36, 48)
SSL = changed(
    DEFAULT.ssl,
    paths=("joco", "jccm"),
    rotate_deg=20.0,
    scale_factor=0.15,
    affine_prob=0.8,
    joint_cutout=1,
    joint_occlude=1,
    cutout=1,
    cutmix=1,
    randaugment_ops=2,
    randaugment_magnitude=20,
    min_peak=0.3,
)


def theta_of(angle: float, scale: float, size_wh=INPUT_WH) -> torch.Tensor:
    return rigid_theta(torch.tensor([angle]), torch.tensor([scale]), size_wh)


def transformed(points: np.ndarray, angle: float, scale: float) -> np.ndarray:
    """Input points after the UDP affine of a box around the centre, `scale` times as large."""
    span = np.array(INPUT_WH) - 1.0
    affine = geometry.udp_affine(span / 2, span * scale, angle, INPUT_WH)
    return geometry.apply_affine(affine, points)


@pytest.mark.parametrize("size_wh", [INPUT_WH, MAP_WH, (7, 3)])
def test_rotation_0_and_scale_1_are_the_identity(size_wh) -> None:
    theta = theta_of(0.0, 1.0, size_wh)
    assert torch.equal(theta, torch.eye(2, 3)[None])
    maps = torch.randn(1, 2, size_wh[1], size_wh[0])
    torch.testing.assert_close(warp_maps(maps, theta), maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "scale"), [(0.0, 1.2), (0.0, 0.7), (30.0, 1.0), (-25.0, 1.15), (90.0, 1.3)]
)
def test_warped_gaussian_is_at_its_transformed_keypoint(angle: float, scale: float) -> None:
    """A theta made for the input also warps the heatmap exactly, by UDP's factor."""
    rng = np.random.default_rng(0)
    points = np.array([36.0, 48.0]) + rng.uniform(-14, 14, (8, 2))
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    targets = np.concatenate([points * factor, np.ones((8, 1))], axis=1).astype(np.float32)
    maps = gaussian.render_heatmaps(torch.from_numpy(targets)[None], MAP_WH, 2.5)
    decoded, _ = gaussian.dark_decode(warp_maps(maps, theta_of(angle, scale)), gaussian.Blur(11))
    expected = transformed(points, angle, scale) * factor
    np.testing.assert_allclose(decoded[0].numpy(), expected, atol=0.05)


@pytest.mark.parametrize(("angle", "scale"), [(35.0, 1.0), (-20.0, 1.2), (0.0, 0.8)])
def test_image_and_heatmap_share_theta(angle: float, scale: float) -> None:
    """A dot in the image and one in the heatmap at the same keypoint agree after the warp."""
    joint = np.array([25.0, 60.0])
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    theta = theta_of(angle, scale)
    peaks = []
    for center, size_wh, sigma in ((joint, INPUT_WH, 4.0), (joint * factor, MAP_WH, 2.0)):
        target = torch.tensor([[[*center, 1.0]]], dtype=torch.float32)
        warped = warp_maps(gaussian.render_heatmaps(target, size_wh, sigma), theta)
        peaks.append(gaussian.dark_decode(warped, gaussian.Blur(11))[0][0, 0].numpy())
    np.testing.assert_allclose(peaks[0] * factor, peaks[1], atol=0.05)
    np.testing.assert_allclose(peaks[0], transformed(joint, angle, scale), atol=0.1)


def test_draw_theta_distributions() -> None:
    """Share, standard deviation and limits of rotations and scales, computed from theta."""
    theta = draw_theta(np.random.default_rng(0), SSL, 4000, INPUT_WH).double().numpy()
    aspect = 95 / 71
    c, s = theta[:, 0, 0], theta[:, 0, 1] / aspect
    angle, scale = np.degrees(np.arctan2(s, c)), np.hypot(c, s)
    np.testing.assert_allclose(theta[:, 1, 0], -s / aspect, atol=1e-6)
    rotated = np.abs(angle) > 1e-4
    assert rotated.mean() == pytest.approx(0.8, abs=0.03)
    assert np.abs(angle).max() == pytest.approx(40, abs=0.01)
    assert angle[rotated].std() == pytest.approx(19.3, abs=0.8)  # normal of 20, clipped at 40
    assert (scale.min(), scale.max()) == pytest.approx((0.85, 1.15), abs=1e-5)
    at_limit = np.abs(scale - 1) > 0.15 - 1e-5
    assert at_limit.mean() == pytest.approx(0.317, abs=0.03)  # a normal beyond one deviation
    assert (np.abs(scale[~rotated] - 1) > 1e-4).mean() > 0.95  # all are scaled


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_warp_is_exact_under_autocast(dtype: torch.dtype) -> None:
    maps, theta = torch.rand(2, 3, 95, 71), draw_theta(np.random.default_rng(1), SSL, 2, (71, 95))
    expected = warp_maps(maps, theta)
    with torch.autocast("cpu", dtype=dtype):
        warped = warp_maps(maps, theta)
    assert warped.dtype == torch.float32
    assert torch.equal(warped, expected)


def test_boxes_scale_with_the_input_and_are_inside_it() -> None:
    rng = np.random.default_rng(0)
    for width, low, high in ((192, 20, 38), (72, 7, 15), (384, 40, 76)):
        size = (width, width * 4 // 3)
        boxes = [draw_box(rng, np.array(size) / 2, size) for _ in range(300)]
        heights = [rows.stop - rows.start for rows, _ in boxes]
        widths = [columns.stop - columns.start for _, columns in boxes]
        assert low <= min(heights + widths) <= low + 2
        assert high - 2 <= max(heights + widths) <= high
    for corner in ((0, 0), (71, 95), (-50, 300)):
        for _ in range(20):
            rows, columns = draw_box(rng, np.array(corner, float), INPUT_WH)
            assert 0 <= rows.start <= rows.stop <= 96
            assert 0 <= columns.start <= columns.stop <= 72


def views(seed: int, keypoints, usable=None, ssl: Ssl = SSL) -> HardViews:
    keypoints = np.array(keypoints, float)
    usable = np.ones(keypoints.shape[:2], bool) if usable is None else np.array(usable)
    return HardViews(np.random.default_rng(seed), ssl, keypoints, usable, INPUT_WH)


@pytest.mark.parametrize("joint", [(20.0, 80.0), (50.0, 30.0), (36.0, 48.0)])
def test_joint_cutout_boxes_are_around_keypoints(joint) -> None:
    """Also below row 72, where no box would be if width and height were swapped."""
    holes = []
    for seed in range(150):
        out = views(seed, [[joint]]).joint_cutout(torch.ones(1, 3, 96, 72))
        y, x = np.nonzero((out[0] == 0).all(0).numpy())
        assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)
        assert np.ptp(x) + 1 <= 15
        assert np.ptp(y) + 1 <= 15
        holes.append(((x.min() + x.max()) / 2, (y.min() + y.max()) / 2))
    # a box is [rint(c - half), rint(c + half)): on average its centre is c - 0.5
    np.testing.assert_allclose(np.mean(holes, axis=0), np.array(joint) - 0.5, atol=0.9)
    np.testing.assert_allclose(np.std(holes, axis=0), 3.75, atol=0.6)  # 10 px at width 192


def test_only_usable_keypoints_are_cut() -> None:
    joints = [[(10, 10), (60, 10), (10, 80), (60, 80)]]
    usable = [[False, True, True, False]]
    ssl = changed(SSL, joint_cutout=4)
    out = views(0, joints, usable, ssl).joint_cutout(torch.ones(1, 3, 96, 72))[0, 0]
    assert (out[:48, 36:] == 0).any()
    assert (out[48:, :36] == 0).any()
    assert (out[:48, :36] == 1).all()
    assert (out[48:, 36:] == 1).all()


def indexed_images(batch: int) -> torch.Tensor:
    """Images (batch, 3, 96, 72) whose pixels are 10000 i + 100 y + x."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(72.0), indexing="ij")
    return torch.stack([(10000 * i + 100 * y + x).expand(3, -1, -1) for i in range(batch)])


def test_joint_occlude_pastes_patches_around_another_samples_keypoints() -> None:
    joints = [[(20.0, 75.0)], [(50.0, 25.0)]]
    images, pasted = indexed_images(2), 0
    for seed in range(60):
        out = views(seed, joints).joint_occlude(images)
        for i, other in ((0, 1), (1, 0)):
            y, x = (out[i, 0] != images[i, 0]).nonzero(as_tuple=True)
            if not len(y):
                continue  # the sample was its own source
            pasted += 1
            dx, dy = (int(joints[other][0][axis] - joints[i][0][axis]) for axis in (0, 1))
            expected = 10000 * other + 100 * (y + dy).clamp(0, 95) + (x + dx).clamp(0, 71)
            assert torch.equal(out[i, 0, y, x], expected.float())
            assert abs(float(x.float().mean()) - joints[i][0][0]) < 15
            assert abs(float(y.float().mean()) - joints[i][0][1]) < 15
    assert 40 < pasted < 80


def test_occlusion_misses_by_the_jitter() -> None:
    """14 pixels at width 192 are 5.25 at this width."""
    joints = [[(36.0, 48.0)], [(36.0, 48.0)]]  # so that nothing is shifted but by the jitter
    images, misses = indexed_images(2), []
    jittered = changed(SSL, occlude_jitter=14.0)
    for seed in range(200):
        out = views(seed, joints, ssl=jittered).joint_occlude(images)
        for i in (0, 1):
            y, x = (out[i, 0] // 10000 != i).nonzero(as_tuple=True)
            if len(y):
                value = int(out[i, 0, y[0], x[0]]) % 10000
                misses.append((value % 100 - int(x[0]), value // 100 - int(y[0])))
    assert len(misses) > 100
    assert np.std(misses, axis=0) == pytest.approx(5.25, abs=0.8)
    assert np.abs(np.mean(misses, axis=0)).max() < 1.2


def test_cutout_and_cutmix() -> None:
    images = indexed_images(3) + 1
    blank = views(0, np.zeros((3, 1, 2))).cutout(images)
    for i in range(3):
        hole = blank[i, 0] == 0
        assert 0 < hole.sum() <= 15 * 15
        assert torch.equal(blank[i][:, ~hole], images[i][:, ~hole])
    mixed = [views(seed, np.zeros((3, 1, 2))).cutmix(images) for seed in range(10)]
    changed = 0
    for out in mixed:
        for i in range(3):
            pasted = out[i, 0] != images[i, 0]
            changed += int(pasted.any())
            assert torch.equal(out[i, 0] % 10000, images[i, 0] % 10000)  # from the same place
    assert changed > 5


def test_paths_return_new_tensors() -> None:
    images = indexed_images(2) + 1
    original = images.clone()
    for name in PATHS:
        joints = [[(20.0, 75.0)], [(50.0, 25.0)]]
        outs = [views(seed, joints).augment(name, images) for seed in range(4)]
        assert all(out.shape == images.shape for out in outs)
        assert torch.equal(images, original)
        assert not all(torch.equal(out, images) for out in outs)


def test_a_path_is_its_operations_in_order() -> None:
    images, joints = indexed_images(2) + 1, [[(20.0, 75.0)], [(50.0, 25.0)]]
    separate = views(1, joints)
    expected = separate.cutmix(separate.joint_cutout(images))
    assert torch.equal(views(1, joints).augment("jccm", images), expected)


def test_mixup_has_at_most_a_quarter_of_another_image() -> None:
    images = torch.stack([torch.full((3, 96, 72), float(i)) for i in range(4)])
    shares = []
    for seed in range(60):
        out = views(seed, np.zeros((4, 1, 2))).mixup(images)
        assert (out - images).abs().max() <= 0.25 * 3 + 1e-6
        assert out.mean() == pytest.approx(1.5)  # partners are a permutation
        shares.append(float((out - images).abs().max()))
    assert max(shares) > 0.4


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_pixels_in_place(name: str) -> None:
    """Each pixel depends only on its own value; with sharpness also on its neighbours."""
    levels = torch.full((3, 12, 10), 90, dtype=torch.uint8)
    levels[:, 4:8, 3:7] = torch.tensor([200, 120, 30], dtype=torch.uint8)[:, None, None]
    for strength in (-0.6, 0.6):
        out = OPERATIONS[name](levels, strength)
        assert out.dtype == torch.uint8
        assert (out[:, :2] == out[:, :1, :1]).all()
        inner = out[:, 5:7, 4:6]
        assert (inner == inner[:, :1, :1]).all()


def test_randaugment_depends_only_on_its_generator() -> None:
    image = torch.randn(3, 96, 72, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    first = randaugment(np.random.default_rng(3), image, 2, 20)
    torch.manual_seed(1)
    assert torch.equal(first, randaugment(np.random.default_rng(3), image, 2, 20))
    outs = [randaugment(np.random.default_rng(n), image, 2, 20) for n in range(8)]
    assert len({out.numpy().tobytes() for out in outs}) > 4


def test_randaugment_without_operations_rounds_to_grey_levels() -> None:
    image = torch.randn(3, 96, 72).clamp(-1, 1)
    out = randaugment(np.random.default_rng(0), image, 0, 20)
    assert (out - image).abs().max() < 0.5 / 57 + 1e-3


def test_randaugments_box_scales_with_the_input() -> None:
    """With magnitude 20 of 30 its side is at most 53 pixels at width 192, and 20 at width 72."""
    ssl = changed(SSL, randaugment_ops=0)
    sides = []
    for seed in range(200):
        out = views(seed, np.zeros((1, 1, 2)), ssl=ssl).randaugment(torch.ones(1, 3, 96, 72))
        y, x = np.nonzero((out[0] == 0).all(0).numpy())
        sides += [np.ptp(y) + 1, np.ptp(x) + 1] if len(y) else []
    assert 18 <= max(sides) <= 20
    assert min(sides) <= 3


@pytest.mark.parametrize(("angle", "scale"), [(90.0, 1.0), (30.0, 1.1), (-50.0, 0.6)])
@pytest.mark.parametrize("size_wh", [INPUT_WH, (7, 15)])
def test_warp_is_rigid_in_pixels(size_wh, angle: float, scale: float) -> None:
    """Maps of x and y coordinates: linear functions are interpolated exactly."""
    y, x = torch.meshgrid(torch.arange(size_wh[1]), torch.arange(size_wh[0]), indexing="ij")
    warped = warp_maps(torch.stack([x, y])[None].double(), theta_of(angle, scale, size_wh).double())
    half = (np.array(size_wh) - 1) / 2
    dx, dy = x.numpy() - half[0], y.numpy() - half[1]
    c, s = (scale * function(np.radians(angle)) for function in (np.cos, np.sin))
    expected = np.stack([half[0] + c * dx + s * dy, half[1] - s * dx + c * dy])
    inside = ((expected > 0) & (expected < 2 * half[:, None, None])).all(0)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(warped[0].numpy()[:, inside], expected[:, inside], atol=1e-4)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 0.6), (40.0, 1.0), (-25.0, 0.8)])
def test_stays_inside_agrees_with_transformed_peaks(angle: float, scale: float) -> None:
    y, x = torch.meshgrid(torch.arange(0.0, 48, 6), torch.arange(0.0, 36, 6), indexing="ij")
    peaks = torch.stack([x.flatten(), y.flatten()], 1)[None]
    inside = stays_inside(peaks, theta_of(angle, scale), MAP_WH)[0].numpy()
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    warped = transformed(peaks[0].numpy() / factor, angle, scale) * factor
    expected = ((warped >= 0) & (warped <= np.array(MAP_WH) - 1)).all(1)
    assert (inside == expected).all()
    assert 0 < inside.sum() < len(inside)
