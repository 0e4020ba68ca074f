"""Builds the codec, the training samples and the data loader from params.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose import distributed
from pose.codecs.udp import UdpCodec, build_codec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import Augment, Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable, TrainingSet
from pose.data.samples import StepBatches, TrainingSamples, batch_loader


def codec(params: Params, skeleton: Skeleton) -> UdpCodec:
    """The codec of params.codec, with the flip pairs of `skeleton`."""
    return build_codec(params.codec, skeleton.flip_indices)


def check_augment(augment: Augment, skeleton: Skeleton) -> None:
    """Raises PoseError if half bodies or minimum counts do not fit the keypoints of `skeleton`."""
    count, use_half_body = skeleton.num_keypoints, augment.half_body_prob > 0
    if use_half_body and not skeleton.upper_body and not skeleton.lower_body:
        raise PoseError(
            f"params.yaml: augment.half_body_prob = {augment.half_body_prob}, but these {count} "
            "keypoints have no half bodies; list their names in keypoints.upper_body and "
            "keypoints.lower_body, or set augment.half_body_prob: 0"
        )
    for key in ("min_keypoints", *(["half_body_min_keypoints"] if use_half_body else [])):
        if getattr(augment, key) > count:
            raise PoseError(
                f"params.yaml: augment.{key} = {getattr(augment, key)}, but there are only {count} "
                "keypoints; lower it"
            )


def check_sets(sets: Sequence[TrainingSet], min_keypoints: int) -> None:
    """Raises PoseError if people of a set would always be replaced, as they have few keypoints."""
    for one in sets:
        if one.keypoints < min_keypoints:
            raise PoseError(
                f"params.yaml: augment.min_keypoints = {min_keypoints}, but the training set "
                f"{one.name} has {one.keypoints} of the keypoints, so none of its people would be "
                "trained on; lower it"
            )


def training_samples(
    params: Params,
    skeleton: Skeleton,
    table: CropTable,
    rows: NDArray[np.intp],
    min_keypoints: int,
    seed: tuple[int, ...],
) -> TrainingSamples:
    """Augmented samples of the given rows of the table; all random draws follow from seed."""
    check_augment(params.augment, skeleton)
    check_sets(table.sets, min_keypoints)
    return TrainingSamples(
        table,
        rows,
        params.augment,
        skeleton,
        codec(params, skeleton),
        min_keypoints,
        seed,
        deferred=torch.cuda.is_available(),
    )


def loader(samples: TrainingSamples, batch_size: int, start: int, stop: int) -> Iterable[Any]:
    """This process's share of the batches of steps start .. stop - 1.

    batch_size counts the samples of all processes together.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    batches = StepBatches(samples.order, batch_size, samples.seed, start, stop, rank, world_size)
    workers = loader_workers() if torch.cuda.is_available() else 1
    return batch_loader(samples, batches, workers)


def loader_workers() -> int:
    """Worker processes per data loader: this process's share of the machine's, at most 8."""
    return max(1, min(8, stage.workers() // distributed.local_world_size()))
