"""Steps with a bad loss or gradient: they are skipped, and too many in a row end the run."""

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
    """The last accepted loss, on the device, and how many steps were skipped.

    A step is bad if its loss, a mean over all processes, is NaN or more than JUMP times the last
    accepted one: Sapiens' rule. Sapiens multiplies that loss by 0 in the process concerned, and
    AdamW still takes a step; here the whole step is skipped. Inf, and a gradient norm that is NaN
    or Inf, are bad too.
    """

    accepted: Tensor = field(default_factory=lambda: torch.tensor(math.inf))
    total: int = 0
    in_a_row: int = 0

    def judge_(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1 for a bad step, else 0; on the device, so that training does not wait for it."""
        loss, last = distributed.all_mean(loss.float()), self.accepted.to(loss.device)
        good = loss.isfinite() & (loss <= JUMP * last) & grad_norm.isfinite()
        self.accepted = torch.where(good, loss, last)
        return (~good).float()

    def count_(self, flags: list[float], step: int, limit: int) -> None:
        """Count the skipped steps up to `step`. Raises PoseError for more than `limit` in a row."""
        for flag in flags:
            self.in_a_row = self.in_a_row + 1 if flag else 0
            self.total += bool(flag)
            if self.in_a_row > limit:
                raise PoseError(
                    f"more than train.max_skipped = {limit} steps in a row were skipped up to "
                    f"step {step} (loss or gradient NaN or Inf, or loss over {JUMP:.0f} times the "
                    f"last accepted {float(self.accepted):.3g}); lower train.lr"
                )


def masked_step_(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """An optimiser step that changes nothing if bad is 1.

    Uses the attribute with which GradScaler makes fused optimisers skip a step, so that the host
    does not wait for the device.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
