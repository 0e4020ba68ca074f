"""Feet, hands and face of a figure: points of COCO-WholeBody, and toes and fingers to see them by.

Simple but learnable: each point has a fixed place on the head, the foot or a bent finger.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pose.common.whole_body import FINGERS, PARTS
from pose.synthetic.body import Figure
from pose.synthetic.canvas import Canvas, Vector
from pose.synthetic.painter import FOREARM, SHIN, Painter

SIDES = (("left", 1), ("right", -1))  # name, direction of x in the body's frame
# Lengths in adult heights. Toes: towards the outside of the foot and back from its tip.
TOES = {"big_toe": (-0.016, 0.0), "small_toe": (0.024, 0.022)}
# Of each finger: first joint along the hand and towards the thumb, its direction in degrees
# towards the thumb, and the length of all its bones.
KNUCKLES = {
    "thumb": (0.018, 0.020, 45.0, 0.050),
    "forefinger": (0.050, 0.017, 12.0, 0.050),
    "middle_finger": (0.052, 0.006, 4.0, 0.055),
    "ring_finger": (0.049, -0.006, -5.0, 0.051),
    "pinky_finger": (0.045, -0.016, -15.0, 0.041),
}
BONES = (0.45, 0.30, 0.25)  # shares of that length
BEND_DEG = (2.0, 30.0)  # of each joint, the same in one hand
FINGER_RADII = (0.0068, 0.0060, 0.0048)


def face_points() -> Vector:
    """(68, 3) points of the face in the head's frame (x left, y up, z forward), adult heights."""
    turn = np.pi * np.arange(17) / 16
    jaw = np.stack([-0.053 * np.cos(turn), -0.066 * np.sin(turn), 0.045 * np.sin(turn)], axis=1)
    brow = [(0.010, 0.022, 0.060), (0.017, 0.026, 0.059), (0.024, 0.027, 0.056),
            (0.030, 0.025, 0.051), (0.036, 0.020, 0.045)]  # fmt: skip
    bridge = [(0.0, 0.012, 0.058), (0.0, 0.003, 0.062), (0.0, -0.006, 0.066), (0.0, -0.014, 0.070)]
    nostrils = [(x, -0.021 - 0.003 * (x == 0), 0.062 - abs(x) / 2)
                for x in (-0.012, -0.006, 0.0, 0.006, 0.012)]  # fmt: skip
    eye = [(0.029, 0.008, 0.049), (0.024, 0.012, 0.052), (0.018, 0.012, 0.053),
           (0.013, 0.008, 0.053), (0.018, 0.005, 0.053), (0.024, 0.005, 0.052)]  # fmt: skip
    left_eye = [eye[k] for k in (3, 2, 1, 0, 5, 4)]  # from its inner corner
    outer = [(-0.018, 0.0), (-0.011, 0.005), (-0.004, 0.007), (0.0, 0.006), (0.004, 0.007),
             (0.011, 0.005), (0.018, 0.0), (0.011, -0.006), (0.005, -0.009), (0.0, -0.010),
             (-0.005, -0.009), (-0.011, -0.006)]  # fmt: skip
    inner = [(-0.014, 0.0), (-0.006, 0.002), (0.0, 0.002), (0.006, 0.002), (0.014, 0.0),
             (0.006, -0.003), (0.0, -0.003), (-0.006, -0.003)]  # fmt: skip
    lips = [(x, -0.039 + y, 0.056 - abs(x) / 4) for x, y in outer + inner]
    points = [*jaw, *_mirrored(brow[::-1]), *brow, *bridge, *nostrils, *_mirrored(eye), *left_eye]
    return np.array([*points, *lips])


def _mirrored(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    return [(-x, y, z) for x, y, z in points]


def detail_joints(figure: Figure, rng: np.random.Generator) -> dict[str, Vector]:
    """(3,) of each keypoint of feet, face and hands by name, in the frame of figure.joints."""
    joints: dict[str, Vector] = {}
    for name, side in SIDES:
        joints |= _foot(figure, name, side) | _hand(figure, name, side, rng)
    head, rotation = figure.joints["head"], figure.head_rotation
    face = head + face_points() @ rotation.T * figure.looks.head
    return joints | dict(zip(PARTS["face"].names, face, strict=True))


def _unit(vector: Vector) -> Vector:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _across(vector: Vector, axis: Vector) -> Vector:
    """Unit vector of the part of `vector` at right angles to a unit axis."""
    return _unit(vector - axis * float(vector @ axis))


def _foot(figure: Figure, name: str, side: int) -> dict[str, Vector]:
    ankle, heel, toe = (figure.joints[f"{name}_{joint}"] for joint in ("ankle", "heel", "toe"))
    forward = _unit(toe - heel)
    up = _across(ankle - figure.joints[f"{name}_knee"], forward) * -1
    outside = np.cross(up, forward) * side
    points = {key: toe + outside * out - forward * back for key, (out, back) in TOES.items()}
    return {f"{name}_{key}": point for key, point in (points | {"heel": heel}).items()}


def _hand(figure: Figure, name: str, side: int, rng: np.random.Generator) -> dict[str, Vector]:
    wrist, torso = figure.joints[f"{name}_wrist"], figure.torso_rotation
    along = _unit(figure.joints[f"{name}_hand"] - wrist)
    inside = torso[:, 0] * -side
    thumb = _across(torso[:, 2] + 0.5 * inside + 0.3 * torso[:, 1], along)
    palm = np.cross(along, thumb)
    palm *= 1 if palm @ inside >= 0 else -1
    bend, points = np.deg2rad(rng.uniform(*BEND_DEG)), {f"{name}_hand_root": wrist}
    for finger in FINGERS:
        far, beside, degrees, length = KNUCKLES[finger]
        angle = np.deg2rad(degrees + rng.normal(0, 3))
        straight = along * np.cos(angle) + thumb * np.sin(angle)
        point = wrist + along * far + thumb * beside
        points[f"{name}_{finger}1"] = point
        for joint, share in enumerate(BONES, start=1):
            turned = straight * np.cos(bend * joint) + palm * np.sin(bend * joint)
            point = point + turned * length * share
            points[f"{name}_{finger}{joint + 1}"] = point
    return points


class DetailedPainter(Painter):
    """Also paints toes and fingers, and has the keypoints of feet, face and hands."""

    def __init__(
        self,
        canvas: Canvas,
        figure: Figure,
        foot_xy: tuple[float, float],
        pixels: float,
        instance: int,
        rng: np.random.Generator,
    ) -> None:
        super().__init__(canvas, figure, foot_xy, pixels, instance)
        pelvis = figure.joints["pelvis"]
        for name, point in detail_joints(figure, rng).items():
            dx, dy, dz = point - pelvis
            self.xy[name] = self.xy["pelvis"] + np.array([dx, -dy]) * pixels
            self.z[name] = float(dz)

    def part_image(self, part: str) -> Vector:
        """(K, 2) keypoints of a part of COCO-WholeBody in image pixels."""
        return np.array([self.xy[name] for name in PARTS[part].names])

    def _leg(self, side: int, name: str) -> None:
        super()._leg(side, name)
        order = (self.z[f"{name}_ankle"] + self.z[f"{name}_knee"]) / 2 - 0.0765
        for toe, shade in (("big_toe", 1.15), ("small_toe", 0.8)):
            colour = self.figure.looks.shoes * shade
            ends, radii = (f"{name}_ankle", f"{name}_{toe}"), (0.012, 0.016, 0.014)
            self._tube(*ends, radii, colour, SHIN[side], order=order, begin=0.4)

    def _arm(self, side: int, name: str) -> None:
        super()._arm(side, name)
        for number, finger in enumerate(FINGERS):
            colour = self.figure.looks.skin * (1.08 - 0.07 * number)
            joints = [f"{name}_hand_root"] * (finger == "thumb")
            joints += [f"{name}_{finger}{joint}" for joint in (1, 2, 3, 4)]
            for a, b in pairwise(joints):
                self._tube(a, b, FINGER_RADII, colour, FOREARM[side], bias=0.036)
