"""Stage 2: multi-path consistency on persons without keypoints, labels in every step.

    python stages/train_ssl.py

Reads data/cache, models/phase2.safetensors; writes models/ssl.safetensors and metrics/train_ssl.
About 2 minutes on two cores with the embedded default.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

import stage
import training
from pose import distributed
from pose.cache import CropTable
from pose.checkpoint import load_model, read_provenance
from pose.consistency import PathSpec, consistency_step
from pose.dataset import steps_per_epoch
from pose.params import Params

NAME = "train_ssl"
STREAM, STREAM_UNLABELLED = 3, 4  # keep the phases' random draws apart


def main(params: Params) -> None:
    device = training.setup_torch(params)
    skeleton = stage.skeleton()
    model = training.build_model(params, skeleton)
    start_weights = training.model_path("train_phase2")
    load_model(model, start_weights)
    model.to(device)
    if params.ssl.epochs == 0:
        return training.hand_on(NAME, model, start_weights)
    table, more = CropTable(stage.CACHE / "train"), CropTable(stage.CACHE / "unlabelled")
    seed, size, law = params.run.seed, params.train.batch_size, params.ssl
    labelled = training.training_samples(
        params, skeleton, table, table.labelled(), params.augment.min_keypoints, (seed, STREAM)
    )
    others = training.training_samples(  # their targets are empty: nothing to demand
        params, skeleton, more, np.arange(len(more)), 0, (seed, STREAM_UNLABELLED)
    )
    accumulate = params.train.accumulate
    distributed.share_of(size, "train.batch_size", accumulate)
    distributed.share_of(law.batch_size, "ssl.batch_size", accumulate)
    per_epoch = max(
        steps_per_epoch(len(labelled), size),
        steps_per_epoch(len(others), law.batch_size, "ssl.batch_size"),
    )
    schedule = training.build_schedule(params, law.epochs, per_epoch, law.lr)
    ramp_steps = max(1, round(law.ramp_fraction * schedule.steps))
    gradients = training.step_gradients(params, device)
    network = training.prepare(params, model, device)
    step_loss = consistency_step(
        network,
        stage.pick(PathSpec, law),
        training.codec(params, skeleton),
        device,
        params.train.amp,
        (seed, STREAM_UNLABELLED),
        lambda step: law.unlabelled_weight * min(1.0, (step + 1) / ramp_steps),
        gradients,
    )

    def batches(start: int) -> Iterable[Any]:
        return zip(
            training.loader(labelled, size, start, schedule.steps),
            training.loader(others, law.batch_size, start, schedule.steps),
            strict=True,
        )

    provenance = read_provenance(start_weights)
    training.train(NAME, params, model, schedule, batches, step_loss, gradients, provenance)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
