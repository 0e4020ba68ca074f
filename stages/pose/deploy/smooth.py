"""The one-euro filter (Casiez, Roussel and Vogel, CHI 2012): less jitter, little lag in motion.

A low-pass filter whose cutoff frequency rises with the speed of a keypoint. Here speed is in box
heights per second, so that the same settings suit any image size, and it is the length of the
velocity (the paper filters each coordinate alone), so that the direction does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SPEED_CUTOFF_HZ = 1.0  # of the speed's own low-pass filter, as in the paper


@dataclass
class _State:
    """Filtered keypoints (K, 2) in pixels, their velocity (K, 2) in pixels per second, and time."""

    seconds: float
    keypoints: Array
    velocity: Array


@dataclass
class OneEuroFilter:
    """Filters the keypoints of tracked people. cutoff: Hz at rest. beta: Hz per height per second.

    A person who was not seen for longer than max_gap seconds starts afresh.
    """

    cutoff: float
    beta: float
    max_gap: float
    _states: dict[int, _State] = field(default_factory=dict)

    def __call__(
        self, seconds: float, ids: NDArray[np.int64], boxes_xywh: Array, keypoints: Array
    ) -> Array:
        """Smoothed keypoints (N, K, 2) of a frame, in pixels; seconds: its time."""
        limit = seconds - self.max_gap
        self._states = {n: state for n, state in self._states.items() if state.seconds >= limit}
        heights = boxes_xywh[:, 3]
        smooth = [
            self._step(seconds, number, height, points)
            for number, height, points in zip(ids.tolist(), heights, keypoints, strict=True)
        ]
        return np.stack(smooth) if smooth else keypoints

    def _step(self, seconds: float, number: int, height: float, keypoints: Array) -> Array:
        before = self._states.get(number)
        if before is None:
            self._states[number] = _State(seconds, keypoints, np.zeros_like(keypoints))
            return keypoints
        step = seconds - before.seconds
        measured = (keypoints - before.keypoints) / step
        share = _share(np.array(SPEED_CUTOFF_HZ), step)
        velocity = before.velocity + share * (measured - before.velocity)
        speed = np.linalg.norm(velocity, axis=1, keepdims=True) / height  # (K, 1)
        share = _share(self.cutoff + self.beta * speed, step)
        smooth: Array = before.keypoints + share * (keypoints - before.keypoints)
        self._states[number] = _State(seconds, smooth, velocity)
        return smooth


def _share(cutoff_hz: Array, step: float) -> Array:
    """Share of the new value in a low-pass filter with samples every `step` seconds."""
    radians = 2 * np.pi * cutoff_hz * step
    share: Array = radians / (radians + 1)
    return share
