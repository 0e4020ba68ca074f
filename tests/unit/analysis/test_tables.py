"""The pose of each labelled person, and the rows of persons.json."""

from __future__ import annotations

import json

import numpy as np

from pose.analysis.tables import Val, persons_json, poses_per_person
from pose.crop_table import CropTable
from predictions import numbered_predictions


def test_in_detected_boxes_a_person_without_a_box_has_no_pose(
    detected_val: Val, detected_table: CropTable
) -> None:
    person_poses = poses_per_person(detected_val, numbered_predictions(detected_table), 0.2)
    np.testing.assert_allclose(person_poses.scores, [0.25, 0, 0, 0, 0])  # bbox 0.5 x keypoints 0.5
    assert person_poses.predictions.rows.tolist() == [0, 2, 3, 4, 5]
    assert (person_poses.oks[1:] == 0).all()
    first, second, *_ = json.loads(json.dumps(persons_json(person_poses)))
    assert first["keypoints"] == [[1000.0, 1000.0]] * 17
    assert second == {"row": 2, "keypoints": None, "oks": 0.0, "score": 0.0}
