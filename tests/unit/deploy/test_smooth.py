"""The one-euro filter: its formula, less jitter at rest, little lag in motion, and gaps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from moving_people import FPS, Actor
from pose.deploy.smooth import OneEuroFilter
from predict import SMOOTH_BETA, SMOOTH_CUTOFF

HEIGHT = 100.0


def one_person(filtered: OneEuroFilter, seconds: float, keypoints: np.ndarray) -> np.ndarray:
    boxes = np.array([[0, 0, 40, HEIGHT]])
    return filtered(seconds, np.array([1]), boxes, keypoints[None])[0]


def smoothed(track: np.ndarray, cutoff: float = SMOOTH_CUTOFF) -> np.ndarray:
    """A track (T, K, 2) at FPS, filtered with the defaults."""
    filtered = OneEuroFilter(cutoff, SMOOTH_BETA, 1.0)
    return np.stack([one_person(filtered, t / FPS, points) for t, points in enumerate(track)])


def jitter(track: np.ndarray) -> float:
    return float(np.sqrt((np.diff(track, axis=0) ** 2).sum(axis=2).mean()))


def lag(track: np.ndarray, truth: np.ndarray) -> float:
    """Frames by which the truth has to be delayed to be closest to the track."""
    at = np.arange(10, len(track) - 1)
    errors = []
    delays = np.arange(0, 8, 0.1)
    for delay in delays:
        whole = np.floor(at - delay).astype(int)
        rest = (at - delay - whole)[:, None, None]
        errors.append(
            ((track[at] - truth[whole] * (1 - rest) - truth[whole + 1] * rest) ** 2).sum()
        )
    return float(delays[np.argmin(errors)])


def test_the_formula_by_hand() -> None:
    """Casiez et al., algorithms 1 and 2; speed per box height of 100."""
    filtered, start = OneEuroFilter(2.0, 10.0, 1.0), np.array([[10.0, 20.0]])
    np.testing.assert_array_equal(one_person(filtered, 0.0, start), start)
    step = 0.1
    velocity = (1 / (1 + 1 / (2 * np.pi * 1.0 * step))) * np.array([3.0, 4.0]) / step
    cutoff = 2.0 + 10.0 * np.hypot(*velocity) / HEIGHT
    alpha = 1 / (1 + 1 / (2 * np.pi * cutoff * step))
    found = one_person(filtered, step, start + np.array([3.0, 4.0]))
    np.testing.assert_allclose(found, start + alpha * np.array([3.0, 4.0]))


def test_jitter_of_a_standing_person_falls_by_half() -> None:
    """With noise of 1 to 4 % of the height; the trained model's is about 2 %."""
    rng = np.random.default_rng(0)
    for noise in (0.5, 1.0, 2.0):
        track = 50 + rng.normal(0, noise, (200, 17, 2))
        assert jitter(smoothed(track)[5:]) < 0.5 * jitter(track[5:])


@pytest.mark.parametrize(
    ("name", "actor"),
    [
        ("turns", Actor(2, lambda s: (90 + abs((s * 260) % 600 - 300), 330.0), 150)),
        ("swings", Actor(3, lambda _: (120.0, 330.0), 150, 1.5)),
    ],
)
def test_fast_motion_lags_by_at_most_two_frames(name: str, actor: Actor) -> None:
    """1.7 heights a second and back, or arms that go up and down 1.5 times a second."""
    truth = motion(actor, 75)
    track = truth + np.random.default_rng(0).normal(0, 1.0, truth.shape)
    assert lag(track, truth) == 0
    assert lag(smoothed(track), truth) <= 2
    assert lag(smoothed(track, cutoff=0.01), truth) >= lag(smoothed(track), truth)
    slow = OneEuroFilter(SMOOTH_CUTOFF, 0.0, 1.0)  # without beta, a plain low-pass filter
    plain = np.stack([one_person(slow, t / FPS, points) for t, points in enumerate(track)])
    assert lag(plain, truth) > 2


def motion(actor: Actor, frames: int) -> np.ndarray:
    """Keypoints (T, K, 2) of an actor, in units of which the person is HEIGHT high."""
    points = []
    for index in range(frames):
        joints = actor.figure(index / FPS).joints
        chosen = [joints[f"{side}_{name}"][:2] for side in ("left", "right") for name in JOINTS]
        foot = np.array(actor.foot_xy(index / FPS)) / actor.pixels
        points.append((np.array(chosen) * [1, -1] + foot) * HEIGHT)
    return np.array(points)


JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def test_a_person_who_returns_after_a_gap_starts_afresh() -> None:
    filtered, points = OneEuroFilter(1.0, 0.0, 1.0), np.zeros((17, 2))
    one_person(filtered, 0.0, points)
    assert not np.array_equal(one_person(filtered, 0.9, points + 9), points + 9)
    np.testing.assert_array_equal(one_person(filtered, 2.0, points + 50), points + 50)


def test_people_are_filtered_apart() -> None:
    filtered, boxes = OneEuroFilter(1.0, 0.0, 1.0), np.array([[0, 0, 40, 100.0]] * 2)
    first = np.stack([np.zeros((17, 2)), np.full((17, 2), 500.0)])
    filtered(0.0, np.array([1, 2]), boxes, first)
    np.testing.assert_allclose(filtered(0.1, np.array([2, 1]), boxes, first[::-1]), first[::-1])


def test_nobody_and_ids_that_end_leave_no_state() -> None:
    filtered = OneEuroFilter(1.0, 0.0, 1.0)
    for number, index in zip(itertools.count(1), range(100), strict=False):
        filtered(index / 10, np.array([number]), np.ones((1, 4)), np.zeros((1, 17, 2)))
    assert len(filtered._states) <= 12
    assert filtered(99.0, np.array([], int), np.ones((0, 4)), np.zeros((0, 17, 2))).shape == (
        (0, 17, 2)
    )
