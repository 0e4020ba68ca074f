"""A toy set of its own keypoints: mice of five dots in COCO's format, category 7 of two.

As such files often are: no num_keypoints, no iscrowd, names that are not COCO's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ["nose", "left_ear", "right_ear", "tail_base", "tail_tip"]
LIMBS = [[1, 2], [1, 3], [1, 4], [4, 5]]
CATEGORY = {"id": 7, "name": "mouse", "keypoints": NAMES, "skeleton": LIMBS}
COLOURS = [(40, 40, 230), (230, 60, 40), (60, 220, 60), (230, 230, 60), (200, 60, 220)]
PLAN = np.array([[0.0, -0.4], [-0.3, -0.2], [0.3, -0.2], [0.0, 0.2], [0.1, 0.45]])  # of the box
IMAGE_WH = (160, 120)


def write_mice(root: Path, split: str, count: int, unlabelled: int = 0) -> dict[str, Any]:
    """`count` images of a mouse each, the first ones with a box only; the content of the json."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    rng = np.random.default_rng([len(split), count])
    images, annotations = [], []
    for i in range(1, count + 1):
        image, bbox, points = draw_mouse(rng)
        name = f"mouse {i}.jpg"
        (root / split / name).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        seen = 0 if i <= unlabelled else 2
        keypoints = np.column_stack([points * bool(seen), np.full(5, seen)])
        images.append({"id": i, "file_name": name, "width": IMAGE_WH[0], "height": IMAGE_WH[1]})
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 7,
                "bbox": bbox,
                "area": 0.5 * bbox[2] * bbox[3],
                "keypoints": keypoints.round(2).ravel().tolist(),
            }
        )
    other = {"id": 1, "name": "cage"}
    raw = {"images": images, "annotations": annotations, "categories": [other, {**CATEGORY}]}
    save_mice(root, split, raw)
    return raw


def save_mice(root: Path, split: str, raw: dict[str, Any]) -> None:
    path = root / "annotations" / f"person_keypoints_{split}.json"
    path.write_text(json.dumps(raw), encoding="utf-8")


def draw_mouse(rng: np.random.Generator) -> tuple[np.ndarray, list[float], np.ndarray]:
    """A picture (H, W, 3), the box (x, y, w, h) and the keypoints (5, 2) of its mouse."""
    w, h = rng.uniform(30, 40), rng.uniform(40, 56)
    x, y = rng.uniform(60, 110), rng.uniform(40, 60)
    points = PLAN * (w, h) + (x + w / 2, y + h / 2)
    image = np.full((IMAGE_WH[1], IMAGE_WH[0], 3), 90, np.uint8)
    for (px, py), colour in zip(points, COLOURS, strict=True):
        cv2.circle(image, (round(px), round(py)), 4, colour, -1)
    return image, [x, y, w, h], points
