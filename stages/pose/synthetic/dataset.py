"""The synthetic data set: rendered scenes with people, in the three zip files of COCO 2017.

Each image has its own generator, default_rng([seed, split, index]), so that bytes depend neither
on the number of workers nor on their order.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.common.params import Synthetic
from pose.common.processes import worker_pool
from pose.common.skeleton import COCO_17
from pose.synthetic.body import sample_figure
from pose.synthetic.canvas import TILE, Array, Canvas
from pose.synthetic.details import DetailedPainter
from pose.synthetic.labels import annotate_crowd, annotate_person
from pose.synthetic.painter import Painter
from pose.synthetic.part_labels import annotate_parts, empty_parts
from pose.synthetic.scene import paint_foreground_, paint_scene, paint_seat_, paint_shadow_

# Difficulty. Sizes are fractions of the image's height unless a comment gives another unit.
PEOPLE_SHARES = (0.60, 0.28, 0.09, 0.03)  # of images with 1, 2, 3, 4 people
PERSON_HEIGHT = (0.38, 0.95)  # of the main (nearest) person, adult
SMALLEST_HEIGHT = 0.22  # of the others, who stand farther away
CUT_SHARE = 0.08  # images whose main person is cut by the lower border
OVERLAP_SHARE = 0.20  # images where people may hide each other
FOREGROUND_SHARE = 0.10  # images with an object in front of the main person
CROWD_SHARE = 0.08  # images with a group of tiny people annotated as one crowd
CROWD_SIZE = (6, 12)
CROWD_PERSON_HEIGHT = (0.09, 0.14)
CAMERA_PITCH_DEG = (0.0, 9.0)
SENSOR_NOISE = (0.5, 3.0)  # sd, grey levels
SPLITS = (("train2017", 0), ("val2017", 1))
ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
SPLIT_IDS = 1_000_000  # image ids of val begin here
ANNOTATIONS_PER_IMAGE = 16  # ids are image_id * 16 + position, so unique over both splits
CROWD_INSTANCE = 250
IMAGES_PER_TASK = 8


@dataclass(frozen=True)
class Placement:
    """Where a person stands: foot_xy in image pixels, and an adult's height there in pixels."""

    foot_xy: tuple[float, float]
    pixels: float


def render_image(
    image_wh: tuple[int, int], rng: np.random.Generator, parts: Sequence[str] = ()
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """(H, W, 3) BGR image and its COCO annotations without ids.

    parts: those of COCO-WholeBody (keypoints.parts). With them people have toes, fingers and
    labels of the parts, and all else stays as it is without.
    """
    details = rng.spawn(1)[0] if parts else None  # takes no number of rng
    pitch = float(rng.uniform(*CAMERA_PITCH_DEG))
    placements, horizon = _place_people(image_wh, rng)
    canvas = paint_scene(image_wh, horizon, rng)
    if rng.random() < CROWD_SHARE:
        _paint_crowd_(canvas, placements, horizon, pitch, rng)
    _blur_background_(canvas, rng)
    painted: list[tuple[Painter, int]] = []
    for number, placement in enumerate(placements, start=1):
        paint_shadow_(canvas, placement.foot_xy, placement.pixels, rng)
        figure = sample_figure(rng, pitch)
        place = (canvas, figure, placement.foot_xy, placement.pixels, number)
        painter = Painter(*place) if details is None else DetailedPainter(*place, details)
        if figure.seated:
            floor = min(float(painter.xy[f"{side}_heel"][1]) for side in ("left", "right"))
            x, y = painter.xy["pelvis"].tolist()
            paint_seat_(canvas, (x, y), floor, placement.pixels, rng)
        painter.paint()
        painted.append((painter, int((canvas.instances == number).sum())))
    if rng.random() < FOREGROUND_SHARE:
        nearest = placements[-1]
        paint_foreground_(canvas, nearest.foot_xy, nearest.pixels, rng)
    annotations = [annotate_person(canvas, painter, area, rng) for painter, area in painted]
    annotations.append(annotate_crowd(canvas, CROWD_INSTANCE))
    if details is not None:
        _add_parts_(annotations, [painter for painter, _ in painted], parts, details)
    return _simulate_camera(canvas, rng), [a for a in annotations if a is not None]


def _add_parts_(
    annotations: list[dict[str, Any] | None],
    painters: Sequence[Painter],
    parts: Sequence[str],
    rng: np.random.Generator,
) -> None:
    """Add the lists of all parts; a crowd and people with a box only have none labelled."""
    for annotation, painter in zip_longest(annotations, painters):
        if annotation is None:
            continue
        entries = empty_parts(parts)
        if isinstance(painter, DetailedPainter) and annotation["num_keypoints"]:
            entries = annotate_parts(painter.canvas, painter, parts, rng)
        annotation.update(entries)


# --- placement and camera


def _place_people(
    image_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[list[Placement], float]:
    """(people from far to near on one ground plane, row of the horizon in pixels)."""
    width, height = image_wh
    pixels = float(rng.uniform(*PERSON_HEIGHT)) * height
    foot = float(rng.uniform(min(pixels + 0.03 * height, 0.97 * height), 0.98 * height))
    if rng.random() < CUT_SHARE:
        foot = height + float(rng.uniform(0.05, 0.35)) * pixels
    horizon = foot - pixels * float(rng.uniform(0.75, 1.05))
    horizon = float(np.clip(horizon, 0.12 * height, 0.55 * height))
    scale = pixels / (foot - horizon)
    count = 1 + int(rng.choice(len(PEOPLE_SHARES), p=PEOPLE_SHARES))
    x = float(rng.uniform(0.15, 0.85)) * width
    placements = [Placement((x, foot), pixels)]
    spacing = 0.28 if rng.random() < OVERLAP_SHARE else 0.50
    for _ in range(12 * (count - 1)):
        if len(placements) == count:
            break
        low = horizon + SMALLEST_HEIGHT * height / scale
        y = float(rng.uniform(min(low, foot), min(foot, 0.99 * height)))
        new = Placement((float(rng.uniform(0.06, 0.94)) * width, y), (y - horizon) * scale)
        if all(_relative_distance(new, old) > spacing for old in placements):
            placements.append(new)
    return sorted(placements, key=lambda placement: placement.foot_xy[1]), horizon


def _relative_distance(a: Placement, b: Placement) -> float:
    """Horizontal distance, relative to the mean adult height of both."""
    return abs(a.foot_xy[0] - b.foot_xy[0]) / ((a.pixels + b.pixels) / 2)


def _paint_crowd_(
    canvas: Canvas,
    placements: list[Placement],
    horizon: float,
    pitch: float,
    rng: np.random.Generator,
) -> None:
    """A group of tiny people in the background, all of instance CROWD_INSTANCE."""
    height, width = canvas.instances.shape
    pixels = float(rng.uniform(*CROWD_PERSON_HEIGHT)) * height
    scale = placements[-1].pixels / (placements[-1].foot_xy[1] - horizon)
    x, y = float(rng.uniform(0.15, 0.85)) * width, horizon + pixels / scale
    for _ in range(int(rng.integers(*CROWD_SIZE, endpoint=True))):
        foot = (x + float(rng.normal(0, 0.9)) * pixels, y + float(rng.uniform(-0.1, 0.1)) * pixels)
        Painter(canvas, sample_figure(rng, pitch), foot, pixels, CROWD_INSTANCE).paint()


def _blur_background_(canvas: Canvas, rng: np.random.Generator) -> None:
    """Depth of field: the background is less sharp than the people."""
    sigma = float(rng.uniform(0.5, 1.6))
    for plane in canvas.bgr:
        cv2.GaussianBlur(plane, (0, 0), sigma, dst=plane)


def _simulate_camera(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour cast, exposure, slight blur and sensor noise; (H, W, 3) uint8."""
    gain = np.float32(rng.uniform(0.85, 1.12)) * rng.normal(1, 0.025, 3).astype(np.float32)
    sigma = float(rng.uniform(0.3, 0.75))
    planes = [cv2.GaussianBlur(p, (3, 3), sigma) * g for p, g in zip(canvas.bgr, gain, strict=True)]
    picture = cv2.merge(planes)
    x, y = (int(rng.integers(0, TILE - n)) for n in canvas.instances.shape[::-1])
    height, width = canvas.instances.shape
    grain = _sensor_tile()[y : y + height, x : x + width]
    sd = float(rng.uniform(*SENSOR_NOISE))
    return np.asarray(cv2.addWeighted(picture, 1, grain, sd, 0, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=1)
def _sensor_tile() -> Array:
    """(TILE, TILE, 3) white noise, sd 1, mostly shared by the channels."""
    rng = np.random.default_rng(2018)
    grey = rng.standard_normal((TILE, TILE, 1), dtype=np.float32)
    colour = rng.standard_normal((TILE, TILE, 3), dtype=np.float32)
    return 0.9 * grey + 0.45 * colour


# --- files


def _render_record(
    synthetic: Synthetic, parts: Sequence[str], task: tuple[int, int]
) -> tuple[int, bytes, list[dict[str, Any]]]:
    """(image id, JPEG bytes, annotations with ids) of image `index` of a split."""
    split, index = task
    rng = np.random.default_rng([synthetic.seed, split, index])
    bgr, annotations = render_image(synthetic.image_size, rng, parts)
    if split == 0 and rng.random() < synthetic.unlabelled_fraction:
        for annotation in annotations:
            annotation.update(num_keypoints=0, keypoints=[0] * (3 * COCO_17.num_keypoints))
            annotation.update(empty_parts(parts))
    image_id = split * SPLIT_IDS + index + 1
    for position, annotation in enumerate(annotations):
        annotation["image_id"] = image_id
        annotation["id"] = image_id * ANNOTATIONS_PER_IMAGE + position
    ok, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, synthetic.jpeg_quality])
    assert ok
    return image_id, content.tobytes(), annotations


def _records(
    synthetic: Synthetic, parts: Sequence[str], tasks: list[tuple[int, int]], workers: int
) -> Iterator[tuple[int, bytes, list[dict[str, Any]]]]:
    """Rendered records in the order of tasks; at most eight chunks per worker are in memory."""
    if workers <= 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(0)
        try:
            yield from map(partial(_render_record, synthetic, parts), tasks)
        finally:
            cv2.setNumThreads(threads)
        return
    with worker_pool(workers) as pool:
        window = workers * 8 * IMAGES_PER_TASK
        for begin in range(0, len(tasks), window):
            part = tasks[begin : begin + window]
            yield from pool.map(
                partial(_render_record, synthetic, parts), part, chunksize=IMAGES_PER_TASK
            )


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    """Add a member whose bytes do not depend on the time or the platform."""
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.create_system, member.external_attr = 3, 0o644 << 16
    archive.writestr(member, content, compress_type=method, compresslevel=6)


def _annotation_file(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    person = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(COCO_17.names),
        "skeleton": [[a + 1, b + 1] for a, b in COCO_17.limbs],
    }
    document = {
        "info": {"description": "synthetic people in COCO 2017's layout", "version": "1.0"},
        "licenses": [{"id": 1, "name": "rendered by this project", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": [person],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _write_split(
    folder: Path,
    synthetic: Synthetic,
    parts: Sequence[str],
    split: str,
    tasks: list[tuple[int, int]],
    workers: int,
    progress: Callable[[int], object] | None,
) -> tuple[bytes, dict[str, int]]:
    """Write <split>.zip; returns the annotation document and its counts."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    width, height = synthetic.image_size
    temporary = folder / f"{split}.zip.tmp"
    with zipfile.ZipFile(temporary, "w") as archive:
        for image_id, content, image_annotations in _records(synthetic, parts, tasks, workers):
            name = f"{image_id:012d}.jpg"
            _add_member(archive, f"{split}/{name}", content, zipfile.ZIP_STORED)
            images.append(
                {"id": image_id, "file_name": name, "width": width, "height": height, "license": 1}
            )
            annotations += image_annotations
            if progress is not None:
                progress(1)
    os.replace(temporary, folder / f"{split}.zip")
    persons = [a for a in annotations if not a["iscrowd"]]
    counts = {
        "images": len(images),
        "persons": len(persons),
        "persons_labelled": sum(a["num_keypoints"] > 0 for a in persons),
        "crowds": len(annotations) - len(persons),
    }
    return _annotation_file(images, annotations), counts


def write_coco_zips(
    folder: Path,
    synthetic: Synthetic,
    workers: int,
    progress: Callable[[int], object] | None = None,
    parts: Sequence[str] = (),
) -> dict[str, int]:
    """Write the three zips into folder; returns counts by split. Same settings, same bytes.

    parts: as in render_image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    temporary = folder / f"{ANNOTATIONS_ZIP}.tmp"
    with zipfile.ZipFile(temporary, "w") as archive:
        for (split, number), size in zip(
            SPLITS, (synthetic.train_images, synthetic.val_images), strict=True
        ):
            tasks = [(number, index) for index in range(size)]
            document, split_counts = _write_split(
                folder, synthetic, parts, split, tasks, workers, progress
            )
            name = f"annotations/person_keypoints_{split}.json"
            _add_member(archive, name, document, zipfile.ZIP_DEFLATED)
            counts |= {f"{split}_{key}": value for key, value in split_counts.items()}
    os.replace(temporary, folder / ANNOTATIONS_ZIP)
    return counts
