"""The canvas: an image with its instance and part maps, and shaded tubes, of which all is drawn.

Colours are (3, 1, 1) float32 BGR, 0..255. Functions whose names end in _ mutate the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vector = NDArray[np.float64]
AMBIENT, DIFFUSE = 0.56, 0.52  # of the cylinder shading; their sum at the lit side is about 1
TILE = 1024  # width and height of the noise tile in pixels; images must be smaller
PROFILE_STEPS = 128


@lru_cache(maxsize=1)
def noise_tile() -> Array:
    """(TILE, TILE) smooth multi-scale noise, mean 0, sd 1; the same in every process."""
    rng = np.random.default_rng(2017)
    total = np.zeros((TILE, TILE), np.float32)
    for cells in (8, 16, 32, 64, 128, 256, 512, 1024):
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        layer = cv2.resize(grid, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
        total += layer / layer.std() * cells**-0.35
    tile: Array = (total - total.mean()) / total.std()
    return tile


@dataclass
class Canvas:
    """An image being painted. light: unit vector (x right, y down, z towards the camera)."""

    bgr: Array  # (3, H, W), 0..255
    instances: NDArray[np.uint8]  # (H, W), 0 for scenery, else the person's number
    parts: NDArray[np.uint8]  # (H, W), body part of that person
    light: tuple[float, float, float]
    noise_xy: tuple[int, int]  # origin of this image in the noise tile

    def noise(self, shift: int) -> Array:
        """(H, W) window of the noise tile, a different one per shift; a view, not a copy."""
        height, width = self.instances.shape
        x = (self.noise_xy[0] + 157 * shift) % (TILE - width)
        y = (self.noise_xy[1] + 211 * shift) % (TILE - height)
        return noise_tile()[y : y + height, x : x + width]


@dataclass(frozen=True)
class TubePixels:
    """Pixels of a tube: t 0..1 along it, side -1..1 across it, alpha 0..1 its coverage."""

    window: tuple[slice, slice]
    t: Array
    side: Array
    alpha: Array
    across_xy: tuple[float, float]


def make_profile(radii: Sequence[float], pixels: float) -> Array:
    """(PROFILE_STEPS,) smoothed radii in pixels at equal steps along a tube."""
    return _profile_matrix(len(radii)) @ (np.asarray(radii) * pixels).astype(np.float32)


@lru_cache(maxsize=32)
def _profile_matrix(count: int) -> Array:
    """(PROFILE_STEPS, count): linear interpolation, then a running mean of 9 steps."""
    wanted = np.linspace(0, count - 1, PROFILE_STEPS + 8)
    columns = [np.interp(wanted, np.arange(count), unit) for unit in np.eye(count)]
    smooth = [np.convolve(column, np.full(9, 1 / 9), mode="valid") for column in columns]
    return np.stack(smooth, axis=1).astype(np.float32)


def rasterise_tube(
    canvas: Canvas, a: Vector, b: Vector, profile: Array, capped: bool
) -> TubePixels | None:
    """Pixels of a tube between image points a and b; None if it lies outside the image.

    profile: radii along the tube, of make_profile; capped adds round ends.
    """
    height, width = canvas.instances.shape
    reach = float(profile.max()) + 1.5
    (ax, ay), (bx, by) = a.tolist(), b.tolist()
    x0, x1 = max(int(min(ax, bx) - reach), 0), min(int(max(ax, bx) + reach) + 1, width)
    y0, y1 = max(int(min(ay, by) - reach), 0), min(int(max(ay, by) + reach) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return None
    length = max(math.hypot(bx - ax, by - ay), 1e-3)
    ux, uy = (bx - ax) / length, (by - ay) / length
    dx = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(ax)
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(ay)
    along, across = dx * ux + dy * uy, dy * ux - dx * uy
    t = np.minimum(np.maximum(along / length, 0), 1)
    past = along - t * length
    radius = profile[(t * (PROFILE_STEPS - 1)).astype(np.intp)]
    if capped:
        distance = np.sqrt(across * across + past * past) - radius
    else:
        distance = np.maximum(np.abs(across) - radius, np.abs(past) - 0.5)
    alpha = np.minimum(np.maximum(0.5 - distance, 0), 1)
    side = np.minimum(np.maximum(across / np.maximum(radius, 1e-3), -1), 1)
    return TubePixels((slice(y0, y1), slice(x0, x1)), t, side, alpha, (-uy, ux))


def paint_(
    canvas: Canvas, tube: TubePixels, colour: Array, instance: int, part: int, brightness: float
) -> None:
    """Blend a tube over the canvas, shaded as a cylinder; brightness 0..1 scales its colour."""
    lx, ly, lz = canvas.light
    facing = tube.side * (tube.across_xy[0] * lx + tube.across_xy[1] * ly)
    facing += np.sqrt(1 - tube.side * tube.side) * lz
    grain = canvas.noise(0)[tube.window]
    shade = brightness * (AMBIENT + DIFFUSE * np.maximum(facing, 0)) * (1 + 0.045 * grain)
    rows, cols = tube.window
    target = canvas.bgr[:, rows, cols]
    target += tube.alpha * (shade * colour - target)
    solid = tube.alpha > 0.5
    canvas.instances[tube.window][solid] = instance
    canvas.parts[tube.window][solid] = part


def paint_stroke_(
    canvas: Canvas, a: Vector, b: Vector, profile: Array, colour: Array, instance: int, part: int
) -> None:
    """Paint a tube of one colour with round ends; a dot if a and b are equal."""
    tube = rasterise_tube(canvas, a, b, profile, capped=True)
    if tube is not None:
        paint_(canvas, tube, colour, instance, part, 1.0)
