"""The crop cache: Arrow IPC shards, one row a person, memory-mapped when read.

A row holds the JPEG of a context crop at source resolution, wide enough for the largest
augmentation, and the UDP target of the unaugmented box. A shard's bytes depend on its persons
alone, so worker count and interruption change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pose import geometry
from pose.coco import BadImageError, BadRecord, Images, Person, by_image, decode_image
from pose.codec import UdpCodec
from pose.files import replacing


@dataclass(frozen=True)
class CropSpec:
    """What a cached crop depends on; names and units of params.yaml's codec, augment and data."""

    codec: UdpCodec
    bbox_padding: float
    half_body_padding: float
    scale_factor: float
    shift_factor: float
    rotate_deg: float
    jpeg_quality: int


def schema(num_keypoints: int) -> pa.Schema:
    """Of a shard; keypoints and target are K x 3 numbers, row by row."""
    numbers = pa.list_(pa.float32(), 3 * num_keypoints)
    return pa.schema(
        [
            ("ann_id", pa.int64()),
            ("image_id", pa.int64()),
            ("image_wh", pa.list_(pa.int32(), 2)),
            ("bbox_xywh", pa.list_(pa.float32(), 4)),
            ("bbox_score", pa.float32()),
            ("area", pa.float32()),
            ("num_keypoints", pa.int32()),
            ("keypoints", numbers),
            ("target", numbers),
            ("crop_xy", pa.list_(pa.int32(), 2)),
            ("crop_jpeg", pa.binary()),
        ]
    )


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


def write_shard(
    path: Path, root: Path, split: str, persons: list[Person], spec: CropSpec
) -> list[BadRecord]:
    """Write one shard (beside, then moved); returns the images that had to be set aside.

    There is at least one person: K is that of its keypoints.
    """
    bad: list[BadRecord] = []
    rows: list[dict[str, Any]] = []
    with Images(root, split) as images:
        for group in by_image(persons):
            try:
                content = images.read(group[0].file_name)
                image = decode_image(content, group[0].image_wh)
            except BadImageError as error:
                bad.append(BadRecord(f"{split}", group[0].file_name, str(error)))
                continue
            rows.extend(_row(person, image, spec) for person in group)
    _write_table(path, rows, schema(len(persons[0].keypoints)))
    return bad


def _write_table(path: Path, rows: list[dict[str, Any]], columns: pa.Schema) -> None:
    table = pa.Table.from_pylist(rows, schema=columns)
    with replacing(path) as beside, pa.ipc.new_file(beside, columns) as writer:
        writer.write_table(table)


def _row(person: Person, image: NDArray[np.uint8], spec: CropSpec) -> dict[str, Any]:
    bbox = np.array(person.bbox_xywh)
    left, top, right, bottom = context_box(bbox, person.image_wh, spec)
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    _, jpeg = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, spec.jpeg_quality])
    return {
        "ann_id": person.ann_id,
        "image_id": person.image_id,
        "image_wh": person.image_wh,
        "bbox_xywh": bbox,
        "bbox_score": person.bbox_score,
        "area": person.area,
        "num_keypoints": person.num_keypoints,
        "keypoints": person.keypoints.reshape(-1),
        "target": canonical_target(bbox, person.keypoints, spec).reshape(-1),
        "crop_xy": (left, top),
        "crop_jpeg": jpeg.tobytes(),
    }


def context_box(
    bbox_xywh: NDArray[np.float64], image_wh: tuple[int, int], spec: CropSpec
) -> tuple[int, int, int, int]:
    """left, top, right, bottom (exclusive) of what augmentation can reach, inside the image.

    A half body's centre may lie off the box's; of such crops at most a few pixels are then black.
    """
    padding = max(spec.bbox_padding, spec.half_body_padding)
    center, scale = geometry.bbox_to_center_scale(bbox_xywh, padding, spec.codec.input_size)
    size = geometry.context_size(scale, spec.scale_factor, spec.shift_factor, spec.rotate_deg)
    first = np.clip(np.floor(center - size / 2) - 1, 0, np.array(image_wh) - 1)
    last = np.clip(np.ceil(center + size / 2) + 2, first + 1, image_wh)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def canonical_target(
    bbox_xywh: NDArray[np.float64], keypoints: NDArray[np.float32], spec: CropSpec
) -> NDArray[np.float32]:
    """The (K, 3) UDP target of the unaugmented box, see codec.UdpCodec.encode."""
    center, scale = geometry.bbox_to_center_scale(
        bbox_xywh, spec.bbox_padding, spec.codec.input_size
    )
    affine = geometry.udp_affine(center, scale, 0.0, spec.codec.input_size)
    keypoints_input = geometry.apply_affine(affine, keypoints[:, :2].astype(np.float64))
    weights = np.minimum(keypoints[:, 2], 1).astype(np.float64)
    return spec.codec.encode(keypoints_input, weights)


class CropTable:
    """Random access to the rows of a folder of shards, memory-mapped and shared by processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def _open(self) -> None:
        paths = sorted(self.folder.glob("*.arrow"))
        shards = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
        table = pa.concat_tables(shards) if shards else schema(0).empty_table()
        self.num_keypoints = _matrix(table, "num_keypoints")
        self.ann_id, self.image_id = _matrix(table, "ann_id"), _matrix(table, "image_id")
        self.area, self.bbox_score = _matrix(table, "area"), _matrix(table, "bbox_score")
        self.image_wh, self.crop_xy = _matrix(table, "image_wh"), _matrix(table, "crop_xy")
        self.bbox_xywh = _matrix(table, "bbox_xywh").astype(np.float64)
        self.keypoints, self.target = _points(table, "keypoints"), _points(table, "target")
        self._jpeg = table["crop_jpeg"]

    def __len__(self) -> int:
        return len(self.num_keypoints)

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]  # a worker maps the same pages again

    def crop(self, index: int) -> NDArray[np.uint8]:
        """BGR pixels of row `index`'s context crop."""
        buffer = np.frombuffer(self._jpeg[index].as_buffer(), np.uint8)
        crop = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        assert crop is not None  # we wrote it
        return crop.astype(np.uint8, copy=False)

    def labelled(self) -> NDArray[np.intp]:
        """Rows with keypoints."""
        return np.flatnonzero(self.num_keypoints > 0)

    def unlabelled(self) -> NDArray[np.intp]:
        """Rows with a box only."""
        return np.flatnonzero(self.num_keypoints == 0)


def _matrix(table: pa.Table, name: str) -> NDArray[Any]:
    """(rows,) or (rows, width) numpy array of a column."""
    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)
    return np.asarray(column)


def _points(table: pa.Table, name: str) -> NDArray[np.float32]:
    """(rows, K, 3) of a column; of no shards K is 0."""
    return _matrix(table, name).reshape(len(table), table[name].type.list_size // 3, 3)


def shard_paths(folder: Path, count: int) -> Iterator[Path]:
    """folder/00000.arrow and on."""
    return (folder / f"{index:05d}.arrow" for index in range(count))
