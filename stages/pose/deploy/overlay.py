"""Pictures with poses drawn: by side of the body, or one colour per person who has an id."""

from __future__ import annotations

import cv2
import numpy as np

from pose.deploy.manifest import Manifest
from pose.deploy.media import Image
from pose.deploy.people import People
from pose.draw import Colour, draw_pose

# BGR; after Paul Tol's bright and vibrant schemes, distinguishable by colour-blind readers
ID_COLOURS = (
    (51, 119, 238), (221, 170, 51), (119, 51, 238), (68, 187, 204), (136, 153, 0),
    (170, 119, 68), (119, 102, 238), (187, 221, 204), (51, 136, 34), (119, 34, 170),
)  # fmt: skip


def draw_people(image_rgb: Image, manifest: Manifest, people: People) -> Image:
    """BGR picture with the poses drawn, the first one on top.

    Keypoints outside the picture or with scores up to keypoint_score_thr are not drawn.
    """
    drawn = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
    thickness = max(1, round(min(drawn.shape[:2]) / 240))
    keypoints, skeleton = people.keypoints, manifest.skeleton
    inside = ((keypoints >= 0) & (keypoints < drawn.shape[1::-1])).all(axis=2)
    shown = inside & (people.keypoint_scores > manifest.keypoint_score_thr)
    for person in range(len(keypoints))[::-1]:
        visible = shown[person]
        points = np.where(visible[:, None], keypoints[person], 0)  # DARK may return beyond int
        number = None if people.track_ids is None else int(people.track_ids[person])
        colour = None if number is None else id_colour(number)
        drawn = draw_pose(drawn, skeleton, points, visible, thickness, colour)
        if number is not None and visible.any():
            above = points[visible].mean(axis=0)[0], points[visible].min(axis=0)[1]
            _write_id_(drawn, number, above, thickness)
    return drawn


def id_colour(number: int) -> Colour:
    """BGR colour of a track id; ten ids in a row differ."""
    return ID_COLOURS[number % len(ID_COLOURS)]


def _write_id_(image: Image, number: int, xy: tuple[float, float], thickness: int) -> None:
    """The number above a point, on a dark outline, inside of the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.35 + 0.2 * thickness
    (width, height), _ = cv2.getTextSize(str(number), font, scale, thickness)
    x = int(np.clip(xy[0] - width / 2, 0, max(image.shape[1] - width, 0)))
    y = int(np.clip(xy[1] - 3 * thickness - 4, height + 2, max(image.shape[0] - 2, 0)))
    for colour, width in (((20, 20, 20), thickness + 3), (id_colour(number), thickness)):
        cv2.putText(image, str(number), (x, y), font, scale, colour, width, cv2.LINE_AA)
