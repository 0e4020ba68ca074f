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

from pose import distributed
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError, Stopped
from pose.common.log import StepClock, log
from pose.common.params import Train
from pose.data.augment_device import recolour_batch
from pose.engine import parallel
from pose.engine.bad_steps import BadSteps, masked_step_
from pose.engine.ema import WeightEma
from pose.engine.losses import LOSSES
from pose.engine.optim import Schedule, set_lr
from pose.models.build import autocast
from pose.models.checkpoint import State
from pose.models.vit import PoseModel, normalise

Losses = dict[str, Tensor]
Row = dict[str, float]
StepLoss = Callable[[Any, int], Losses]


@dataclass
class TrainState:
    """All that a resumed run needs.

    Model, optimiser, fp16's loss scale, steps done, logged rows, losses since the last row, skipped
    steps, the EMA of the weights (train.ema_decay) and of those that teach (ssl.ema_decay), and the
    results of validation: the best weights by val_AP (in the first process alone) and pictures by
    step, JPEG.
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
    pictures: dict[int, Tensor] = field(default_factory=dict)
    saved_at: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers only, so that weights_only loading admits it.

        All processes must call it; the first one's is to be kept.
        """
        return {
            "model": parallel.full_weights(self.model),
            "optimizer": parallel.full_optimizer(self.model, self.optimizer),
            **{name: ema.to_dict() for name, ema in self._emas().items()},
            "best": self.best,
            "small": {
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "history": self.history,
                "window": self.window,
                "bad": (self.bad.accepted.cpu(), self.bad.total, self.bad.in_a_row),
                "pictures": self.pictures,
                "rng": distributed.gather(_rng_state()),
            },
        }

    def restore_(self, saved: dict[str, Any] | None) -> None:
        """Take over what to_dict gave, to the bit; only the first process needs to have it.

        Any number of processes may go on, by DDP or FSDP. Only with as many as saved it do the
        draws of drop path go on as well.
        """
        for name, ema in self._emas().items():  # by way of the model, which knows its shards
            averaged = saved and saved | {"model": saved["model"] | saved[name]}
            parallel.restore_(self.model, self.optimizer, averaged)
            ema.reset_()
        parallel.restore_(self.model, self.optimizer, saved)
        small = distributed.from_first(saved and saved["small"])
        assert small is not None  # the first process has it
        self.best = saved["best"] if saved else {}
        self.scaler.load_state_dict(small["scaler"])
        self.step, self.history, self.window = small["step"], small["history"], small["window"]
        self.bad, self.pictures = BadSteps(*small["bad"]), small["pictures"]
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


def unwatched(state: TrainState) -> Row:
    """What fit's `watch` gives where nothing is looked at."""
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
    watch: Callable[[TrainState], Row] = unwatched,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train stage `name` from state.step to schedule.steps, by the settings of `train`.

    step_loss(batch, step) runs forward and backward and returns detached losses to log, the one
    that is judged under "loss". on_row gets each logged row, save the state every checkpoint_steps;
    watch looks at the state after each epoch and may return a row of its own; stop() tells after
    each step whether to save and raise Stopped. All are called in every process. Raises PoseError
    once a loss or gradient is no longer finite, or too many steps in a row were left out.
    """
    clock = StepClock(name, state.step, schedule.steps, train.batch_size)
    device = DeviceWork()
    bar = tqdm(
        total=schedule.steps,
        initial=state.step,
        desc=name,
        disable=None if distributed.is_first() else True,
    )
    pending: list[Losses] = []
    for batch in clock.waiting(batches, device.busy):
        set_lr(state.optimizer, schedule.at(state.step))
        state.optimizer.zero_grad(set_to_none=True)
        found = step_loss(batch, state.step)
        pending.append(found | _update_(state, found["loss"], train))
        device.given()
        state.step += 1
        bar.update()
        last, stopping = state.step == schedule.steps, stop()
        logs = state.step % train.log_steps == 0
        saves = state.step % train.checkpoint_steps == 0 or stopping
        epoch = state.step % schedule.steps_per_epoch == 0
        if logs or saves or epoch or last:
            _take_in_(state, pending, train)
        if logs or last:
            row = _row(state, train.on_bad_step)
            on_row(row)
            log(clock.line(row))
        if (epoch or last) and (seen := watch(state)):
            state.history.append(seen)
            on_row(seen)
        if saves and not last:
            save(state)
            state.saved_at = state.step
        if stopping and not last:
            raise Stopped(
                f"stopped by SIGTERM after step {state.step} of {schedule.steps}, which is saved; "
                "rerun to go on from there"
            )
    bar.close()


class DeviceWork:
    """Whether a GPU still has steps to do. On a CPU, which computes at once, it never has."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event() if torch.cuda.is_available() else None

    def given(self) -> None:
        """A step's work was handed over."""
        if self._event:
            self._event.record()

    def busy(self) -> bool:
        """Without waiting for it."""
        return self._event is not None and not self._event.query()


def _update_(state: TrainState, loss: Tensor, train: Train) -> Losses:
    """One step on clipped gradients; their norm before, and whether the step was left out.

    fp16 leaves a step out, and halves its loss scale, whose gradients overflow.
    """
    optimizer, scaler = state.optimizer, state.scaler
    scaler.unscale_(optimizer)
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    norm = parallel.whole(nn.utils.clip_grad_norm_(parameters, train.clip_grad_norm))
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


def _take_in_(state: TrainState, pending: list[Losses], train: Train) -> None:
    """Losses as numbers, means over processes, into the window; `pending` is emptied.

    Only here does training wait for the device. Raises PoseError for those that are no numbers,
    before they can come into a checkpoint.
    """
    if not pending:
        return
    rows = torch.stack([torch.stack([v.float() for v in row.values()]) for row in pending])
    found = [dict(zip(pending[0], row, strict=True)) for row in distributed.mean(rows).tolist()]
    pending.clear()
    skips = train.on_bad_step == "skip"
    if skips:
        state.bad.count_([row["skipped"] for row in found], state.step, train.max_skipped)
        found = [row for row in found if not row.pop("skipped")]
    for row in found:
        if row.get("skipped"):  # fp16's overflow, which its scale takes care of
            row["grad_norm"] = 0.0
            state.bad.total += 1
    state.window += found
    for step, row in enumerate(found, start=state.step - len(found) + 1):
        if not all(math.isfinite(value) for value in row.values()):
            raise PoseError(_not_finite(state, step, row))


def _not_finite(state: TrainState, step: int, row: Row) -> str:
    """What is known, and what may help."""
    known = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
    lr = max(group["lr"] for group in state.optimizer.param_groups)
    good = f"the checkpoint of step {state.saved_at}" if state.saved_at else "none yet"
    return (
        f"loss or gradient became non-finite at step {step}, seen at {state.step} (lr {lr:.1e}, "
        f"{known}); lower train.lr, or set train.on_bad_step: skip; last good state: {good}"
    )


def _row(state: TrainState, on_bad_step: str) -> Row:
    """Rates and the mean of the window's steps under the step; the window starts anew.

    lr is that of the head, the highest; lr_min, with layer_decay, that of the lowest layer. skipped
    counts all steps left out so far. Without any other step in the window there are no means.
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
