"""What the fixtures' tiny COCO is made of."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SPLIT = "val2017"


@dataclass
class TinyCoco:
    """A COCO folder: `raw` is its annotation file's content, `save` writes it again."""

    root: Path
    raw: dict[str, Any]

    @property
    def json_path(self) -> Path:
        return self.root / "annotations" / f"person_keypoints_{SPLIT}.json"

    def image_path(self, image_id: int) -> Path:
        return self.root / SPLIT / f"{image_id:012d}.jpg"

    def save(self) -> None:
        self.json_path.write_text(json.dumps(self.raw), encoding="utf-8")

    def zipped(self, root: Path) -> Path:
        """The same content as COCO's zips in another folder."""
        root.mkdir()
        with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as archive:
            archive.write(self.json_path, f"annotations/{self.json_path.name}")
        with zipfile.ZipFile(root / f"{SPLIT}.zip", "w") as archive:
            for path in (self.root / SPLIT).iterdir():
                archive.write(path, f"{SPLIT}/{path.name}")
        return root


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """Smooth random colours (h, w, 3), so that a JPEG of them is close."""
    coarse = np.random.default_rng(seed).integers(30, 226, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def person(ann_id: int, image_id: int, bbox: list[float], labelled: int, **others: Any) -> dict:
    """An annotation whose first `labelled` keypoints lie in the box, every third one occluded."""
    x, y, w, h = bbox
    unit = np.random.default_rng(ann_id).uniform(0.1, 0.9, (17, 2))
    visibility = np.where(np.arange(17) % 3 == 2, 1, 2)
    keypoints = np.column_stack([unit * (w, h) + (x, y), visibility]).round(2)
    keypoints[labelled:] = 0
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": bbox,
        "area": 0.6 * w * h,
        "iscrowd": 0,
        "num_keypoints": labelled,
        "keypoints": keypoints.reshape(-1).tolist(),
        **others,
    }
