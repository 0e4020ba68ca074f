"""The scenery: ground, backdrops, clutter, seats and shadows.

Its pixels have instance 0, so that scenery painted over a person hides the person.
"""

from __future__ import annotations

import cv2
import numpy as np

from pose.synthetic.canvas import TILE, Array, Canvas, make_profile, noise_tile, paint_stroke_

CLUTTER = (0, 4)  # smallest and largest number of objects behind or beside the people
FOCAL_PIXELS = 450
HORIZON_GAP = 6  # rows between the horizon and the first row of the ground plane

# Palettes, BGR.
OUTDOOR_GROUND = ((98, 112, 100), (112, 116, 120), (130, 136, 142), (128, 150, 164), (84, 108, 92))
INDOOR_GROUND = ((84, 104, 128), (112, 128, 146), (128, 130, 132), (150, 158, 166), (92, 96, 104))
WALLS = ((196, 202, 206), (172, 184, 192), (150, 162, 160), (178, 170, 158), (140, 146, 160))
OBJECTS = (
    (74, 92, 112),
    (98, 104, 108),
    (120, 96, 80),
    (70, 84, 72),
    (66, 70, 124),
    (150, 152, 150),
)
ZENITH, HAZE, BARK = (205, 176, 148), (226, 220, 212), (62, 78, 92)
FOLIAGE = ((52, 88, 70), (58, 100, 86), (48, 76, 66), (70, 104, 98))


def _tint(rng: np.random.Generator, palette: tuple[tuple[int, ...], ...]) -> Array:
    colour = np.array(palette[rng.integers(len(palette))], np.float32)
    varied = colour * rng.uniform(0.8, 1.15) + rng.normal(0, 5, 3)
    return varied.astype(np.float32).reshape(3, 1, 1)


def paint_scene(image_wh: tuple[int, int], horizon: float, rng: np.random.Generator) -> Canvas:
    """A new canvas with ground, backdrop and clutter, without people; horizon: a row in pixels."""
    width, height = image_wh
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.7, -0.2), 1.0])
    lx, ly, lz = (float(v) for v in light / np.linalg.norm(light))
    nx, ny = (int(rng.integers(0, TILE - n)) for n in image_wh)
    empty = np.zeros((height, width), np.uint8)
    canvas = Canvas(
        np.zeros((3, height, width), np.float32), empty, empty.copy(), (lx, ly, lz), (nx, ny)
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
    """A textured ground plane in perspective, below the horizon."""
    height, width = canvas.instances.shape
    top = int(horizon)
    tile = noise_tile()[:512, :512].copy()
    kind = rng.choice(["plain", "planks", "tiles"] if indoor else ["plain", "plain", "tiles"])
    if kind != "plain":
        step = int(rng.choice([32, 64]))
        tile[:, ::step] = -3
        if kind == "tiles":
            tile[::step] = -3
    warped = _warp_plane(tile, (width, height - top), float(rng.uniform(40, 110)), rng)
    near = np.linspace(0, 1, height - top, dtype=np.float32)[:, None]
    shade = (0.86 + 0.18 * near) * (1 + 0.11 * np.minimum(1, near * 3) * warped)
    colour = _tint(rng, INDOOR_GROUND if indoor else OUTDOOR_GROUND)
    np.multiply(shade, colour, out=canvas.bgr[:, top:])


def _warp_plane(
    tile: Array, image_wh: tuple[int, int], spread: float, rng: np.random.Generator
) -> Array:
    """The tile warped to a ground plane; its horizon lies HORIZON_GAP rows above the result."""
    u, v = rng.uniform(0, 512, 2)
    left, depth = -spread * image_wh[0] / 2, spread * FOCAL_PIXELS
    plane = np.array(
        [
            [spread, u, left + u * HORIZON_GAP],
            [0, v, depth + v * HORIZON_GAP],
            [0, 1, HORIZON_GAP],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(tile, plane, image_wh, flags=flags, borderMode=cv2.BORDER_REFLECT)
    return warped.astype(np.float32, copy=False)


def _paint_outdoors_(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    height, width = canvas.instances.shape
    rows = int(horizon)
    fade = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    zenith, haze = (np.array(c, np.float32).reshape(3, 1, 1) for c in (ZENITH, HAZE))
    clouds = np.clip(canvas.noise(2)[:rows] * 0.25 + rng.uniform(-0.1, 0.4), 0, 0.8)
    sky = (zenith + (haze - zenith) * fade) * np.float32(rng.uniform(0.82, 1.05))
    canvas.bgr[:, :rows] = sky + clouds * (np.float32(232) - sky)
    backdrop = rng.choice(["trees", "facade", "hills", "both"], p=[0.35, 0.3, 0.15, 0.2])
    if backdrop == "hills":
        size = 0.18 * height
        for _ in range(3):
            x = float(rng.uniform(0, width))
            _paint_leaves_(canvas, (x, horizon), (size * 2.5, size), _tint(rng, FOLIAGE), rng)
    if backdrop in ("facade", "both"):
        _paint_facade_(canvas, horizon, rng)
    if backdrop in ("trees", "both"):
        for _ in range(int(rng.integers(2, 6))):
            x, size = float(rng.uniform(0, width)), float(rng.uniform(0.15, 0.4)) * height
            _paint_tree_(canvas, x, horizon + 0.05 * size, size, rng)


def _paint_facade_(canvas: Canvas, horizon: float, rng: np.random.Generator) -> None:
    """House walls side by side, with rows of windows."""
    height, width = canvas.instances.shape
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
    """An indoor wall with a skirting board, pictures, windows or doors."""
    height, width = canvas.instances.shape
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
    """An upright rectangle with noise and a soft gradient."""
    height, width = canvas.instances.shape
    x0, x1 = (int(np.clip(v, 0, width)) for v in box_xyxy[::2])
    y0, y1 = (int(np.clip(v, 0, height)) for v in box_xyxy[1::2])
    if x0 >= x1 or y0 >= y1:
        return
    fall = np.linspace(1.06, 0.9, y1 - y0, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, x1 - x0, dtype=np.float32) * (0.08 * canvas.light[0])
    shade = (fall + across) * (1 + 0.035 * canvas.noise(shift)[y0:y1, x0:x1])
    np.multiply(shade, colour, out=canvas.bgr[:, y0:y1, x0:x1])
    canvas.instances[y0:y1, x0:x1] = 0


def _paint_leaves_(
    canvas: Canvas,
    centre_xy: tuple[float, float],
    radii: tuple[float, float],
    colour: Array,
    rng: np.random.Generator,
) -> None:
    """A blob with a ragged edge, lit from above."""
    height, width = canvas.instances.shape
    x0, x1 = (int(np.clip(centre_xy[0] + s * radii[0] * 1.6, 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip(centre_xy[1] + s * radii[1] * 1.6, 0, height)) for s in (-1, 1))
    if x0 >= x1 or y0 >= y1:
        return
    dx = (np.arange(x0, x1, dtype=np.float32)[None] - centre_xy[0]) / radii[0]
    dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - centre_xy[1]) / radii[1]
    grain = canvas.noise(int(rng.integers(8, 60)))[y0:y1, x0:x1]
    cover = np.clip((1 - dx * dx - dy * dy + 0.35 * grain) * 6, 0, 1)
    shade = np.clip(0.95 - 0.25 * dy + 0.22 * grain, 0.3, 1.5)
    target = canvas.bgr[:, y0:y1, x0:x1]
    target += cover * (shade * colour - target)
    canvas.instances[y0:y1, x0:x1][cover > 0.5] = 0


def _paint_tree_(canvas: Canvas, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    trunk = _tint(rng, (BARK,)) * np.float32(rng.uniform(0.7, 1.1))
    _paint_pole_(canvas, (x, y), (x, y - 0.6 * size), 0.045 * size, trunk)
    crown = (size * float(rng.uniform(0.35, 0.55)), size * float(rng.uniform(0.4, 0.55)))
    _paint_leaves_(canvas, (x, y - size), crown, _tint(rng, FOLIAGE), rng)


def _paint_pole_(
    canvas: Canvas, a: tuple[float, float], b: tuple[float, float], radius: float, colour: Array
) -> None:
    profile = make_profile((radius, radius), 1.0)
    paint_stroke_(canvas, np.array(a), np.array(b), profile, colour, instance=0, part=0)


def _paint_object_(
    canvas: Canvas, x: float, y: float, size: float, rng: np.random.Generator
) -> None:
    """A box, pole, sign, bush, ball or bench of about `size` pixels, standing at (x, y)."""
    colour = _tint(rng, OBJECTS)
    paint_shadow_(canvas, (x, y), size, rng)
    kind = rng.choice(["box", "pole", "sign", "bush", "ball", "bench"])
    if kind == "box":
        half, high = size * float(rng.uniform(0.15, 0.35)), size * float(rng.uniform(0.25, 0.6))
        _paint_box_(canvas, (x - half, y - high, x + half, y), colour, 9)
        _paint_box_(canvas, (x - half, y - high * 1.12, x + half, y - high), colour * 1.2, 9)
    elif kind == "bush":
        _paint_leaves_(
            canvas, (x, y - 0.2 * size), (0.35 * size, 0.3 * size), _tint(rng, FOLIAGE), rng
        )
    elif kind == "ball":
        _paint_pole_(canvas, (x, y - 0.1 * size), (x, y - 0.1 * size), 0.1 * size, colour)
    elif kind == "bench":
        for foot in (x - 0.35 * size, x + 0.35 * size):
            leg_top = (foot, y - 0.28 * size)
            _paint_pole_(canvas, (foot, y), leg_top, 0.02 * size, colour * 0.6)
        _paint_box_(
            canvas, (x - 0.42 * size, y - 0.3 * size, x + 0.42 * size, y - 0.24 * size), colour, 9
        )
    else:
        _paint_pole_(canvas, (x, y), (x, y - 1.3 * size), 0.022 * size, colour)
        if kind == "sign":
            sign = (x - 0.16 * size, y - 1.4 * size, x + 0.16 * size, y - 1.1 * size)
            _paint_box_(canvas, sign, _tint(rng, OBJECTS), 9)


def paint_foreground_(
    canvas: Canvas, foot_xy: tuple[float, float], pixels: float, rng: np.random.Generator
) -> None:
    """An object between the camera and a person `pixels` high; it covers part of the legs."""
    x = foot_xy[0] + float(rng.normal(0, 0.25)) * pixels
    y = foot_xy[1] + float(rng.uniform(0.02, 0.08)) * pixels
    _paint_object_(canvas, x, y, pixels * float(rng.uniform(0.4, 0.8)), rng)


def paint_shadow_(
    canvas: Canvas, foot_xy: tuple[float, float], pixels: float, rng: np.random.Generator
) -> None:
    """A soft shadow on the ground, shifted away from the light."""
    height, width = canvas.instances.shape
    x = foot_xy[0] - 0.06 * canvas.light[0] * pixels
    y, reach = foot_xy[1], 0.30 * pixels
    x0, x1 = (int(np.clip(x + s * reach, 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip(y + s * reach * 0.35, 0, height)) for s in (-1, 1))
    dx = (np.arange(x0, x1, dtype=np.float32)[None] - x) / (0.45 * reach)
    dy = (np.arange(y0, y1, dtype=np.float32)[:, None] - y) / (0.13 * reach)
    dark = np.float32(rng.uniform(0.35, 0.55)) * np.exp(-0.5 * (dx * dx + dy * dy))
    canvas.bgr[:, y0:y1, x0:x1] *= 1 - dark


def paint_seat_(
    canvas: Canvas,
    pelvis_xy: tuple[float, float],
    floor: float,
    pixels: float,
    rng: np.random.Generator,
) -> None:
    """A seat from the pelvis of a sitting person down to the floor (a row in pixels)."""
    x, y = pelvis_xy
    half, top, under = 0.13 * pixels, y + 0.04 * pixels, y + 0.11 * pixels
    colour = _tint(rng, OBJECTS)
    _paint_box_(canvas, (x - half, under, x + half, floor), colour * 0.7, 9)
    _paint_box_(canvas, (x - half * 1.1, top, x + half * 1.1, under), colour, 9)
