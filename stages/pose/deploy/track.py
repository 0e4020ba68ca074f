"""Ids of people over the frames of a video.

After SORT (Bewley et al., ICIP 2016): a Kalman filter of constant velocity predicts where each
person's box will be, and the Hungarian algorithm assigns the new boxes to the predicted ones. What
differs: noise and motion are in box heights and seconds, so that frame rate, stride and image size
do not matter; and poses are compared too (OKS), which separates people whose boxes overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask
from scipy.optimize import linear_sum_assignment

from pose.evaluation.coco_metrics import oks

Array = NDArray[np.float64]
BOX_NOISE = 0.03  # standard deviation of a box's centre and size, in box heights
ACCELERATION = 2.0  # of people, in box heights per second squared, over a second
START_SPEED = 1.0  # standard deviation of the speed of a new person, box heights per second
MIN_SIMILARITY = 0.1  # of a box and the predicted one, 0..1; below it they are different people
MAX_LOST_SECONDS = 1.0  # a person who is not found for longer gets a new id


@dataclass
class Track:
    """Kalman filter of a person's box, and the person's last pose relative to its centre."""

    number: int
    seconds: float  # of `box`
    box: Array  # (4,) centre x, y, width, height, pixels
    pose: Array  # (K, 2) keypoints minus the box's centre, pixels
    last_seen: float  # seconds
    velocity: Array = field(default_factory=lambda: np.zeros(4))  # pixels per second
    covariance: Array = field(  # (2, 2) of position and speed, the same for all four values
        default_factory=lambda: np.diag([BOX_NOISE**2, START_SPEED**2])
    )

    def predict_(self, seconds: float) -> None:
        """Move the box to a later time."""
        step = seconds - self.seconds
        move = np.array([[1, step], [0, 1]])
        noise = np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]]) * ACCELERATION**2
        self.covariance = move @ self.covariance @ move.T + noise
        self.box = self.box + step * self.velocity
        self.box[2:] = np.maximum(self.box[2:], 1)
        self.seconds = seconds

    def correct_(self, box: Array, pose: Array) -> None:
        """Take in the box and pose that were found at the time of `predict_`."""
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + BOX_NOISE**2)
        error = box - self.box
        self.box = self.box + gain[0] * error
        self.velocity = self.velocity + gain[1] * error
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        self.pose, self.last_seen = pose, self.seconds


class Tracker:
    """Gives the people of one video their ids, frame after frame.

    numbers: new ids, in order. sigmas (K,): OKS sigmas of the keypoints.
    """

    def __init__(self, numbers: Iterator[int], sigmas: Array) -> None:
        self._numbers, self._sigmas = numbers, sigmas
        self._tracks: list[Track] = []

    def update(self, seconds: float, boxes_xywh: Array, keypoints: Array) -> NDArray[np.int64]:
        """Ids (N,) of a frame's people, from boxes (N, 4) and keypoints (N, K, 2) in pixels.

        seconds: the frame's time, later than that of the frame before.
        """
        limit = seconds - MAX_LOST_SECONDS
        self._tracks = [track for track in self._tracks if track.last_seen >= limit]
        for track in self._tracks:
            track.predict_(seconds)
        boxes = np.concatenate([boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]], 1)
        poses = keypoints - boxes[:, None, :2]
        found = self._match(boxes, keypoints)
        ids = np.empty(len(boxes), np.int64)
        for index, (box, pose) in enumerate(zip(boxes, poses, strict=True)):
            if index in found:
                found[index].correct_(box, pose)
            else:
                found[index] = Track(next(self._numbers), seconds, box, pose, seconds)
                self._tracks.append(found[index])
            ids[index] = found[index].number
        return ids

    def _match(self, boxes: Array, keypoints: Array) -> dict[int, Track]:
        """The track of each box that has one."""
        if not self._tracks or not len(boxes):
            return {}
        similarity = np.stack([self._similarity(t, boxes, keypoints) for t in self._tracks])
        rows, columns = linear_sum_assignment(similarity, maximize=True)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return {c: self._tracks[r] for r, c in pairs if similarity[r, c] >= MIN_SIMILARITY}

    def _similarity(self, track: Track, boxes: Array, keypoints: Array) -> Array:
        """Mean (N,) of IoU and OKS of a predicted person with those of a frame; 0 if too unlike."""
        areas = boxes[:, 2:].prod(axis=1)
        poses = oks(
            track.pose + track.box[:2], keypoints, track.box[2:].prod(), areas, self._sigmas
        )
        similarity: Array = (iou(track.box, boxes) + poses) / 2
        return similarity


def iou(box: Array, others: Array) -> Array:
    """Intersection over union (N,) of a box (4,) with others (N, 4): centre x, y, width, height.

    >>> iou(np.array([1.0, 1, 2, 2]), np.array([[1.0, 1, 2, 2], [2, 1, 2, 2], [9, 9, 2, 2]]))
    array([1.        , 0.33333333, 0.        ])
    """
    xywh = [np.hstack([b[:, :2] - b[:, 2:] / 2, b[:, 2:]]) for b in (others, box[None])]
    overlap: Array = mask.iou(*xywh, [0])[:, 0]
    return overlap
