"""The embedded dataset: rendered scenes with people, in COCO 2017's own three zips.

Every image has its own generator, default_rng([seed, split, index]), so bytes depend neither on
the number of workers nor on the order of work. People are painted by pose.puppet.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.puppet import (
    CARRIERS,
    TILE,
    Array,
    Canvas,
    Painter,
    Vector,
    make_profile,
    noise_tile,
    paint_,
    sample_figure,
    trace_tube,
)
from pose.skeleton import KEYPOINTS, LIMBS, NUM_KEYPOINTS

# Difficulty. Sizes are shares of the image's height unless said otherwise.
PERSONS = (0.58, 0.27, 0.11, 0.04)  # share of images with 1, 2, 3, 4 persons
PERSON_HEIGHT = (0.38, 0.95)  # of the main (nearest) person, adult
SMALLEST_HEIGHT = 0.22  # of the others, who stand farther away
CUT_SHARE = 0.10  # images whose main person is cut by the lower border
OVERLAP_SHARE = 0.25  # images where persons may stand close enough to hide each other
FOREGROUND_SHARE = 0.12  # images with an object in front of the main person
CROWD_SHARE = 0.08  # images with a group of tiny people annotated as one crowd
CROWD_PERSONS = (6, 12)
CROWD_HEIGHT = (0.09, 0.14)
CLUTTER = (0, 4)  # objects behind or beside the persons
DEEP_HIDDEN = 0.05  # hidden farther than this (of the person's height) from what is visible ...
DEEP_UNLABELLED_SHARE = 0.6  # ... a joint stays unlabelled with this share
MIN_VISIBLE_SHARE = 0.25  # of the silhouette; below it a person carries a box only
MIN_KEYPOINTS = 4  # labelled; below it a person carries a box only
MIN_PIXELS = 60  # visible silhouette; below it a person is not annotated
CAMERA_PITCH_DEG = (0.0, 9.0)
SENSOR_NOISE = (1.0, 4.0)  # sd, grey levels

SPLITS = (("train2017", 0), ("val2017", 1))
ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
SPLIT_IDS = 1_000_000  # image ids of val begin here
ANNOTATIONS_PER_IMAGE = 16  # ids are image_id * 16 + position, so unique over both splits
CROWD_OWNER = 250
IMAGES_PER_TASK = 8

OUTDOOR_GROUND = ((98, 112, 100), (112, 116, 120), (130, 136, 142), (128, 150, 164), (84, 108, 92))
INDOOR_GROUND = ((84, 104, 128), (112, 128, 146), (128, 130, 132), (150, 158, 166), (92, 96, 104))
WALLS = ((196, 202, 206), (172, 184, 192), (150, 162, 160), (178, 170, 158), (140, 146, 160))
OBJECTS = ((74, 92, 112), (98, 104, 108), (120, 96, 80), (70, 84, 72), (66, 70, 124), (150, 152, 150))
FOLIAGE = ((52, 88, 70), (58, 100, 86), (48, 76, 66), (70, 104, 98))


@dataclass(frozen=True)
class SyntheticSpec:
    """What to render; image_wh in pixels, unlabelled_fraction of the training images."""

    train_images: int
    val_images: int
    unlabelled_fraction: float
    image_wh: tuple[int, int]
    jpeg_quality: int
    seed: int


@dataclass(frozen=True)
class Standing:
    """Where a person stands: foot_xy in image pixels, `pixels` an adult's height there."""

    foot_xy: tuple[float, float]
    pixels: float


def render_image(
    image_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """(H, W, 3) BGR picture and its annotations, COCO's fields without ids."""
    pitch = float(rng.uniform(*CAMERA_PITCH_DEG))
    standings, horizon = _place_persons(image_wh, rng)
    canvas = _paint_scene(image_wh, horizon, rng)
    crowd = None
    if rng.random() < CROWD_SHARE:
        crowd = _paint_crowd_(canvas, standings, horizon, pitch, rng)
    _soften_(canvas, rng)
    painted: list[tuple[Painter, int]] = []
    for number, standing in enumerate(standings, start=1):
        _paint_shadow_(canvas, standing, rng)
        painter = Painter(canvas, sample_figure(rng, pitch), standing.foot_xy, standing.pixels, number)
        painter.paint()
        painted.append((painter, int((canvas.owner == number).sum())))
    if rng.random() < FOREGROUND_SHARE:
        _paint_foreground_(canvas, standings[-1], rng)
    annotations = [a for p, pixels in painted if (a := _annotate(canvas, p, pixels, rng))]
    if crowd and (box := _silhouette(canvas, CROWD_OWNER)) is not None:
        annotations.append(_crowd_annotation(canvas, box))
    return _photograph(canvas, rng), annotations


# ---------------------------------------------------------------------------------- placing


def _place_persons(
    image_wh: tuple[int, int], rng: np.random.Generator
) -> tuple[list[Standing], float]:
    """Persons from far to near on one ground plane, and the horizon's row in pixels."""
    width, height = image_wh
    pixels = float(rng.uniform(*PERSON_HEIGHT)) * height
    foot = float(rng.uniform(min(pixels + 0.03 * height, 0.97 * height), 0.98 * height))
    if rng.random() < CUT_SHARE:
        foot = height + float(rng.uniform(0.05, 0.35)) * pixels
    horizon = foot - pixels * float(rng.uniform(0.75, 1.05))
    horizon = float(np.clip(horizon, 0.12 * height, 0.55 * height))
    scale = pixels / (foot - horizon)
    count = 1 + int(rng.choice(len(PERSONS), p=PERSONS))
    x = float(rng.uniform(0.15, 0.85)) * width
    standings = [Standing((x, foot), pixels)]
    spacing = 0.28 if rng.random() < OVERLAP_SHARE else 0.50
    for _ in range(12 * (count - 1)):
        if len(standings) == count:
            break
        low = horizon + SMALLEST_HEIGHT * height / scale
        y = float(rng.uniform(min(low, foot), min(foot, 0.99 * height)))
        new = Standing((float(rng.uniform(0.06, 0.94)) * width, y), (y - horizon) * scale)
        if all(_apart(new, old) > spacing for old in standings):
            standings.append(new)
    return sorted(standings, key=lambda s: s.foot_xy[1]), horizon


def _apart(a: Standing, b: Standing) -> float:
    """Horizontal distance over the mean adult height of both."""
    return abs(a.foot_xy[0] - b.foot_xy[0]) / ((a.pixels + b.pixels) / 2)


# ---------------------------------------------------------------------------------- scenery


def _patch(canvas: Canvas, shift: int) -> Array:
    """(H, W) window of the noise tile, another one for every shift."""
    height, width = canvas.owner.shape
    x = (canvas.noise_xy[0] + 157 * shift) % (TILE - width)
    y = (canvas.noise_xy[1] + 211 * shift) % (TILE - height)
    return noise_tile()[y : y + height, x : x + width]


def _tint(rng: np.random.Generator, palette: tuple[tuple[int, ...], ...]) -> Array:
    colour = np.array(palette[rng.integers(len(palette))], np.float32)
    return (colour * rng.uniform(0.8, 1.15) + rng.normal(0, 5, 3)).astype(np.float32)


def _paint_scene(image_wh: tuple[int, int], horizon: float, rng: np.random.Generator) -> Canvas:
    width, height = image_wh
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.7, -0.2), 1.0])
    lx, ly, lz = (float(v) for v in light / np.linalg.norm(light))
    nx, ny = (int(rng.integers(0, TILE - n)) for n in image_wh)
    empty = np.zeros((height, width), np.uint8)
    canvas = Canvas(
        np.zeros((height, width, 3), np.float32), empty, empty.copy(), (lx, ly, lz), (nx, ny)
    )
    indoor = bool(rng.random() < 0.35)
    _paint_ground_(canvas, horizon, indoor, rng)
    if indoor:
        _paint_room_(canvas, horizon, rng)
    else:
        _paint_outdoors_(canvas, horizon, rng)
    for _ in range(int(rng.integers(*CLUTTER, endpoint=True))):
        y = float(rng.uniform(horizon + 0.12 * height, height))
        x = float(rng.uniform(0, width))
        _paint_object_(canvas, x, y, (y - horizon) * float(rng.uniform(0.5, 1.0)), rng)
    return canvas


def _paint_ground_(canvas: Canvas, horizon: float, indoor: bool, rng: np.random.Generator) -> None:
    """A textured plane below the horizon, in perspective."""
    height, width = canvas.owner.shape
    tile = noise_tile()[:512, :512].copy()
    kind = rng.choice(["plain", "planks", "tiles"] if indoor else ["plain", "plain", "tiles"])
    if kind != "plain":
        step = int(rng.integers(24, 56))
        tile[:, ::step] = tile[:, 1::step] = -4
        if kind == "tiles":
            tile[::step] = tile[1::step] = -4
    spread, depth = rng.uniform(120, 220), rng.uniform(4e3, 9e3)
    u, v = rng.uniform(0, 512, 2)
    plane = np.array([[spread, u, -spread * width / 2 - u * horizon], [0, v, depth - v * horizon],
                      [0, 1, -horizon]])  # fmt: skip
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(tile, plane, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
    near = np.clip((np.arange(height) - horizon) / (height - horizon), 0, 1).astype(np.float32)
    strength = (0.10 * np.minimum(1, near * 3))[:, None]
    shade = (0.86 + 0.18 * near[:, None]) * (1 + strength * warped + 0.04 * _patch(canvas, 1))
    colour = _tint(rng, INDOOR_GROUND if indoor else OUTDOOR_GROUND)
    canvas.bgr[:] = shade[..., None] * colour


def _paint_outdoors_(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    height, width = canvas.owner.shape
    rows = int(horizon)
    fade = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    zenith, haze = np.array([205, 176, 148], np.float32), np.array([226, 220, 212], np.float32)
    clouds = np.clip(_patch(canvas, 2)[:rows, :, None] * 0.25 + rng.uniform(-0.1, 0.4), 0, 0.8)
    sky = (zenith + (haze - zenith) * fade) * np.float32(rng.uniform(0.82, 1.05))
    canvas.bgr[:rows] = sky + clouds * (np.float32(232) - sky)
    backdrop = rng.choice(["trees", "facade", "hills", "both"], p=[0.35, 0.3, 0.15, 0.2])
    if backdrop == "hills":
        _paint_foliage_(canvas, horizon, 0.18 * height, 3, rng)
    if backdrop in ("facade", "both"):
        _paint_facade_(canvas, horizon, rng)
    if backdrop in ("trees", "both"):
        for _ in range(int(rng.integers(2, 6))):
            x, size = float(rng.uniform(0, width)), float(rng.uniform(0.15, 0.4)) * height
            _paint_tree_(canvas, x, horizon + 0.05 * size, size, rng)


def _paint_facade_(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    """Walls of houses side by side, with rows of windows."""
    height, width = canvas.owner.shape
    x, floor = -float(rng.uniform(0, 80)), horizon + 0.03 * height
    while x < width:
        wide, storey = float(rng.uniform(90, 240)), float(rng.uniform(42, 70))
        top = float(rng.uniform(-0.2, 0.5)) * horizon
        wall = _tint(rng, WALLS) * np.float32(0.85)
        _paint_box_(canvas, (x, top, x + wide, floor), wall, 3)
        glass = wall * np.float32(0.45) + np.float32(rng.uniform(0, 40))
        pitch = float(rng.uniform(32, 50))
        for row in np.arange(floor - storey, top, -storey):
            for column in np.arange(x + pitch * 0.3, x + wide - pitch * 0.6, pitch):
                window = (column, row, column + pitch * 0.5, row + storey * 0.55)
                _paint_box_(canvas, window, glass, 5)
        x += wide


def _paint_room_(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    """A wall behind the floor with skirting, pictures, a window or a door."""
    height, width = canvas.owner.shape
    floor = horizon + float(rng.uniform(0.08, 0.2)) * height
    wall = _tint(rng, WALLS)
    _paint_box_(canvas, (0, 0, width, floor), wall, 2)
    if rng.random() < 0.3:
        step = float(rng.uniform(14, 40))
        for x in np.arange(0, width, step):
            _paint_box_(canvas, (x, 0, x + step / 2, floor), wall * np.float32(0.95), 2)
    _paint_box_(canvas, (0, floor - 7, width, floor), wall * np.float32(0.75), 4)
    for _ in range(int(rng.integers(1, 5))):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, 0.6)) * floor
        wide, high = (float(v) for v in rng.uniform(30, 110, 2))
        bottom = floor if rng.random() < 0.3 else min(y + high, floor - 12)
        frame = _tint(rng, OBJECTS)
        _paint_box_(canvas, (x, y, x + wide, bottom), frame, 6)
        inside = _tint(rng, WALLS + OBJECTS) * np.float32(rng.uniform(0.8, 1.2))
        _paint_box_(canvas, (x + 5, y + 5, x + wide - 5, bottom - 5), inside, 7)


def _paint_box_(
    canvas: Canvas, box_xyxy: tuple[float, float, float, float], colour: Array, shift: int
) -> None:
    """An upright rectangle with noise and a soft gradient; it belongs to the scenery."""
    height, width = canvas.owner.shape
    x0, x1 = (int(np.clip(v, 0, width)) for v in box_xyxy[::2])
    y0, y1 = (int(np.clip(v, 0, height)) for v in box_xyxy[1::2])
    if x0 >= x1 or y0 >= y1:
        return
    fall = np.linspace(1.06, 0.9, y1 - y0, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, x1 - x0, dtype=np.float32) * (0.08 * canvas.light[0])
    shade = (fall + across) * (1 + 0.05 * _patch(canvas, shift)[y0:y1, x0:x1])
    canvas.bgr[y0:y1, x0:x1] = shade[..., None] * colour
    canvas.owner[y0:y1, x0:x1] = 0


def _paint_foliage_(
    canvas: Canvas, base: float, size: float, count: int, rng: np.random.Generator
) -> None:
    for _ in range(count):
        x = float(rng.uniform(0, canvas.owner.shape[1]))
        _paint_leaves_(canvas, (x, base), (size * 2.5, size), _tint(rng, FOLIAGE), rng)


def _paint_leaves_(
    canvas: Canvas,
    centre_xy: tuple[float, float],
    radii: tuple[float, float],
    colour: Array,
    rng: np.random.Generator,
) -> None:
    """A blob with a ragged edge and light from above; it belongs to the scenery."""
    height, width = canvas.owner.shape
    x0, x1 = (int(np.clip(centre_xy[0] + s * radii[0] * 1.4, 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip(centre_xy[1] + s * radii[1] * 1.4, 0, height)) for s in (-1, 1))
    if x0 >= x1 or y0 >= y1:
        return
    dx = (np.arange(x0, x1, dtype=np.float32)[None] - centre_xy[0]) / radii[0]
    dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - centre_xy[1]) / radii[1]
    grain = _patch(canvas, int(rng.integers(8, 60)))[y0:y1, x0:x1]
    cover = np.clip((1 - dx * dx - dy * dy + 0.35 * grain) * 6, 0, 1)
    shade = np.clip(0.95 - 0.25 * dy + 0.22 * grain, 0.3, 1.5)
    target = canvas.bgr[y0:y1, x0:x1]
    target += cover[..., None] * (shade[..., None] * colour - target)
    canvas.owner[y0:y1, x0:x1][cover > 0.5] = 0


def _paint_tree_(
    canvas: Canvas, x: float, y: float, size: float, rng: np.random.Generator
) -> None:
    trunk = np.array([62, 78, 92], np.float32) * np.float32(rng.uniform(0.7, 1.1))
    _paint_pole_(canvas, (x, y), (x, y - 0.6 * size), 0.045 * size, trunk)
    crown = (size * float(rng.uniform(0.35, 0.55)), size * float(rng.uniform(0.4, 0.55)))
    _paint_leaves_(canvas, (x, y - size), crown, _tint(rng, FOLIAGE), rng)


def _paint_pole_(
    canvas: Canvas, a: tuple[float, float], b: tuple[float, float], radius: float, colour: Array
) -> None:
    profile = make_profile((radius, radius), 1.0)
    trace = trace_tube(canvas, np.array(a), np.array(b), profile, True)
    if trace is not None:
        paint_(canvas, trace, colour, 0, 0, 1.0)


def _paint_object_(
    canvas: Canvas, x: float, y: float, size: float, rng: np.random.Generator
) -> None:
    """A box, pole, sign, bush, ball or bench of about `size` pixels that stands at (x, y)."""
    colour = _tint(rng, OBJECTS)
    _paint_shadow_(canvas, Standing((x, y), size), rng)
    kind = rng.choice(["box", "pole", "sign", "bush", "ball", "bench"])
    if kind == "box":
        half, high = size * float(rng.uniform(0.15, 0.35)), size * float(rng.uniform(0.25, 0.6))
        _paint_box_(canvas, (x - half, y - high, x + half, y), colour, 9)
        _paint_box_(canvas, (x - half, y - high * 1.12, x + half, y - high), colour * 1.2, 9)
    elif kind == "bush":
        _paint_leaves_(canvas, (x, y - 0.2 * size), (0.35 * size, 0.3 * size), _tint(rng, FOLIAGE), rng)
    elif kind == "ball":
        _paint_pole_(canvas, (x, y - 0.1 * size), (x, y - 0.1 * size), 0.1 * size, colour)
    elif kind == "bench":
        for side in (-0.35, 0.35):
            _paint_pole_(canvas, (x + side * size, y), (x + side * size, y - 0.28 * size), 0.02 * size,
                         colour * 0.6)  # fmt: skip
        _paint_box_(canvas, (x - 0.42 * size, y - 0.3 * size, x + 0.42 * size, y - 0.24 * size), colour, 9)
    else:
        _paint_pole_(canvas, (x, y), (x, y - 1.3 * size), 0.022 * size, colour)
        if kind == "sign":
            sign = (x - 0.16 * size, y - 1.4 * size, x + 0.16 * size, y - 1.1 * size)
            _paint_box_(canvas, sign, _tint(rng, OBJECTS), 9)


def _paint_foreground_(canvas: Canvas, nearest: Standing, rng: np.random.Generator) -> None:
    """An object between the camera and the nearest person, over part of the legs."""
    x = nearest.foot_xy[0] + float(rng.normal(0, 0.25)) * nearest.pixels
    y = nearest.foot_xy[1] + float(rng.uniform(0.02, 0.08)) * nearest.pixels
    _paint_object_(canvas, x, y, nearest.pixels * float(rng.uniform(0.4, 0.8)), rng)


def _paint_shadow_(canvas: Canvas, standing: Standing, rng: np.random.Generator) -> None:
    """Darken the ground softly around the feet, a little away from the light."""
    height, width = canvas.owner.shape
    x = standing.foot_xy[0] - 0.06 * canvas.light[0] * standing.pixels
    y, reach = standing.foot_xy[1], 0.30 * standing.pixels
    x0, x1 = (int(np.clip(x + s * reach, 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip(y + s * reach * 0.35, 0, height)) for s in (-1, 1))
    dx = (np.arange(x0, x1, dtype=np.float32)[None] - x) / (0.45 * reach)
    dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - y) / (0.13 * reach)
    dark = np.float32(rng.uniform(0.35, 0.55)) * np.exp(-0.5 * (dx * dx + dy * dy))
    canvas.bgr[y0:y1, x0:x1] *= (1 - dark)[..., None]


def _paint_crowd_(
    canvas: Canvas,
    standings: list[Standing],
    horizon: float,
    pitch: float,
    rng: np.random.Generator,
) -> bool:
    """A group of tiny people far behind, all owned by CROWD_OWNER."""
    height, width = canvas.owner.shape
    pixels = float(rng.uniform(*CROWD_HEIGHT)) * height
    scale = standings[-1].pixels / (standings[-1].foot_xy[1] - horizon)
    x, y = float(rng.uniform(0.15, 0.85)) * width, horizon + pixels / scale
    for _ in range(int(rng.integers(*CROWD_PERSONS, endpoint=True))):
        foot = (x + float(rng.normal(0, 0.9)) * pixels, y + float(rng.uniform(-0.1, 0.1)) * pixels)
        Painter(canvas, sample_figure(rng, pitch), foot, pixels, CROWD_OWNER).paint()
    return True


def _soften_(canvas: Canvas, rng: np.random.Generator) -> None:
    """Depth of field: what lies behind the persons is less sharp."""
    canvas.bgr = cv2.GaussianBlur(canvas.bgr, (0, 0), float(rng.uniform(0.5, 1.6))).astype(np.float32)


def _photograph(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour cast, exposure, slight blur and sensor noise; (H, W, 3) uint8."""
    gain = np.float32(rng.uniform(0.85, 1.12)) * rng.normal(1, 0.035, 3).astype(np.float32)
    picture = cv2.GaussianBlur(canvas.bgr, (0, 0), float(rng.uniform(0.3, 0.75))) * gain
    sd = np.float32(rng.uniform(*SENSOR_NOISE))
    grain = rng.standard_normal(canvas.owner.shape, dtype=np.float32) * sd
    picture += grain[..., None]
    return np.clip(picture, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------- annotating


def _silhouette(canvas: Canvas, owner: int) -> NDArray[np.uint8] | None:
    """(H, W) 0/1 mask of an owner's visible pixels, None when there are too few."""
    mask = (canvas.owner == owner).astype(np.uint8)
    return mask if int(mask.sum()) >= MIN_PIXELS else None


def _bbox_xywh(mask: NDArray[np.uint8]) -> list[int]:
    return [int(v) for v in cv2.boundingRect(mask)]


def _annotate(
    canvas: Canvas, painter: Painter, pixels: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """COCO fields of one person, None when hardly anything of it is to be seen."""
    mask = _silhouette(canvas, painter.owner)
    if mask is None:
        return None
    points = painter.keypoints_image()
    visibility = _visibility(canvas, painter, points, mask, rng)
    labelled = visibility > 0
    if labelled.sum() < MIN_KEYPOINTS or mask.sum() < MIN_VISIBLE_SHARE * pixels:
        labelled[:] = False
    rows = np.column_stack([points.round(2), visibility])
    rows[~labelled] = 0
    return {
        "segmentation": _polygons(mask),
        "num_keypoints": int(labelled.sum()),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "keypoints": [int(v) if i % 3 == 2 else round(float(v), 2) for i, v in enumerate(rows.ravel())],
        "bbox": _bbox_xywh(mask),
        "category_id": 1,
    }


def _visibility(
    canvas: Canvas,
    painter: Painter,
    points: Vector,
    mask: NDArray[np.uint8],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(K,) 2 visible, 1 hidden by another part, person or object, 0 outside or unlabelled."""
    height, width = canvas.owner.shape
    visibility = np.full(NUM_KEYPOINTS, 2)
    visibility[painter.far_side()] = 1
    away = painter.turned_away()
    to_visible = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    unlabelled = rng.random(NUM_KEYPOINTS) < DEEP_UNLABELLED_SHARE
    for k, (x, y) in enumerate(points):
        if away[k] or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            visibility[k] = 0
            continue
        row, col = round(float(y)), round(float(x))
        if canvas.owner[row, col] != painter.owner:
            far = to_visible[row, col]
            if far > 1.5:
                visibility[k] = 1
            if far > DEEP_HIDDEN * painter.pixels and unlabelled[k]:
                visibility[k] = 0
        elif int(canvas.part[row, col]) not in CARRIERS[k]:
            visibility[k] = 1
    return visibility


def _polygons(mask: NDArray[np.uint8]) -> list[list[float]]:
    """COCO polygons of the outer contours; tiny ones are left out unless there is no other."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    shapes = [cv2.approxPolyDP(c, 0.8, True) for c in sorted(contours, key=cv2.contourArea)[::-1]]
    kept = [s for s in shapes if len(s) >= 3 and cv2.contourArea(s) >= 8]
    if not kept:
        x, y, w, h = _bbox_xywh(mask)
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return [[float(v) for v in shape.ravel()] for shape in kept]


def _crowd_annotation(canvas: Canvas, mask: NDArray[np.uint8]) -> dict[str, Any]:
    """One crowd region as uncompressed column-major run lengths, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {
        "segmentation": {"counts": ([0] if flat[0] else []) + runs, "size": list(mask.shape)},
        "num_keypoints": 0,
        "area": int(mask.sum()),
        "iscrowd": 1,
        "keypoints": [0] * (3 * NUM_KEYPOINTS),
        "bbox": _bbox_xywh(mask),
        "category_id": 1,
    }


# ---------------------------------------------------------------------------------- writing


def _render_record(
    spec: SyntheticSpec, task: tuple[int, int]
) -> tuple[int, bytes, list[dict[str, Any]]]:
    """(image id, JPEG bytes, annotations with ids) of image `index` of a split."""
    split, index = task
    rng = np.random.default_rng([spec.seed, split, index])
    bgr, annotations = render_image(spec.image_wh, rng)
    if split == 0 and rng.random() < spec.unlabelled_fraction:
        for annotation in annotations:
            annotation.update(num_keypoints=0, keypoints=[0] * (3 * NUM_KEYPOINTS))
    image_id = split * SPLIT_IDS + index + 1
    for position, annotation in enumerate(annotations):
        annotation["image_id"] = image_id
        annotation["id"] = image_id * ANNOTATIONS_PER_IMAGE + position
    ok, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, spec.jpeg_quality])
    assert ok
    return image_id, content.tobytes(), annotations


def _single_thread() -> None:
    cv2.setNumThreads(0)


def _records(
    spec: SyntheticSpec, tasks: list[tuple[int, int]], workers: int
) -> Iterator[tuple[int, bytes, list[dict[str, Any]]]]:
    """Rendered records in the order of tasks; at most a few chunks wait in memory."""
    if workers <= 1:
        yield from map(partial(_render_record, spec), tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_single_thread) as pool:
        window = workers * 4 * IMAGES_PER_TASK
        for begin in range(0, len(tasks), window):
            part = tasks[begin : begin + window]
            yield from pool.map(partial(_render_record, spec), part, chunksize=IMAGES_PER_TASK)


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes, method: int) -> None:
    """Add a member whose bytes do not depend on the clock or the platform."""
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.create_system, member.external_attr = 3, 0o644 << 16
    archive.writestr(member, content, compress_type=method, compresslevel=6)


def _document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    person = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(KEYPOINTS),
        "skeleton": [[a + 1, b + 1] for a, b in LIMBS],
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
    spec: SyntheticSpec,
    split: str,
    tasks: list[tuple[int, int]],
    workers: int,
    progress: Callable[[int], None] | None,
) -> tuple[bytes, dict[str, int]]:
    """Write <split>.zip; returns the annotation document and its counts."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    width, height = spec.image_wh
    beside = folder / f"{split}.zip.tmp"
    with zipfile.ZipFile(beside, "w") as archive:
        for image_id, content, found in _records(spec, tasks, workers):
            name = f"{image_id:012d}.jpg"
            _add_member(archive, f"{split}/{name}", content, zipfile.ZIP_STORED)
            images.append(
                {"id": image_id, "file_name": name, "width": width, "height": height, "license": 1}
            )
            annotations += found
            if progress is not None:
                progress(1)
    os.replace(beside, folder / f"{split}.zip")
    persons = [a for a in annotations if not a["iscrowd"]]
    counts = {
        "images": len(images),
        "persons": len(persons),
        "persons_labelled": sum(a["num_keypoints"] > 0 for a in persons),
        "crowds": len(annotations) - len(persons),
    }
    return _document(images, annotations), counts


def write_coco_zips(
    folder: Path,
    spec: SyntheticSpec,
    workers: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write the three zips into folder; returns counts by split. Same spec, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    beside = folder / f"{ANNOTATIONS_ZIP}.tmp"
    with zipfile.ZipFile(beside, "w") as archive:
        for (split, number), size in zip(SPLITS, (spec.train_images, spec.val_images), strict=True):
            tasks = [(number, index) for index in range(size)]
            document, found = _write_split(folder, spec, split, tasks, workers, progress)
            name = f"annotations/person_keypoints_{split}.json"
            _add_member(archive, name, document, zipfile.ZIP_DEFLATED)
            counts |= {f"{split}_{key}": value for key, value in found.items()}
    os.replace(beside, folder / ANNOTATIONS_ZIP)
    return counts
