"""Live bytes by hand, and as fake tensors have them."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pose.planner.live import LiveBytes


def test_tensors_count_from_their_operation_until_they_are_freed() -> None:
    known = torch.ones(100)
    with LiveBytes(7, [known]) as live:
        doubled = known * 2  # 400 bytes
        view = doubled[:50]
        half = view.half()  # 100 bytes
        del doubled
        known.add_(1)
        del view
        half.add_(1)
    assert [fixed for fixed, _, _ in live.trace] == [400, 400, 500, 500, 100]


def test_sizes_that_the_batch_divides_count_per_sample() -> None:
    weight, samples = torch.ones(10), torch.ones(7, 10)
    with LiveBytes(7, [weight, samples]) as live:
        moved = samples + weight
        live.block = 3
        total = moved.sum(dim=0)
        del moved
        total.add_(1)
    assert live.trace == [(0, 40, 0), (40, 40, 3), (40, 0, 3)]


def test_the_backward_counts() -> None:
    """The gradient of 40 bytes stays, with or without memory."""
    for mode in (None, FakeTensorMode()):
        with mode or torch.enable_grad():
            weight = torch.ones(10, requires_grad=True)
            with LiveBytes(7, [weight]) as live:
                (weight * weight).sum().backward()
        assert live.fixed == weight.grad.untyped_storage().nbytes() == 40
        assert max(live.trace)[0] > 80
