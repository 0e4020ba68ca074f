"""Guards of training steps: those with a bad loss or gradient are left out; many end the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pose import distributed
from pose.common.errors import PoseError

JUMP = 25.0  # times the last accepted loss; Sapiens, mmpose/models/pose_estimators/topdown.py


@dataclass
class BadSteps:
    """The last accepted loss, on the device, and how many steps were left out.

    Sapiens' rule, over all processes: a loss that is NaN, or more than JUMP times the last accepted
    one. There the loss is multiplied by 0 in the process concerned, and AdamW still takes a step;
    here the whole step is left out. Infinities and a gradient that is not finite count as well.
    """

    accepted: Tensor = field(default_factory=lambda: torch.tensor(math.inf))
    total: int = 0
    in_a_row: int = 0

    def judge_(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1 for a bad step, else 0; on the device, so that training does not wait for it."""
        loss, last = distributed.mean(loss.float()), self.accepted.to(loss.device)
        good = loss.isfinite() & (loss <= JUMP * last) & grad_norm.isfinite()
        self.accepted = torch.where(good, loss, last)
        return (~good).float()

    def count_(self, flags: list[float], step: int, limit: int) -> None:
        """Take in what became of the steps up to `step`. Raises PoseError over `limit` in a row."""
        for flag in flags:
            self.in_a_row = self.in_a_row + 1 if flag else 0
            self.total += bool(flag)
            if self.in_a_row > limit:
                raise PoseError(
                    f"more than train.max_skipped = {limit} steps in a row were left out up to "
                    f"step {step} (loss or gradient not finite, or loss over {JUMP:.0f} times the "
                    f"last accepted {float(self.accepted):.3g}); lower train.lr"
                )


def masked_step_(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """A step that changes nothing where bad is 1, by the way in which GradScaler tells it to fused
    optimisers: nobody waits for the device to know.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
