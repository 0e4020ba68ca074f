"""Targets of unlabelled people: effect of agreement and peak values on target and gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pose.codecs.gaussian import render_heatmaps
from pose.common.params import Ssl
from pose.engine.losses import keypoint_mse
from pose.ssl.targets import (
    Target,
    ensemble_target,
    path_loss,
    sharpen,
    softmax_kl,
    teacher_target,
)
from sections import DEFAULT, changed

SIZE_WH, SIGMA = (36, 48), 2.0
ENSEMBLE = changed(
    DEFAULT.ssl,
    loss="ensemble",
    teacher_weight=0.5,
    temperature=0.5,
    confidence_thr=0.4,
    kl_weight=0.0,
    kl_temperature=0.1,
)
INSIDE = torch.ones(1, 1, dtype=torch.bool)


def blob(x: float, y: float, peak: float = 1.0, sigma: float = SIGMA) -> Tensor:
    """Heatmap (1, 1, 48, 36) of a gaussian, not truncated to a window."""
    yy, xx = torch.meshgrid(torch.arange(48.0), torch.arange(36.0), indexing="ij")
    return peak * torch.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2))[None, None]


def mean_of(*maps: Tensor) -> Tensor:
    return torch.stack(maps).mean(0)


def target_of(teacher: Tensor, *paths: Tensor, ssl: Ssl = ENSEMBLE) -> Target:
    return ensemble_target(teacher, mean_of(*paths), INSIDE, ssl, SIGMA)


def test_confidence_of_a_gaussian_is_high_and_of_a_softmax_low() -> None:
    maps = torch.rand(1, 4, 128, 96, generator=torch.Generator().manual_seed(0))
    assert float((maps.flatten(2) / 0.5).softmax(2).max()) < 1e-3
    assert float(target_of(blob(17.3, 20.6), blob(17.3, 20.6)).confidence) > 0.93


def test_disagreeing_paths_all_get_gradients_and_the_target_none() -> None:
    teacher = blob(18, 24).requires_grad_()
    paths = [blob(x, y).requires_grad_() for x, y in ((18, 20), (18, 28), (22, 24))]
    target = target_of(teacher, *paths)
    assert float(target.confidence) > 0.5
    assert not any(t.requires_grad for t in (target.maps, target.weights, target.confidence))
    loss = sum(path_loss(path, target, ENSEMBLE) for path in paths)
    loss.backward()
    assert float(loss.detach()) > 0
    assert teacher.grad is None
    assert all(float(path.grad.norm()) > 0 for path in paths)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.25])
def test_loss_of_agreeing_views_is_zero(temperature: float) -> None:
    ssl = changed(ENSEMBLE, temperature=temperature)
    for (x, y), limit in (((18, 24), 1e-6), ((18.4, 24.3), 1e-5)):
        path = blob(x, y).requires_grad_()
        target = target_of(path, path, path, ssl=ssl)
        loss = path_loss(path, target, ssl)
        loss.backward()
        assert float(loss.detach()) < limit
        if limit == 1e-6:
            assert float(path.grad.norm()) < 1e-5
    shifted = path_loss(blob(22, 24), target_of(blob(18, 24), blob(18, 24), ssl=ssl), ssl)
    assert float(shifted) > 1e-3


@pytest.mark.parametrize(("centre", "limit"), [((0, 24), 1e-6), ((35, 47), 1e-6), ((1, 1), 2e-4)])
def test_loss_of_agreeing_views_at_the_border(centre: tuple[int, int], limit: float) -> None:
    """On an edge the mirrored blur is exact; near one the peak moves by at most one cell."""
    path = blob(*centre)
    target = target_of(path, path)
    assert float(path_loss(path, target, ENSEMBLE)) < limit
    y, x = divmod(int(target.maps.argmax()), SIZE_WH[0])
    assert max(abs(x - centre[0]), abs(y - centre[1])) <= 1


def test_loss_of_agreeing_views_without_the_blur_is_not_zero() -> None:
    path = blob(18, 24)
    plain = (path / path.amax()) ** (1 / ENSEMBLE.temperature)
    assert float(keypoint_mse(path, plain, torch.ones(1, 1))) > 1e-4


def test_rendered_labels_are_unchanged_by_sharpen() -> None:
    """Up to the edges of their windows at three sigma, which the blur smooths."""
    label = render_heatmaps(torch.tensor([[[18.0, 24.0, 1.0]]]), SIZE_WH, SIGMA)
    assert float(keypoint_mse(label, sharpen(label, 0.5, SIGMA), torch.ones(1, 1))) < 1e-5


def test_sharpen_reduces_a_second_mode() -> None:
    both = blob(10, 12) + blob(26, 36, peak=0.3)
    for temperature, most in ((1.0, 0.31), (0.5, 0.1), (0.25, 0.01)):
        maps = sharpen(both, temperature, SIGMA)
        assert float(maps[0, 0, 36, 26]) < most
        assert float(maps[0, 0, 12, 10]) == pytest.approx(1)


def test_confidence_rises_with_the_peak_and_falls_with_disagreement() -> None:
    by_peak = [
        float(target_of(blob(18, 24, p), blob(18, 24, p)).confidence) for p in (0.2, 0.5, 0.9)
    ]
    assert by_peak == sorted(by_peak)
    apart = [
        float(target_of(blob(18, 24), blob(18 + d, 24), blob(18 - d, 24)).confidence)
        for d in (0, 1, 2, 4, 8)
    ]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] == pytest.approx(1)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_confidence_of_disagreeing_views_is_the_largest_share(share: float) -> None:
    ssl = changed(ENSEMBLE, teacher_weight=share)
    target = target_of(blob(8, 8), blob(28, 40), blob(28, 8), ssl=ssl)
    assert float(target.confidence) == pytest.approx(max(share, (1 - share) / 2), abs=1e-3)
    above = changed(ssl, confidence_thr=float(target.confidence) + 0.01)
    assert float(target_of(blob(8, 8), blob(28, 40), blob(28, 8), ssl=above).weights) == 0


@pytest.mark.parametrize("kl_weight", [0.0, 1e-4])
def test_empty_maps_have_no_loss(kl_weight: float) -> None:
    ssl = changed(ENSEMBLE, kl_weight=kl_weight)
    empty = torch.zeros(1, 1, 48, 36, requires_grad=True)
    target = target_of(empty, empty, empty, ssl=ssl)
    assert float(target.confidence) == float(target.weights) == 0
    loss = path_loss(empty, target, ssl)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(empty.grad, torch.zeros_like(empty))
    assert torch.isfinite(target.maps).all()


def test_masked_keypoints_get_no_gradient_and_weights_scale() -> None:
    maps = torch.cat([blob(18, 24, 0.3), blob(18, 24, 0.9), blob(18, 24, 0.9)], 1)
    inside = torch.tensor([[True, True, False]])
    target = ensemble_target(maps, maps, inside, ENSEMBLE, SIGMA)
    torch.testing.assert_close(target.weights, torch.tensor([[0.0, 0.9, 0.0]]))
    path = torch.zeros_like(maps).requires_grad_()
    path_loss(path, target, changed(ENSEMBLE, kl_weight=1e-4)).backward()
    by_keypoint = path.grad.abs().sum((0, 2, 3))
    assert by_keypoint[0] == by_keypoint[2] == 0
    assert by_keypoint[1] > 0
    double = replace(target, weights=2 * target.weights)
    once, twice = (path_loss(path.detach(), t, ENSEMBLE) for t in (target, double))
    assert float(twice) == pytest.approx(2 * float(once))


@pytest.mark.parametrize("kl_weight", [0.0, 1e-4])
def test_an_empty_student_gets_a_gradient_towards_the_target(kl_weight: float) -> None:
    ssl = changed(ENSEMBLE, kl_weight=kl_weight)
    target = target_of(blob(18, 24), blob(18, 24), ssl=ssl)
    path = torch.zeros(1, 1, 48, 36, requires_grad=True)
    loss = path_loss(path, target, ssl)
    loss.backward()
    assert float(loss.detach()) > 1e-4
    assert float(path.grad[0, 0, 24, 18]) < 0


def test_kl_is_finite_positive_and_zero_for_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    target = target_of(blob(18, 24), blob(18, 24))
    for dtype in (torch.float32, torch.float16):
        path = (torch.rand(1, 1, 48, 36, generator=generator) * 10 - 5).to(dtype).requires_grad_()
        divergence = softmax_kl(path, target, 0.1)
        divergence.backward()
        assert divergence.dtype == torch.float32
        assert float(divergence.detach()) > 0
        assert torch.isfinite(path.grad).all()
    assert float(softmax_kl(target.maps, target, 0.1)) == pytest.approx(0, abs=1e-6)


def peak_after_training(target_map, steps: int = 200) -> float:
    """Peak of a map M after `steps` on views 0.6 M and 0.9 M with targets by target_map."""
    shared = blob(18, 24, 0.8)
    for _ in range(steps):
        shared = shared.detach().requires_grad_()
        views = [0.6 * shared, 0.9 * shared]
        target = target_map(shared.detach(), [v.detach() for v in views])
        sum(keypoint_mse(v, target, torch.ones(1, 1)) for v in views).backward()
        shared = shared - 0.2 * shared.numel() * shared.grad
    return float(shared.detach().max())


def test_maps_fade_with_the_mean_of_views_and_not_with_the_ensemble() -> None:
    assert peak_after_training(lambda _, views: mean_of(*views)) < 0.1
    peak = peak_after_training(lambda teacher, views: target_of(teacher, *views).maps)
    assert 0.8 < peak < 1.6
    assert peak == pytest.approx((0.6 + 0.9) / (0.36 + 0.81), abs=0.05)


def test_teacher_target_has_the_unchanged_teacher_maps() -> None:
    maps, weights = blob(18, 24, 0.6), torch.tensor([[1.0]])
    target = teacher_target(maps, weights)
    assert torch.equal(target.maps, maps)
    assert float(target.confidence) == pytest.approx(0.6)
    loss = path_loss(blob(20, 24), target, changed(ENSEMBLE, loss="multiaugs"))
    assert float(loss) == pytest.approx(float(keypoint_mse(blob(20, 24), maps, weights)))
