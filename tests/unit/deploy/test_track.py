"""Ids: kept where people do not cross and where they do, and given up after a second."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
import pytest

from moving_people import FPS, Actor, Shot, render, walk
from pose.common.skeleton import COCO_OKS_SIGMAS
from pose.deploy.track import MAX_LOST_SECONDS, Tracker

SIGMAS = np.array(COCO_OKS_SIGMAS)
APART = (
    Actor(1, walk(20, 30, 145), 60, 1.0),
    Actor(2, walk(100, 20, 160), 70, 1.0),
    Actor(5, walk(205, -20, 172), 75, 0.7),
)
CROSSING = (
    Actor(1, walk(20, 70, 150), 65, 1.0),
    Actor(2, walk(220, -70, 160), 70, 1.0),
    Actor(5, lambda _: (120.0, 172.0), 75),
)


def tracker() -> Tracker:
    return Tracker(itertools.count(1), SIGMAS)


@lru_cache
def shots(actors: tuple[Actor, ...]) -> list[Shot]:
    return list(render(actors, 70))


def follow(actors: tuple[Actor, ...], stride: int, seed: int) -> tuple[int, int]:
    """(switches, ids) over boxes and keypoints with a detector's noise, gaps and random order."""
    rng, follower, last, switches = np.random.default_rng(seed), tracker(), {}, 0
    seen = set()
    for index, shot in enumerate(shots(actors)):
        if index % stride:
            continue
        visible = [n for n, box in enumerate(shot.boxes) if box and rng.random() > 0.05]
        people = rng.permutation(np.array(visible, int))
        boxes = np.array([shot.boxes[n] for n in people]).reshape(-1, 4)
        heights = boxes[:, 3]
        boxes = boxes + rng.normal(0, 0.02, boxes.shape) * heights[:, None]
        noise = rng.normal(0, 0.02, (len(people), 17, 2)) * heights[:, None, None]
        ids = follower.update(index / FPS, boxes, shot.keypoints[people] + noise)
        for person, number in zip(people.tolist(), ids.tolist(), strict=True):
            switches += last.setdefault(person, number) != number
            last[person] = number
            seen.add(number)
    return switches, len(seen)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_no_switch_where_people_do_not_cross(stride: int) -> None:
    assert [follow(APART, stride, seed) for seed in range(5)] == [(0, 3)] * 5


def test_people_who_cross_behind_another_keep_their_ids() -> None:
    hidden = sum(box is None for shot in shots(CROSSING) for box in shot.boxes)
    assert hidden > 0  # the test would be easy otherwise
    assert [follow(CROSSING, 1, seed)[0] for seed in range(5)] == [0] * 5


def test_a_tracker_without_memory_would_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the two tests above can fail."""
    monkeypatch.setattr("pose.deploy.track.MAX_LOST_SECONDS", 0.0)
    assert all(follow(APART, 1, seed)[0] > 0 for seed in range(5))


def person(x: float, y: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """A box (1, 4) of 40 x 100 around x, y, and keypoints (1, 17, 2) in it."""
    offsets = np.random.default_rng(7).uniform(-0.4, 0.4, (1, 17, 2)) * [40, 100]
    return np.array([[x - 20, y - 50, 40.0, 100.0]]), np.array([x, y]) + offsets


def two(*xs: float) -> tuple[np.ndarray, np.ndarray]:
    boxes, keypoints = zip(*map(person, xs), strict=True)
    return np.concatenate(boxes), np.concatenate(keypoints)


def test_ids_follow_the_people_not_their_order() -> None:
    follower = tracker()
    assert follower.update(0.0, *two(100, 300)).tolist() == [1, 2]
    assert follower.update(0.04, *two(302, 102)).tolist() == [2, 1]


def test_a_gap_is_bridged_by_the_speed_and_ends_after_a_second() -> None:
    """150 pixels a second: after 0.8 s the boxes overlap only where the person was expected."""
    follower = tracker()
    for index in range(25):
        assert follower.update(index / 25, *person(100 + 6 * index)).tolist() == [1]
    now, x = 24 / 25, 100 + 6 * 24
    assert follower.update(now + 0.8, *person(x + 0.8 * 150)).tolist() == [1]
    late = now + 0.8 + MAX_LOST_SECONDS + 0.05
    assert follower.update(late, *person(x + (late - now) * 150)).tolist() == [2]


def test_a_person_elsewhere_is_a_new_one() -> None:
    follower = tracker()
    follower.update(0.0, *person(100))
    assert follower.update(0.04, *person(190)).tolist() == [2]


def test_frames_without_people() -> None:
    follower, nobody = tracker(), (np.zeros((0, 4)), np.zeros((0, 17, 2)))
    assert follower.update(0.0, *nobody).tolist() == []
    follower.update(0.04, *person(100))
    assert follower.update(0.08, *nobody).tolist() == []
    assert follower.update(0.12, *person(100)).tolist() == [1]


def test_size_and_rate_do_not_matter() -> None:
    """A video twice as large is tracked the same, bit by bit."""
    small, large = tracker(), tracker()
    rng = np.random.default_rng(0)
    for index in range(40):
        boxes, keypoints = two(*(200 + rng.normal(0, 40, 2)))
        expected = small.update(index / 25, boxes, keypoints).tolist()
        assert large.update(index / 25, 2 * boxes, 2 * keypoints).tolist() == expected


def test_people_who_are_gone_are_forgotten() -> None:
    follower = tracker()
    for index in range(500):
        follower.update(index / 25, *person(1000.0 * index))
        assert len(follower._tracks) <= 27
