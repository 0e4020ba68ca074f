"""Stage 2: multi-path consistency on people without keypoints, with labels in every step.

    python stages/train_ssl.py

Reads data/cache, models/phase2.safetensors; writes models/ssl.safetensors,
models/ssl_second.safetensors (the second network; the same weights if `ssl.networks` is 1) and
metrics/train_ssl. About a minute and a half on two cores with the embedded default. See
docs/ssl.md.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

import shutil
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from pose import distributed
from pose.common.files import replacing, write_atomic
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data import build as data_build
from pose.data.samples import TrainingSamples, steps_per_epoch
from pose.draw import encode_jpeg, placeholder
from pose.engine.ema import WeightEma
from pose.engine.finetune import freeze_for_phase2_, load_for_training_
from pose.engine.fit import ONE_BATCH, Gradients, Row, to_device
from pose.engine.train import (
    build_schedule,
    copy_weights,
    model_path,
    step_gradients,
    train,
    wrap_model,
)
from pose.models.adapter import Base
from pose.models.build import build_model, setup_torch
from pose.models.checkpoint import read_provenance
from pose.models.pose_model import PoseModel
from pose.ssl.consistency import Consistency
from pose.ssl.pictures import picture_views
from pose.ssl.students import network_teacher

if TYPE_CHECKING:
    from dvclive import Live

NAME = "train_ssl"
STREAM, STREAM_UNLABELLED = 3, 4  # part of the seed; other phases have other streams
SECOND = stage.MODELS / "ssl_second.safetensors"
PICTURE = "views.jpg"
EMPTY_MASK_STEPS = 500  # UnlabelledMonitor warns after so many steps with an empty mask
MIN_PEAK_RATIO = 0.5  # it warns if the peak value is below this share of the first one


def main(params: Params) -> None:
    device = setup_torch(params)
    skeleton = stage.skeleton()
    model = build_model(params, skeleton)
    start_weights = model_path("train_phase2")
    base = load_for_training_(model, params, start_weights)
    model.to(device)
    reason = "ssl.epochs is 0"
    if params.ssl.epochs:
        if len(CropTable(stage.CACHE / "unlabelled")):
            return train_students(params, skeleton, model, device, base)
        reason = "data/cache/unlabelled has no people"
    copy_weights(NAME, model, start_weights, base, reason)
    write_skipped_outputs(reason)


def train_students(
    params: Params,
    skeleton: Skeleton,
    model: PoseModel,
    device: torch.device,
    base: Base | None,
) -> None:
    """Train `model`, which has the weights of phase 2, and save it; base as in `train`."""
    start_weights = model_path("train_phase2")
    labelled, unlabelled = samples(params, skeleton)
    batch_size, ssl, accumulate = params.train.batch_size, params.ssl, params.train.accumulate
    distributed.batch_per_process(batch_size, "train.batch_size", accumulate)
    distributed.batch_per_process(ssl.batch_size, "ssl.batch_size", accumulate)
    per_epoch = max(
        steps_per_epoch(len(labelled), batch_size),
        steps_per_epoch(len(unlabelled), ssl.batch_size, "ssl.batch_size"),
    )
    schedule = build_schedule(params, ssl.epochs, per_epoch, ssl.lr)
    students = [model, *second_networks(params, skeleton, model)]
    gradients = step_gradients(params, device)
    networks = [wrap_model(params, student, device) for student in students]
    trainable = nn.ModuleList(students) if len(students) > 1 else model
    ema = WeightEma(trainable, ssl.ema_decay) if ssl.ema_decay else None
    build = partial(build_consistency, params, skeleton, networks, ema, device, schedule.steps)

    def batches(start: int) -> Iterable[Any]:
        return zip(
            data_build.loader(labelled, batch_size, start, schedule.steps),
            data_build.loader(unlabelled, ssl.batch_size, start, schedule.steps),
            strict=True,
        )

    def finish(live: Live | None) -> None:
        count = min(ssl.pictures, len(unlabelled))
        shown = default_collate([unlabelled[0, i] for i in range(count)])
        picture = picture_views(build(ONE_BATCH), *to_device(shown, device), schedule.steps)
        if live:  # only in the first process
            live.log_image(PICTURE, np.ascontiguousarray(picture[..., ::-1]))  # BGR to RGB

    train(
        NAME,
        params,
        model,
        schedule,
        batches,
        build(gradients),
        gradients,
        read_provenance(start_weights),
        base,
        trainable=trainable,
        teacher_ema=ema,
        extra_models={SECOND: students[-1]},
        on_row=UnlabelledMonitor(),
        finish=finish,
    )


def samples(params: Params, skeleton: Skeleton) -> tuple[TrainingSamples, TrainingSamples]:
    """Samples of labelled people, and of unlabelled people, whose target weights are all 0.

    augment.min_keypoints applies only to labelled people.
    """
    train, unlabelled = CropTable(stage.CACHE / "train"), CropTable(stage.CACHE / "unlabelled")
    min_keypoints, seed = params.augment.min_keypoints, params.run.seed
    build = partial(data_build.training_samples, params, skeleton)
    return (
        build(train, train.labelled(), min_keypoints, (seed, STREAM)),
        build(unlabelled, np.arange(len(unlabelled)), 0, (seed, STREAM_UNLABELLED)),
    )


def second_networks(params: Params, skeleton: Skeleton, first: PoseModel) -> list[PoseModel]:
    """[] or, with ssl.networks = 2, a network with the first one's backbone and a new head.

    Two equal networks would have equal predictions and learn nothing from each other. The first
    one gets no target from the second until that one's peaks exceed ssl.min_peak.
    """
    if params.ssl.networks == 1:
        return []
    second = build_model(params, skeleton)
    freeze_for_phase2_(second, params)
    second.backbone.load_state_dict(first.backbone.state_dict())
    return [second.to(next(first.parameters()).device)]


def build_consistency(
    params: Params,
    skeleton: Skeleton,
    networks: list[nn.Module],
    ema: WeightEma | None,
    device: torch.device,
    steps: int,
    gradients: Gradients,
) -> Consistency:
    """The training step of a run of `steps` steps; networks are the wrapped students.

    ema averages the students' weights (ssl.ema_decay); without it the teachers are the students.
    With two networks each is the teacher of the other. The unlabelled loss's weight rises linearly
    over the first ssl.ramp_fraction of the steps.
    """
    ssl, amp, codec = params.ssl, params.train.amp, data_build.codec(params, skeleton)
    ramp_steps = max(1, round(ssl.ramp_fraction * steps))
    return Consistency(
        students=networks,
        teachers=[
            network_teacher(network, codec, device, amp, gradients, ema)
            for network in reversed(networks)
        ],
        ssl=ssl,
        codec=codec,
        device=device,
        amp=amp,
        seed=(params.run.seed, STREAM_UNLABELLED),
        weight_at=lambda step: ssl.unlabelled_weight * min(1.0, (step + 1) / ramp_steps),
        gradients=gradients,
    )


class UnlabelledMonitor:
    """Warns if training learns nothing from unlabelled people, or if its peak values fall.

    Called with each logged row; logs each of the two warnings once.
    """

    def __init__(self) -> None:
        self.first_peak: float | None = None
        self.last_used_step = 0.0
        self.warned: set[str] = set()

    def __call__(self, row: Row) -> None:
        if "peak" not in row:  # a row of val_AP, or every step since the last row was skipped
            return
        if self.first_peak is None:
            self.first_peak = row["peak"]
        if row["mask"] > 0:
            self.last_used_step = row["step"]
        if row["step"] - self.last_used_step >= EMPTY_MASK_STEPS:
            self._warn_once(
                "mask",
                f"no unlabelled keypoint was above the threshold in {EMPTY_MASK_STEPS} steps; "
                "lower ssl.min_peak (multiaugs) or ssl.confidence_thr (ensemble), or train phase 2 "
                "longer",
            )
        if row["peak"] < MIN_PEAK_RATIO * self.first_peak:
            self._warn_once(
                "peak",
                f"the teacher's mean peak value fell from {self.first_peak:.3f} to "
                f"{row['peak']:.3f}; lower ssl.lr or ssl.unlabelled_weight",
            )

    def _warn_once(self, kind: str, text: str) -> None:
        if kind not in self.warned and distributed.is_main_process():
            log(f"{NAME}: warning: {text}")
        self.warned.add(kind)


def write_skipped_outputs(reason: str) -> None:
    """Without stage 2, write the other outputs that dvc.yaml declares."""
    if not distributed.is_main_process():
        return
    with replacing(SECOND) as temporary:
        shutil.copyfile(model_path(NAME), temporary)
    picture = encode_jpeg(placeholder(f"{reason}: no views"))
    write_atomic(stage.METRICS / NAME / "plots" / "images" / PICTURE, picture)


if __name__ == "__main__":
    stage.run(NAME, main)
