"""Tiny keypoint sets of mice in the layouts that annotation tools export.

CVAT: "COCO Keypoints 1.0" with images (its documentation; datumaro's exporter). Label Studio: "COCO
with images" (label-studio-sdk, converter). Roboflow: "COCO" of a keypoint project (its page of the
format). COCO-Annotator: "Export COCO" (its backend), beside the dataset's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from own_keypoints_data import IMAGE_WH, LIMBS, NAMES, draw_mouse

Json = dict[str, Any]


def write_cvat(root: Path) -> None:
    """Frames of three clips in images/default/, one subset."""
    names = [f"clip{i % 3}/frame_{i:06d}.jpg" for i in range(24)]
    images, annotations = _mice(root / "images/default", names, names, first_id=1)
    for image in images:
        image |= {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    for one in annotations:
        one |= {"area": _area(one), "num_keypoints": 5, "attributes": {"occluded": False}}
        one |= {"segmentation": [], "iscrowd": 0}
    categories = [
        {"id": 1, "name": "mouse", "supercategory": "", "keypoints": NAMES, "skeleton": LIMBS},
        {"id": 2, "name": "cage", "supercategory": "", "keypoints": [], "skeleton": []},
    ]
    path = root / "annotations/person_keypoints_default.json"
    _save(path, images, annotations, categories, licenses=[{"name": "", "id": 0, "url": ""}])


def write_label_studio(root: Path, separator: str = "/") -> None:
    """No area, ids from 0, boxes of the keypoints; rectangles are annotations of their own."""
    names = [f"{i:08x}-mouse_{i}.jpg" for i in range(24)]
    listed = [f"images{separator}{name}" for name in names]
    images, mice = _mice(root / "images", names, listed, first_id=0)
    annotations = []
    for one in mice:
        rectangle = {key: one[key] for key in ("image_id", "bbox")}
        rectangle |= {"category_id": 0, "segmentation": [], "ignore": 0, "iscrowd": 0}
        rectangle |= {"id": len(annotations), "area": _area(one)}
        points = np.array(one["keypoints"]).reshape(-1, 3).round().astype(int)
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        one |= {"id": len(annotations) + 1, "bbox": [*low.tolist(), *(high - low).tolist()]}
        one |= {"keypoints": points.ravel().tolist(), "num_keypoints": 5, "iscrowd": 0}
        annotations += [rectangle, one]
    categories = [
        {"id": 0, "name": "Mouse"},
        {
            "id": 1,
            "name": "default",
            "supercategory": "default",
            "keypoints": NAMES,
            "skeleton": [],
        },
    ]
    info = {"year": 2025, "version": "1.0", "contributor": "Label Studio"}
    _save(root / "result.json", images, annotations, categories, info=info)


def write_roboflow(root: Path) -> None:
    """train/, valid/ and test/, each with its file beside the images; ids from 0 in each."""
    for split, count in (("train", 20), ("valid", 8), ("test", 4)):
        names = [f"{split}-{i}_jpg.rf.{i:032x}.jpg" for i in range(count)]
        images, annotations = _mice(root / split, names, names, first_id=0)
        for image in images:
            image |= {"license": 1, "date_captured": "2025-01-01T00:00:00+00:00"}
        for one in annotations:
            one |= {"area": _area(one), "segmentation": [], "iscrowd": 0}
        group = "mice-Qg7R"
        categories = [
            {"id": 0, "name": group, "supercategory": "none"},
            {
                "id": 1,
                "name": "mouse",
                "supercategory": group,
                "keypoints": NAMES,
                "skeleton": LIMBS,
            },
        ]
        _save(root / split / "_annotations.coco.json", images, annotations, categories)
    (root / "README.dataset.txt").write_text("mice\n")


def write_coco_annotator(root: Path) -> None:
    """The dataset's folder with its thumbnails, and the exported file beside it."""
    names = [f"IMG_{i}.jpg" for i in range(24)]
    images, annotations = _mice(root / "mice", names, names, first_id=1)
    (root / "mice/.thumbnail").mkdir()
    for name in names:
        (root / "mice/.thumbnail" / name).write_bytes((root / "mice" / name).read_bytes())
    for image in images:
        image |= {"path": f"/datasets/mice/{image['file_name']}", "dataset_id": 3}
        image |= {"license": None, "flickr_url": None, "coco_url": None, "date_captured": None}
    for one in annotations:
        x, y, w, h = one["bbox"] = [round(value) for value in one["bbox"]]
        one |= {"area": w * h, "iscrowd": False, "isbbox": True, "color": "#3fa4c1"}
        one |= {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "metadata": {}}
        one["num_keypoints"] = 5
    category = {"id": 1, "name": "mouse", "supercategory": "", "color": "#4f28d8", "metadata": {}}
    category |= {"keypoints": NAMES, "skeleton": LIMBS, "keypoint_colors": ["#d7f0fa"] * 5}
    _save(root / "coco-1736000000.json", images, annotations, [category])


WRITERS: dict[str, Callable[[Path], None]] = {
    "CVAT": write_cvat,
    "Label Studio": write_label_studio,
    "Roboflow": write_roboflow,
    "COCO-Annotator": write_coco_annotator,
}


def _mice(
    folder: Path, names: list[str], listed: list[str], first_id: int
) -> tuple[list[Json], list[Json]]:
    """An image of a mouse per name; the entries of images, with `listed` as file_name, and mice."""
    rng = np.random.default_rng([len(names), len(folder.name)])
    images, annotations = [], []
    for number, (name, file_name) in enumerate(zip(names, listed, strict=True), start=first_id):
        image, bbox, points = draw_mouse(rng)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
        width, height = IMAGE_WH
        images.append({"id": number, "width": width, "height": height, "file_name": file_name})
        keypoints = np.column_stack([points, np.full(5, 2)]).round(2).ravel().tolist()
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": bbox,
                "keypoints": keypoints,
            }
        )
    return images, annotations


def _area(annotation: Json) -> float:
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _save(
    path: Path, images: list[Json], annotations: list[Json], categories: list[Json], **others: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "categories": categories, "annotations": annotations, **others}
    path.write_text(json.dumps(content), encoding="utf-8")
