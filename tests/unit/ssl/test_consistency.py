"""Gradients of a step of stage 2, path by path, with each kind of teacher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.amp import GradScaler

from pose.codecs import gaussian
from pose.codecs.udp import UdpCodec
from pose.common.params import Ssl
from pose.common.skeleton import COCO_17
from pose.engine import losses
from pose.engine.fit import Gradients
from pose.evaluation.predict import predict_maps
from pose.models.pose_model import PoseModel, normalise
from pose.models.spec import ModelSpec
from pose.ssl.consistency import Consistency
from pose.ssl.hard_views import HardViews, draw_theta, stays_inside, warp_maps
from pose.ssl.students import network_teacher
from pose.ssl.targets import Target, ensemble_target, path_loss
from sections import DEFAULT, changed

CPU = torch.device("cpu")
SMALL_WH, SEED, WEIGHT = (12, 16), (3, 4), 0.7
CODEC = UdpCodec("gaussian", (24, 32), SMALL_WH, 1.0, 0.0546875, COCO_17.flip_indices)


def setup(spec: ModelSpec) -> tuple[PoseModel, list]:
    torch.manual_seed(0)
    model = PoseModel(spec)
    torch.nn.init.normal_(model.head.final_layer.weight)
    targets = torch.rand(2, 17, 3) * torch.tensor([11, 15, 1.0])
    targets[..., 2] = 1
    labelled = [torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8), targets]
    unlabelled = [torch.randint(0, 256, (2, 32, 24, 3), dtype=torch.uint8), torch.zeros(2, 17, 3)]
    return model, [labelled, unlabelled]


MULTIAUGS, ENSEMBLE = "multiaugs", "ensemble"


def paths(
    joint_cutout: int, joint_occlude: int, cutout: int, cutmix: int, min_peak: float, *names: str
) -> Ssl:
    """ssl section with these counts of boxes; names are the paths, joco and jccm by default."""
    return changed(
        DEFAULT.ssl,
        paths=names or ("joco", "jccm"),
        rotate_deg=20.0,
        scale_factor=0.15,
        affine_prob=1.0,
        joint_cutout=joint_cutout,
        joint_occlude=joint_occlude,
        cutout=cutout,
        cutmix=cutmix,
        randaugment_ops=2,
        randaugment_magnitude=20,
        min_peak=min_peak,
        loss=MULTIAUGS,
        teacher_weight=0.5,
        temperature=0.5,
        confidence_thr=0.4,
        kl_weight=0.0,
        kl_temperature=0.1,
    )


SSL = paths(1, 1, 1, 1, 0.3)


def step_of(
    model: PoseModel,
    ssl: Ssl,
    weight: float = WEIGHT,
    loss: str = MULTIAUGS,
    gradients: Gradients | None = None,
) -> Consistency:
    """The step of one network that is its own teacher; the weight rises over six steps."""
    gradients = gradients or Gradients(1, GradScaler(enabled=False))
    teacher = network_teacher(model, CODEC, CPU, "none", gradients)
    rise = lambda step: weight * (step + 1) / 6  # noqa: E731
    return Consistency(
        [model], [teacher], changed(ssl, loss=loss), CODEC, CPU, "none", SEED, rise, gradients
    )


@pytest.mark.parametrize("loss", [MULTIAUGS, ENSEMBLE])
def test_micro_batches_add_up(tiny_model_spec: ModelSpec, loss: str) -> None:
    """People in one micro-batch are occluded by those of the other, as in a single batch."""
    ssl = paths(2, 2, 1, 2, -1e9)
    runs = []
    for accumulate in (1, 2):
        model, batch = setup(tiny_model_spec)
        accumulation = Gradients(accumulate, GradScaler(enabled=False))
        rows = step_of(model, ssl, 2.0, loss, accumulation)(batch, 2)
        runs.append((gradients(model), {name: float(value) for name, value in rows.items()}))
    (expected, expected_row), (accumulated, row) = runs
    assert row == pytest.approx(expected_row, rel=1e-5)
    for name, gradient in accumulated.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("loss", [MULTIAUGS, ENSEMBLE])
def test_a_loss_weight_scales_both_losses(tiny_model_spec: ModelSpec, loss: str) -> None:
    runs = []
    for weight in (1.0, 4.0):
        model, batch = setup(tiny_model_spec)
        scaled = Gradients(1, GradScaler(enabled=False), weight)
        row = step_of(model, paths(2, 2, 1, 2, -1e9), 2.0, loss, scaled)(batch, 2)
        runs.append(([float(row[name]) for name in ("loss", "loss_u")], gradients(model)))
    (plain, gradient), (weighted, found) = runs
    assert weighted == pytest.approx([4 * value for value in plain], rel=1e-6)
    assert plain[1] > 0
    for name in gradient:
        torch.testing.assert_close(found[name], 4 * gradient[name], atol=1e-6, rtol=1e-4)


def gradients(model: PoseModel) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def summed_loss(model: PoseModel, batch, ssl: Ssl, step: int, attached: bool):
    """Labelled loss + weight * sum over both paths, in one graph; teacher attached or not."""
    (images, targets), (unlabelled, _) = batch
    expected = gaussian.render_heatmaps(targets, SMALL_WH, 1.0)
    supervised = losses.keypoint_mse(model(normalise(images)), expected, targets[..., 2])
    inputs = normalise(unlabelled)
    teacher = predict_maps(model, CODEC, inputs, flip=True)
    teacher = teacher if attached else teacher.detach()
    peaks, peak_values = gaussian.argmax_decode(teacher.detach())
    usable = peak_values > ssl.min_peak
    rng = np.random.default_rng([*SEED, step])
    keypoints = peaks.numpy().astype(float) * (23 / 11, 31 / 15)
    views = HardViews(rng, ssl, keypoints, usable.numpy(), (24, 32))
    theta = draw_theta(rng, ssl, 2, (24, 32))
    target = warp_maps(teacher, theta)
    paths = [
        losses.keypoint_mse(
            model(warp_maps(views.augment(path, inputs), theta)), target, usable.float()
        )
        for path in ssl.paths
    ]
    return supervised, sum(paths), WEIGHT * (step + 1) / 6


@pytest.mark.parametrize("min_peak", [-1e9, 1.5])
def test_gradient_is_that_of_the_sum_with_a_detached_teacher(
    tiny_model_spec: ModelSpec, min_peak: float
) -> None:
    model, batch = setup(tiny_model_spec)
    ssl = paths(2, 1, 1, 1, min_peak)
    rows = step_of(model, ssl)(batch, 2)
    found = gradients(model)

    def reference(attached: bool) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        supervised, paths, weight = summed_loss(model, batch, ssl, 2, attached)
        (supervised + weight * paths).backward()
        assert float(rows["loss"]) == pytest.approx(float(supervised.detach()), rel=1e-5)
        assert float(rows["loss_u"]) == pytest.approx(float(paths.detach()), rel=1e-5)
        return gradients(model)

    expected, attached = reference(attached=False), reference(attached=True)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    name = "head.final_layer.weight"
    assert (attached[name] - found[name]).abs().max() > 1e-3  # the test can tell them apart


def test_unusable_keypoints_get_no_gradient(tiny_model_spec: ModelSpec) -> None:
    model, batch = setup(tiny_model_spec)
    batch[0][1][..., 2] = 0  # no labels either
    with torch.no_grad():
        heights = predict_maps(model, CODEC, normalise(batch[1][0]), True).amax((2, 3))
    middle = float(heights.amax(0).median())
    rows = step_of(model, paths(2, 1, 1, 1, middle))(batch, 0)
    usable = (heights > middle).any(0)
    assert 0 < usable.sum() < 17
    by_joint = model.head.final_layer.weight.grad.abs().amax((1, 2, 3))
    assert torch.equal(by_joint > 0, usable)
    assert float(rows["mask"]) == pytest.approx(float((heights > middle).float().mean()))
    assert float(rows["peak"]) == pytest.approx(float(heights.mean()), rel=1e-5)


def test_weight_of_zero_leaves_only_the_labelled_loss(tiny_model_spec: ModelSpec) -> None:
    model, batch = setup(tiny_model_spec)
    step_of(model, SSL, weight=0.0)(batch, 0)
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    summed_loss(model, batch, SSL, 0, False)[0].backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-7, rtol=1e-5)


def test_labels_as_teacher(tiny_model_spec: ModelSpec) -> None:
    """As in benchmarks/unlabelled.py: strong views of labelled people, with labels as targets."""
    model, (labelled, unlabelled) = setup(tiny_model_spec)
    unlabelled[1] = labelled[1].clone()
    unlabelled[1][:, 3:, 2] = 0
    step = replace(step_of(model, SSL), teachers=[lambda images, targets: CODEC.render(targets)])
    drawn = step.draw_views(0, *unlabelled, 1)
    torch.testing.assert_close(drawn.teacher_maps, CODEC.render(unlabelled[1]))
    assert drawn.usable[:, :3].all()
    assert not drawn.usable[:, 3:].any()


def two_students(spec: ModelSpec) -> tuple[list[PoseModel], Consistency, list]:
    first, batch = setup(spec)
    torch.manual_seed(1)
    second = PoseModel(spec)
    torch.nn.init.normal_(second.head.final_layer.weight)
    teachers = [network_teacher(model, CODEC, CPU, "none") for model in (second, first)]
    step = replace(step_of(first, paths(1, 1, 1, 1, -1e9)), students=[first, second])
    return [first, second], replace(step, teachers=teachers), batch


def test_two_networks_are_each_others_teachers(tiny_model_spec: ModelSpec) -> None:
    students, step, batch = two_students(tiny_model_spec)
    images = normalise(batch[1][0])
    for i in (0, 1):
        teacher_maps = step.draw_views(i, *batch[1], 4).teacher_maps
        with torch.no_grad():
            expected = predict_maps(students[1 - i], CODEC, images, flip=True)
        torch.testing.assert_close(teacher_maps, expected)
    rows = step(batch, 4)
    assert rows.keys() == {"loss", "loss_u", "mask", "confidence", "peak", "peak_joco", "peak_jccm"}
    for student in students:
        assert all(p.grad is not None for p in student.parameters() if p.requires_grad)


def test_two_networks_have_different_views(tiny_model_spec: ModelSpec) -> None:
    _, step, batch = two_students(tiny_model_spec)
    thetas = [step.draw_views(i, *batch[1], 4).theta for i in (0, 1)]
    assert not torch.equal(*thetas)
    assert torch.equal(thetas[0], step.draw_views(0, *batch[1], 4).theta)


def reference_ensemble(model: PoseModel, batch, ssl: Ssl, step: int) -> Target:
    """The target from the heatmaps of all paths in one graph."""
    drawn = step_of(model, ssl).draw_views(0, *batch[1], step)
    with torch.no_grad():
        maps = [
            model(warp_maps(drawn.views.augment(path, drawn.all_images), drawn.theta))
            for path in ssl.paths
        ]
    inside = stays_inside(drawn.peaks, drawn.theta, SMALL_WH)
    return ensemble_target(drawn.warped_maps, torch.stack(maps).mean(0), inside, ssl, CODEC.sigma)


def test_ensemble_and_loss_use_the_same_views(tiny_model_spec: ModelSpec) -> None:
    model, batch = setup(tiny_model_spec)
    ssl = paths(2, 1, 1, 1, -1e9, "joco", "jccm", "mu", "randaugment")
    rows = step_of(model, ssl, loss=ENSEMBLE)(batch, 2)
    found = gradients(model)
    target = reference_ensemble(model, batch, ssl, 2)
    model.zero_grad(set_to_none=True)
    drawn = step_of(model, ssl).draw_views(0, *batch[1], 2)
    total = torch.zeros(())
    for path in ssl.paths:
        heatmaps = model(warp_maps(drawn.views.augment(path, drawn.all_images), drawn.theta))
        total = total + path_loss(heatmaps, target, ssl)
    (images, targets), _ = batch
    expected = gaussian.render_heatmaps(targets, SMALL_WH, 1.0)
    supervised = losses.keypoint_mse(model(normalise(images)), expected, targets[..., 2])
    (supervised + WEIGHT / 2 * total).backward()
    assert float(rows["loss_u"]) == pytest.approx(float(total.detach()), rel=1e-5)
    assert float(rows["confidence"]) == pytest.approx(float(target.confidence.mean()), rel=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def peak_saved_bytes(model: PoseModel, batch, step: Consistency) -> int:
    """Maximum over a step of the bytes that autograd has saved for backward."""
    saved, most = 0, 0

    class Box:
        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal saved, most
            self.tensor, self.size = tensor, tensor.nbytes
            saved += self.size
            most = max(most, saved)

        def __del__(self) -> None:
            nonlocal saved
            saved -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.tensor):
        step(batch, 0)
    assert saved == 0
    return most


@pytest.mark.parametrize("loss", [MULTIAUGS, ENSEMBLE])
def test_memory_does_not_grow_with_the_number_of_paths(
    tiny_model_spec: ModelSpec, loss: str
) -> None:
    model, batch = setup(tiny_model_spec)
    names = ("jc", "jo", "joco", "jccm")
    peaks = [
        peak_saved_bytes(
            model, batch, step_of(model, paths(1, 1, 1, 1, 0.3, *names[:count]), loss=loss)
        )
        for count in (1, 2, 4)
    ]
    assert peaks[0] == peaks[1] == peaks[2] > 0
