"""A training stage from start to end: model, loop, resume, checkpoints, validation."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from torch import nn

from pose import distributed
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.log import log
from pose.common.params import Params
from pose.common.processes import sigterm_flag
from pose.common.script import is_torch_memory
from pose.common.skeleton import Skeleton, oks_sigmas
from pose.crop_table import CropTable
from pose.data.build import codec, loader, training_samples
from pose.data.samples import steps_per_epoch
from pose.draw import encode_jpeg, placeholder
from pose.engine import parallel
from pose.engine.checkpoint import newest_training_state, save_training_state
from pose.engine.curves import write_curves
from pose.engine.ema import WeightEma
from pose.engine.fit import (
    Gradients,
    Row,
    StepLoss,
    TrainState,
    fit,
    loss_scaler,
    model_weights,
    supervised_step,
    trained_weights,
)
from pose.engine.optim import Schedule, build_optimizer
from pose.engine.validation import Validation
from pose.models.adapter import Base
from pose.models.build import describe_device
from pose.models.checkpoint import State, read_provenance, save_weights
from pose.models.pose_model import PoseModel


@contextmanager
def out_of_memory_advice(params: Params) -> Iterator[None]:
    """Turn an out-of-memory error into a PoseError that names memory settings and their values."""
    try:
        yield
    except RuntimeError as error:
        if not is_torch_memory(error):
            raise
        reason = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        raise PoseError(f"params.yaml: {reason}; {_memory_settings(params)}") from None


def _memory_settings(params: Params) -> str:
    """Settings that save memory, with their present values, except those that cannot save more."""
    train, model = params.train, params.model
    share = train.batch_size // distributed.world_size()
    settings = [
        f"train.accumulate = {train.accumulate} (more)" if train.accumulate < share else "",
        "" if model.grad_checkpointing else "model.grad_checkpointing = false (true)",
        "train.amp = none (bf16)" if train.amp == "none" else "",
        "train.parallel = ddp (fsdp, with NPROC)" if train.parallel == "ddp" else "",
        "train.finetune = full (lora)" if train.finetune == "full" else "",
        f"train.ema_decay = {train.ema_decay} (0)" if train.ema_decay else "",
        f"train.batch_size = {train.batch_size} (less)",
    ]
    return "change one of " + ", ".join(setting for setting in settings if setting)


STATE = "state.pt"
PICTURE = "persons.jpg"
SUMMARY = ("step", "loss", "val_AP", "skipped")  # in metrics.json; curves.csv has all values


def wrap_model(params: Params, model: PoseModel, device: torch.device) -> nn.Module:
    """The model as training calls it: compiled and distributed over processes, as params say."""
    sharded = params.train.parallel == "fsdp" and distributed.world_size() > 1
    if device.type == "cuda" and not sharded:  # FSDP requires plain strides
        model.head.to(memory_format=torch.channels_last)  # the layout that its input has
    if params.train.compile:  # part by part: the blocks are alike, so they share one compilation
        for part in (*model.backbone.blocks, model.head):
            part.compile()
    network = parallel.wrap_distributed(model, params.train.parallel, device)
    if not distributed.is_main_process():
        torch.manual_seed(
            params.run.seed + distributed.rank()
        )  # so that drop path differs per process
    return network


def step_gradients(params: Params, device: torch.device) -> Gradients:
    """Gradient accumulation, loss scale and loss weight of params."""
    train = params.train
    return Gradients(train.accumulate, loss_scaler(device, train.amp), train.loss_weight)


def train_supervised(
    name: str,
    stream: int,
    params: Params,
    skeleton: Skeleton,
    model: PoseModel,
    epochs: int,
    start_weights: Path,
    base: Base | None,
) -> None:
    """Train on the labelled people for `epochs` epochs; frozen parameters stay frozen.

    stream is a number that each phase has of its own, so that their random draws differ. The
    provenance of start_weights is copied into the trained file; base as in `train`.
    """
    if epochs == 0:
        reason = f"{name.removeprefix('train_')}.epochs is 0"
        return copy_weights(name, model, start_weights, base, reason)
    device = next(model.parameters()).device
    table = CropTable(stage.CACHE / "train")
    min_keypoints, seed = params.augment.min_keypoints, (params.run.seed, stream)
    samples = training_samples(params, skeleton, table, table.labelled(), min_keypoints, seed)
    batch_size, amp = params.train.batch_size, params.train.amp
    distributed.batch_per_process(batch_size, "train.batch_size", params.train.accumulate)
    per_epoch = steps_per_epoch(len(samples), batch_size)
    schedule = build_schedule(params, epochs, per_epoch, params.train.lr)
    gradients = step_gradients(params, device)
    network = wrap_model(params, model, device)
    step_loss = supervised_step(network, codec(params, skeleton), device, amp, gradients)

    def batches(start: int) -> Iterable[Any]:
        return loader(samples, batch_size, start, schedule.steps)

    provenance = read_provenance(start_weights)
    train(name, params, model, schedule, batches, step_loss, gradients, provenance, base)


def copy_weights(
    name: str, model: PoseModel, start_weights: Path, base: Base | None, reason: str
) -> None:
    """What a phase that is skipped writes: the model's weights unchanged, and curves without rows.

    reason: why it is skipped, such as `phase1.epochs is 0`; for the log and the picture.
    """
    if not distributed.is_main_process():
        return
    with stage.live(name) as live:
        live.summary["step"] = 0
    write_curves(stage.METRICS / name, [])
    _write_placeholder(name, f"{reason}: no picture")
    weights = saved_weights(model, base)
    _save_pair(name, weights, weights, read_provenance(start_weights), base)
    log(f"{name}: {reason}: skipped, the weights are copied unchanged")


def train(
    name: str,
    params: Params,
    model: PoseModel,
    schedule: Schedule,
    batches: Callable[[int], Iterable[Any]],
    step_loss: StepLoss,
    gradients: Gradients,
    provenance: dict[str, Any],
    base: Base | None = None,
    trainable: nn.Module | None = None,
    teacher_ema: WeightEma | None = None,
    extra_models: Mapping[Path, PoseModel] = MappingProxyType({}),
    on_row: Callable[[Row], None] = lambda row: None,
    finish: Callable[[Any], None] = lambda live: None,
) -> None:
    """Train `model` and save it as models/<name>.safetensors; a killed run resumes.

    batches(start) yields the batches from step `start` on. Only the first process writes files.
    base: the file with the weights that are frozen, which are then not saved; None: all are saved.
    trainable: a module that holds `model` and all else that is trained (default: model).
    teacher_ema: an EMA of it, updated and saved with it. extra_models: further files to write, with
    the part of `trainable` that each gets. on_row is called with each logged row, also with those
    from before a kill. finish is called after training with the Live (None in other processes).
    Raises PoseError if the device runs out of memory, Stopped after SIGTERM.
    """
    settings, trainable = params.train, trainable or model
    optimizer = build_optimizer(trainable, settings)
    ema = WeightEma(trainable, settings.ema_decay) if settings.ema_decay else None
    scaler = gradients.scaler
    state = TrainState(trainable, optimizer, scaler, ema=ema, teacher_ema=teacher_ema)
    first = distributed.is_main_process()
    with (
        stage.resume_folder(name) if first else nullcontext() as folder,
        stage.live(name) if first else nullcontext() as live,
        sigterm_flag() as sigterm_received,
        out_of_memory_advice(params),
    ):
        log(f"{name}: device: {describe_device(next(model.parameters()).device)}")
        _restore_(state, name, folder)

        def log_row(row: Row) -> None:
            _log_row(live, row)
            on_row(row)

        for row in state.history:
            log_row(row)
        if state.picture is not None:
            _log_picture(live, state.picture)
        fit(
            name,
            settings,
            state,
            batches(state.step),
            step_loss,
            schedule,
            on_row=log_row,
            save=lambda state: _save(state, folder),
            validate=build_validation(name, params, model, schedule, partial(_log_picture, live)),
            stop=lambda: distributed.any_process(sigterm_received()),
        )
        with ema.swapped_in() if ema else nullcontext():
            last = saved_weights(model, base)
            extra = {path: saved_weights(part, base) for path, part in extra_models.items()}
            if first:
                chosen = _save_models(name, settings.keep, state, last, provenance, base)
                for path, weights in extra.items():
                    is_model = extra_models[path] is model
                    save_weights(path, chosen if is_model else weights, provenance, base)
                write_curves(stage.METRICS / name, state.history)
                if state.picture is None:
                    _write_placeholder(name, "train.picture_epochs is 0: no picture")
        finish(live)
        if live:
            live.summary = {key: live.summary[key] for key in SUMMARY if key in live.summary}


def build_validation(
    name: str,
    params: Params,
    model: PoseModel,
    schedule: Schedule,
    on_picture: Callable[[torch.Tensor], None],
) -> Validation:
    """The validation that fit runs after an epoch, as params.train asks for."""
    skeleton = stage.skeleton()
    return Validation(
        name,
        model,
        params.train,
        codec(params, skeleton),
        params.augment.bbox_padding,
        skeleton,
        oks_sigmas(skeleton.names, params.keypoints.oks_sigmas),
        schedule,
        on_picture,
    )


def _restore_(state: TrainState, name: str, folder: Path | None) -> None:
    """Resume from the checkpoint in the first process's folder, if there is one."""
    saved = newest_training_state(folder / STATE) if folder else None
    if distributed.broadcast(saved is not None):
        state.restore_(saved)
        log(f"{name} resumes from step {state.step}")


def _save(state: TrainState, folder: Path | None) -> None:
    content = state.to_dict()
    if folder:
        save_training_state(folder / STATE, content)


def saved_weights(model: nn.Module, base: Base | None) -> State:
    """What the file of a phase holds: all weights, or with a base those that are trained."""
    return trained_weights(model) if base else model_weights(model)


def _save_models(
    name: str,
    keep: str,
    state: TrainState,
    last: State,
    provenance: dict[str, Any],
    base: Base | None = None,
) -> State:
    """Save the weights that `keep` (best or last) names and the other ones; returns the former."""
    best = last | state.best.get("weights", {})
    if state.best:
        where = f"step {state.best['step']:.0f}, val_AP {state.best['val_AP']:.3f}"
        log(f"{name}: best by val_AP: {where}; train.keep = {keep}")
    chosen, other = (best, last) if keep == "best" else (last, best)
    _save_pair(name, chosen, other, provenance, base)
    return chosen


def _save_pair(
    name: str, chosen: State, other: State, provenance: dict[str, Any], base: Base | None
) -> None:
    path = model_path(name)
    save_weights(path, chosen, provenance, base)
    save_weights(path.with_stem(f"{path.stem}_other"), other, provenance, base)


def model_path(name: str) -> Path:
    """Where a training stage saves: train_phase1 to models/phase1.safetensors."""
    return stage.MODELS / f"{name.removeprefix('train_')}.safetensors"


def _log_row(live: Any, row: Row) -> None:
    if not distributed.is_main_process():
        return
    live.step = int(row["step"])
    for key, value in row.items():
        if key != "step":
            live.log_metric(key, value)
    live.next_step()


def _write_placeholder(name: str, text: str) -> None:
    """A picture with a line of text, so that a stage writes the same files whatever its params."""
    path = stage.METRICS / name / "plots" / "images" / PICTURE
    write_atomic(path, encode_jpeg(placeholder(text)))


def _log_picture(live: Any, jpeg: torch.Tensor) -> None:
    if distributed.is_main_process():
        live.log_image(PICTURE, Image.open(io.BytesIO(jpeg.numpy().tobytes())))


def build_schedule(params: Params, epochs: int, per_epoch: int, lr: float) -> Schedule:
    """The schedule of params.train over `epochs`, its peak `lr` scaled by train.lr_scaling."""
    train = params.train
    peak, ratio = lr * train.lr_factor, f"{train.batch_size}/{train.lr_base_batch}"
    warmup = train.warmup_iters + round(train.warmup_epochs * per_epoch)
    if (steps := epochs * per_epoch) < warmup:
        raise PoseError(
            f"params.yaml: train.warmup_iters = {train.warmup_iters}, train.warmup_epochs = "
            f"{train.warmup_epochs:g}: a warm-up of {warmup:,} steps, but the phase has {steps:,} "
            f"({epochs} epochs of {per_epoch:,}), so lr never reaches its peak; lower the warm-up"
        )
    if train.lr_scaling != "none":
        log(f"lr {lr:g} x {ratio} {train.lr_scaling} = {peak:.3g}")
    return Schedule(
        kind=train.schedule,
        lr=peak,
        steps=steps,
        steps_per_epoch=per_epoch,
        warmup_iters=warmup,
        min_lr=train.min_lr,
        milestones=train.milestones,
        gamma=train.gamma,
    )
