"""The training loop: TrainState holds everything a resumed run needs, fit() advances it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pose.checkpoint import State
from pose.codec import UdpCodec
from pose.errors import PoseError
from pose.log import StepClock, log
from pose.losses import LOSSES
from pose.model import PoseModel, normalise
from pose.optim import Schedule, set_lr
from pose.recolour import recolour_batch

Losses = dict[str, Tensor]
StepLoss = Callable[[Any, int], Losses]


@dataclass
class TrainState:
    """Model, optimiser, steps done, logged rows, and the losses since the last row."""

    model: PoseModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    window: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers only, so that weights_only loading admits it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "window": self.window,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore_(self, saved: dict[str, Any]) -> None:
        """Take over what to_dict gave, to the bit."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.history, self.window = saved["step"], saved["history"], saved["window"]
        torch.set_rng_state(saved["rng"])
        if torch.cuda.is_available() and saved["cuda_rng"]:
            torch.cuda.set_rng_state_all(saved["cuda_rng"])


@dataclass(frozen=True)
class FitSettings:
    """The names and units of params.yaml's `train`, and the stage's name for its log lines."""

    name: str
    clip_grad_norm: float
    log_steps: int
    checkpoint_steps: int
    batch_size: int


def fit(
    state: TrainState,
    batches: Iterable[Any],
    step_loss: StepLoss,
    schedule: Schedule,
    settings: FitSettings,
    on_row: Callable[[dict[str, float]], None],
    save: Callable[[TrainState], None],
) -> None:
    """Train from state.step to schedule.steps.

    step_loss(batch, step) runs forward and backward and returns detached losses to log. on_row gets
    each logged row, save the state every checkpoint_steps. Raises PoseError once a loss or gradient
    is no longer finite.
    """
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    clock = StepClock(settings.name, state.step, schedule.steps, settings.batch_size)
    bar = tqdm(total=schedule.steps, initial=state.step, desc=settings.name, disable=None)
    pending: list[Losses] = []
    for batch in batches:
        set_lr(state.optimizer, schedule.at(state.step))
        state.optimizer.zero_grad(set_to_none=True)
        found = step_loss(batch, state.step)
        found["grad_norm"] = nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm)
        state.optimizer.step()
        pending.append(found)
        state.step += 1
        bar.update()
        last = state.step == schedule.steps
        logs = state.step % settings.log_steps == 0
        saves = state.step % settings.checkpoint_steps == 0
        if logs or saves or last:
            state.window += [{k: float(v) for k, v in row.items()} for row in pending]
            pending.clear()
        if logs or last:
            row = _row(state, schedule.at(state.step - 1))
            on_row(row)
            log(clock.line(row))
        if saves and not last:
            save(state)
    bar.close()


def _row(state: TrainState, lr: float) -> dict[str, float]:
    """Mean of the window under its step; the window starts anew."""
    window = state.window
    mean = {key: math.fsum(r[key] for r in window) / len(window) for key in window[0]}
    if not all(math.isfinite(value) for value in mean.values()):
        raise PoseError(
            f"loss or gradient became non-finite between steps {state.step - len(window)} and "
            f"{state.step} (lr {lr:.1e}, {mean}); lower train.lr, or rerun to go on from the last "
            "checkpoint"
        )
    row = {"step": float(state.step), "lr": lr, **mean}
    state.history.append(row)
    state.window = []
    return row


def supervised_step(
    model: PoseModel,
    codec: UdpCodec,
    device: torch.device,
    amp: str,
) -> StepLoss:
    """One labelled forward and backward."""

    def run(batch: Any, step: int) -> Losses:
        images, targets = moved(batch, device)
        with autocast(device, amp):
            maps = model(normalise(images))
        loss = LOSSES[codec.type](maps, codec.render(targets), targets[..., 2])
        loss.backward()
        return {"loss": loss.detach()}

    return run


def moved(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and targets of a loader's batch on the device, its deferred work done."""
    images, targets, *later = (tensor.to(device, non_blocking=True) for tensor in batch)
    return (recolour_batch(images, later[0]) if later else images), targets


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """bf16 matrix products if amp says so; losses and codec stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp == "bf16")


def freeze_backbone_(model: PoseModel) -> None:
    """Backbone without gradients and in eval mode, for phase 1.

    Autograd then stores nothing of its forward.
    """
    model.backbone.requires_grad_(False)
    model.backbone.eval()


def model_weights(model: PoseModel) -> State:
    """Float32 weights to save."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}
