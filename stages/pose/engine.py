"""The training loop: TrainState holds everything a resumed run needs, fit() advances it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from pose import distributed, parallel
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
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TrainState:
    """Model, optimiser, fp16's loss scale, steps done, logged rows, losses since the last row."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    window: list[dict[str, float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers only, so that weights_only loading admits it.

        All processes must call it; the first one's is to be kept.
        """
        return {
            "model": parallel.full_weights(self.model),
            "optimizer": parallel.full_optimizer(self.model, self.optimizer),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "history": self.history,
            "window": self.window,
            "rng": distributed.gather(_rng_state()),
        }

    def restore_(self, saved: dict[str, Any] | None) -> None:
        """Take over what to_dict gave, to the bit; only the first process needs to have it.

        Any number of processes may go on, by DDP or FSDP. Only with as many as saved it do the
        draws of drop path go on as well.
        """
        parallel.restore_(self.model, self.optimizer, saved)
        small = {k: v for k, v in (saved or {}).items() if k not in ("model", "optimizer")}
        small = distributed.from_first(small)
        self.scaler.load_state_dict(small["scaler"])
        self.step, self.history, self.window = small["step"], small["history"], small["window"]
        if len(small["rng"]) == distributed.world_size():
            _set_rng_state(small["rng"][distributed.rank()])


def _rng_state() -> list[Tensor]:
    """Of the CPU, and of the GPU in use."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_rng_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and states[1:]:
        torch.cuda.set_rng_state(states[1])


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
    each logged row, save the state every checkpoint_steps; both are called in every process. Raises
    PoseError once a loss or gradient is no longer finite.
    """
    clock = StepClock(settings.name, state.step, schedule.steps, settings.batch_size)
    bar = tqdm(
        total=schedule.steps,
        initial=state.step,
        desc=settings.name,
        disable=None if distributed.is_first() else True,
    )
    pending: list[Losses] = []
    for batch in batches:
        set_lr(state.optimizer, schedule.at(state.step))
        state.optimizer.zero_grad(set_to_none=True)
        found = step_loss(batch, state.step)
        pending.append(found | _update_(state, settings.clip_grad_norm))
        state.step += 1
        bar.update()
        last = state.step == schedule.steps
        logs = state.step % settings.log_steps == 0
        saves = state.step % settings.checkpoint_steps == 0
        if logs or saves or last:
            state.window += _read(pending)
            pending.clear()
        if logs or last:
            row = _row(state, schedule.at(state.step - 1))
            on_row(row)
            log(clock.line(row))
        if saves and not last:
            save(state)
    bar.close()


def _update_(state: TrainState, clip_grad_norm: float) -> Losses:
    """One step on clipped gradients; their norm before.

    fp16 leaves a step out, and halves its loss scale, whose gradients overflow: skipped is then 1
    and grad_norm 0.
    """
    state.scaler.unscale_(state.optimizer)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    norm = parallel.whole(nn.utils.clip_grad_norm_(parameters, clip_grad_norm))
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if not state.scaler.is_enabled():
        return {"grad_norm": norm}
    overflow = ~norm.isfinite()
    return {"grad_norm": norm.masked_fill(overflow, 0.0), "skipped": overflow.float()}


def _read(pending: list[Losses]) -> list[dict[str, float]]:
    """Losses as numbers, means over processes. Only here does training wait for the device."""
    if not pending:
        return []
    rows = torch.stack([torch.stack([v.float() for v in row.values()]) for row in pending])
    return [dict(zip(pending[0], row, strict=True)) for row in distributed.mean(rows).tolist()]


def _row(state: TrainState, lr: float) -> dict[str, float]:
    """Mean of the window under its step, grad_norm's of the steps done; the window starts anew."""
    window = state.window
    mean = {key: math.fsum(r[key] for r in window) / len(window) for key in window[0]}
    if done := 1 - mean.get("skipped", 0.0):
        mean["grad_norm"] /= done
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


@dataclass(frozen=True)
class Gradients:
    """How a step's gradients add up: over micro-batches, and scaled for fp16.

    The losses are means over B x K x H x W, so the mean of equal micro-batches has the gradient of
    the whole; batch norms alone see the difference, their statistics being a micro-batch's.
    """

    accumulate: int  # micro-batches a step
    scaler: GradScaler

    def split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Micro-batches of a process's share of the step."""
        size, rest = divmod(len(tensors[0]), self.accumulate)
        assert not rest  # distributed.share_of sees to it
        return zip(*(tensor.split(size) for tensor in tensors), strict=True)

    def add(self, loss: Tensor) -> Tensor:
        """The loss, detached, after its backward."""
        self.scaler.scale(loss / self.accumulate).backward()
        return loss.detach()


AT_ONCE = Gradients(1, GradScaler(enabled=False))


def supervised_step(
    model: nn.Module,
    codec: UdpCodec,
    device: torch.device,
    amp: str,
    gradients: Gradients = AT_ONCE,
) -> StepLoss:
    """One labelled forward and backward; model is what parallel.spread gave."""

    def run(batch: Any, step: int) -> Losses:
        images, targets = moved(batch, device)
        return {"loss": labelled_loss(model, codec, amp, gradients, images, targets, last=True)}

    return run


def moved(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and targets of a loader's batch on the device, its deferred work done."""
    images, targets, *later = (tensor.to(device, non_blocking=True) for tensor in batch)
    return (recolour_batch(images, later[0]) if later else images), targets


def labelled_loss(
    model: nn.Module,
    codec: UdpCodec,
    amp: str,
    gradients: Gradients,
    images: Tensor,
    targets: Tensor,
    last: bool,
) -> Tensor:
    """Mean loss of uint8 images (B, h, w, 3) and targets (B, K, 3), its gradient added.

    last: the step has no further losses, so that processes may exchange their gradients.
    """
    found: list[Tensor] = []
    for some_images, some_targets in gradients.split(images, targets):
        parallel.exchange_(model, last and len(found) + 1 == gradients.accumulate)
        with autocast(images.device, amp):
            maps = model(normalise(some_images))
        loss = LOSSES[codec.type](maps, codec.render(some_targets), some_targets[..., 2])
        found.append(gradients.add(loss))
    return torch.stack(found).mean()


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Matrix products in bf16 or fp16 if amp says so; losses and codec stay float32."""
    dtype = AMP_TYPES.get(amp, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=amp in AMP_TYPES)


def loss_scaler(device: torch.device, amp: str) -> GradScaler:
    """fp16's loss scale, else one that changes nothing."""
    return GradScaler(device.type, enabled=amp == "fp16")


def freeze_backbone_(model: PoseModel) -> None:
    """Backbone without gradients and in eval mode, for phase 1.

    Autograd then stores nothing of its forward.
    """
    model.backbone.requires_grad_(False)
    model.backbone.eval()


def model_weights(model: nn.Module) -> State:
    """Float32 weights to save; all processes must call, the first one's are whole."""
    return parallel.full_weights(model)
