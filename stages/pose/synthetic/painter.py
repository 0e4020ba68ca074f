"""Paints a figure onto a canvas, part by part, the farthest part first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pose.common.skeleton import COCO_17
from pose.synthetic.body import Cloth, Figure
from pose.synthetic.canvas import (
    Array,
    Canvas,
    TubePixels,
    Vector,
    make_profile,
    paint_,
    paint_stroke_,
    rasterise_tube,
)

TORSO, HEAD, HAIR = 1, 2, 3
UPPER_ARM, FOREARM, THIGH, SHIN = (4, 5), (6, 7), (8, 9), (10, 11)  # (left, right)

# Parts on which a keypoint is visible; another part of the same person over it hides it.
KEYPOINT_PARTS = ({HEAD},) * 5 + tuple(
    {above[side], below[side]}
    for above, below in (
        ((TORSO, TORSO), UPPER_ARM),  # shoulder
        (UPPER_ARM, FOREARM),  # elbow
        (FOREARM, FOREARM),  # wrist
        ((TORSO, TORSO), THIGH),  # hip
        (THIGH, SHIN),  # knee
        (SHIN, SHIN),  # ankle
    )
    for side in (0, 1)
)

# Half width and half depth of the torso at equal steps from crotch to neck.
TORSO_WIDTH = (0.020, 0.100, 0.103, 0.096, 0.086, 0.083, 0.089, 0.097, 0.103, 0.108, 0.100, 0.034)
TORSO_DEPTH = (0.040, 0.078, 0.080, 0.074, 0.066, 0.064, 0.068, 0.073, 0.072, 0.064, 0.050, 0.036)
HEAD_EGG = (0.40, 0.70, 0.83, 0.91, 0.97, 1.0, 1.0, 0.99, 0.95, 0.85, 0.66, 0.25)


def longitude(tube: TubePixels, rotation: Vector) -> Array:
    """Angle 0..pi per pixel of an upright tube, around its axis from its forward side."""
    forward = np.arctan2(rotation[0, 2], rotation[2, 2])
    angle = np.arcsin(tube.side * np.sign(tube.across_xy[0])) - forward
    around: Array = np.abs((angle + np.pi) % (2 * np.pi) - np.pi).astype(np.float32)
    return around


class Painter:
    """Paints a figure with its feet at foot_xy (image pixels); an adult is `pixels` high there."""

    def __init__(
        self,
        canvas: Canvas,
        figure: Figure,
        foot_xy: tuple[float, float],
        pixels: float,
        instance: int,
    ) -> None:
        self.canvas, self.figure, self.pixels, self.instance = canvas, figure, pixels, instance
        joints, foot = figure.joints, np.array(foot_xy)
        low, middle = min(p[1] for p in joints.values()), joints["pelvis"][2]
        self.xy = {n: foot + np.array([p[0], low - p[1]]) * pixels for n, p in joints.items()}
        self.z = {n: float(p[2] - middle) for n, p in joints.items()}
        self.draws: list[tuple[float, Callable[[], None]]] = []  # (depth order, function)

    def keypoints_image(self) -> Vector:
        """(K, 2) keypoints in image pixels, hidden ones and those outside the image too."""
        return np.array([self.xy[name] for name in COCO_17.names])

    def hidden_face_keypoints(self) -> NDArray[np.bool_]:
        """(K,) true for face keypoints on the side of the head away from the camera."""
        away = np.zeros(COCO_17.num_keypoints, bool)
        size = self.figure.looks.head
        limits = {"nose": -0.008, "left_eye": 0.004, "right_eye": 0.004}
        for k, name in enumerate(COCO_17.names[:5]):
            away[k] = (self.z[name] - self.z["head"]) / size < limits.get(name, -0.024)
        return away

    def keypoints_behind_torso(self) -> NDArray[np.bool_]:
        """(K,) true for shoulders and hips that the torso hides in a side view: visibility 1."""
        far = np.zeros(COCO_17.num_keypoints, bool)
        for left, right, limit in ((5, 6, 0.18), (11, 12, 0.12)):
            lead = self.z[COCO_17.names[left]] - self.z[COCO_17.names[right]]  # of the left one
            far[left], far[right] = lead < -limit, lead > limit
        return far

    def paint(self) -> None:
        """Paint all parts, the farthest first."""
        for side, name in enumerate(("left", "right")):
            self._leg(side, name)
            self._arm(side, name)
        self._torso()
        self._head()
        for _, draw in sorted(self.draws, key=lambda item: item[0]):
            draw()

    def _tube(
        self,
        a: str,
        b: str,
        radii: Sequence[float],
        colour: Callable[[TubePixels], Array] | Array,
        part: int,
        capped: bool = True,
        bias: float = 0.0,
        order: float | None = None,
        begin: float = 0.0,
    ) -> None:
        depth = (self.z[a] + self.z[b]) / 2
        profile = make_profile(radii, self.pixels)
        brightness = float(np.clip(1 + 0.9 * min(depth, 0.0), 0.78, 1))

        def draw() -> None:
            tube = rasterise_tube(self.canvas, self.xy[a], self.xy[b], profile, capped)
            if tube is None:
                return
            if begin > 0:
                tube = replace(tube, alpha=tube.alpha * (tube.t >= begin))
            colours = colour(tube) if callable(colour) else colour
            paint_(self.canvas, tube, colours, self.instance, part, brightness)

        self.draws.append((depth + bias if order is None else order, draw))

    def _limb_colour(
        self, cloth: Cloth, end: float, start: float, length: float, tube: TubePixels
    ) -> Array:
        """Colour of a limb from start to start + 1: cloth up to `end`, skin beyond."""
        dressed = cloth.albedo(tube.t + start, tube.side, length)
        if end >= start + 1:
            return dressed
        return np.where(tube.t + start < end, dressed, self.figure.looks.skin)

    def _limb_radii(
        self, bare: Sequence[float], start: float, end: float, ease: float
    ) -> list[float]:
        """Radii of a limb, larger by `ease` where cloth covers it."""
        girth = self.figure.looks.girth
        t = start + np.linspace(0, 1, 12)
        body = np.interp(np.linspace(0, 1, 12), np.linspace(0, 1, len(bare)), bare) * girth
        return list(body + np.where(t < end, ease, 0.0))

    def _leg(self, side: int, name: str) -> None:
        looks = self.figure.looks
        end, cloth = looks.leg_cloth, looks.bottom
        if looks.skirt and self.figure.seated:
            end = 0.7
        foot, toe, heel = f"{name}_ankle", f"{name}_toe", f"{name}_heel"
        low = self._limb_radii((0.036, 0.039, 0.030, 0.021), 1, end, 0.008)
        high = self._limb_radii((0.050, 0.059, 0.048, 0.038), 0, end, 0.006)
        behind = (self.z[foot] + self.z[f"{name}_knee"]) / 2 - 0.077
        self._tube(heel, toe, (0.023, 0.025, 0.021), looks.sole, SHIN[side], order=behind - 0.002)
        self._tube(foot, toe, (0.028, 0.026, 0.019), looks.shoes, SHIN[side], order=behind - 0.001)
        shin = partial(self._limb_colour, cloth, end, 1.0, 0.24)
        thigh = partial(self._limb_colour, cloth, end, 0.0, 0.24)
        self._tube(f"{name}_knee", foot, low, shin, SHIN[side], bias=-0.076)
        self._tube(f"{name}_hip", f"{name}_knee", high, thigh, THIGH[side], bias=-0.07)

    def _arm(self, side: int, name: str) -> None:
        looks = self.figure.looks
        end, cloth = looks.sleeve, looks.top
        high = self._limb_radii((0.029, 0.033, 0.031, 0.025), 0, end, 0.005)
        low = self._limb_radii((0.026, 0.027, 0.022, 0.017), 1, end, 0.005)
        upper = partial(self._limb_colour, cloth, end, 0.0, 0.16)
        fore = partial(self._limb_colour, cloth, end, 1.0, 0.16)
        shoulder, elbow, wrist = f"{name}_shoulder", f"{name}_elbow", f"{name}_wrist"
        self._tube(
            wrist, f"{name}_hand", (0.018, 0.025, 0.021), looks.skin, FOREARM[side], bias=0.034
        )
        self._tube(shoulder, elbow, high, upper, UPPER_ARM[side], bias=0.03)
        self._tube(elbow, wrist, low, fore, FOREARM[side], bias=0.035)

    def _torso_colour(self, tube: TubePixels) -> Array:
        looks = self.figure.looks
        top: Array = looks.top.albedo(1 - tube.t, tube.side, 0.4)
        if looks.jacket:
            inside = longitude(tube, self.figure.torso_rotation) < 0.08 + 0.24 * tube.t
            top = np.where(inside, looks.inner, top)
        return top

    def _torso(self) -> None:
        figure, looks = self.figure, self.figure.looks
        right = figure.torso_rotation[:, 0]
        across, deep = abs(float(right[0])), float(np.sqrt(max(1 - right[0] ** 2, 0)))
        shape = np.array([1, 1, 1, looks.belly, looks.belly, looks.belly, 1, 1, 1, 1, 1, 1])
        shape[:7] *= looks.girth
        shape[7:11] *= (looks.shoulders + looks.girth) / 2
        radii = list(np.hypot(np.array(TORSO_WIDTH) * across, np.array(TORSO_DEPTH) * deep) * shape)
        thighs = [(self.z[f"{s}_hip"] + self.z[f"{s}_knee"]) / 2 for s in ("left", "right")]
        colour = looks.bottom.colour
        self._tube(
            "crotch", "neck", radii, colour, TORSO, capped=False, order=min(*thighs, 0.0) - 0.08
        )
        self._tube(
            "crotch", "neck", radii, self._torso_colour, TORSO, capped=False, order=0.0, begin=0.27
        )
        neck = min(0.02, 0.04 + self.z["head"])  # behind the torso when the head leans away
        self._tube("neck", "chin", (0.042, 0.034, 0.034), looks.skin * 0.9, HEAD, order=neck)
        if looks.skirt and not figure.seated:
            hem = looks.skirt
            self.xy["hem"] = self.xy["pelvis"] + np.array([0, hem * self.pixels])
            self.xy["waist"] = self.xy["pelvis"] - np.array([0, 0.06 * self.pixels])
            self.z["hem"] = self.z["waist"] = 0.0
            spread = max(
                abs(self.xy[f"{s}_knee"][0] - self.xy["hem"][0]) for s in ("left", "right")
            )
            wide = max(0.10 + 0.16 * hem, spread / self.pixels * hem / 0.25 + 0.055)
            hips = radii[2] + 0.024 * looks.girth
            flare = (radii[3], hips, hips * 1.04, (hips + wide) / 2, wide)
            skirt = partial(self._limb_colour, looks.bottom, 9.0, 0.0, hem)
            order = max(0.005, max(thighs) - 0.06)
            self._tube("waist", "hem", flare, skirt, TORSO, capped=False, order=order)

    def _head(self) -> None:
        figure, looks = self.figure, self.figure.looks
        size = looks.head
        facing = float(figure.head_rotation[2, 2])
        front = 0.05 + max(self.z["head"], -0.2)
        behind = front + (0.003 if facing < 0 else -0.003)
        self._back_hair(-0.05 if facing > 0.25 else behind)
        for name in ("left_ear", "right_ear"):
            near = (self.z[name] - self.z["head"]) / size > 0.02
            self._ball(name, 0.015, looks.skin * 0.86, front + (0.004 if near else -0.002))
        self.draws.append((front, self._skull))
        if facing > -0.15 and self.pixels > 60:
            self._face(front + 0.002)

    def _ball(self, name: str, radius: float, colour: Array, order: float) -> None:
        """A small upright oval on the head, 1.5 times as high as wide."""
        size = self.figure.looks.head * radius
        rise = np.array([0, 0.4 * size * self.pixels])
        profile = make_profile((size, size), self.pixels)
        self._stroke(name, rise, profile, colour, order)

    def _stroke(
        self, name: str, reach: Vector, profile: Array, colour: Array, order: float
    ) -> None:
        """A short line on the head, from -reach to +reach around a joint."""
        a, b = self.xy[name] - reach, self.xy[name] + reach
        stroke = partial(paint_stroke_, self.canvas, a, b, profile, colour, self.instance, HEAD)
        self.draws.append((order, stroke))

    def _back_hair(self, order: float) -> None:
        looks = self.figure.looks
        drop = {"bob": 0.125, "long": 0.20, "tail": 0.17}.get(looks.hair_style)
        if drop is None:
            return
        size = looks.head
        back = self.figure.head_rotation @ np.array([0, -drop, -0.035]) * size
        top = self.figure.head_rotation @ np.array([0, 0.035, -0.03]) * size
        for name, offset in (("hair_top", top), ("hair_end", back)):
            self.xy[name] = self.xy["head"] + np.array([offset[0], -offset[1]]) * self.pixels
            self.z[name] = self.z["head"]
        width = 0.028 if looks.hair_style == "tail" else 0.064
        radii = (width * 0.8, width, width * 1.03, width, width * 0.75)
        self._tube("hair_top", "hair_end", [r * size for r in radii], looks.hair, HAIR, order=order)

    def _skull(self) -> None:
        """Head with hair, cap or beard, by the longitude of each pixel from the face."""
        looks, rotation = self.figure.looks, self.figure.head_rotation
        sideways = float(abs(rotation[0, 2]))
        width = float(np.hypot(0.054 * np.sqrt(1 - sideways**2), 0.064 * sideways)) * looks.head
        volume = 1.0 if looks.hair_style == "bald" else 1.08
        profile = make_profile([width * e * volume for e in HEAD_EGG], self.pixels)
        tube = rasterise_tube(self.canvas, self.xy["chin"], self.xy["crown"], profile, False)
        if tube is None:
            return
        angle_from_face = longitude(tube, rotation)
        line = {"bald": 9.0, "cap": 0.70}.get(looks.hair_style, 0.78)
        low = {"bald": 9.0, "cap": 0.3, "short": 0.26}.get(looks.hair_style, 0.05)
        hairline = np.interp(
            angle_from_face, (0.0, 0.7, 1.1, 1.5, 2.0), (line, line - 0.03, 0.66, 0.42, low)
        )
        hair = (tube.t > hairline) & (looks.hair_style != "bald")
        colour = np.where(hair, looks.hair, looks.skin)
        if looks.hair_style == "cap":
            brim = np.interp(angle_from_face, (1.0, 2.0), (0.69, 0.50))
            colour = np.where(tube.t > brim, looks.inner, colour)
        if looks.beard:
            chin = (
                (tube.t < 0.30 - 0.08 * np.cos(3 * angle_from_face))
                & (angle_from_face < 1.4)
                & ~hair
            )
            colour = np.where(chin, looks.skin * 0.35 + looks.hair * 0.65, colour)
        outside = ~hair & (np.abs(tube.side) * volume > 1)
        alpha = tube.alpha * ~outside
        paint_(self.canvas, replace(tube, alpha=alpha), colour, self.instance, HEAD, 1.02)

    def _face(self, order: float) -> None:
        looks = self.figure.looks
        dark: Array = looks.hair * 0.5 + looks.skin * 0.15
        away = self.hidden_face_keypoints()
        for k, side in ((1, "left"), (2, "right")):
            if away[k]:
                continue
            self._ball(f"{side}_brow", 0.0075, looks.hair * 0.8 + looks.skin * 0.2, order)
            self._ball(f"{side}_eye", 0.0078, 0.5 * looks.skin + 112, order + 1e-4)
            self._ball(f"{side}_eye", 0.0058, dark * 0.6, order + 2e-4)
        if not away[0]:
            self._ball("nose", 0.0105, looks.skin * 0.86, order + 3e-4)
            lips = looks.skin * np.array([[[0.66]], [[0.62]], [[0.82]]], np.float32)
            self._mouth(lips, order + 3e-4)

    def _mouth(self, colour: Array, order: float) -> None:
        wide = self.figure.head_rotation[:, 0] * 0.017 * self.figure.looks.head * self.pixels
        profile = make_profile((0.004, 0.007, 0.004), self.pixels * self.figure.looks.head)
        self._stroke("mouth", np.array([wide[0], -wide[1]]), profile, colour, order)
