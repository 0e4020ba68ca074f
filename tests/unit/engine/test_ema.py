"""EMA of weights: its formula, and that the model gets its own weights back bit by bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pose.engine.ema import WeightEma


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def moved_(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += torch.ones_like(tensor)


def test_the_law() -> None:
    model = small()
    start = copy.deepcopy(model.state_dict())
    average = WeightEma(model, 0.75)
    for _ in range(2):
        moved_(model)
        average.update_()
    found = average.to_dict()
    assert set(found) == set(start) - {"1.num_batches_tracked"}
    for name, tensor in found.items():  # 0.75 x (0.25 x 1) + 0.25 x 2 above the start
        torch.testing.assert_close(tensor, start[name] + 0.6875)


def test_in_place_and_back() -> None:
    model = small()
    average = WeightEma(model, 0.5)
    moved_(model)
    own = copy.deepcopy(model.state_dict())
    expected = {name: tensor.clone() for name, tensor in average.to_dict().items()}
    with average.swapped_in():
        now = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in expected.items())
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(average.to_dict()[name], expected[name]) for name in expected)


def test_back_after_an_error_too() -> None:
    model = small()
    average = WeightEma(model, 0.5)
    moved_(model)
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="x"), average.swapped_in():
        raise ValueError("x")
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
