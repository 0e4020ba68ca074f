"""A random person: proportions, clothes and colours, and a 3-D skeleton in a random pose.

Body frame: x to the person's left, y up, z forward; 1.0 is an adult's standing height. Camera
frame: x right, y up, z towards the camera. A person who faces the camera (yaw 0) therefore has
the left shoulder at the right of the image; yaw 180 degrees shows the back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pose.synthetic.canvas import Array, Vector

# (share, smallest and largest absolute yaw in degrees): front, three-quarter, side, back.
VIEWS = ((0.71, 0, 25), (0.15, 25, 60), (0.04, 60, 105), (0.10, 150, 180))
CHILD_SHARE = 0.15
LEAN_SD_DEG = 5.0  # sideways and forward lean of the torso
LEAN_LARGE = (0.08, 18.0)  # share of people with a larger lean, and its sd in degrees
SAME_ARMS_SHARE = 0.45  # both arms in the same pose

# Wrist relative to its shoulder (outward, up, forward; arm lengths), direction of the elbow, share.
ARMS = {
    "hang": ((0.16, -0.96, 0.06), (0.6, 0.0, -1.0), 0.46),
    "swing_fore": ((0.08, -0.87, 0.36), (0.3, 0.0, -1.0), 0.0),
    "swing_back": ((0.14, -0.89, -0.30), (0.3, 0.0, -1.0), 0.0),
    "run_fore": ((-0.10, -0.25, 0.55), (0.4, -1.0, -0.4), 0.0),
    "run_back": ((0.20, -0.50, -0.22), (0.5, 0.0, -1.0), 0.0),
    "on_hip": ((-0.02, -0.66, 0.16), (1.0, 0.0, -0.35), 0.16),
    "crossed": ((-0.50, -0.42, 0.48), (0.7, -1.0, 0.1), 0.04),
    "clasped": ((-0.26, -0.62, 0.42), (1.0, -0.3, -0.3), 0.05),
    "waving": ((0.42, 0.40, 0.18), (0.8, -1.0, 0.0), 0.08),
    "raised": ((0.22, 0.92, 0.08), (1.0, 0.0, 0.1), 0.06),
    "sideways": ((0.93, 0.06, 0.05), (0.2, -1.0, -0.5), 0.05),
    "at_head": ((-0.04, 0.30, 0.34), (0.8, -0.9, 0.2), 0.03),
    "pointing": ((0.30, -0.05, 0.88), (0.6, -1.0, 0.0), 0.02),
    "bent": ((0.04, -0.42, 0.56), (0.6, -0.6, -0.8), 0.05),
}

# Share, ankle of one leg and of the other relative to its hip (outward, up, forward; leg lengths).
STANCES = {
    "stand": (0.36, (0.02, -0.99, 0.0), (0.03, -0.99, 0.0)),
    "relaxed": (0.18, (0.0, -0.995, 0.0), (0.15, -0.95, 0.12)),
    "wide": (0.11, (0.17, -0.97, 0.0), (0.17, -0.97, 0.0)),
    "walk": (0.17, (0.0, -0.94, 0.30), (0.0, -0.90, -0.34)),
    "run": (0.07, (0.02, -0.62, 0.16), (0.0, -0.80, -0.42)),
    "step": (0.04, (0.0, -0.99, 0.0), (0.08, -0.70, 0.25)),
    "sit": (0.05, (0.06, -0.58, 0.52), (0.10, -0.58, 0.50)),
    "squat": (0.02, (0.16, -0.50, 0.12), (0.16, -0.50, 0.12)),
}

# Face points in the head's frame (x left, y up, z forward from its middle), adult heights.
FACE = {
    "nose": (0.0, -0.014, 0.068),
    "eye": (0.021, 0.008, 0.053),
    "ear": (0.053, -0.004, -0.004),
    "brow": (0.022, 0.022, 0.055),
    "mouth": (0.0, -0.039, 0.054),
}
SKIN_RGB = ((246, 214, 190), (232, 190, 160), (208, 158, 122), (170, 118, 84), (122, 82, 58),
            (84, 56, 42))  # fmt: skip
HAIR_RGB = ((28, 24, 24), (52, 36, 28), (86, 58, 38), (128, 88, 54), (190, 154, 100),
            (150, 148, 146), (130, 66, 36))  # fmt: skip
CLOTH_RGB = ((34, 35, 40), (70, 72, 78), (128, 130, 134), (226, 226, 222), (44, 58, 92),
             (64, 88, 126), (98, 122, 152), (112, 90, 66), (158, 138, 106), (84, 96, 70),
             (138, 48, 48), (176, 82, 62), (192, 158, 70), (62, 116, 112), (116, 78, 112),
             (196, 136, 144))  # fmt: skip
TROUSERS_RGB = ((34, 35, 40), (60, 62, 70), (44, 58, 92), (64, 84, 120), (92, 110, 138),
                (112, 92, 70), (160, 142, 112), (78, 84, 66), (110, 110, 112))  # fmt: skip


@dataclass(frozen=True)
class Cloth:
    """Colours (BGR 0..255) and pattern of a garment; period of the pattern in adult heights."""

    colour: Array
    second: Array
    pattern: str
    period: float

    def albedo(self, t: Array, side: Array, length: float) -> Array:
        """Colour per pixel of a tube that is `length` adult heights long."""
        if self.pattern == "plain":
            return self.colour
        mask = (t * (length / self.period)) % 1 < 0.45
        if self.pattern == "checks":
            mask = mask ^ ((side * (0.1 / self.period)) % 1 < 0.45)
        if self.pattern == "block":
            mask = t * length > self.period * 4
        return np.where(mask, self.second, self.colour)


@dataclass(frozen=True)
class Looks:
    """Body shape, clothes and colours of one person."""

    girth: float
    belly: float
    shoulders: float
    head: float  # relative to an adult's
    legs: float  # relative to an adult's
    top: Cloth
    jacket: bool  # open at the front over `inner`
    inner: Array
    bottom: Cloth
    sleeve: float  # where sleeves end: 0 shoulder, 1 elbow, 2 wrist
    leg_cloth: float  # where trouser legs end: 0 hip, 1 knee, 2 ankle
    skirt: float  # length in adult heights, 0 for none
    skin: Array
    hair: Array
    hair_style: str  # bald, short, bob, long, tail, cap
    beard: bool
    shoes: Array
    sole: Array


@dataclass(frozen=True)
class Figure:
    """A posed person in the camera frame, in adult heights; y = 0 at the lowest foot."""

    looks: Looks
    joints: dict[str, Vector]  # (3,) by name: the keypoints, and hands, toes, neck, ...
    head_rotation: Vector  # (3, 3) head frame to camera frame
    torso_rotation: Vector  # (3, 3) torso frame to camera frame
    seated: bool


def _bgr(rng: np.random.Generator, palette: Sequence[tuple[int, int, int]], spread: float) -> Array:
    colour = np.array(palette[int(rng.integers(len(palette)))][::-1], np.float32)
    gain = rng.normal(1, spread) * (1 + rng.normal(0, spread / 4, 3))
    return np.clip(colour * gain, 12, 250).astype(np.float32).reshape(3, 1, 1)


def _cloth(rng: np.random.Generator, palette: Sequence[tuple[int, int, int]]) -> Cloth:
    pattern = rng.choice(["plain", "stripes", "checks", "block"], p=[0.66, 0.16, 0.08, 0.10])
    second = _bgr(rng, CLOTH_RGB, 0.12)
    return Cloth(_bgr(rng, palette, 0.12), second, str(pattern), float(rng.uniform(0.03, 0.07)))


def sample_looks(rng: np.random.Generator) -> Looks:
    """Random shape and clothes; children have larger heads and shorter legs."""
    child = rng.random() < CHILD_SHARE
    woman = rng.random() < 0.5
    styles = ["bob", "long", "tail", "short"] if woman else ["short", "bald", "cap", "short"]
    skirt = float(rng.uniform(0.15, 0.22)) if woman and rng.random() < 0.35 else 0.0
    top = _cloth(rng, CLOTH_RGB)
    dress = skirt > 0 and rng.random() < 0.5
    bottom = top if dress else Cloth(_bgr(rng, TROUSERS_RGB, 0.12), top.second, "plain", 1.0)
    dark_sole = rng.random() < 0.5
    return Looks(
        girth=float(np.clip(rng.normal(0.94, 0.09), 0.80, 1.25)),
        belly=float(np.clip(rng.normal(1.0, 0.09), 0.86, 1.3)),
        shoulders=float(rng.normal(0.93 if woman or child else 1.03, 0.03)),
        head=float(rng.uniform(1.25, 1.45) if child else rng.uniform(0.98, 1.10)),
        legs=float(rng.uniform(0.88, 0.95) if child else rng.uniform(0.97, 1.04)),
        top=top,
        jacket=bool(rng.random() < 0.22),
        inner=_bgr(rng, CLOTH_RGB, 0.1),
        bottom=bottom,
        sleeve=float(rng.choice([0.12, 0.55, 0.7, 1.97], p=[0.08, 0.32, 0.15, 0.45])),
        leg_cloth=0.0 if skirt else float(rng.choice([0.6, 0.9, 1.98], p=[0.12, 0.13, 0.75])),
        skirt=skirt,
        skin=_bgr(rng, SKIN_RGB, 0.05),
        hair=_bgr(rng, HAIR_RGB, 0.12),
        hair_style=str(rng.choice(styles)),
        beard=not woman and not child and rng.random() < 0.3,
        shoes=_bgr(rng, CLOTH_RGB[:10], 0.1),
        sole=np.full((3, 1, 1), 40 if dark_sole else 215, np.float32),
    )


def rotation(yaw: float, pitch: float, roll: float) -> Vector:
    """(3, 3) rotation from degrees: yaw about y, then pitch about x, then roll about z."""
    cy, cp, cr = np.cos(np.deg2rad([yaw, pitch, roll]))
    sy, sp, sr = np.sin(np.deg2rad([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    matrix: Vector = about_z @ about_x @ about_y
    return matrix


def two_bone_ik(
    root: Vector, target: Vector, lengths: tuple[float, float], pole: Vector
) -> list[Vector]:
    """[middle joint, end joint] of a two-bone limb from root to target, bent towards pole."""
    first, second = lengths
    reach = float(np.linalg.norm(target - root))
    axis = (target - root) / max(reach, 1e-6)
    reach = float(np.clip(reach, abs(first - second) + 0.02, (first + second) * 0.999))
    out = pole - axis * float(pole @ axis)
    out /= max(float(np.linalg.norm(out)), 1e-6)
    along = (first**2 - second**2 + reach**2) / (2 * reach)
    rise = np.sqrt(max(first**2 - along**2, 0.0))
    return [root + axis * along + out * rise, root + axis * reach]


def _choose(rng: np.random.Generator, table: dict[str, float]) -> str:
    weights = np.array(list(table.values()))
    return str(rng.choice(list(table), p=weights / weights.sum()))


def _choose_arms(rng: np.random.Generator, stance: str) -> list[str]:
    """Two arm poses; the first is on the side of the first leg of STANCES."""
    if stance == "run":
        return ["run_back", "run_fore"]
    if stance == "walk" and rng.random() < 0.7:
        return ["swing_back", "swing_fore"]
    shares = {name: share for name, (_, _, share) in ARMS.items()}
    first = _choose(rng, shares)
    if first in ("crossed", "clasped") or rng.random() < SAME_ARMS_SHARE:
        return [first, first]
    shares["crossed"] = shares["clasped"] = 0.0
    return [first, _choose(rng, shares)]


def _sample_rotations(rng: np.random.Generator) -> tuple[float, Vector, Vector]:
    """(yaw in degrees, torso rotation, head rotation), both relative to the pelvis."""
    _, low, high = VIEWS[int(rng.choice(len(VIEWS), p=[share for share, _, _ in VIEWS]))]
    yaw = float(rng.uniform(low, high) * rng.choice([-1, 1]))
    share, large = LEAN_LARGE
    sd = large if rng.random() < share else LEAN_SD_DEG
    torso = rotation(rng.normal(0, 7), rng.normal(2, sd), rng.normal(0, sd))
    limit = 45 if abs(yaw) < 60 else 20
    head_yaw = float(np.clip(rng.normal(-0.25 * yaw if limit == 45 else 0, 14), -limit, limit))
    return yaw, torso, torso @ rotation(head_yaw, rng.normal(3, 7), rng.normal(0, 5))


def sample_figure(rng: np.random.Generator, camera_pitch: float) -> Figure:
    """A random person; camera_pitch in degrees, positive if the camera looks down."""
    looks = sample_looks(rng)
    yaw, torso, head = _sample_rotations(rng)
    stance = _choose(rng, {name: share for name, (share, _, _) in STANCES.items()})
    arms = _choose_arms(rng, stance)
    sides = (1, -1) if rng.random() < 0.5 else (-1, 1)
    joints: dict[str, Vector] = {"pelvis": np.zeros(3)}
    for side, arm, ankle in zip(sides, arms, STANCES[stance][1:], strict=True):
        _add_leg_(joints, rng, looks, side, np.array(ankle))
        _add_arm_(joints, rng, looks, torso, side, arm)
    _add_head_(joints, looks, torso, head)
    view = rotation(0, camera_pitch, 0) @ rotation(yaw, 0, 0)
    floor = min(float(p[1]) for n, p in joints.items() if n.endswith(("_toe", "_heel")))
    placed = {name: view @ (p - [0, floor, 0]) for name, p in joints.items()}
    return Figure(looks, placed, view @ head, view @ torso, stance == "sit")


def _add_leg_(
    joints: dict[str, Vector], rng: np.random.Generator, looks: Looks, side: int, ankle: Vector
) -> None:
    name = "left" if side > 0 else "right"
    lengths = (0.245 * looks.legs, 0.235 * looks.legs)
    hip = np.array([side * 0.068 * min(looks.girth, 1.1), 0.0, 0.0])
    reach = (ankle + rng.normal(0, (0.03, 0.008, 0.03))) * [side, 1, 1] * sum(lengths)
    knee, foot = two_bone_ik(
        hip, hip + reach, lengths, np.array([side * rng.normal(0.15, 0.12), 0, 1])
    )
    shin = (foot - knee) / lengths[1]
    forward = np.array([side * rng.uniform(0.05, 0.4), shin[2], -shin[1]])
    forward /= np.linalg.norm(forward)
    joints[f"{name}_hip"], joints[f"{name}_knee"], joints[f"{name}_ankle"] = hip, knee, foot
    joints[f"{name}_heel"] = foot + shin * 0.035 - forward * 0.015
    joints[f"{name}_toe"] = foot + shin * 0.035 + forward * 0.095


def _add_arm_(
    joints: dict[str, Vector],
    rng: np.random.Generator,
    looks: Looks,
    torso: Vector,
    side: int,
    pose: str,
) -> None:
    name = "left" if side > 0 else "right"
    wrist, pole, _ = ARMS[pose]
    lengths = (0.165, 0.145)
    reach = (np.array(wrist) + rng.normal(0, 0.05, 3)) * [side, 1, 1] * sum(lengths)
    if pose == "crossed" and side > 0:
        reach += [0, 0.02, 0.02]
    pole_side = np.array(pole) * [side, 1, 1]
    shoulder = np.array([side * 0.106 * looks.shoulders, 0.292, 0.0])
    elbow, end = two_bone_ik(shoulder, shoulder + reach, lengths, pole_side)
    hand = end + (end - elbow) / lengths[1] * 0.055
    for joint, point in (("shoulder", shoulder), ("elbow", elbow), ("wrist", end), ("hand", hand)):
        joints[f"{name}_{joint}"] = torso @ point


def _add_head_(joints: dict[str, Vector], looks: Looks, torso: Vector, head: Vector) -> None:
    size = looks.head
    joints["neck"] = torso @ np.array([0, 0.328, -0.005])
    joints["crotch"] = np.array([0, -0.055, 0.0])
    middle = joints["neck"] + torso @ np.array([0, 0.025, 0.008]) + head @ [0, 0.062 * size, 0]
    joints["head"] = middle
    for name, offset in (("chin", (0, -0.070, 0.012)), ("crown", (0, 0.072, -0.006))):
        joints[name] = middle + head @ np.array(offset) * size
    for name, (x, y, z) in FACE.items():
        if x == 0:
            joints[name] = middle + head @ np.array([x, y, z]) * size
        else:
            joints[f"left_{name}"] = middle + head @ np.array([x, y, z]) * size
            joints[f"right_{name}"] = middle + head @ np.array([-x, y, z]) * size
