"""Datasets, batch samplers and data loaders of the crop cache.

A training sample depends only on (seed, stream, epoch, index), so that neither the number of
workers nor resuming changes the data. Images are uint8 and targets (K, 3) until they are on the
device.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from pose.codecs import geometry
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError
from pose.common.params import Augment
from pose.common.processes import die_with
from pose.common.skeleton import Skeleton
from pose.crop_table import CropTable
from pose.data.augment import (
    NO_JITTER,
    BlurDropout,
    apply_blurs,
    apply_colour_jitter,
    draw_affine,
    draw_colour_jitter,
    fill_hole_,
    transform_keypoints,
)
from pose.data.augment_device import pack

MAX_REDRAWS = 20
MAX_SOCKET_PATH = 107  # bytes, on Linux
MAX_TEMPORARY_FOLDER = MAX_SOCKET_PATH - len(
    "/pymp-12345678/listener-12345678"
)  # multiprocessing's


class TrainingSamples(Dataset[tuple[NDArray[Any], ...]]):
    """(epoch, i) -> augmented image (h, w, 3) uint8 BGR and target (K, 3) of rows[i].

    Of several training sets with weights (EpochOrder), i >= len(rows) is another draw of the person
    i % len(rows) in the same epoch. The length is the number of samples in an epoch.

    deferred: colour jitter and dropout are left to the device, and a third array has their
    parameters (augment_device.pack). Jitter comes before blur, so that blurred samples still get
    their jitter here.
    """

    def __init__(
        self,
        table: CropTable,
        rows: NDArray[np.intp],
        augment: Augment,
        skeleton: Skeleton,
        codec: UdpCodec,
        min_keypoints: int,
        seed: tuple[int, ...],
        deferred: bool = False,
    ) -> None:
        self.table, self.rows, self.augment, self.skeleton = table, rows, augment, skeleton
        self.codec, self.min_keypoints, self.seed = codec, min_keypoints, seed
        self.blur_dropout = BlurDropout(augment)
        self.deferred = deferred
        weights = [one.weight for one in table.sets] or [1.0]
        self.order = EpochOrder(table.set_index[rows], weights)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: tuple[int, int]) -> tuple[NDArray[Any], ...]:
        epoch, index = key
        rng = np.random.default_rng([*self.seed, epoch, index])
        row = int(self.rows[index % len(self.rows)])
        for attempt in range(MAX_REDRAWS):
            if attempt:
                row = int(self.rows[rng.integers(len(self.rows))])  # Sapiens: another random person
            affine, target = self._affine_and_target(rng, row)
            if np.count_nonzero(target[:, 2]) >= self.min_keypoints:
                break
        image, parameters = self._image_and_parameters(rng, row, affine)
        return (image, target, parameters) if self.deferred else (image, target)

    def _affine_and_target(
        self, rng: np.random.Generator, row: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        table = self.table
        keypoints = table.keypoints[row].astype(np.float64)
        width, height = (int(n) for n in table.image_wh[row])
        affine, flipped = draw_affine(
            rng,
            self.augment,
            self.skeleton,
            table.bbox_xywh[row],
            keypoints,
            (width, height),
            self.codec.input_size,
        )
        points, visibility = transform_keypoints(
            affine, keypoints, flipped, self.codec.flip_indices
        )
        return affine, self.codec.encode(points, self.codec.keypoint_weights(visibility))

    def _image_and_parameters(
        self, rng: np.random.Generator, row: int, affine: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Image, and the parameters (1032,) of the augmentation that the device is to do."""
        input_wh = self.codec.input_size
        from_crop = geometry.compose(affine, geometry.translate(self.table.crop_xy[row]))
        image = self.codec.warp(self.table.crop(row), from_crop)
        jitter = draw_colour_jitter(rng, self.augment)
        blurs, hole = self.blur_dropout.draw(rng, input_wh)
        if self.deferred and not blurs:
            return image, pack(jitter, hole)
        image = apply_blurs(apply_colour_jitter(image, jitter), blurs)
        fill_hole_(image, hole)
        return image, pack(NO_JITTER, hole)


class TestSamples(Dataset[dict[str, Any]]):
    """i -> image (h, w, 3) uint8 BGR, target (K, 3), center, scale (2,) and row of rows[i].

    There is no augmentation. With scales other than 1, `scaled` (S, h, w, 3) has the images of the
    box enlarged by each of these scales, in their order.
    """

    __test__ = False  # not a pytest class

    def __init__(
        self,
        table: CropTable,
        rows: NDArray[np.intp],
        bbox_padding: float,
        codec: UdpCodec,
        scales: tuple[float, ...] = (1.0,),
    ) -> None:
        self.table, self.rows = table, rows
        self.bbox_padding, self.codec = bbox_padding, codec
        self.zooms = tuple(zoom for zoom in scales if zoom != 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self.rows[index])
        center, scale = self.box(row)
        crop, corner = self.table.crop(row), geometry.translate(self.table.crop_xy[row])
        sample = {
            "image": self._image(crop, corner, center, scale),
            "target": self.table.target[row].copy(),
            "center": center,
            "scale": scale,
            "row": row,
        }
        if self.zooms:
            images = [self._image(crop, corner, center, scale * zoom) for zoom in self.zooms]
            sample["scaled"] = np.stack(images)
        return sample

    def _image(
        self,
        crop: NDArray[np.uint8],
        corner: NDArray[np.float64],
        center: NDArray[np.float64],
        scale: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        affine = geometry.udp_affine(center, scale, 0.0, self.codec.input_size)
        return self.codec.warp(crop, geometry.compose(affine, corner))

    def box(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Center (2,) and scale (2,) of a row's padded box in the input's aspect, image pixels."""
        bbox = self.table.bbox_xywh[row]
        return geometry.bbox_to_center_scale(bbox, self.bbox_padding, self.codec.input_size)

    def padded_areas(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Areas (N,) of these rows' padded boxes, square pixels, as OKS-NMS takes them."""
        boxes = self.table.bbox_xywh[rows]
        return geometry.padded_areas(boxes, self.bbox_padding, self.codec.input_size)


class EpochOrder:
    """The samples of an epoch: each person as often as the weight of its set says.

    set_index (N,) is the set of each person, weights those of the sets. A set of n people has
    round(weight n) samples: everyone floor(weight) times, and others, drawn again in each epoch,
    once more. Index i + c N is the c-th repetition of person i. With weights of 1 the samples are
    0 .. N - 1.

    >>> order = EpochOrder(np.array([0, 0, 0, 0, 1, 1]), [0.5, 2.0])
    >>> len(order), sorted(order(np.random.default_rng(0)).tolist())[-4:]
    (6, [4, 5, 10, 11])
    """

    def __init__(self, set_index: NDArray[Any], weights: Sequence[float]) -> None:
        self.count = len(set_index)
        self.is_plain = all(weight == 1 for weight in weights)
        self.sets: list[tuple[NDArray[np.intp], int]] = []  # people, samples in an epoch
        for index, weight in enumerate(weights):
            people = np.flatnonzero(set_index == index)
            self.sets.append((people, round(weight * len(people))))

    def __len__(self) -> int:
        return self.count if self.is_plain else sum(samples for _, samples in self.sets)

    def __call__(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """The shuffled indices of an epoch."""
        if self.is_plain:
            return rng.permutation(self.count)
        parts = [self._drawn(rng, people, samples) for people, samples in self.sets if len(people)]
        return rng.permutation(np.concatenate(parts))

    def _drawn(
        self, rng: np.random.Generator, people: NDArray[np.intp], samples: int
    ) -> NDArray[np.intp]:
        times, rest = divmod(samples, len(people))
        some = rng.permutation(people)[:rest] + times * self.count
        return np.concatenate([*(people + copy * self.count for copy in range(times)), some])


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, i) for steps start .. stop - 1.

    order: the samples of an epoch; a number stands for 0 .. order - 1. Each epoch has its own
    shuffle and drops its last incomplete batch. The batch of a step does not
    depend on earlier steps, so that a resumed run continues with the same data. Each process gets
    the slice of its rank; batch_size must be divisible by world_size.
    """

    def __init__(
        self,
        order: EpochOrder | int,
        batch_size: int,
        seed: tuple[int, ...],
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order = EpochOrder(np.zeros(order), [1.0]) if isinstance(order, int) else order
        self.batch_size, self.seed = batch_size, seed
        self.start, self.stop = start, stop
        self.share = batch_size // world_size
        self.offset = rank * self.share
        self.steps_per_epoch = steps_per_epoch(len(self.order), batch_size)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, np.intp), -1
        for step in range(self.start, self.stop):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order = self.order(np.random.default_rng([*self.seed, epoch]))
                order_epoch = epoch
            first = batch * self.batch_size + self.offset
            yield [(epoch, int(i)) for i in order[first : first + self.share]]


def steps_per_epoch(count: int, batch_size: int, key: str = "train.batch_size") -> int:
    """Complete batches in `count` samples. Raises PoseError with the name of the param if none."""
    if count < batch_size:
        raise PoseError(
            f"params.yaml: {key} = {batch_size} is more than the {count} people in data/cache "
            f"that it takes; set it to {count} or less, or add data"
        )
    return count // batch_size


def test_batches(count: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Indices of the batches of process `rank`: every world_size-th batch, the last one included.

    The batches are those of a single process, so that results do not depend on world_size.
    """
    starts = range(rank * batch_size, count, world_size * batch_size)
    return [list(range(start, min(start + batch_size, count))) for start in starts]


test_batches.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def batch_loader(
    samples: TrainingSamples | TestSamples, batches: Iterable[list[Any]], workers: int
) -> DataLoader[Any]:
    """Data loader of the given batches of keys, in order; workers = 0 loads in this process.

    A training batch is [images (B, h, w, 3) uint8, targets (B, K, 3) float32]; if the samples are
    deferred, parameters (B, 1032) int16 follow.
    """
    if workers:
        _require_short_temporary_folder()
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=partial(_init_worker, os.getpid()),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # so that the global one does not advance
    )


def _require_short_temporary_folder() -> None:
    """Raise PoseError if Unix sockets in the temporary folder would have too long a path.

    Workers pass batches over such a socket. If it cannot be made, torch waits forever.
    """
    folder = tempfile.gettempdir()
    if (length := len(os.fsencode(folder))) > MAX_TEMPORARY_FOLDER:
        raise PoseError(
            f"TMPDIR: {folder}: a path of {length} bytes; the data loader needs at most "
            f"{MAX_TEMPORARY_FOLDER} for the paths of its sockets; set TMPDIR to a shorter folder"
        )


def _init_worker(trainer_pid: int, _: int) -> None:
    """Make a worker single-threaded, and end when its trainer does.

    SIGTERM is ignored, because it is often sent to all processes at once: the trainer still needs
    its workers to finish the step.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with(trainer_pid)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
