"""The people of pictures and of a video's frames: boxes, poses, ids, smoothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pose.coco.images import BadImageError
from pose.deploy.boxes import Boxes
from pose.deploy.media import Image
from pose.deploy.predictor import Predictor
from pose.deploy.smooth import OneEuroFilter
from pose.deploy.track import Tracker
from pose.deploy.video import Frame

Array = NDArray[np.float64]
FindBoxes = Callable[..., Boxes]  # of an RGB image, its path and, for a video's frame, its number
FrameBoxes = tuple[Frame, Boxes]
GROUP_BYTES = 1 << 28  # of the frames that wait for the next forward pass


@dataclass(frozen=True)
class People:
    """The people of one picture after OKS-NMS, best first."""

    boxes_xywh: Array  # (N, 4) pixels
    scores: Array  # (N,) of the poses, as in evaluate.py
    keypoints: Array  # (N, K, 2) pixels
    keypoint_scores: Array  # (N, K)
    track_ids: NDArray[np.int64] | None = None  # (N,)


@dataclass
class Seconds:
    """Time spent in the detector (or in looking up boxes) and in the pose network."""

    detector: float = 0.0
    pose: float = 0.0


def find_people(predictor: Predictor, image: Image, boxes: Boxes) -> People:
    """The people in the boxes of one RGB picture."""
    return _ranked(predictor, boxes, *predictor(image, boxes[0]))


def find_video_people(
    predictor: Predictor,
    frames: Iterable[Frame],
    find_boxes: Callable[[Frame], Boxes],
    seconds: Seconds,
) -> Iterator[tuple[Frame, People]]:
    """The people of each frame, in order; adds to `seconds`.

    The people of several frames share a forward pass. If find_boxes raises BadImageError, the
    frames before that one are yielded first.
    """
    scored = _timed_boxes(frames, find_boxes, seconds)
    for group in _groups(scored, predictor.batch_size):
        start = time.perf_counter()
        boxes = [boxes for _, (boxes, _) in group]
        poses = predictor.predict_images([frame.image for frame, _ in group], boxes)
        seconds.pose += time.perf_counter() - start
        for (frame, found), pose in zip(group, poses, strict=True):
            yield frame, _ranked(predictor, found, *pose)


def follow_people(
    people: Iterable[tuple[Frame, People]], tracker: Tracker, smooth: OneEuroFilter | None
) -> Iterator[tuple[Frame, People]]:
    """The same people with ids and, if there is a filter, smoothed keypoints."""
    for frame, found in people:
        boxes, keypoints = found.boxes_xywh, found.keypoints
        ids = tracker.update(frame.seconds, boxes, keypoints)
        if smooth:
            keypoints = smooth(frame.seconds, ids, boxes, keypoints)
        yield frame, replace(found, keypoints=keypoints, track_ids=ids)


def _ranked(predictor: Predictor, boxes: Boxes, keypoints: Array, scores: Array) -> People:
    kept, totals = predictor.rank(*boxes, keypoints, scores)
    return People(boxes[0][kept], totals[kept], keypoints[kept], scores[kept])


def _timed_boxes(
    frames: Iterable[Frame], find_boxes: Callable[[Frame], Boxes], seconds: Seconds
) -> Iterator[FrameBoxes]:
    for frame in frames:
        start = time.perf_counter()
        boxes = find_boxes(frame)
        seconds.detector += time.perf_counter() - start
        yield frame, boxes


def _groups(frames: Iterable[FrameBoxes], batch_size: int) -> Iterator[list[FrameBoxes]]:
    """Frames with batch_size people or more together, or fewer if the frames are many or large."""
    group: list[FrameBoxes] = []
    try:
        for frame in frames:
            group.append(frame)
            people = sum(len(boxes) for _, (boxes, _) in group)
            size = sum(frame.image.nbytes for frame, _ in group)
            if people >= batch_size or len(group) >= batch_size or size >= GROUP_BYTES:
                yield group
                group = []
    except BadImageError:
        if group:
            yield group
        raise
    if group:
        yield group
