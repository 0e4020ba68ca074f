"""People and poses in COCO-WholeBody's form for make_whole_body.py and test_whole_body_eval.py.

RandomState's numbers are the same in every version of NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Json = dict[str, Any]
COUNTS = {"body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21}
KEYS = {part: "keypoints" if part == "body" else f"{part}_kpts" for part in COUNTS}
SETS = 6


def draw_set(seed: int) -> tuple[Json, list[Json]]:
    """Ground truth and results: crowds, small people, parts that are not valid, confidences, ties,
    poses without a score in a part, and poses where nobody is."""
    rng = np.random.RandomState(seed)
    images = [int(number) for number in rng.permutation(100)[:8] + 1]
    people = [_person(rng, number, int(rng.choice(images))) for number in range(1, 21)]
    results = [_pose(rng, people, images) for _ in range(50)]
    truth = {
        "images": [{"id": number} for number in images],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }
    return truth, results


def _person(rng: np.random.RandomState, number: int, image_id: int) -> Json:
    bbox = np.concatenate([rng.uniform(0, 300, 2), np.exp(rng.uniform(2, 6, 2))])
    person: Json = {"id": number, "image_id": image_id, "category_id": 1}
    for part, count in COUNTS.items():
        points = np.zeros((count, 3))
        valid = bool(rng.uniform() < 0.7)
        if valid:
            points[:, :2] = bbox[:2] + rng.uniform(0, 1, (count, 2)) * bbox[2:]
            is_hand = part.endswith("hand")
            labels = rng.uniform(-0.3, 1, count) if is_hand else rng.choice([0, 1, 2], count)
            points[:, 2] = np.maximum(labels, 0)
        person[KEYS[part]] = points.round(4).reshape(-1).tolist()
        if part != "body":
            person[f"{part}_valid"] = valid
    area = float((bbox[2] * bbox[3] * rng.uniform(0.1, 1)).round(3))
    person |= {"bbox": bbox.round(2).tolist(), "area": area, "iscrowd": int(rng.uniform() < 0.1)}
    person["num_keypoints"] = sum(v > 0 for v in person["keypoints"][2::3])
    return person


def _pose(rng: np.random.RandomState, people: list[Json], images: list[int]) -> Json:
    person = people[rng.randint(len(people))]
    noise = rng.choice([0.0, 0.005, 0.02, 0.1]) * np.sqrt(person["area"])
    pose: Json = {"category_id": 1, "score": float(rng.randint(8) / 8)}
    pose["image_id"] = person["image_id"] if rng.uniform() < 0.9 else int(rng.choice(images))
    for key in KEYS.values():
        points = np.array(person[key]).reshape(-1, 3)
        points[:, :2] += rng.normal(0, 1, (len(points), 2)) * noise
        points[:, 2] = rng.uniform(0, 1, len(points)) * (rng.uniform() < 0.85)
        pose[key] = points.round(4).reshape(-1).tolist()
    return pose
