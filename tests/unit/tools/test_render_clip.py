"""The rendered clip: the same frames again, boxes round the people, a video that can be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import render_clip
from pose.deploy.video import Video


@pytest.fixture(scope="module")
def frames() -> list[tuple[np.ndarray, list[list[int]]]]:
    return list(render_clip.render_frames(3, seed=5))


def test_the_same_seed_gives_the_same_frames(frames) -> None:
    for (picture, boxes), (again, boxes_again) in zip(
        frames, render_clip.render_frames(3, seed=5), strict=True
    ):
        assert np.array_equal(picture, again)
        assert boxes == boxes_again
    other, _ = next(iter(render_clip.render_frames(1, seed=6)))
    assert not np.array_equal(frames[0][0], other)


def test_what_moves_is_in_the_boxes_and_their_shadows(frames) -> None:
    """The scene stands still. A shadow is as wide as the person is high, at most."""
    (first, boxes), _, (last, last_boxes) = frames
    moved = np.argwhere(np.abs(first.astype(int) - last).max(axis=2) > 8)
    assert len(moved) > 1000
    inside = np.zeros(len(moved), bool)
    for x, y, w, h in [*boxes, *last_boxes]:
        low, high = (y, x + w / 2 - h / 2), (y + 1.2 * h, x + w / 2 + h / 2)
        inside |= ((moved >= low) & (moved <= high)).all(axis=1)
    assert inside.all()


def test_people_move_sideways(frames) -> None:
    """The first to the right, the second to the left, in pixels of their boxes' centres."""
    centres = np.array([[x + w / 2 for x, _, w, _ in boxes] for _, boxes in frames])
    assert (np.diff(centres[:, 0]) > 20).all()
    assert (np.diff(centres[:, 1]) < -10).all()


def test_video_and_boxes(tmp_path: Path) -> None:
    render_clip.main(tmp_path / "a.mp4", 2, seed=5)
    video = list(Video(tmp_path / "a.mp4"))
    assert [frame.image.shape for frame in video] == [(360, 480, 3)] * 2
    boxes = json.loads((tmp_path / "a.json").read_text())
    assert list(boxes) == ["a.mp4/0", "a.mp4/1"]
    assert all(len(box) == 4 for frame in boxes.values() for box in frame)
