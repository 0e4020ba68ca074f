"""Render a video of two people who move, and the box of each of them in each frame.

    python tools/render_clip.py clip.mp4

Writes clip.mp4 and, beside it, clip.json: {"clip.mp4/0": [[x, y, w, h], ...], ...}, the format of
predict.py's --boxes. Each person goes sideways and changes between two poses. The same --seed gives
the same frames. 48 frames of 480 x 360 take about 5 s.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.files import write_json
from pose.common.script import exit_codes
from pose.deploy.video import video_writer
from pose.synthetic.body import Figure, sample_figure
from pose.synthetic.painter import Painter
from pose.synthetic.scene import paint_scene, paint_shadow_

NAME = "render_clip"
IMAGE_WH = (480, 360)
FRAMES = 48
FPS = 24.0
HORIZON = 110.0  # row in pixels
CAMERA_PITCH_DEG = 3.0
WALKS = (  # of each person: foot x at the first and last frame, foot y, adult height (pixels)
    (120.0, 250.0, 335.0, 270.0),
    (400.0, 340.0, 290.0, 215.0),
)
POSE_FRAMES = 24  # from one pose to the other


@dataclass(frozen=True)
class Person:
    """Two poses of one figure and its way."""

    poses: tuple[Figure, Figure]
    walk: tuple[float, float, float, float]

    def figure(self, frame: int) -> Figure:
        """The pose between both at this frame; bones in between are a little shorter."""
        first, second = self.poses
        share = (1 - np.cos(np.pi * frame / POSE_FRAMES)) / 2
        joints = {
            name: (1 - share) * xyz + share * second.joints[name]
            for name, xyz in first.joints.items()
        }
        return replace(first, joints=joints)


def main(path: Path, frames: int, seed: int) -> None:
    boxes: dict[str, list[list[int]]] = {}
    with video_writer(path, FPS, IMAGE_WH) as write:
        for index, (picture, found) in enumerate(render_frames(frames, seed)):
            write(picture)
            boxes[f"{path.name}/{index}"] = found
    write_json(path.with_suffix(".json"), boxes)


def render_frames(frames: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], list[list[int]]]]:
    """(BGR picture, boxes xywh in pixels) of each frame."""
    rng = np.random.default_rng(seed)
    scene = paint_scene(IMAGE_WH, HORIZON, rng)
    people = [Person(_two_poses(rng), walk) for walk in WALKS]
    for frame in range(frames):
        empty = np.zeros_like(scene.instances)
        canvas = replace(scene, bgr=scene.bgr.copy(), instances=empty, parts=empty.copy())
        for number, person in reversed([*enumerate(people, start=1)]):  # the far one first
            x0, x1, y, height = person.walk
            foot = (x0 + (x1 - x0) * frame / max(frames - 1, 1), y)
            paint_shadow_(canvas, foot, height, np.random.default_rng(seed))
            Painter(canvas, person.figure(frame), foot, height, number).paint()
        masks = [(canvas.instances == i + 1).astype(np.uint8) for i in range(len(people))]
        picture = cv2.merge([*canvas.bgr]).clip(0, 255).astype(np.uint8)
        yield picture, [[int(v) for v in cv2.boundingRect(mask)] for mask in masks]


def _two_poses(rng: np.random.Generator) -> tuple[Figure, Figure]:
    """Two standing poses from nearly the same side; the second has the clothes of the first."""
    standing: list[Figure] = []
    while len(standing) < 2:
        figure = sample_figure(rng, CAMERA_PITCH_DEG)
        facing = figure.torso_rotation[2, 2] > 0.9
        if facing and not figure.seated:
            standing.append(figure)
    return standing[0], standing[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the video, .mp4")
    parser.add_argument("--frames", type=int, default=FRAMES, help="number of frames (48)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    arguments = parser.parse_args()
    with exit_codes(NAME):
        main(arguments.path, arguments.frames, arguments.seed)
