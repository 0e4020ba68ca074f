"""The hard views: warps that are rigid, boxes at their joints, colours that move nothing."""

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


def moved(points: np.ndarray, angle: float, scale: float) -> np.ndarray:
    """Where input points go: about the centre, by the udp affine of a box `scale` times as big."""
    span = np.array(INPUT_WH) - 1.0
    affine = geometry.udp_affine(span / 2, span * scale, angle, INPUT_WH)
    return geometry.apply_affine(affine, points)


@pytest.mark.parametrize("size_wh", [INPUT_WH, MAP_WH, (7, 3)])
def test_no_turn_and_no_zoom_is_identity(size_wh) -> None:
    theta = theta_of(0.0, 1.0, size_wh)
    assert torch.equal(theta, torch.eye(2, 3)[None])
    maps = torch.randn(1, 2, size_wh[1], size_wh[0])
    torch.testing.assert_close(warp_maps(maps, theta), maps, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "scale"), [(0.0, 1.2), (0.0, 0.7), (30.0, 1.0), (-25.0, 1.15), (90.0, 1.3)]
)
def test_a_gaussian_goes_where_its_joint_goes(angle: float, scale: float) -> None:
    """One theta, made for the input, serves the heatmap: the UDP factor stays exact."""
    rng = np.random.default_rng(0)
    points = np.array([36.0, 48.0]) + rng.uniform(-14, 14, (8, 2))
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    targets = np.concatenate([points * factor, np.ones((8, 1))], axis=1).astype(np.float32)
    maps = gaussian.render_heatmaps(torch.from_numpy(targets)[None], MAP_WH, 2.5)
    found, _ = gaussian.dark_decode(warp_maps(maps, theta_of(angle, scale)), gaussian.Blur(11))
    expected = moved(points, angle, scale) * factor
    np.testing.assert_allclose(found[0].numpy(), expected, atol=0.05)


@pytest.mark.parametrize(("angle", "scale"), [(35.0, 1.0), (-20.0, 1.2), (0.0, 0.8)])
def test_image_and_heatmap_share_theta(angle: float, scale: float) -> None:
    """A dot of the image and a dot of the map at the same joint stay together."""
    joint = np.array([25.0, 60.0])
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    theta = theta_of(angle, scale)
    peaks = []
    for center, size_wh, sigma in ((joint, INPUT_WH, 4.0), (joint * factor, MAP_WH, 2.0)):
        target = torch.tensor([[[*center, 1.0]]], dtype=torch.float32)
        warped = warp_maps(gaussian.render_heatmaps(target, size_wh, sigma), theta)
        peaks.append(gaussian.dark_decode(warped, gaussian.Blur(11))[0][0, 0].numpy())
    np.testing.assert_allclose(peaks[0] * factor, peaks[1], atol=0.05)
    np.testing.assert_allclose(peaks[0], moved(joint, angle, scale), atol=0.1)


def test_draw_theta_laws() -> None:
    """Share, spread and clip of turns and zooms, read back from theta."""
    theta = draw_theta(np.random.default_rng(0), SSL, 4000, INPUT_WH).double().numpy()
    aspect = 95 / 71
    c, s = theta[:, 0, 0], theta[:, 0, 1] / aspect
    angle, zoom = np.degrees(np.arctan2(s, c)), np.hypot(c, s)
    np.testing.assert_allclose(theta[:, 1, 0], -s / aspect, atol=1e-6)
    turned = np.abs(angle) > 1e-4
    assert turned.mean() == pytest.approx(0.8, abs=0.03)
    assert np.abs(angle).max() == pytest.approx(40, abs=0.01)
    assert angle[turned].std() == pytest.approx(19.3, abs=0.8)  # normal of 20, cut at 40
    assert (zoom.min(), zoom.max()) == pytest.approx((0.85, 1.15), abs=1e-5)
    at_limit = np.abs(zoom - 1) > 0.15 - 1e-5
    assert at_limit.mean() == pytest.approx(0.317, abs=0.03)  # a normal beyond one deviation
    assert (np.abs(zoom[~turned] - 1) > 1e-4).mean() > 0.95  # all are zoomed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_move_a_picture(dtype: torch.dtype) -> None:
    maps, theta = torch.rand(2, 3, 95, 71), draw_theta(np.random.default_rng(1), SSL, 2, (71, 95))
    expected = warp_maps(maps, theta)
    with torch.autocast("cpu", dtype=dtype):
        found = warp_maps(maps, theta)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_boxes_scale_with_the_input_and_stay_inside() -> None:
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


def views(seed: int, joints, usable=None, ssl: Ssl = SSL) -> HardViews:
    joints = np.array(joints, float)
    usable = np.ones(joints.shape[:2], bool) if usable is None else np.array(usable)
    return HardViews(np.random.default_rng(seed), ssl, joints, usable, INPUT_WH)


@pytest.mark.parametrize("joint", [(20.0, 80.0), (50.0, 30.0), (36.0, 48.0)])
def test_joint_cutout_blanks_around_x_y(joint) -> None:
    """Also below row 72, which a box with width and height swapped never reaches."""
    holes = []
    for seed in range(150):
        out = views(seed, [[joint]]).joint_cutout(torch.ones(1, 3, 96, 72))
        y, x = np.nonzero((out[0] == 0).all(0).numpy())
        assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1)
        assert np.ptp(x) + 1 <= 15
        assert np.ptp(y) + 1 <= 15
        holes.append(((x.min() + x.max()) / 2, (y.min() + y.max()) / 2))
    # a box is [rint(c - half), rint(c + half)) - its last pixel lies half a pixel short of c
    np.testing.assert_allclose(np.mean(holes, axis=0), np.array(joint) - 0.5, atol=0.9)
    np.testing.assert_allclose(np.std(holes, axis=0), 3.75, atol=0.6)  # 10 px at width 192


def test_only_usable_joints_are_cut_and_each_once() -> None:
    joints = [[(10, 10), (60, 10), (10, 80), (60, 80)]]
    usable = [[False, True, True, False]]
    ssl = changed(SSL, joint_cutout=4)
    out = views(0, joints, usable, ssl).joint_cutout(torch.ones(1, 3, 96, 72))[0, 0]
    assert (out[:48, 36:] == 0).any()
    assert (out[48:, :36] == 0).any()
    assert (out[:48, :36] == 1).all()
    assert (out[48:, 36:] == 1).all()


def coded(batch: int) -> torch.Tensor:
    """Images whose pixels say who and where they are: 10000 i + 100 y + x."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(72.0), indexing="ij")
    return torch.stack([(10000 * i + 100 * y + x).expand(3, -1, -1) for i in range(batch)])


def test_joint_occlude_pastes_the_others_joint_here() -> None:
    joints = [[(20.0, 75.0)], [(50.0, 25.0)]]
    images, pasted = coded(2), 0
    for seed in range(60):
        out = views(seed, joints).joint_occlude(images)
        for i, other in ((0, 1), (1, 0)):
            y, x = (out[i, 0] != images[i, 0]).nonzero(as_tuple=True)
            if not len(y):
                continue  # the sample drew itself
            pasted += 1
            dx, dy = (int(joints[other][0][axis] - joints[i][0][axis]) for axis in (0, 1))
            expected = 10000 * other + 100 * (y + dy).clamp(0, 95) + (x + dx).clamp(0, 71)
            assert torch.equal(out[i, 0, y, x], expected.float())
            assert abs(float(x.float().mean()) - joints[i][0][0]) < 15
            assert abs(float(y.float().mean()) - joints[i][0][1]) < 15
    assert 40 < pasted < 80


def test_cutout_and_cutmix() -> None:
    images = coded(3) + 1
    blank = views(0, np.zeros((3, 1, 2))).cutout(images)
    for i in range(3):
        hole = blank[i, 0] == 0
        assert 0 < hole.sum() <= 15 * 15
        assert torch.equal(blank[i][:, ~hole], images[i][:, ~hole])
    mixed = [views(seed, np.zeros((3, 1, 2))).cutmix(images) for seed in range(10)]
    changed = 0
    for out in mixed:
        for i in range(3):
            here = out[i, 0] != images[i, 0]
            changed += int(here.any())
            assert torch.equal(out[i, 0] % 10000, images[i, 0] % 10000)  # the same place
    assert changed > 5


def test_views_return_new_tensors() -> None:
    images = coded(2) + 1
    kept = images.clone()
    for name in PATHS:
        joints = [[(20.0, 75.0)], [(50.0, 25.0)]]
        found = [views(seed, joints).along(name, images) for seed in range(4)]
        assert all(out.shape == images.shape for out in found)
        assert torch.equal(images, kept)
        assert not all(torch.equal(out, images) for out in found)


def test_a_path_is_its_steps_in_turn() -> None:
    images, joints = coded(2) + 1, [[(20.0, 75.0)], [(50.0, 25.0)]]
    both = views(1, joints)
    expected = both.cutmix(both.joint_cutout(images))
    assert torch.equal(views(1, joints).along("jccm", images), expected)


def test_mixup_keeps_the_own_image_in_front() -> None:
    images = torch.stack([torch.full((3, 96, 72), float(i)) for i in range(4)])
    shares = []
    for seed in range(60):
        out = views(seed, np.zeros((4, 1, 2))).mixup(images)
        assert (out - images).abs().max() <= 0.25 * 3 + 1e-6
        assert out.mean() == pytest.approx(1.5)  # a permutation of persons
        shares.append(float((out - images).abs().max()))
    assert max(shares) > 0.4


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_pixels_in_place(name: str) -> None:
    """Only colours change: each pixel follows its own value, sharpness its neighbours' too."""
    levels = torch.full((3, 12, 10), 90, dtype=torch.uint8)
    levels[:, 4:8, 3:7] = torch.tensor([200, 120, 30], dtype=torch.uint8)[:, None, None]
    for strength in (-0.6, 0.6):
        out = OPERATIONS[name](levels, strength)
        assert out.dtype == torch.uint8
        assert (out[:, :2] == out[:, :1, :1]).all()
        inner = out[:, 5:7, 4:6]
        assert (inner == inner[:, :1, :1]).all()


def test_randaugment_is_drawn_from_its_generator() -> None:
    image = torch.randn(3, 96, 72, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    first = randaugment(np.random.default_rng(3), image, 2, 20)
    torch.manual_seed(1)
    assert torch.equal(first, randaugment(np.random.default_rng(3), image, 2, 20))
    found = [randaugment(np.random.default_rng(n), image, 2, 20) for n in range(8)]
    assert len({out.numpy().tobytes() for out in found}) > 4


def test_randaugment_of_nothing_is_the_image_on_grey_levels() -> None:
    image = torch.randn(3, 96, 72).clamp(-1, 1)
    out = randaugment(np.random.default_rng(0), image, 0, 20)
    assert (out - image).abs().max() < 0.5 / 57 + 1e-3


def test_randaugments_box_scales_with_the_input() -> None:
    """At magnitude 20 of 30 its side is up to 53 pixels at width 192, 20 at 72."""
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
def test_the_warp_is_rigid_to_the_pixel(size_wh, angle: float, scale: float) -> None:
    """Maps that tell their own x and y: a linear map is interpolated exactly."""
    y, x = torch.meshgrid(torch.arange(size_wh[1]), torch.arange(size_wh[0]), indexing="ij")
    there = warp_maps(torch.stack([x, y])[None].double(), theta_of(angle, scale, size_wh).double())
    half = (np.array(size_wh) - 1) / 2
    dx, dy = x.numpy() - half[0], y.numpy() - half[1]
    c, s = (scale * turn(np.radians(angle)) for turn in (np.cos, np.sin))
    expected = np.stack([half[0] + c * dx + s * dy, half[1] - s * dx + c * dy])
    inside = ((expected > 0) & (expected < 2 * half[:, None, None])).all(0)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(there[0].numpy()[:, inside], expected[:, inside], atol=1e-4)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 0.6), (40.0, 1.0), (-25.0, 0.8)])
def test_what_stays_inside_is_seen_there(angle: float, scale: float) -> None:
    y, x = torch.meshgrid(torch.arange(0.0, 48, 6), torch.arange(0.0, 36, 6), indexing="ij")
    peaks = torch.stack([x.flatten(), y.flatten()], 1)[None]
    inside = stays_inside(peaks, theta_of(angle, scale), MAP_WH)[0].numpy()
    factor = geometry.input_to_heatmap_factor(INPUT_WH, MAP_WH)
    landed = moved(peaks[0].numpy() / factor, angle, scale) * factor
    expected = ((landed >= 0) & (landed <= np.array(MAP_WH) - 1)).all(1)
    assert (inside == expected).all()
    assert 0 < inside.sum() < len(inside)
