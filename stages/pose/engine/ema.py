"""A running average of a model's weights (EMA), shard by shard where they lie in shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pose import distributed
from pose.engine import parallel


class Average:
    """Exponential moving average of parameters and of batch norms' statistics, from here on.

    average = decay average + (1 - decay) weights after each step; there is no warm-up. The tensors
    are lists of their own, since torch's AveragedModel copies the module, which FSDP forbids.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        state = model.state_dict()
        self.live = {name: t for name, t in state.items() if t.is_floating_point()}
        self.values = [tensor.clone() for tensor in self.live.values()]
        self._blend = get_ema_multi_avg_fn(decay)

    def update_(self) -> None:
        """Take in the weights as they are now."""
        self._blend(self.values, list(self.live.values()), None)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the model has the average's weights; afterwards its own, to the bit."""
        self._exchange_()
        try:
            yield
        finally:
            self._exchange_()

    @torch.no_grad()
    def _exchange_(self) -> None:
        for own, average in zip(self.live.values(), self.values, strict=True):
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)

    def take_over_(self) -> None:
        """Start anew from the weights as they are now."""
        for own, average in zip(self.live.values(), self.values, strict=True):
            average.copy_(own)

    def to_dict(self) -> dict[str, Any]:
        """Whole tensors by name; all processes must call."""
        whole = {n: parallel.whole(t) for n, t in zip(self.live, self.values, strict=True)}
        if distributed.world_size() == 1:
            return whole
        return {name: tensor.cpu() for name, tensor in whole.items()}
