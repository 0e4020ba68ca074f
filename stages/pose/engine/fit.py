"""The training loop. TrainState holds all that a resumed run needs; fit() trains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm

from pose import distributed
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError, Stopped
from pose.common.log import StepClock, log
from pose.common.params import Train
from pose.data.augment_device import augment_batch
from pose.engine import parallel
from pose.engine.bad_steps import BadSteps, masked_step_
from pose.engine.ema import WeightEma
from pose.engine.losses import LOSSES
from pose.engine.optim import Schedule, set_lr
from pose.models.adapter import file_name
from pose.models.build import autocast
from pose.models.checkpoint import State
from pose.models.pose_model import PoseModel, normalise

Losses = dict[str, Tensor]
Row = dict[str, float]
StepLoss = Callable[[Any, int], Losses]


@dataclass
class TrainState:
    """All that a resumed run needs.

    What is trained of the model, optimiser, fp16's loss scale, steps done, logged rows, losses
    since the last row, skipped steps, the EMA of the weights (train.ema_decay) and of those that
    teach (ssl.ema_decay), and the results of validation: the best weights by val_AP (in the first
    process alone) and the newest picture, JPEG bytes (N,).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    step: int = 0
    history: list[Row] = field(default_factory=list)
    window: list[Row] = field(default_factory=list)
    bad: BadSteps = field(default_factory=BadSteps)
    ema: WeightEma | None = None
    teacher_ema: WeightEma | None = None
    best: dict[str, Any] = field(default_factory=dict)
    picture: Tensor | None = None
    saved_at: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers only, so that torch.load(weights_only=True) reads it.

        All processes must call it; the first one saves its result.
        """
        return {
            "model": parallel.trained_weights(self.model),
            "optimizer": parallel.full_optimizer(self.model, self.optimizer),
            **{name: ema.to_dict() for name, ema in self._emas().items()},
            "best": self.best,
            "small": {
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "history": self.history,
                "window": self.window,
                "bad": (self.bad.accepted.cpu(), self.bad.total, self.bad.in_a_row),
                "picture": self.picture,
                "rng": distributed.all_gather(_rng_state()),
            },
        }

    def restore_(self, saved: dict[str, Any] | None) -> None:
        """Take over what to_dict gave, to the bit; only the first process needs to have it.

        Any number of processes may go on, by DDP or FSDP. Only with as many as saved it do the
        draws of drop path go on as well.
        """
        for name, ema in self._emas().items():  # through the model, whose parameters are sharded
            averaged = saved and saved | {"model": saved["model"] | saved[name]}
            parallel.restore_(self.model, self.optimizer, averaged)
            ema.reset_()
        parallel.restore_(self.model, self.optimizer, saved)
        small = distributed.broadcast(saved and saved["small"])
        assert small is not None  # the first process has it
        self.best = saved["best"] if saved else {}
        self.scaler.load_state_dict(small["scaler"])
        self.step, self.history, self.window = small["step"], small["history"], small["window"]
        self.bad, self.picture = BadSteps(*small["bad"]), small["picture"]
        self.saved_at = self.step
        if len(small["rng"]) == distributed.world_size():
            _set_rng_state(small["rng"][distributed.rank()])

    def _emas(self) -> dict[str, WeightEma]:
        emas = {"ema": self.ema, "teacher_ema": self.teacher_ema}
        return {name: ema for name, ema in emas.items() if ema}


def _rng_state() -> list[Tensor]:
    """Of the CPU, and of the GPU in use."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_rng_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if torch.cuda.is_available() and states[1:]:
        torch.cuda.set_rng_state(states[1])


def no_validation(state: TrainState) -> Row:
    """fit's `validate` where nothing is validated."""
    return {}


def fit(
    name: str,
    train: Train,
    state: TrainState,
    batches: Iterable[Any],
    step_loss: StepLoss,
    schedule: Schedule,
    on_row: Callable[[Row], None],
    save: Callable[[TrainState], None],
    validate: Callable[[TrainState], Row] = no_validation,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train stage `name` from state.step to schedule.steps, by the settings of `train`.

    step_loss(batch, step) runs forward and backward and returns detached losses to log; on_bad_step
    judges the one named "loss". on_row is called with each logged row, save every checkpoint_steps,
    and validate after each epoch; it may return a row of its own. If stop() is true after a step,
    the state is saved and Stopped raised. All of these are called in every process. Raises
    PoseError if a loss or gradient is NaN or Inf, or if too many steps in a row were skipped.
    """
    clock = StepClock(name, state.step, schedule.steps, train.batch_size)
    device = DeviceWork()
    bar = tqdm(
        total=schedule.steps,
        initial=state.step,
        desc=name,
        disable=None if distributed.is_main_process() else True,
    )
    pending: list[Losses] = []
    for batch in clock.measure_wait(batches, device.busy):
        set_lr(state.optimizer, schedule.at(state.step))
        state.optimizer.zero_grad(set_to_none=True)
        losses = step_loss(batch, state.step)
        pending.append(losses | _optimizer_step_(state, losses["loss"], train))
        device.record()
        state.step += 1
        bar.update()
        last, stopping = state.step == schedule.steps, stop()
        logs = state.step % train.log_steps == 0
        saves = state.step % train.checkpoint_steps == 0 or stopping
        epoch = state.step % schedule.steps_per_epoch == 0
        if logs or saves or epoch or last:
            _collect_losses_(state, pending, train)
        if logs or last:
            row = _row(state, train.on_bad_step)
            on_row(row)
            log(clock.line(row))
        if (epoch or last) and (row := validate(state)):
            state.history.append(row)
            on_row(row)
        if saves and not last:
            save(state)
            state.saved_at = state.step
        if stopping and not last:
            raise Stopped(
                f"stopped by SIGTERM after step {state.step} of {schedule.steps}, which is saved; "
                "rerun to continue from there"
            )
    bar.close()


class DeviceWork:
    """Whether a GPU still computes the steps it was given. On a CPU the answer is always no."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event() if torch.cuda.is_available() else None

    def record(self) -> None:
        """Mark that all kernels of a step were launched."""
        if self._event:
            self._event.record()

    def busy(self) -> bool:
        """Whether those kernels still run; does not wait for them."""
        return self._event is not None and not self._event.query()


def _optimizer_step_(state: TrainState, loss: Tensor, train: Train) -> Losses:
    """One step on clipped gradients; their norm before clipping, and whether it was skipped.

    With fp16, a step whose gradients overflow is skipped, and the loss scale halved.
    """
    optimizer, scaler = state.optimizer, state.scaler
    scaler.unscale_(optimizer)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    norm = parallel.full_tensor(nn.utils.clip_grad_norm_(parameters, train.clip_grad_norm))
    skipped = {}
    if train.on_bad_step == "skip":
        skipped["skipped"] = state.bad.judge_(loss, norm)
        masked_step_(optimizer, skipped["skipped"])
    else:
        scaler.step(optimizer)
        if scaler.is_enabled():
            skipped["skipped"] = (~norm.isfinite()).float()
    scaler.update()
    for ema in (state.ema, state.teacher_ema):
        if ema:
            ema.update_()
    return {"grad_norm": norm, **skipped}


def _collect_losses_(state: TrainState, pending: list[Losses], train: Train) -> None:
    """Move pending losses into the window, as numbers and means over processes.

    Only here does training wait for the device. Raises PoseError for NaN or Inf losses, before they
    can enter a checkpoint.
    """
    if not pending:
        return
    rows = torch.stack([torch.stack([v.float() for v in row.values()]) for row in pending])
    found = [dict(zip(pending[0], row, strict=True)) for row in distributed.all_mean(rows).tolist()]
    pending.clear()
    skips = train.on_bad_step == "skip"
    if skips:
        state.bad.count_([row["skipped"] for row in found], state.step, train.max_skipped)
        found = [row for row in found if not row.pop("skipped")]
    for row in found:
        if row.get("skipped"):  # fp16 overflow; the loss scale was halved
            row["grad_norm"] = 0.0
            state.bad.total += 1
    state.window += found
    for step, row in enumerate(found, start=state.step - len(found) + 1):
        if not all(math.isfinite(value) for value in row.values()):
            raise PoseError(_not_finite(state, step, row))


def _not_finite(state: TrainState, step: int, row: Row) -> str:
    values = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
    lr = max(group["lr"] for group in state.optimizer.param_groups)
    good = f"the checkpoint of step {state.saved_at}" if state.saved_at else "none yet"
    return (
        f"loss or gradient became NaN or Inf at step {step}, seen at {state.step} (lr {lr:.1e}, "
        f"{values}); lower train.lr, or set train.on_bad_step: skip; last good state: {good}"
    )


def _row(state: TrainState, on_bad_step: str) -> Row:
    """Learning rates and the mean losses of the window's steps; empties the window.

    lr is the head's, the highest; with layer_decay, lr_min is the lowest layer's. skipped counts
    all skipped steps so far. If every step of the window was skipped there are no means.
    """
    window, lrs = state.window, [group["lr"] for group in state.optimizer.param_groups]
    row = {"step": float(state.step), "lr": max(lrs)}
    if min(lrs) != max(lrs):
        row["lr_min"] = min(lrs)
    row |= {key: math.fsum(r[key] for r in window) / len(window) for key in (window or [{}])[0]}
    if row.get("skipped", 1.0) < 1:
        row["grad_norm"] /= 1 - row["skipped"]
    if on_bad_step == "skip" or "skipped" in row:
        row["skipped"] = float(state.bad.total)
    state.history.append(row)
    state.window = []
    return row


@dataclass(frozen=True)
class Gradients:
    """How the gradients of a step are accumulated over micro-batches and scaled.

    The losses are means over B x K x H x W, so the mean over equal micro-batches has the gradient
    of the whole batch. Only batch norms differ: their statistics are a micro-batch's.
    """

    accumulate: int  # micro-batches per step
    scaler: GradScaler  # of fp16
    loss_weight: float = 1.0  # factor of every loss

    def split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Micro-batches of a process's share of the step."""
        size, rest = divmod(len(tensors[0]), self.accumulate)
        assert not rest  # checked by distributed.batch_per_process
        return zip(*(tensor.split(size) for tensor in tensors), strict=True)

    def backward(self, loss: Tensor) -> Tensor:
        """Run the backward of the loss times loss_weight; returns that product, detached."""
        loss = self.loss_weight * loss
        self.scaler.scale(loss / self.accumulate).backward()
        return loss.detach()


ONE_BATCH = Gradients(1, GradScaler(enabled=False))


def supervised_step(
    model: nn.Module,
    codec: UdpCodec,
    device: torch.device,
    amp: str,
    gradients: Gradients = ONE_BATCH,
) -> StepLoss:
    """fit's step_loss for labelled people; model is that of parallel.wrap_distributed."""

    def run(batch: Any, step: int) -> Losses:
        images, targets = to_device(batch, device)
        return {"loss": supervised_loss(model, codec, amp, gradients, images, targets, last=True)}

    return run


def to_device(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and targets of a loader's batch on the device, deferred augmentation applied."""
    images, targets, *later = (tensor.to(device, non_blocking=True) for tensor in batch)
    return (augment_batch(images, later[0]) if later else images), targets


def supervised_loss(
    model: nn.Module,
    codec: UdpCodec,
    amp: str,
    gradients: Gradients,
    images: Tensor,
    targets: Tensor,
    last: bool,
) -> Tensor:
    """Mean loss of uint8 images (B, h, w, 3) and targets (B, K, 3); its gradients accumulate.

    last: the step has no further loss, so DDP may sum the gradients over processes.
    """
    losses: list[Tensor] = []
    for micro_images, micro_targets in gradients.split(images, targets):
        parallel.sync_gradients_(model, last and len(losses) + 1 == gradients.accumulate)
        with autocast(images.device, amp):
            maps = model(normalise(micro_images))
        loss = LOSSES[codec.type](maps, codec.render(micro_targets), micro_targets[..., 2])
        losses.append(gradients.backward(loss))
    return torch.stack(losses).mean()


def loss_scaler(device: torch.device, amp: str) -> GradScaler:
    """A gradient scaler for fp16; disabled for other types."""
    return GradScaler(device.type, enabled=amp == "fp16")


def freeze_backbone_(model: PoseModel) -> None:
    """Set the backbone to eval mode without gradients, for phase 1 and train.finetune: head.

    Autograd then keeps no activations of its forward.
    """
    model.backbone.requires_grad_(False)
    model.backbone.eval()


def model_weights(model: nn.Module) -> State:
    """Float32 weights to save. All processes must call it; only the first one's are complete."""
    return parallel.full_weights(model)


def trained_weights(model: nn.Module) -> State:
    """Those of them that are trained, by their names in a file; called as model_weights is."""
    return {file_name(name): tensor for name, tensor in parallel.trained_weights(model).items()}
