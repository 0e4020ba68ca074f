"""The hard paths: warps that are rigid, boxes at their joints, gradients where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.amp import GradScaler

from pose import gaussian, geometry, losses
from pose.codec import UdpCodec
from pose.consistency import (
    HardViews,
    PathSpec,
    consistency_step,
    draw_box,
    draw_theta,
    rigid_theta,
    warp_maps,
)
from pose.engine import Gradients
from pose.inference import predict_maps
from pose.model import ModelSpec, PoseModel, normalise
from pose.skeleton import COCO_17

CPU = torch.device("cpu")
INPUT_WH, MAP_WH = (72, 96), (36, 48)
SPEC = PathSpec(
    rotate_deg=20.0,
    scale_factor=0.15,
    affine_prob=0.8,
    joint_cutout=1,
    joint_occlude=1,
    cutout=1,
    cutmix=1,
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
    theta = draw_theta(np.random.default_rng(0), SPEC, 4000, INPUT_WH).double().numpy()
    applied = np.abs(theta - np.eye(2, 3)).max(axis=(1, 2)) > 1e-6
    assert applied.mean() == pytest.approx(0.8, abs=0.03)
    aspect = 95 / 71
    c, s = theta[applied, 0, 0], theta[applied, 0, 1] / aspect
    angle, zoom = np.degrees(np.arctan2(s, c)), np.hypot(c, s)
    np.testing.assert_allclose(theta[applied, 1, 0], -s / aspect, atol=1e-6)
    assert np.abs(angle).max() == pytest.approx(40, abs=0.01)
    assert angle.std() == pytest.approx(19.3, abs=0.8)  # normal of 20, clipped at 40
    assert zoom.std() == pytest.approx(0.15, abs=0.008)
    assert zoom.mean() == pytest.approx(1, abs=0.01)
    assert zoom.min() > 0.499
    assert zoom.max() < 1.501


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


def views(seed: int, joints, usable=None, spec: PathSpec = SPEC) -> HardViews:
    joints = np.array(joints, float)
    usable = np.ones(joints.shape[:2], bool) if usable is None else np.array(usable)
    return HardViews(np.random.default_rng(seed), spec, joints, usable, INPUT_WH)


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
    spec = PathSpec(20, 0.1, 1, joint_cutout=4, joint_occlude=0, cutout=0, cutmix=0, min_peak=0.3)
    out = views(0, joints, usable, spec).joint_cutout(torch.ones(1, 3, 96, 72))[0, 0]
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
    for name in ("joco", "jccm", "joint_cutout", "joint_occlude", "cutout", "cutmix"):
        out = getattr(views(1, [[(20.0, 75.0)], [(50.0, 25.0)]]), name)(images)
        assert out.shape == images.shape
        assert torch.equal(images, kept)
    joco = views(1, [[(20.0, 75.0)], [(50.0, 25.0)]]).joco(images)
    assert not torch.equal(joco, images)


SMALL_WH, SEED, WEIGHT = (12, 16), (3, 4), 0.7
CODEC = UdpCodec("gaussian", (24, 32), SMALL_WH, 1.0, 0.0546875, COCO_17.flip_indices)


def setup(spec: ModelSpec) -> tuple[PoseModel, list]:
    torch.manual_seed(0)
    model = PoseModel(spec)
    torch.nn.init.normal_(model.head.final_layer.weight)
    targets = torch.rand(2, 17, 3) * torch.tensor([11, 15, 1.0])
    targets[..., 2] = 1
    labelled = [torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8), targets]
    others = [torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8), torch.zeros(2, 17, 3)]
    return model, [labelled, others]


def step_of(model: PoseModel, spec: PathSpec, weight: float = WEIGHT):
    return consistency_step(
        model, spec, CODEC, CPU, "none", SEED, lambda step: weight * (step + 1) / 6
    )


def test_micro_batches_add_up(tiny_model_spec: ModelSpec) -> None:
    """Persons of one micro-batch are covered by those of the other, as if there were one."""
    spec = PathSpec(20, 0.15, 1.0, 2, 2, 1, 2, -1e9)
    found = []
    for accumulate in (1, 2):
        model, batch = setup(tiny_model_spec)
        parts = Gradients(accumulate, GradScaler(enabled=False))
        rows = consistency_step(model, spec, CODEC, CPU, "none", SEED, lambda step: 1.0, parts)(
            batch, 2
        )
        found.append((gradients(model), {name: float(value) for name, value in rows.items()}))
    (whole, row), (parts, other) = found
    assert other == pytest.approx(row, rel=1e-5)
    for name, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-5, rtol=1e-3)


def gradients(model: PoseModel) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def summed_loss(model: PoseModel, batch, spec: PathSpec, step: int, attached: bool):
    """Labelled loss + weight * sum over both paths, in one graph; teacher attached or not."""
    (images, targets), (others, _) = batch
    expected = gaussian.render_heatmaps(targets, SMALL_WH, 1.0)
    supervised = losses.keypoint_mse(model(normalise(images)), expected, targets[..., 2])
    inputs = normalise(others)
    teacher = predict_maps(model, CODEC, inputs, flip=True)
    teacher = teacher if attached else teacher.detach()
    peaks, heights = gaussian.argmax_decode(teacher.detach())
    usable = heights > spec.min_peak
    rng = np.random.default_rng([*SEED, step])
    joints = peaks.numpy().astype(float) * (23 / 11, 31 / 15)
    hard = HardViews(rng, spec, joints, usable.numpy(), (24, 32))
    theta = draw_theta(rng, spec, 2, (24, 32))
    target = warp_maps(teacher, theta)
    paths = [
        losses.keypoint_mse(model(warp_maps(path(inputs), theta)), target, usable.float())
        for path in (hard.joco, hard.jccm)
    ]
    return supervised, sum(paths), WEIGHT * (step + 1) / 6


@pytest.mark.parametrize("min_peak", [-1e9, 1.5])
def test_the_gradient_is_that_of_the_sum_with_a_fixed_teacher(
    tiny_model_spec: ModelSpec, min_peak: float
) -> None:
    model, batch = setup(tiny_model_spec)
    spec = PathSpec(20, 0.15, 1.0, 2, 1, 1, 1, min_peak)
    rows = step_of(model, spec)(batch, 2)
    found = gradients(model)

    def reference(attached: bool) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        supervised, paths, weight = summed_loss(model, batch, spec, 2, attached)
        (supervised + weight * paths).backward()
        assert float(rows["loss"]) == pytest.approx(float(supervised.detach()), rel=1e-5)
        assert float(rows["loss_u"]) == pytest.approx(float(paths.detach()), rel=1e-5)
        return gradients(model)

    expected, wrong = reference(attached=False), reference(attached=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    name = "head.final_layer.weight"
    assert (wrong[name] - found[name]).abs().max() > 1e-3  # an attached teacher would show


def test_unusable_joints_get_no_gradient(tiny_model_spec: ModelSpec) -> None:
    model, batch = setup(tiny_model_spec)
    batch[0][1][..., 2] = 0  # no label either
    with torch.no_grad():
        heights = predict_maps(model, CODEC, normalise(batch[1][0]), True).amax((2, 3))
    middle = float(heights.amax(0).median())
    rows = step_of(model, PathSpec(20, 0.15, 1.0, 2, 1, 1, 1, middle))(batch, 0)
    usable = (heights > middle).any(0)
    assert 0 < usable.sum() < 17
    by_joint = model.head.final_layer.weight.grad.abs().amax((1, 2, 3))
    assert torch.equal(by_joint > 0, usable)
    assert float(rows["mask"]) == pytest.approx(float((heights > middle).float().mean()))
    assert float(rows["peak"]) == pytest.approx(float(heights.mean()), rel=1e-5)


def test_a_weight_of_zero_leaves_the_labelled_loss_alone(tiny_model_spec: ModelSpec) -> None:
    model, batch = setup(tiny_model_spec)
    step_of(model, SPEC, weight=0.0)(batch, 0)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    summed_loss(model, batch, SPEC, 0, False)[0].backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-5)
