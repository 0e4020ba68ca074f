"""Rendered videos of people who move, with each person's box and keypoints in every frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.synthetic.body import Figure, sample_figure
from pose.synthetic.painter import Painter
from pose.synthetic.scene import paint_scene

Path = Callable[[float], tuple[float, float]]  # seconds -> x, y in pixels
IMAGE_WH, FPS = (240, 180), 25.0
MIN_VISIBLE = 0.3  # of a person's pixels; below it a detector is taken to miss the person


@dataclass(frozen=True)
class Actor:
    """A person: foot_xy(seconds) in pixels, an adult's height in pixels, a swing of poses.

    The farthest actor comes first. swing_hz: how often a second; 0 stands still.
    """

    seed: int
    foot_xy: Path
    pixels: float = 75.0
    swing_hz: float = 0.0

    def figure(self, seconds: float) -> Figure:
        first, second = _two_poses(self.seed)
        share = 0.5 - 0.5 * np.cos(2 * np.pi * self.swing_hz * seconds)
        joints = {
            name: point * (1 - share) + second.joints[name] * share
            for name, point in first.joints.items()
        }
        return replace(first, joints=joints)


@lru_cache
def _two_poses(seed: int) -> tuple[Figure, Figure]:
    """Two poses of the same looks, on their feet and facing the camera."""
    drawn = (sample_figure(np.random.default_rng([seed, number]), 5.0) for number in count())
    first, second = islice((f for f in drawn if not f.seated and f.torso_rotation[2, 2] > 0.7), 2)
    return first, replace(second, looks=first.looks)


@dataclass(frozen=True)
class Shot:
    """A frame: BGR pixels; per actor the visible box xywh, None if hidden, and keypoints (K, 2)."""

    image: NDArray[np.uint8]
    boxes: list[list[float] | None]
    keypoints: NDArray[np.float64]


def render(actors: Sequence[Actor], frames: int, noise: float = 4.0) -> Iterator[Shot]:
    """Shots of the actors before one background, with sensor noise of a standard deviation."""
    scene = paint_scene(IMAGE_WH, 60.0, np.random.default_rng(3))
    for plane in scene.bgr:
        cv2.GaussianBlur(plane, (0, 0), 1.0, dst=plane)
    rng = np.random.default_rng(4)
    for index in range(frames):
        seconds = index / FPS
        empty = np.zeros(IMAGE_WH[::-1], np.uint8)
        canvas = replace(scene, bgr=scene.bgr.copy(), instances=empty, parts=empty.copy())
        keypoints, areas = [], []
        for number, actor in enumerate(actors, start=1):
            figure = actor.figure(seconds)
            painter = Painter(canvas, figure, actor.foot_xy(seconds), actor.pixels, number)
            painter.paint()
            keypoints.append(painter.keypoints_image())
            areas.append(int((canvas.instances == number).sum()))
        boxes = [_box(canvas.instances == n, area) for n, area in enumerate(areas, start=1)]
        bgr = cv2.merge(list(canvas.bgr))
        noisy = bgr + rng.normal(0, noise, bgr.shape)
        yield Shot(np.clip(noisy, 0, 255).astype(np.uint8), boxes, np.stack(keypoints))


def _box(mask: NDArray[np.bool_], area: int) -> list[float] | None:
    if mask.sum() < max(30, MIN_VISIBLE * area):
        return None
    return [float(v) for v in cv2.boundingRect(mask.astype(np.uint8))]


def walk(start_x: float, pixels_per_second: float, y: float) -> Path:
    """A walk along a row at a constant speed."""
    return lambda seconds: (start_x + pixels_per_second * seconds, y)
