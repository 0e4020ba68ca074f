"""The loss against a plain loop of the official formula."""

from __future__ import annotations

import pytest
import torch

from pose.engine.losses import combined_mse, keypoint_mse


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.4)])
def test_mean_over_all_cells_weight_not_squared(weights) -> None:
    generator = torch.Generator().manual_seed(0)
    heatmaps, targets = torch.randn(2, 2, 3, 4, 5, generator=generator)
    weights = torch.tensor([weights, weights[::-1]])
    total = 0.0
    for b in range(2):
        for k in range(3):
            total += float(weights[b, k] * ((heatmaps - targets)[b, k] ** 2).sum())
    found = keypoint_mse(heatmaps, targets, weights)
    assert float(found) == pytest.approx(total / (2 * 3 * 4 * 5), rel=1e-6)


def test_gradient() -> None:
    heatmaps = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    heatmaps.requires_grad_()
    targets, weights = torch.ones(1, 2, 3, 3), torch.tensor([[0.5, 0.0]])
    keypoint_mse(heatmaps, targets, weights).backward()
    expected = 2 * weights[..., None, None] * (heatmaps - targets).detach() / 18
    torch.testing.assert_close(heatmaps.grad, expected)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 0.0, 0.4)])
def test_combined_is_the_official_sum_over_keypoints(weights) -> None:
    """Per keypoint half of three means; offsets count by the weighted disc; weights squared."""
    generator = torch.Generator().manual_seed(0)
    maps, targets = torch.randn(2, 2, 9, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.tensor([weights, weights[::-1]], dtype=torch.float64)
    total = 0.0
    for k in range(3):
        w = weights[:, k, None, None]
        disc, dx, dy = maps[:, 3 * k : 3 * k + 3].unbind(1)
        wanted, wanted_dx, wanted_dy = targets[:, 3 * k : 3 * k + 3].unbind(1)
        gate = w * wanted
        pairs = [(w * disc, gate), (gate * dx, gate * wanted_dx), (gate * dy, gate * wanted_dy)]
        total += sum(0.5 * float(((a - b) ** 2).mean()) for a, b in pairs)
    found = combined_mse(maps, targets, weights)
    assert float(found) == pytest.approx(total / 3, rel=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    heatmaps = torch.full((1, 1, 64, 64), 300.0, dtype=torch.bfloat16)
    found = keypoint_mse(heatmaps, torch.zeros_like(heatmaps), torch.ones(1, 1))
    assert found.dtype == torch.float32
    assert float(found) == 90000.0
