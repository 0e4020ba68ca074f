"""COCO-WholeBody's evaluation: AP of body, feet, face, each hand, and of the whole body.

Source: xtcocotools 1.14.3, COCOeval of the types keypoints, keypoints_foot, keypoints_face,
keypoints_lefthand, keypoints_righthand and keypoints_wholebody, as mmpose calls them. Each part is
evaluated as if it were all keypoints, with its own sigmas, but:
- the person's area counts, not the part's, and the area of a pose is that of its body's extent;
- a person without a labelled keypoint of the part is ignored: parts that are not valid have none;
- a pose whose scores in the part are all 0 or less is left out;
- poses are ranked by their one score, which is that of all keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose.common.whole_body import BODY, WHOLE
from pose.evaluation.coco_metrics import STATS, coco_stats, require_results
from pose.evaluation.keypoint_eval import (
    ALL_AREAS,
    Flags,
    Indices,
    People,
    Poses,
    match_poses,
    mean_or_missing,
    precision_recall,
    read_people,
    read_poses,
)

Array = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True)
class _PartPoses(Poses):
    """Poses of one part, with the area of the body."""

    body_area: Array  # (D,)

    def __getitem__(self, which: Indices | Flags) -> _PartPoses:
        return _PartPoses(
            self.image[which], self.keypoints[which], self.score[which], self.body_area[which]
        )

    @property
    def area(self) -> Array:
        return self.body_area


def part_metric(part: str) -> str:
    """Name of a part's AP in tables and metrics.

    >>> part_metric("foot")
    'AP_foot'
    """
    return f"AP_{part}"


def whole_body_eval(
    truth: Json, results: list[Json], parts: Mapping[str, slice], sigmas: Array
) -> dict[str, float]:
    """COCO's ten metrics of the whole body, and AP by part_metric of each part and of the whole.

    parts: of skeleton.parts_of. All are 0 if there are no results; -1 where nobody has the part.
    Raises PoseError for results that do not belong to this ground truth.
    """
    metrics = [part_metric(part) for part in (*parts, WHOLE)]
    if not results:
        return dict.fromkeys((*STATS, *metrics), 0.0)
    require_results(results, truth, len(sigmas))
    people, poses = read_people(truth, len(sigmas)), read_poses(truth, results, len(sigmas))
    scores = np.array([result["keypoints"][2::3] for result in results], dtype=np.float64)
    body_area = Poses(poses.image, poses.keypoints[:, parts[BODY]], poses.score).area
    everything = slice(0, len(sigmas))
    chosen = {
        part: (
            _part_people(people, where),
            _part_poses(poses, body_area, scores, where),
            sigmas[where],
        )
        for part, where in {**parts, WHOLE: everything}.items()
    }
    stats = coco_stats(*chosen[WHOLE])
    return stats | {part_metric(part): _ap(*values) for part, values in chosen.items()}


def _part_people(people: People, where: slice) -> People:
    keypoints = people.keypoints[:, where]
    ignored = people.crowd | ~(keypoints[..., 2] > 0).any(axis=1)
    return People(people.image, keypoints, people.bbox, people.area, people.crowd, ignored)


def _part_poses(poses: Poses, body_area: Array, scores: Array, where: slice) -> _PartPoses:
    """The poses with a score above 0 in the part; scores (D, K)."""
    part = _PartPoses(poses.image, poses.keypoints[:, where], poses.score, body_area)
    highest: Array = scores[:, where].max(axis=1)
    return part[highest > 0]


def _ap(people: People, poses: Poses, sigmas: Array) -> float:
    matching = match_poses(people, poses, sigmas, [ALL_AREAS])
    return mean_or_missing(precision_recall(matching, poses).precision[0])
