"""Reads a split of the crop cache, memory-mapped: one row per person.

crops/shards.py writes the same columns, and determines the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pose.common.errors import PoseError
from pose.common.files import read_json

SETS = "sets.json"  # beside the shards of train, if data.also has further sets


@dataclass(frozen=True)
class TrainingSet:
    """One of several training sets; a row's `set` is its index in the list of them.

    weight: how often an epoch has each person. keypoints: how many of the model's it has.
    """

    name: str
    weight: float
    keypoints: int


def schema(num_keypoints: int, several_sets: bool = False) -> pa.Schema:
    """Arrow schema of a shard; keypoints and target are (K, 3) arrays, flattened row by row.

    With several training sets a column `set` has the index of the person's set; 0: the main one.
    """
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
            *([("set", pa.int16())] if several_sets else []),
        ]
    )


def decode_crop(jpeg: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGR pixels (H, W, 3) of a crop_jpeg."""
    crop = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert crop is not None
    return crop.astype(np.uint8, copy=False)


def _read_shard(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise PoseError(
            f"{path}: not a readable shard ({error}); the file may be truncated; run "
            "`dvc checkout` or `dvc repro -f build_cache` to restore it"
        ) from None


def _read_sets(path: Path) -> tuple[TrainingSet, ...]:
    """The training sets; () if there is only the main one."""
    if not path.exists():
        return ()
    return tuple(TrainingSet(**entry) for entry in read_json(path))


class Column:
    """A column with several values per row, read when indexed: column[row] or column[rows].

    parts are the arrays of the shards, views of the memory-mapped files.
    """

    def __init__(self, table: pa.Table, name: str, shape: tuple[int, ...], dtype: type) -> None:
        chunks = table[name].chunks
        self.parts = [np.asarray(c.flatten()).reshape(len(c), *shape) for c in chunks]
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.shape, self.dtype = (len(table), *shape), dtype

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if np.ndim(rows):
            values = [self[int(row)] for row in rows]
            return np.stack(values) if values else np.empty((0, *self.shape[1:]), self.dtype)
        shard = int(np.searchsorted(self._ends, rows, side="right"))
        index = rows - (self._ends[shard] - len(self.parts[shard]))
        value: NDArray[Any] = self.parts[shard][index].astype(self.dtype)
        return value


class CropTable:
    """Random access to the rows of a folder of shards, memory-mapped and shared by processes.

    Columns with one number per row are arrays in memory; the others are read from disk when
    indexed. Pickled as its folder, so that each worker process maps the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def _open(self) -> None:
        paths = sorted(self.folder.glob("*.arrow"))
        shards = [_read_shard(path) for path in paths]
        table = pa.concat_tables(shards) if shards else schema(0).empty_table()
        count = table["keypoints"].type.list_size // 3
        self.num_keypoints = table["num_keypoints"].to_numpy()
        self.ann_id, self.image_id = table["ann_id"].to_numpy(), table["image_id"].to_numpy()
        self.area, self.bbox_score = table["area"].to_numpy(), table["bbox_score"].to_numpy()
        self.image_wh = Column(table, "image_wh", (2,), np.int32)
        self.crop_xy = Column(table, "crop_xy", (2,), np.int32)
        self.bbox_xywh = Column(table, "bbox_xywh", (4,), np.float64)
        self.keypoints = Column(table, "keypoints", (count, 3), np.float32)
        self.target = Column(table, "target", (count, 3), np.float32)
        self._jpeg = table["crop_jpeg"]
        self.sets = _read_sets(self.folder / SETS)
        self.set_index = table["set"].to_numpy() if self.sets else np.zeros(len(table), np.int16)

    def __len__(self) -> int:
        return len(self.num_keypoints)

    def __getstate__(self) -> Path:
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.__init__(folder)  # type: ignore[misc]

    def crop(self, row: int) -> NDArray[np.uint8]:
        """BGR pixels (H, W, 3) of a row's context crop."""
        return decode_crop(np.frombuffer(self._jpeg[row].as_buffer(), np.uint8))

    def labelled(self) -> NDArray[np.intp]:
        """Rows with keypoints."""
        return np.flatnonzero(self.num_keypoints > 0)
