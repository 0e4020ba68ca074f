"""People of a video's frames: grouped for the network, in order, and up to the first bad frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pose.coco.images import BadImageError
from pose.deploy.boxes import Boxes
from pose.deploy.people import People, Seconds, find_people, find_video_people, follow_people
from pose.deploy.predictor import Predictor
from pose.deploy.smooth import OneEuroFilter
from pose.deploy.track import Tracker
from pose.deploy.video import Frame
from tiny_coco import picture
from tiny_model import random_model, tiny_manifest


class Counting(torch.nn.Module):
    """A network that notes the size of each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.sizes = random_model(), []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        return self.network(images)


@pytest.fixture
def network() -> Counting:
    return Counting()


@pytest.fixture
def predictor(network: Counting) -> Predictor:
    return Predictor(network, tiny_manifest(), False, 6, torch.device("cpu"))


def frames(count: int) -> Iterator[Frame]:
    return (Frame(n, n / 25, picture(n, 64, 48)) for n in range(count))


def two_boxes(frame: Frame) -> Boxes:
    return np.array([[2.0, 3, 20, 30], [30.0, 5, 20, 40]]), np.array([0.9, 0.8])


def test_people_of_several_frames_share_a_forward_pass(
    network: Counting, predictor: Predictor
) -> None:
    seconds = Seconds()
    found = list(find_video_people(predictor, frames(7), two_boxes, seconds))
    assert [frame.index for frame, _ in found] == list(range(7))
    assert network.sizes == [6, 6, 2]
    assert 0 < seconds.detector < seconds.pose
    for frame, people in found:
        alone = find_people(predictor, frame.image, two_boxes(frame))
        for name in ("boxes_xywh", "scores", "keypoints", "keypoint_scores"):
            np.testing.assert_allclose(getattr(people, name), getattr(alone, name), atol=1e-3)


def test_frames_without_people_do_not_pile_up(network: Counting, predictor: Predictor) -> None:
    read = []

    def noted() -> Iterator[Frame]:
        for frame in frames(100):
            read.append(frame.index)
            yield frame

    nobody = np.zeros((0, 4)), np.zeros(0)
    next(find_video_people(predictor, noted(), lambda _: nobody, Seconds()))
    assert (len(read), network.sizes) == (predictor.batch_size, [])


def test_large_frames_do_not_pile_up(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, network: Counting
) -> None:
    monkeypatch.setattr("pose.deploy.people.GROUP_BYTES", 2 * 64 * 48 * 3)
    list(find_video_people(predictor, frames(4), two_boxes, Seconds()))
    assert network.sizes == [4, 4]


def test_the_frames_before_a_bad_one_are_kept(predictor: Predictor) -> None:
    def boxes(frame: Frame) -> Boxes:
        if frame.index == 4:
            raise BadImageError("has no entry")
        return two_boxes(frame)

    found = find_video_people(predictor, frames(9), boxes, Seconds())
    assert [frame.index for frame, _ in itertools.islice(found, 4)] == [0, 1, 2, 3]
    with pytest.raises(BadImageError):
        next(found)


def test_ids_and_smoothing_change_only_ids_and_keypoints() -> None:
    rng = np.random.default_rng(0)
    box, points = np.array([[10.0, 10, 40, 100]]), np.full((1, 17, 2), 50.0)
    scores = np.ones(1), np.ones((1, 17))
    shaky = [
        (frame, People(box, scores[0], points + rng.normal(0, 2, points.shape), scores[1]))
        for frame in frames(30)
    ]
    sigmas = tiny_manifest().sigmas
    for smooth in (None, OneEuroFilter(1.0, 10.0, 1.0)):
        tracker = Tracker(itertools.count(5), sigmas)
        found = [people for _, people in follow_people(shaky, tracker, smooth)]
        assert [people.track_ids.tolist() for people in found] == [[5]] * 30
        before = np.std([people.keypoints for _, people in shaky], axis=0).mean()
        after = np.std([people.keypoints for people in found], axis=0).mean()
        assert (after == before) if smooth is None else (after < 0.8 * before)
        assert found[3].boxes_xywh is box
