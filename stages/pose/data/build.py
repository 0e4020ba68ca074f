"""Codec, samples and loader of a run, from its parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose import distributed
from pose.codecs.udp import UdpCodec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import Params
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data.augment import BoxLaw, ColourLaw
from pose.data.samples import StepBatches, TrainingSamples, batch_loader


def codec(params: Params, skeleton: Skeleton) -> UdpCodec:
    """The codec of params."""
    return stage.pick(UdpCodec, params.codec, flip_indices=skeleton.flip_indices)


def box_law(params: Params, skeleton: Skeleton) -> BoxLaw:
    """The box law of params. Raises PoseError if it asks for what these keypoints cannot give."""
    law, upper, lower = params.augment, skeleton.upper_body, skeleton.lower_body
    count, halves = skeleton.num_keypoints, law.half_body_prob > 0
    if halves and not upper and not lower:
        raise PoseError(
            f"params.yaml: augment.half_body_prob = {law.half_body_prob}, but these {count} "
            "keypoints have no half bodies; name them in keypoints.upper_body and "
            "keypoints.lower_body, or set augment.half_body_prob: 0"
        )
    for key in ("min_keypoints", *(["half_body_min_keypoints"] if halves else [])):
        if getattr(law, key) > count:
            raise PoseError(
                f"params.yaml: augment.{key} = {getattr(law, key)}, but there are only {count} "
                "keypoints; lower it"
            )
    return stage.pick(BoxLaw, law, upper_body=upper, lower_body=lower)


def training_samples(
    params: Params,
    skeleton: Skeleton,
    table: CropTable,
    rows: NDArray[np.intp],
    min_keypoints: int,
    seed: tuple[int, ...],
) -> TrainingSamples:
    """Augmented samples of `rows`, drawn from `seed`."""
    return TrainingSamples(
        table,
        rows,
        box_law(params, skeleton),
        stage.pick(ColourLaw, params.augment),
        codec(params, skeleton),
        min_keypoints,
        seed,
        deferred=torch.cuda.is_available(),
    )


def loader(samples: TrainingSamples, batch_size: int, start: int, stop: int) -> Iterable[Any]:
    """This process's share of the batches of steps start .. stop - 1."""
    place = (distributed.rank(), distributed.world_size())
    batches = StepBatches(len(samples), batch_size, samples.seed, start, stop, *place)
    workers = loader_workers() if torch.cuda.is_available() else 1
    return batch_loader(samples, batches, workers)


def loader_workers() -> int:
    """Helper processes of this process's loader."""
    return max(1, min(8, stage.workers() // distributed.local_world_size()))
