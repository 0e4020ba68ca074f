"""Output of predict.py: COCO results, the list of images, overlays and their file names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.common.files import write_json
from pose.deploy.boxes import Boxes
from pose.deploy.media import Image, is_video
from pose.deploy.predictor import Predictor, to_results
from pose.draw import draw_pose

FindBoxes = Callable[..., Boxes]  # called with an RGB image and its names, the most specific first


@dataclass
class ResultsWriter:
    """COCO results and image entries of pictures and video frames, in the order they are added."""

    predictor: Predictor
    find_boxes: FindBoxes
    calibrated: bool = False  # adds `probabilities` to each result
    results: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)

    def add_(self, image: Image, number: int | None, *names: str) -> Image:
        """Predict and store the poses of an RGB picture; returns the BGR picture with poses drawn.

        number: image id; None numbers the images from 1. names: the first is the file_name of the
        image entry; boxes are looked up by the first name that has some.
        """
        boxes, box_scores = self.find_boxes(image, *names)
        keypoints, scores = self.predictor(image, boxes)
        kept, totals = self.predictor.rank(boxes, box_scores, keypoints, scores)
        poses = keypoints[kept], scores[kept]
        height, width = image.shape[:2]
        image_id = len(self.images) + 1 if number is None else number
        entry = {"id": image_id, "file_name": names[0], "width": width, "height": height}
        self.images.append(entry)
        category_id = self.predictor.manifest.category_id
        results = to_results(image_id, category_id, *poses, totals[kept])
        if self.calibrated:
            probabilities = self.predictor.require_calibration()(poses[1]).round(4)
            for result, values in zip(results, probabilities.tolist(), strict=True):
                result["probabilities"] = values
        self.results += results
        return draw_poses(image, self.predictor, *poses)

    def save(self, folder: Path) -> None:
        """Write results.json and images.json."""
        write_json(folder / "results.json", self.results)
        write_json(folder / "images.json", {"images": self.images})


def draw_poses(
    image_rgb: Image,
    predictor: Predictor,
    keypoints: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> Image:
    """BGR picture with poses (N, K, 2) and scores (N, K) drawn, the first pose on top.

    Keypoints outside the picture or with scores up to keypoint_score_thr are not drawn.
    """
    drawn = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
    thickness = max(1, round(min(drawn.shape[:2]) / 240))
    inside = ((keypoints >= 0) & (keypoints < drawn.shape[1::-1])).all(axis=2)
    shown = inside & (scores > predictor.manifest.keypoint_score_thr)
    for points, visible in zip(keypoints[::-1], shown[::-1], strict=True):
        points = np.where(visible[:, None], points, 0)  # DARK may return values beyond int
        drawn = draw_pose(drawn, predictor.manifest.skeleton, points, visible, thickness)
    return drawn


def numeric_ids(paths: list[Path]) -> dict[Path, int]:
    """Image ids from file names as in COCO; {} unless all are pictures with distinct numbers."""
    stems = [path.stem for path in paths]
    numeric = all(
        stem.isdecimal() and not is_video(p) for p, stem in zip(paths, stems, strict=True)
    )
    numbers = [int(stem) for stem in stems] if numeric else []
    return dict(zip(paths, numbers, strict=True)) if len({*numbers}) == len(paths) else {}


def overlay_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Overlay path per input; inputs with the same name get a number."""
    chosen: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in paths:
        suffix, name, count = ".mp4" if is_video(path) else ".jpg", path.stem, 1
        while f"{name}{suffix}" in taken:
            count += 1
            name = f"{path.stem}-{count}"
        taken.add(f"{name}{suffix}")
        chosen[path] = folder / f"{name}{suffix}"
    return chosen
