"""Exponential moving average (EMA) of a model's weights, with FSDP of each process's shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pose import distributed
from pose.engine import parallel
from pose.models.adapter import trained_names


class WeightEma:
    """EMA of a model's trained parameters and floating-point buffers (batch-norm statistics).

    Starts from the present weights, without warm-up: average = decay * average
    + (1 - decay) * weights. Create it after parallel.wrap_distributed: FSDP replaces the
    parameters. The average is a list of tensors, not a module, because FSDP modules cannot be
    deep-copied, as torch's AveragedModel does.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        state, trained = model.state_dict(), trained_names(model)
        self.live = {n: t for n, t in state.items() if t.is_floating_point() and n in trained}
        self.values = [tensor.clone() for tensor in self.live.values()]
        self._blend = get_ema_multi_avg_fn(decay)

    def update_(self) -> None:
        """Average in the model's present weights; to be called after each step."""
        self._blend(self.values, list(self.live.values()), None)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the context the model has the averaged weights; its own are restored bit by bit.

        Not between a forward and its backward: autograd refuses weights that changed in place.
        """
        self._swap_()
        try:
            yield
        finally:
            self._swap_()

    @torch.no_grad()
    def _swap_(self) -> None:
        for weight, average in zip(self.live.values(), self.values, strict=True):
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)

    def reset_(self) -> None:
        """Set the average to the model's present weights."""
        for weight, average in zip(self.live.values(), self.values, strict=True):
            average.copy_(weight)

    def to_dict(self) -> dict[str, Any]:
        """Full tensors by name, on the CPU if there are several processes; all must call it."""
        full = {n: parallel.full_tensor(t) for n, t in zip(self.live, self.values, strict=True)}
        if distributed.world_size() == 1:
            return full
        return {name: tensor.cpu() for name, tensor in full.items()}
