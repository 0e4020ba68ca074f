"""Writes the crop cache: Arrow IPC shards, one row per person (pose/crop_table.py reads them).

A row holds the JPEG of a context crop at the image's resolution, large enough for the largest
augmentation, and the UDP target of the unaugmented box. A shard's bytes depend only on its people
and the settings: neither the number of workers nor an interruption changes them.
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

from pose.coco.annotations import Person, by_image
from pose.coco.bad_records import BadRecord
from pose.coco.decode import AS_STORED, ImageNote, PixelSettings, decode_image
from pose.coco.image_notes import is_noted
from pose.coco.images import BadImageError, Images
from pose.codecs import geometry
from pose.codecs.encode import TargetEncoder
from pose.common.files import replacing
from pose.common.params import Augment
from pose.common.skeleton import Skeleton
from pose.crop_table import decode_crop, schema

CROP_ERROR_INTERVAL = 16  # crop_error is measured for one person in so many


@dataclass(frozen=True)
class CropSettings:
    """Settings that a cached crop depends on; jpeg_quality is 1..100."""

    codec: TargetEncoder
    skeleton: Skeleton
    augment: Augment
    jpeg_quality: int
    pixels: PixelSettings = AS_STORED


def plan_shards(persons: list[Person], shard_persons: int) -> list[list[Person]]:
    """People in shards of at least shard_persons; the last shard may be smaller.

    All people of an image are in one shard, so that each image is read once.
    """
    shards: list[list[Person]] = [[]]
    for group in by_image(persons):
        if len(shards[-1]) >= shard_persons:
            shards.append([])
        shards[-1].extend(group)
    return [shard for shard in shards if shard]


@dataclass(frozen=True)
class ShardNotes:
    """Images that were skipped, results of crop_error, and by file name what was noted."""

    bad: list[BadRecord]
    squared_errors: list[float]
    images: dict[str, ImageNote]


def write_shard(
    path: Path,
    images: Images,
    persons: list[Person],
    settings: CropSettings,
    unlabelled: Path | None = None,
    set_index: int | None = None,
) -> ShardNotes:
    """Write one shard atomically to `path`; people without keypoints to `unlabelled` if given.

    set_index: that of the people's training set if there are several, see crop_table.schema.

    persons must not be empty: the first person's keypoints give K. People in unreadable images are
    skipped; the notes list these images.
    """
    bad: list[BadRecord] = []
    errors: list[float] = []
    noted: dict[str, ImageNote] = {}
    rows: list[dict[str, Any]] = []
    for group in by_image(persons):
        name, wh = group[0].file_name, group[0].image_wh
        try:
            content = images.read(name)
            image, note = decode_image(content, wh, settings.pixels, Path(name).suffix)
        except BadImageError as error:
            bad.append(BadRecord(images.split, name, str(error)))
            continue
        if is_noted(note):
            noted[name] = note
        for person in group:
            rows.append(_crop_row(person, image, settings))
            if len(rows) % CROP_ERROR_INTERVAL == 1:
                errors.append(crop_error(rows[-1], image, settings))
    columns = schema(len(persons[0].keypoints), set_index is not None)
    rows = [row | {"set": set_index} for row in rows] if set_index is not None else rows
    if unlabelled is not None:
        _write_table(unlabelled, [row for row in rows if row["num_keypoints"] == 0], columns)
        rows = [row for row in rows if row["num_keypoints"] > 0]
    _write_table(path, rows, columns)
    return ShardNotes(bad, errors, noted)


def crop_error(row: dict[str, Any], image: NDArray[np.uint8], settings: CropSettings) -> float:
    """Error of the JPEG crop: mean squared difference of grey levels 0..255.

    Compares the unaugmented network input cut from the crop with that cut from the image.
    """
    codec, bbox = settings.codec, row["bbox_xywh"]
    wh = codec.input_size
    affine = geometry.udp_affine(
        *geometry.bbox_to_center_scale(bbox, settings.augment.bbox_padding, wh), 0.0, wh
    )
    from_crop = geometry.compose(affine, geometry.translate(np.array(row["crop_xy"])))
    crop = decode_crop(np.frombuffer(row["crop_jpeg"], np.uint8))
    difference = codec.warp(crop, from_crop).astype(float) - codec.warp(image, affine)
    return float((difference**2).mean())


def psnr_db(squared_errors: list[float]) -> float:
    """Peak signal-to-noise ratio in dB of the results of crop_error; 99 for lossless crops."""
    mean = math.fsum(squared_errors) / len(squared_errors)
    return 10 * math.log10(255**2 / mean) if mean > 1e-5 else 99.0


def _write_table(path: Path, rows: list[dict[str, Any]], columns: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=columns)
    with replacing(path) as temporary, pa.ipc.new_file(temporary, columns) as writer:
        writer.write_table(table)


def _crop_row(person: Person, image: NDArray[np.uint8], settings: CropSettings) -> dict[str, Any]:
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
    """left, top, right, bottom (exclusive) of the pixels that augmentation can read.

    Covers the padded box of the whole person and of each half body under the largest scale, shift
    and rotation of `augment`; clipped to the image.
    """
    augment, input_wh = settings.augment, settings.codec.input_size
    boxes = [geometry.bbox_to_center_scale(bbox_xywh, augment.bbox_padding, input_wh)]
    for group in (settings.skeleton.upper_body, settings.skeleton.lower_body):
        points = keypoints[[k for k in group if keypoints[k, 2] > 0], :2].astype(np.float64)
        if len(points) > 1:
            size = np.maximum(np.ptp(points, axis=0), 1.0) * augment.half_body_padding
            boxes.append((points.mean(0), geometry.fix_aspect(size, input_wh)))
    corners: list[NDArray[np.float64]] = []
    for center, scale in boxes:
        size = geometry.context_size(
            scale, augment.scale_factor, augment.shift_factor, augment.rotate_deg
        )
        corners += [center - size / 2, center + size / 2]
    first = np.clip(np.floor(np.min(corners, axis=0)) - 1, 0, np.array(image_wh) - 1)
    last = np.clip(np.ceil(np.max(corners, axis=0)) + 2, first + 1, image_wh)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def canonical_target(
    bbox_xywh: NDArray[np.float64], keypoints: NDArray[np.float32], settings: CropSettings
) -> NDArray[np.float32]:
    """UDP target (K, 3) of the unaugmented box, as UdpCodec.encode returns it."""
    center, scale = geometry.bbox_to_center_scale(
        bbox_xywh, settings.augment.bbox_padding, settings.codec.input_size
    )
    affine = geometry.udp_affine(center, scale, 0.0, settings.codec.input_size)
    keypoints_input = geometry.apply_affine(affine, keypoints[:, :2].astype(np.float64))
    weights = settings.codec.keypoint_weights(keypoints[:, 2].astype(np.float64))
    return settings.codec.encode(keypoints_input, weights)


def is_complete(path: Path) -> bool:
    """Whether the shard exists and has its footer, which a truncated file lacks."""
    try:
        pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, OSError):
        return False
    return True
