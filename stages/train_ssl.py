"""Stage 2: multi-path consistency on persons without keypoints, labels in every step.

    python stages/train_ssl.py

Reads data/cache, models/phase2.safetensors; writes models/ssl.safetensors, its second network
models/ssl_second.safetensors (the same weights if `ssl.networks` is 1) and metrics/train_ssl.
About 2 minutes on two cores with the embedded default. See docs/ssl.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from dvclive import Live
from torch import nn
from torch.utils.data import default_collate

from pose import distributed
from pose.common import stage
from pose.common.files import replacing, write_atomic
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data import build as data_build
from pose.data.samples import TrainingSamples, steps_per_epoch
from pose.draw import Image, encode_jpeg
from pose.engine.ema import WeightEma
from pose.engine.fit import ONE_BATCH, Gradients, Row, to_device
from pose.engine.train import (
    build_schedule,
    copy_weights,
    model_path,
    step_gradients,
    train,
    wrap_model,
)
from pose.models.build import build_model, setup_torch
from pose.models.checkpoint import load_model, read_provenance
from pose.models.vit import PoseModel
from pose.ssl.consistency import Consistency
from pose.ssl.pictures import no_picture, picture_views
from pose.ssl.students import network_teacher

NAME = "train_ssl"
STREAM, STREAM_UNLABELLED = 3, 4  # keep the phases' random draws apart
SECOND = stage.MODELS / "ssl_second.safetensors"
PICTURE = "views.jpg"
EMPTY_STEPS = 500  # a mask empty for so long is worth a warning
FALLEN = 0.5  # of the first row's peak


def main(params: Params) -> None:
    device = setup_torch(params)
    skeleton = stage.skeleton()
    model = build_model(params, skeleton)
    start_weights = model_path("train_phase2")
    load_model(model, start_weights)
    model.to(device)
    if params.ssl.epochs == 0:
        copy_weights(NAME, model, start_weights)
        return _hand_on_the_rest()
    labelled, others = samples(params, skeleton)
    size, law, accumulate = params.train.batch_size, params.ssl, params.train.accumulate
    distributed.share_of(size, "train.batch_size", accumulate)
    distributed.share_of(law.batch_size, "ssl.batch_size", accumulate)
    per_epoch = max(
        steps_per_epoch(len(labelled), size),
        steps_per_epoch(len(others), law.batch_size, "ssl.batch_size"),
    )
    schedule = build_schedule(params, law.epochs, per_epoch, law.lr)
    students = [model, *second_networks(params, skeleton, model)]
    gradients = step_gradients(params, device)
    networks = [wrap_model(params, student, device) for student in students]
    learning = nn.ModuleList(students) if len(students) > 1 else model
    ema = WeightEma(learning, law.ema_decay) if law.ema_decay else None
    build = partial(build_consistency, params, skeleton, networks, ema, device, schedule.steps)

    def batches(start: int) -> Iterable[Any]:
        return zip(
            data_build.loader(labelled, size, start, schedule.steps),
            data_build.loader(others, law.batch_size, start, schedule.steps),
            strict=True,
        )

    def finish(live: Any) -> None:
        chosen = default_collate([others[0, i] for i in range(min(law.pictures, len(others)))])
        picture = picture_views(build(ONE_BATCH), *to_device(chosen, device), schedule.steps)
        _log_picture(live, picture)

    train(
        NAME,
        params,
        model,
        schedule,
        batches,
        build(gradients),
        gradients,
        read_provenance(start_weights),
        trainable=learning,
        teacher_ema=ema,
        extra_models={SECOND: students[-1]},
        on_row=Alarm(),
        finish=finish,
    )


def samples(params: Params, skeleton: Skeleton) -> tuple[TrainingSamples, TrainingSamples]:
    """Labelled persons, and unlabelled ones, whose targets are empty: nothing to demand of them."""
    table, more = CropTable(stage.CACHE / "train"), CropTable(stage.CACHE / "unlabelled")
    few, seed = params.augment.min_keypoints, params.run.seed
    draw = partial(data_build.training_samples, params, skeleton)
    return (
        draw(table, table.labelled(), few, (seed, STREAM)),
        draw(more, np.arange(len(more)), 0, (seed, STREAM_UNLABELLED)),
    )


def second_networks(params: Params, skeleton: Skeleton, first: PoseModel) -> list[PoseModel]:
    """None, or the second of two: the first one's backbone under a fresh head.

    Equal networks would teach each other what they know already; until the second one's peaks
    reach ssl.min_peak it teaches nothing.
    """
    if params.ssl.networks == 1:
        return []
    second = build_model(params, skeleton)
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
    """The step's losses over `steps` steps; networks are the students, wrapped for this run.

    ema is of the students' weights (ssl.ema_decay); without it the weights themselves teach.
    """
    law, amp, codec = params.ssl, params.train.amp, data_build.codec(params, skeleton)
    ramp_steps = max(1, round(law.ramp_fraction * steps))
    return Consistency(
        students=networks,
        teachers=[
            network_teacher(network, codec, device, amp, gradients, ema)
            for network in reversed(networks)
        ],
        ssl=law,
        codec=codec,
        device=device,
        amp=amp,
        seed=(params.run.seed, STREAM_UNLABELLED),
        weight_at=lambda step: law.unlabelled_weight * min(1.0, (step + 1) / ramp_steps),
        gradients=gradients,
    )


class Alarm:
    """Warns of a run that learns nothing from its unlabelled persons, or unlearns.

    Called with each logged row. Says each thing once.
    """

    def __init__(self) -> None:
        self.first_peak: float | None = None
        self.used_at, self.said = 0.0, set[str]()

    def __call__(self, row: Row) -> None:
        if "peak" not in row:  # val_AP's, or no step was a good one
            return
        if self.first_peak is None:
            self.first_peak = row["peak"]
        if row["mask"] > 0:
            self.used_at = row["step"]
        if row["step"] - self.used_at >= EMPTY_STEPS:
            self._say(
                f"no unlabelled keypoint was sure enough in {EMPTY_STEPS} steps; lower "
                "ssl.min_peak (multiaugs) or ssl.confidence_thr (ensemble), or train phase 2 longer"
            )
        if row["peak"] < FALLEN * self.first_peak:
            self._say(
                f"the easy view's peaks fell from {self.first_peak:.3f} to {row['peak']:.3f}; "
                "lower ssl.lr or ssl.unlabelled_weight"
            )

    def _say(self, text: str) -> None:
        subject = text.split()[0]
        if subject not in self.said and distributed.is_first():
            log(f"{NAME}: warning: {text}")
        self.said.add(subject)


def _log_picture(live: Live | None, picture: Image) -> None:
    if live:
        live.log_image(PICTURE, np.ascontiguousarray(picture[..., ::-1]))  # it takes RGB


def _hand_on_the_rest() -> None:
    """What a stage of no epochs also owes to dvc.yaml."""
    if not distributed.is_first():
        return
    with replacing(SECOND) as beside:
        shutil.copyfile(model_path(NAME), beside)
    picture = encode_jpeg(no_picture("ssl.epochs is 0: no views"))
    write_atomic(stage.METRICS / NAME / "plots" / "images" / PICTURE, picture)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
