"""Samples and loaders over the crop cache.

A training sample is a function of (seed, stream, epoch, row) alone, so neither worker count nor a
resumed run changes the data. Images stay uint8, targets stay (K, 3), until they reach the device.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
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
    SAME_COLOURS,
    Occlusion,
    blurred,
    draw_affine,
    draw_colours,
    drop_,
    move_keypoints,
    recolour,
)
from pose.data.augment_device import packed

MAX_REDRAWS = 20


class TrainingSamples(Dataset[tuple[NDArray[Any], ...]]):
    """(epoch, i) -> augmented image (h, w, 3) uint8 BGR and target (K, 3) of rows[i].

    deferred: colours and hole are left to the device; a third array says which (recolour.py). What
    is blurred has its colours before, so it is done here as ever: the law stays the same.
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
        self.occlusion = Occlusion(augment)
        self.deferred = deferred

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[NDArray[Any], ...]:
        epoch, index = key
        rng = np.random.default_rng([*self.seed, epoch, index])
        row = int(self.rows[index])
        for attempt in range(MAX_REDRAWS):
            if attempt:
                row = int(self.rows[rng.integers(len(self.rows))])  # Sapiens: another random person
            affine, target = self._draw(rng, row)
            if target[:, 2].sum() >= self.min_keypoints:
                break
        image, later = self._picture(rng, row, affine)
        return (image, target, later) if self.deferred else (image, target)

    def _draw(
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
        points, visibility = move_keypoints(affine, keypoints, flipped, self.codec.flip_indices)
        return affine, self.codec.encode(points, np.minimum(visibility, 1.0))

    def _picture(
        self, rng: np.random.Generator, row: int, affine: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Image, and what the device is to do with it: nothing, unless deferred."""
        input_wh = self.codec.input_size
        from_crop = geometry.compose(affine, geometry.translate(self.table.crop_xy[row]))
        image = geometry.warp(self.table.crop(row), from_crop, input_wh)
        colours = draw_colours(rng, self.augment)
        blurs, hole = self.occlusion.draw(rng, input_wh)
        if self.deferred and not blurs:
            return image, packed(colours, hole)
        image = blurred(recolour(image, colours), blurs)
        drop_(image, hole)
        return image, packed(SAME_COLOURS, hole)


class TestSamples(Dataset[dict[str, Any]]):
    """i -> unaugmented image of rows[i], its cached target, and the box it shows.

    With scales other than 1 also `scaled` (S, h, w, 3), the images of the box so many times as
    large, in their order.
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
        found = {
            "image": self._image(crop, corner, center, scale),
            "target": self.table.target[row].copy(),
            "center": center,
            "scale": scale,
            "row": row,
        }
        if self.zooms:
            images = [self._image(crop, corner, center, scale * zoom) for zoom in self.zooms]
            found["scaled"] = np.stack(images)
        return found

    def _image(
        self,
        crop: NDArray[np.uint8],
        corner: NDArray[np.float64],
        center: NDArray[np.float64],
        scale: NDArray[np.float64],
    ) -> NDArray[np.uint8]:
        affine = geometry.udp_affine(center, scale, 0.0, self.codec.input_size)
        return geometry.warp(crop, geometry.compose(affine, corner), self.codec.input_size)

    def box(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre and padded, aspect-fixed size of a row's box, image pixels."""
        bbox = self.table.bbox_xywh[row]
        return geometry.bbox_to_center_scale(bbox, self.bbox_padding, self.codec.input_size)


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, i) for steps start .. stop - 1; each epoch shuffles anew, drops its tail.

    Any step's batch is computable on its own, which is all that resuming needs. Of several
    processes each takes its slice of the batch, in order, which must divide evenly.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: tuple[int, ...],
        start: int,
        stop: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop = start, stop
        self.share = batch_size // world_size
        self.offset = rank * self.share
        self.steps_per_epoch = steps_per_epoch(count, batch_size)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, np.intp), -1
        for step in range(self.start, self.stop):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order = np.random.default_rng([*self.seed, epoch]).permutation(self.count)
                order_epoch = epoch
            first = batch * self.batch_size + self.offset
            yield [(epoch, int(i)) for i in order[first : first + self.share]]


def steps_per_epoch(count: int, batch_size: int, key: str = "train.batch_size") -> int:
    """Whole batches in `count` samples. Raises PoseError, naming the param, if there is none."""
    if count < batch_size:
        raise PoseError(
            f"{key} = {batch_size}, but the cache holds only {count} such persons; "
            "lower it or add data"
        )
    return count // batch_size


def test_batches(count: int, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """Indices of each batch of process `rank`: every world_size-th, the tail included.

    Whole batches move between processes, so each is computed as one process would.
    """
    starts = range(rank * batch_size, count, world_size * batch_size)
    return [list(range(start, min(start + batch_size, count))) for start in starts]


test_batches.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def test_loader(
    samples: TestSamples,
    batch_size: int,
    rank: int = 0,  # noqa: PT028  # not a pytest function
    world_size: int = 1,  # noqa: PT028
) -> DataLoader:
    """The batches of test_batches, in order."""
    return batch_loader(samples, test_batches(len(samples), batch_size, rank, world_size), 0)


test_loader.__test__ = False  # type: ignore[attr-defined]  # not a pytest function


def batch_loader(
    samples: TrainingSamples | TestSamples, batches: Iterable[list[Any]], workers: int
) -> DataLoader:
    """The samples of these batches, in order, made by so many helper processes; 0: by this one.

    A training batch is [images (B, h, w, 3) uint8, targets (B, K, 3) float32], and deferred work.
    """
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        worker_init_fn=partial(_begin_worker, os.getpid()),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else the global one moves, and a resumed run differs
    )


def _begin_worker(trainer: int, _: int) -> None:
    """A worker ends with its trainer; one core's worth of work needs no thread pools.

    SIGTERM often goes to all processes at once: the trainer ends its step first, with its workers.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with(trainer)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
