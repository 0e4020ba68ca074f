"""The crop cache: Arrow IPC shards, one row a person, memory-mapped when read.

A row holds the JPEG of a context crop at source resolution, wide enough for the largest
augmentation, and the UDP target of the unaugmented box. A shard's bytes depend on its persons
alone, so worker count and interruption change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pose.coco.annotations import BadRecord, Person, by_image
from pose.coco.images import BadImageError, Images, decode_image
from pose.codecs import geometry
from pose.codecs.udp import UdpCodec
from pose.common.files import replacing
from pose.common.params import Augment
from pose.common.skeleton import Skeleton
from pose.crop_table import decoded, schema

ERROR_SAMPLING = 16  # every so many persons of a shard are compared with their image


@dataclass(frozen=True)
class CropSettings:
    """What a cached crop depends on: codec, keypoints, augmentation, and JPEG quality 1..100."""

    codec: UdpCodec
    skeleton: Skeleton
    augment: Augment
    jpeg_quality: int


def plan_shards(persons: list[Person], shard_persons: int) -> list[list[Person]]:
    """Persons cut into shards of at least shard_persons (the last may be smaller).

    Images stay whole, so that each is read once.
    """
    shards: list[list[Person]] = [[]]
    for group in by_image(persons):
        if len(shards[-1]) >= shard_persons:
            shards.append([])
        shards[-1].extend(group)
    return [shard for shard in shards if shard]


@dataclass(frozen=True)
class ShardNotes:
    """Images set aside, and the squared errors of the sampled crops, see crop_error."""

    bad: list[BadRecord]
    squared_errors: list[float]


def write_shard(
    path: Path,
    images: Images,
    persons: list[Person],
    settings: CropSettings,
    unlabelled: Path | None = None,
) -> ShardNotes:
    """Write one shard (beside, then moved); persons without keypoints to `unlabelled` if given.

    There is at least one person: K is that of its keypoints.
    """
    bad: list[BadRecord] = []
    errors: list[float] = []
    rows: list[dict[str, Any]] = []
    for group in by_image(persons):
        try:
            image = decode_image(images.read(group[0].file_name), group[0].image_wh)
        except BadImageError as error:
            bad.append(BadRecord(images.split, group[0].file_name, str(error)))
            continue
        for person in group:
            rows.append(_row(person, image, settings))
            if len(rows) % ERROR_SAMPLING == 1:
                errors.append(crop_error(rows[-1], image, settings))
    columns = schema(len(persons[0].keypoints))
    if unlabelled is not None:
        _write_table(unlabelled, [row for row in rows if row["num_keypoints"] == 0], columns)
        rows = [row for row in rows if row["num_keypoints"] > 0]
    _write_table(path, rows, columns)
    return ShardNotes(bad, errors)


def crop_error(row: dict[str, Any], image: NDArray[np.uint8], settings: CropSettings) -> float:
    """Mean squared difference, grey levels, of the network's input from the crop and the image."""
    wh, bbox = settings.codec.input_size, row["bbox_xywh"]
    affine = geometry.udp_affine(
        *geometry.bbox_to_center_scale(bbox, settings.augment.bbox_padding, wh), 0.0, wh
    )
    from_crop = geometry.compose(affine, geometry.translate(np.array(row["crop_xy"])))
    crop = decoded(np.frombuffer(row["crop_jpeg"], np.uint8))
    difference = geometry.warp(crop, from_crop, wh).astype(float) - geometry.warp(image, affine, wh)
    return float((difference**2).mean())


def psnr_db(squared_errors: list[float]) -> float:
    """Peak signal-to-noise ratio of crops against their images; 99 where nothing is lost."""
    mean = math.fsum(squared_errors) / len(squared_errors)
    return 10 * math.log10(255**2 / mean) if mean > 1e-5 else 99.0


def _write_table(path: Path, rows: list[dict[str, Any]], columns: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=columns)
    with replacing(path) as beside, pa.ipc.new_file(beside, columns) as writer:
        writer.write_table(table)


def _row(person: Person, image: NDArray[np.uint8], settings: CropSettings) -> dict[str, Any]:
    bbox = np.array(person.bbox_xywh)
    left, top, right, bottom = context_box(bbox, person.keypoints, person.image_wh, settings)
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
    return {
        "ann_id": person.ann_id,
        "image_id": person.image_id,
        "image_wh": person.image_wh,
        "bbox_xywh": bbox,
        "bbox_score": person.bbox_score,
        "area": person.area,
        "num_keypoints": person.num_keypoints,
        "keypoints": person.keypoints.reshape(-1),
        "target": canonical_target(bbox, person.keypoints, settings).reshape(-1),
        "crop_xy": (left, top),
        "crop_jpeg": jpeg.tobytes(),
    }


def context_box(
    bbox_xywh: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    image_wh: tuple[int, int],
    settings: CropSettings,
) -> tuple[int, int, int, int]:
    """left, top, right, bottom (exclusive) of what augmentation can reach, inside the image.

    That is the whole person's box or a half body's (augment.half_body), zoomed, turned and moved.
    """
    augment, input_wh = settings.augment, settings.codec.input_size
    boxes = [geometry.bbox_to_center_scale(bbox_xywh, augment.bbox_padding, input_wh)]
    for group in (settings.skeleton.upper_body, settings.skeleton.lower_body):
        points = keypoints[[k for k in group if keypoints[k, 2] > 0], :2].astype(np.float64)
        if len(points) > 1:
            size = np.maximum(np.ptp(points, axis=0), 1.0) * augment.half_body_padding
            boxes.append((points.mean(0), geometry.fix_aspect(size, input_wh)))
    reach = [_reach(center, scale, augment) for center, scale in boxes]
    first, last = np.min([r[0] for r in reach], axis=0), np.max([r[1] for r in reach], axis=0)
    first = np.clip(np.floor(first) - 1, 0, np.array(image_wh) - 1)
    last = np.clip(np.ceil(last) + 2, first + 1, image_wh)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def _reach(
    center: NDArray[np.float64], scale: NDArray[np.float64], augment: Augment
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = geometry.context_size(
        scale, augment.scale_factor, augment.shift_factor, augment.rotate_deg
    )
    return center - size / 2, center + size / 2


def canonical_target(
    bbox_xywh: NDArray[np.float64], keypoints: NDArray[np.float32], settings: CropSettings
) -> NDArray[np.float32]:
    """The (K, 3) UDP target of the unaugmented box, see codec.UdpCodec.encode."""
    center, scale = geometry.bbox_to_center_scale(
        bbox_xywh, settings.augment.bbox_padding, settings.codec.input_size
    )
    affine = geometry.udp_affine(center, scale, 0.0, settings.codec.input_size)
    keypoints_input = geometry.apply_affine(affine, keypoints[:, :2].astype(np.float64))
    weights = np.minimum(keypoints[:, 2], 1).astype(np.float64)
    return settings.codec.encode(keypoints_input, weights)


def is_whole(path: Path) -> bool:
    """Whether a shard is there with its end, which a cut file lacks."""
    try:
        pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, OSError):
        return False
    return True
