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
from pose.common.processes import sigterm_noted
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data.build import codec, loader, training_samples
from pose.data.samples import steps_per_epoch
from pose.engine import parallel
from pose.engine.checkpoint import newest_training_state, save_training_state
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
)
from pose.engine.optim import Schedule, build_adamw
from pose.engine.validation import Watch
from pose.models.checkpoint import State, read_provenance, save_weights
from pose.models.vit import PoseModel


@contextmanager
def enough_memory(params: Params) -> Iterator[None]:
    """Turns out-of-memory errors into a PoseError that names the dials and their values."""
    try:
        yield
    except RuntimeError as error:
        if not stage.is_torch_memory(error):
            raise
        said = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        raise PoseError(f"params.yaml: {said}; {_dials(params)}") from None


def _dials(params: Params) -> str:
    """What takes less memory, with the present values; those at their end are left out."""
    law, model = params.train, params.model
    per_step = law.batch_size // distributed.world_size()
    dials = [
        f"train.accumulate = {law.accumulate} (more)" if law.accumulate < per_step else "",
        "" if model.grad_checkpointing else "model.grad_checkpointing = false (true)",
        "train.amp = none (bf16)" if law.amp == "none" else "",
        "train.parallel = ddp (fsdp, with NPROC)" if law.parallel == "ddp" else "",
        f"train.ema_decay = {law.ema_decay} (0)" if law.ema_decay else "",
        f"train.batch_size = {law.batch_size} (less)",
    ]
    return "turn one of " + ", ".join(dial for dial in dials if dial)


STATE = "state.pt"


def prepare(params: Params, model: PoseModel, device: torch.device) -> nn.Module:
    """What is called in the model's place when it trains: compiled, spread over processes."""
    sharded = params.train.parallel == "fsdp" and distributed.world_size() > 1
    if device.type == "cuda" and not sharded:  # FSDP takes plain strides alone
        model.head.to(memory_format=torch.channels_last)  # as its input is laid out already
    if params.train.compile:  # part by part: the blocks are alike, so they share one compilation
        for part in (*model.backbone.blocks, model.head):
            part.compile()
    network = parallel.spread(model, params.train.parallel, device)
    if not distributed.is_first():
        torch.manual_seed(params.run.seed + distributed.rank())  # else drop path falls alike in all
    return network


def step_gradients(params: Params, device: torch.device) -> Gradients:
    """Micro-batches and loss scale of params."""
    return Gradients(params.train.accumulate, loss_scaler(device, params.train.amp))


def train_supervised(
    name: str,
    stream: int,
    params: Params,
    skeleton: Skeleton,
    model: PoseModel,
    epochs: int,
    start_weights: Path,
) -> None:
    """Train on the labelled persons for `epochs`; what is frozen stays so.

    stream keeps the phases' random draws apart. start_weights hands on its provenance.
    """
    if epochs == 0:
        return hand_on(name, model, start_weights)
    device = next(model.parameters()).device
    table = CropTable(stage.CACHE / "train")
    few, seed = params.augment.min_keypoints, (params.run.seed, stream)
    samples = training_samples(params, skeleton, table, table.labelled(), few, seed)
    law = params.train
    distributed.share_of(law.batch_size, "train.batch_size", law.accumulate)
    per_epoch = steps_per_epoch(len(samples), law.batch_size)
    schedule = build_schedule(params, epochs, per_epoch, law.lr)
    gradients = step_gradients(params, device)
    network = prepare(params, model, device)
    step_loss = supervised_step(network, codec(params, skeleton), device, law.amp, gradients)

    def batches(start: int) -> Iterable[Any]:
        return loader(samples, law.batch_size, start, schedule.steps)

    provenance = read_provenance(start_weights)
    train(name, params, model, schedule, batches, step_loss, gradients, provenance)


def hand_on(name: str, model: PoseModel, start_weights: Path) -> None:
    """A phase of no epochs: the weights go on as they are, with a curve of no points."""
    if not distributed.is_first():
        return
    with stage.live(name) as live:
        live.summary["step"] = 0
    plot = stage.METRICS / name / "plots" / "metrics" / "loss.tsv"
    write_atomic(plot, b"step\tloss\n")
    weights = model_weights(model)
    _save_kept(name, weights, weights, read_provenance(start_weights))
    log(f"{name}: no epochs, the weights are handed on")


def train(
    name: str,
    params: Params,
    model: PoseModel,
    schedule: Schedule,
    batches: Callable[[int], Iterable[Any]],
    step_loss: StepLoss,
    gradients: Gradients,
    provenance: dict[str, Any],
    learning: nn.Module | None = None,
    teacher_ema: WeightEma | None = None,
    besides: Mapping[Path, PoseModel] = MappingProxyType({}),
    on_row: Callable[[Row], None] = lambda row: None,
    finish: Callable[[Any], None] = lambda live: None,
) -> None:
    """Train `model` to models/<name>.safetensors, going on from a killed run's checkpoint.

    batches(start) gives the batches from step `start` on. Files are the first process's alone.
    learning holds `model` and whatever else learns; teacher_ema is an EMA of it that is updated and
    saved with it; besides: files that get other parts of it.
    on_row sees each logged row, also those of an earlier, killed run; finish gets the Live (None in
    other processes) when all is trained. Raises PoseError if the device's memory does not do,
    Stopped after SIGTERM.
    """
    law = params.train
    learning = learning or model
    optimizer = build_adamw(learning, law.weight_decay, law.layer_decay, law.betas)
    ema = WeightEma(learning, law.ema_decay) if law.ema_decay else None
    scaler = gradients.scaler
    state = TrainState(learning, optimizer, scaler, ema=ema, teacher_ema=teacher_ema)
    first = distributed.is_first()
    with (
        stage.resume_folder(name) if first else nullcontext() as folder,
        stage.live(name) if first else nullcontext() as live,
        sigterm_noted() as asked,
        enough_memory(params),
    ):
        _restore_(state, name, folder)

        def seen(row: Row) -> None:
            _log_row(live, row)
            on_row(row)

        for row in state.history:
            seen(row)
        for step, jpeg in state.pictures.items():
            _log_picture(live, step, jpeg)
        fit(
            name,
            law,
            state,
            batches(state.step),
            step_loss,
            schedule,
            on_row=seen,
            save=lambda state: _save(state, folder),
            watch=watching(name, params, model, schedule, partial(_log_picture, live)),
            stop=lambda: distributed.anyone(asked()),
        )
        with ema.swapped_in() if ema else nullcontext():
            last = model_weights(model)
            others = {path: model_weights(part) for path, part in besides.items()}
            if first:
                published = _publish(name, law.keep, state, last, provenance)
                for path, weights in others.items():
                    same = besides[path] is model
                    save_weights(path, published if same else weights, provenance)
        finish(live)


def watching(
    name: str,
    params: Params,
    model: PoseModel,
    schedule: Schedule,
    on_picture: Callable[[int, torch.Tensor], None],
) -> Watch:
    """What params look at after an epoch."""
    skeleton = stage.skeleton()
    laws = params.train, codec(params, skeleton), params.augment.bbox_padding
    return Watch(name, model, *laws, skeleton, schedule, on_picture)


def _restore_(state: TrainState, name: str, folder: Path | None) -> None:
    """Go on from the state in the first process's folder, if there is one."""
    found = newest_training_state(folder / STATE) if folder else None
    if distributed.from_first(found is not None):
        state.restore_(found)
        log(f"{name} goes on from step {state.step}")


def _save(state: TrainState, folder: Path | None) -> None:
    content = state.to_dict()
    if folder:
        save_training_state(folder / STATE, content)


def _publish(
    name: str, keep: str, state: TrainState, last: State, provenance: dict[str, Any]
) -> State:
    """Save the weights that go on, which are returned, and of best and last the others."""
    best = state.best.get("weights", last)
    if state.best:
        where = f"step {state.best['step']:.0f}, val_AP {state.best['val_AP']:.3f}"
        log(f"{name}: best by val_AP: {where}; {keep} goes on")
    chosen, other = (best, last) if keep == "best" else (last, best)
    _save_kept(name, chosen, other, provenance)
    return chosen


def _save_kept(name: str, chosen: State, other: State, provenance: dict[str, Any]) -> None:
    path = model_path(name)
    save_weights(path, chosen, provenance)
    save_weights(path.with_stem(f"{path.stem}_other"), other, provenance)


def model_path(name: str) -> Path:
    """models/phase1.safetensors for stage train_phase1."""
    return stage.MODELS / f"{name.removeprefix('train_')}.safetensors"


def _log_row(live: Any, row: Row) -> None:
    if not distributed.is_first():
        return
    live.step = int(row["step"])
    for key, value in row.items():
        if key != "step":
            live.log_metric(key, value)
    live.next_step()


def _log_picture(live: Any, step: int, jpeg: torch.Tensor) -> None:
    if distributed.is_first():
        picture = Image.open(io.BytesIO(jpeg.numpy().tobytes()))
        live.log_image(f"persons/{step}.jpg", picture)


def build_schedule(params: Params, epochs: int, per_epoch: int, lr: float) -> Schedule:
    """The schedule of params.train over `epochs`, with the peak `lr` scaled as they say."""
    law = params.train
    peak = lr * law.lr_factor
    if law.lr_scaling != "none":
        log(f"lr {lr:g} x {law.batch_size}/{law.lr_base_batch} {law.lr_scaling} = {peak:.3g}")
    return Schedule(
        kind=law.schedule,
        lr=peak,
        steps=epochs * per_epoch,
        steps_per_epoch=per_epoch,
        warmup_iters=law.warmup_iters + round(law.warmup_epochs * per_epoch),
        min_lr=law.min_lr,
        milestones=law.milestones,
        gamma=law.gamma,
    )
