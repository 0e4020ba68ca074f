"""Bad steps: which they are, that they change nothing, and when there are too many."""

from __future__ import annotations

import math

import pytest
import torch

from pose.common.errors import PoseError
from pose.engine.bad_steps import BadSteps, masked_step_


def judged(losses: list[float], norms: list[float] | None = None) -> list[float]:
    bad = BadSteps()
    pairs = zip(losses, norms or [1.0] * len(losses), strict=True)
    return [float(bad.judge_(torch.tensor(loss), torch.tensor(norm))) for loss, norm in pairs]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], []),
        ([4.0, 100.0], [0, 0]),  # 25 times is not more than 25 times
        ([4.0, 100.1, 101.0, 5.0], [0, 1, 1, 0]),  # the bad ones set no measure
        ([1e9, 1e-9, 1.0], [0, 0, 1]),
        ([math.nan, 2.0, math.inf, 2.0], [1, 0, 1, 0]),
        ([math.inf, 1.0], [1, 0]),
    ],
)
def test_the_official_rule(losses: list[float], expected: list[float]) -> None:
    assert judged(losses) == expected


def test_a_gradient_that_is_no_number() -> None:
    assert judged([1.0, 30.0, 30.0], [1.0, math.nan, math.inf]) == [0, 1, 1]
    assert judged([1.0, 20.0, 30.0], [1.0, math.nan, 1.0]) == [0, 1, 1]  # 20 was not accepted


def test_a_masked_step_changes_nothing() -> None:
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.randn(3, 4)
    masked_step_(optimizer, torch.tensor(0.0))
    before = parameter.detach().clone(), {k: v.clone() for k, v in state(optimizer).items()}
    parameter.grad = torch.full((3, 4), math.nan)
    masked_step_(optimizer, torch.tensor(1.0))
    assert torch.equal(parameter, before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in state(optimizer).items())
    assert not hasattr(optimizer, "found_inf")


def test_a_step_that_is_not_masked_is_the_plain_one() -> None:
    found = []
    for masked in (False, True):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(3, 4))
        optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
        for _ in range(3):
            parameter.grad = torch.randn(3, 4)
            masked_step_(optimizer, torch.tensor(0.0)) if masked else optimizer.step()
        found.append(parameter.detach())
    assert torch.equal(*found)


def state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    (moments,) = optimizer.state.values()
    return moments


def test_bad_steps_are_counted_and_not_without_end() -> None:
    bad = BadSteps()
    bad.count_([1, 0, 1, 1], 4, limit=3)
    bad.count_([1, 0, 0], 7, limit=3)  # three in a row over two readings
    assert (bad.total, bad.in_a_row) == (4, 0)
    bad.count_([1, 1], 9, limit=3)
    with pytest.raises(PoseError) as caught:
        bad.count_([1, 1, 0], 12, limit=3)
    assert str(caught.value).startswith(
        "more than train.max_skipped = 3 steps in a row were skipped"
    )
    assert "up to step 12" in str(caught.value)
    assert "lower train.lr" in str(caught.value)
