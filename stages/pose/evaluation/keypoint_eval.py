"""COCO's keypoint evaluation in NumPy: each number equals pycocotools' to the last digit.

pycocotools loops over pairs of poses in Python. Here OKS is computed for all pairs of many images
at once, in the same order of operations, and the greedy matching takes the next pose of all images,
for all thresholds, at once. Letters in shapes: G people, D poses, A ranges of areas, T thresholds,
R recalls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]
Json = dict[str, Any]
Range = tuple[float, float]  # of areas in square pixels, both ends included

ALL_AREAS: Range = (0.0, 1e10)
AREAS = (ALL_AREAS, (32.0**2, 96.0**2), (96.0**2, 1e10))  # COCO's: all, medium, large
OKS_THRS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_POSES = 20  # per image, those with the highest scores
IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class People:
    """Ground truth, in the order of the annotations."""

    image: Indices  # (G,) place of the image id among all sorted ids
    keypoints: Array  # (G, K, 3) x, y in image pixels, visibility
    bbox: Array  # (G, 4) xywh
    area: Array  # (G,)
    crowd: Flags  # (G,)
    ignored: Flags  # (G,) crowds and people without keypoints

    def __getitem__(self, which: Indices | Flags) -> People:
        """Some of the people."""
        return People(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def keypoint(self, k: int) -> People:
        """The people as if keypoint k were their only one."""
        keypoints = self.keypoints[:, [k]]
        ignored = self.crowd | (keypoints[:, 0, 2] <= 0)
        return People(self.image, keypoints, self.bbox, self.area, self.crowd, ignored)


@dataclass(frozen=True)
class Poses:
    """Results, in any order; of equal scores the earlier one counts as higher."""

    image: Indices  # (D,) as in People
    keypoints: Array  # (D, K, 2) x, y in image pixels
    score: Array  # (D,)

    def __getitem__(self, which: Indices | Flags) -> Poses:
        """Some of the poses."""
        return Poses(self.image[which], self.keypoints[which], self.score[which])

    def keypoint(self, k: int) -> Poses:
        """The poses as if keypoint k were their only one."""
        return Poses(self.image, self.keypoints[:, [k]], self.score)

    @property
    def area(self) -> Array:
        """Area (D,) of the box around all keypoints."""
        sides = self.keypoints.max(axis=1) - self.keypoints.min(axis=1)
        area: Array = sides[:, 0] * sides[:, 1]
        return area


class Matching(NamedTuple):
    """Which person each pose is matched to, in each range of areas and at each threshold."""

    pose: Indices  # (D,) index of the pose: by image, then from the highest score on
    person: Indices  # (A, T, D) index of its person, -1: unmatched
    oks: Array  # (A, T, D) of the pair, 0: unmatched
    pose_ignored: Flags  # (A, T, D)
    person_ignored: Flags  # (A, G)


class Curves(NamedTuple):
    """COCOeval's arrays; -1 in a range of areas without people."""

    precision: Array  # (A, T, R)
    recall: Array  # (A, T), the highest


def read_people(truth: Json, num_keypoints: int) -> People:
    """The annotations of COCO's ground truth of one category."""
    places, annotations = _places(truth), truth["annotations"]
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool)
    labelled = np.array([a["num_keypoints"] for a in annotations], dtype=np.int64)
    return People(
        image=np.array([places[a["image_id"]] for a in annotations], dtype=np.intp),
        keypoints=_numbers(annotations, "keypoints").reshape(-1, num_keypoints, 3),
        bbox=_numbers(annotations, "bbox").reshape(-1, 4),
        area=_numbers(annotations, "area"),
        crowd=crowd,
        ignored=crowd | (labelled == 0),
    )


def read_poses(truth: Json, results: list[Json], num_keypoints: int) -> Poses:
    """COCO results of images of this ground truth."""
    places = _places(truth)
    return Poses(
        image=np.array([places[result["image_id"]] for result in results], dtype=np.intp),
        keypoints=_numbers(results, "keypoints").reshape(-1, num_keypoints, 3)[..., :2],
        score=_numbers(results, "score"),
    )


def _places(truth: Json) -> dict[int, int]:
    ids = sorted({image["id"] for image in truth["images"]})
    return {image_id: place for place, image_id in enumerate(ids)}


def _numbers(records: list[Json], key: str) -> Array:
    return np.array([record[key] for record in records], dtype=np.float64)


def match_poses(
    people: People,
    poses: Poses,
    sigmas: Array,
    areas: Sequence[Range] = AREAS,
    oks_thrs: Array = OKS_THRS,
) -> Matching:
    """COCOeval's matching: from the highest score on, each pose takes the most similar free person.

    A person that is ignored is taken only if there is no other one; a crowd stays free. Of equally
    similar people the last one is taken.
    """
    order = _best_poses(poses)
    kept, shape = poses[order], (len(areas), len(oks_thrs), len(order))
    person, oks = np.full(shape, -1, dtype=np.intp), np.zeros(shape)
    person_ignored = np.array([people.ignored | _outside(people.area, one) for one in areas])
    for block in _blocks(people, kept, sigmas):
        for a, ignored in enumerate(person_ignored):
            place, value = _match_block(block, ignored, people.crowd, oks_thrs)
            matched = block.people[np.arange(len(place[0]))[:, None], place]  # (T, I, M)
            exists = block.poses >= 0  # (I, M)
            person[a][:, block.poses[exists]] = np.where(place < 0, -1, matched)[:, exists]
            oks[a][:, block.poses[exists]] = value[:, exists]
    outside = np.array([_outside(kept.area, one) for one in areas])[:, None]
    of_person = [np.append(one, False)[at] for one, at in zip(person_ignored, person, strict=True)]
    ignored = np.where(person < 0, outside, np.array(of_person))
    return Matching(order, person, oks, ignored, person_ignored)


def precision_recall(matching: Matching, poses: Poses) -> Curves:
    """COCOeval's precision at RECALLS, and the recall of all poses."""
    order = np.argsort(-poses.score[matching.pose], kind="stable")
    areas, thresholds, _ = matching.person.shape
    precision = np.full((areas, thresholds, len(RECALLS)), -1.0)
    recall = np.full((areas, thresholds), -1.0)
    for a, ignored in enumerate(matching.person_ignored):
        if not (count := np.count_nonzero(~ignored)):
            continue
        matched = matching.person[a][:, order] >= 0
        counted = ~matching.pose_ignored[a][:, order]
        right = np.cumsum(matched & counted, axis=1).astype(np.float64)
        wrong = np.cumsum(~matched & counted, axis=1).astype(np.float64)
        recalls = right / count
        precisions = right / (wrong + right + np.spacing(1))
        highest = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
        for t in range(thresholds):
            first = np.searchsorted(recalls[t], RECALLS, side="left")
            precision[a, t] = np.append(highest[t], 0.0)[first]  # 0 where no pose recalls so much
            recall[a, t] = recalls[t, -1] if len(order) else 0.0
    return Curves(precision, recall)


def mean_or_missing(values: Array) -> float:
    """Mean of the values that are not -1; -1 if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0


def _best_poses(poses: Poses) -> Indices:
    """Indices of at most MAX_POSES per image: by image, then from the highest score on."""
    order = np.lexsort((-poses.score, poses.image))
    image = poses.image[order]
    rank = np.arange(len(order)) - np.searchsorted(image, image, side="left")
    return order[rank < MAX_POSES]


def _outside(area: Array, limits: Range) -> Flags:
    outside: Flags = (area < limits[0]) | (area > limits[1])
    return outside


class _Block(NamedTuple):
    """Some images with poses and people; -1 where an image has fewer than others."""

    poses: Indices  # (I, M) indices of its poses
    people: Indices  # (I, N)
    oks: Array  # (I, M, N)


def _blocks(people: People, poses: Poses, sigmas: Array) -> Iterator[_Block]:
    """All images with poses and people; poses are in the order of _best_poses."""
    by_image = np.argsort(people.image, kind="stable")
    image = people.image[by_image]
    images, counts = np.unique(image[np.isin(image, poses.image)], return_counts=True)
    images = images[np.argsort(counts, kind="stable")]  # images of a block have about as many
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = images[start : start + IMAGES_AT_ONCE]
        in_poses, in_people = _places_of(part, poses.image), _places_of(part, image)
        in_people = np.where(in_people < 0, -1, by_image[in_people])
        pairs = (in_poses >= 0)[:, :, None] & (in_people >= 0)[:, None]
        i, m, n = np.nonzero(pairs)
        oks = np.full(pairs.shape, -1.0)
        oks[i, m, n] = pair_oks(poses.keypoints[in_poses[i, m]], people[in_people[i, n]], sigmas)
        yield _Block(in_poses, in_people, oks)


def _places_of(images: Indices, sorted_images: Indices) -> Indices:
    """Where each image stands in sorted_images (I, the most of one image), filled up with -1."""
    first, stop = (np.searchsorted(sorted_images, images, side=side) for side in ("left", "right"))
    places: Indices = first[:, None] + np.arange((stop - first).max())
    return np.where(places < stop[:, None], places, -1)


def pair_oks(points: Array, people: People, sigmas: Array) -> Array:
    """COCOeval's OKS (P,) of P pairs: points (P, K, 2) with the person of the same index.

    For a person without keypoints, distances are those to the box of twice the sides around it.
    """
    labelled: Flags = people.keypoints[..., 2] > 0
    offset = points - people.keypoints[..., :2]
    bare: Flags = np.count_nonzero(labelled, axis=1) == 0
    corner, size = people.bbox[bare, None, :2], people.bbox[bare, None, 2:]
    below, above = corner - size - points[bare], points[bare] - (corner + size * 2)
    offset[bare] = np.maximum(below, 0.0) + np.maximum(above, 0.0)
    squared = offset[..., 0] ** 2 + offset[..., 1] ** 2
    spread = (people.area + np.spacing(1))[:, None]
    error = squared / (sigmas * 2) ** 2 / spread / 2
    used: Flags = labelled | bare[:, None]
    counts, oks = np.count_nonzero(used, axis=1), np.empty(len(points))
    for count in np.unique(counts):  # a sum over zeros too would be rounded in another order
        rows = np.flatnonzero(counts == count)
        similarity = np.exp(-error[rows][used[rows]].reshape(-1, count))
        oks[rows] = similarity.sum(axis=1) / count
    return oks


def _match_block(
    block: _Block, ignored: Flags, crowd: Flags, oks_thrs: Array
) -> tuple[Indices, Array]:
    """For each threshold and pose (T, I, M) the place of its person in the block, and their OKS."""
    images, count, people = block.oks.shape
    lowest = np.minimum(oks_thrs, 1 - 1e-10)[:, None, None]
    ignored = ignored[block.people]
    free = np.ones((len(oks_thrs), images, people), dtype=bool)
    shape = (len(oks_thrs), images, count)
    places, oks = np.full(shape, -1), np.zeros(shape)
    for m in range(count):
        fits = free & (block.oks[:, m] >= lowest)
        place = _most_similar(block.oks[:, m], fits & ~ignored)
        place = np.where(place < 0, _most_similar(block.oks[:, m], fits & ignored), place)
        t, i = np.nonzero(place >= 0)
        n = place[t, i]
        places[t, i, m], oks[t, i, m] = n, block.oks[i, m, n]
        free[t, i, n] = crowd[block.people[i, n]]
    return places, oks


def _most_similar(oks: Array, fits: Flags) -> Indices:
    """The last place (T, I) of the highest OKS (I, N) among those that fit (T, I, N); -1: none."""
    reversed_ = np.where(fits, oks, -1.0)[..., ::-1]
    return np.where(fits.any(axis=2), oks.shape[1] - 1 - reversed_.argmax(axis=2), -1)
