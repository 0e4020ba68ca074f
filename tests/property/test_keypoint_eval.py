"""COCO's keypoint evaluation in NumPy equals pycocotools to the last digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pose.analysis.matching import match_results
from pose.evaluation import coco_metrics, keypoint_eval

SEEDS = st.integers(0, 2**32 - 1)
Json = dict[str, Any]


def draw_person(rng: np.random.Generator, keypoints: int, image_id: int) -> Json:
    """A person, who may be a crowd, small, large, without keypoints, or with whole numbers."""
    bbox = np.concatenate([rng.uniform(0, 300, 2), np.exp(rng.uniform(1, 6, 2))])
    points = np.zeros((keypoints, 3))
    points[:, :2] = bbox[:2] + rng.random((keypoints, 2)) * bbox[2:]
    points[:, 2] = rng.choice([0, 1, 2], keypoints) * (rng.random() < 0.8)
    if rng.random() < 0.5:
        points = points.round()
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": bbox.round(2).tolist(),
        "area": float((bbox[2] * bbox[3] * rng.random()).round(3)),
        "iscrowd": int(rng.random() < 0.15),
        "num_keypoints": int((points[:, 2] > 0).sum()),
        "keypoints": points.reshape(-1).tolist(),
    }


def draw_pose(rng: np.random.Generator, people: list[Json], image_ids: list[int]) -> Json:
    """A pose near a person, or in any image where nobody is; scores are often equal."""
    person = people[rng.integers(len(people))]
    points = np.array(person["keypoints"]).reshape(-1, 3)
    noise = rng.choice([0.0, 0.02, 0.1, 1.0]) * np.sqrt(person["area"] + 1)
    points[:, :2] += rng.normal(0, 1, points[:, :2].shape) * noise
    image_id = person["image_id"] if rng.random() < 0.9 else int(rng.choice(image_ids))
    score = float(rng.integers(4) / 4) if rng.random() < 0.5 else float(rng.random())
    keypoints = points.reshape(-1).tolist()
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score}


def draw_set(seed: int, keypoints: int) -> tuple[Json, list[Json]]:
    """Ground truth and results: images with 0 to 60 poses, people at the same place, ties."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, rng.integers(1, 7), replace=False).tolist()
    people = [
        draw_person(rng, keypoints, int(rng.choice(image_ids))) for _ in range(rng.integers(1, 15))
    ]
    people += [dict(person) for person in people if rng.random() < 0.2]  # equal OKS
    results = [draw_pose(rng, people, image_ids) for _ in range(rng.integers(1, 120))]
    truth = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{**person, "id": i} for i, person in enumerate(people)],
    }
    return truth, results


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 8, 17, 133]))
def test_all_numbers_are_those_of_pycocotools(seed: int, keypoints: int) -> None:
    truth, results = draw_set(seed, keypoints)
    sigmas = np.random.default_rng(seed).uniform(0.02, 0.2, keypoints)
    people = keypoint_eval.read_people(truth, keypoints)
    poses = keypoint_eval.read_poses(truth, results, keypoints)
    matching = keypoint_eval.match_poses(people, poses, sigmas)
    precision, recall = keypoint_eval.precision_recall(matching, poses)
    run = coco_metrics.pycocotools_run(truth, results, sigmas)
    assert np.array_equal(precision, run.eval["precision"][:, :, 0, :, 0].transpose(2, 0, 1))
    assert np.array_equal(recall, run.eval["recall"][:, 0, :, 0].T)
    stats = coco_metrics.coco_eval(truth, results, sigmas)
    assert stats == coco_metrics.pycocotools_eval(truth, results, sigmas)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_matches_are_those_of_pycocotools(seed: int) -> None:
    truth, results = draw_set(seed, 17)
    sigmas = np.full(17, 0.08)
    run = coco_metrics.pycocotools_run(truth, results, sigmas)
    expected = []
    for image in filter(None, run.evalImgs[: len(truth["images"])]):  # those of all areas
        key = (image["image_id"], image["category_id"])
        numbers = [person["id"] for person in run._gts[key]]
        of_pose = zip(image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True)
        for row, (result, number, ignored) in enumerate(of_pose):
            if not ignored:
                oks = run.ious[key][row, numbers.index(int(number))] if number else 0.0
                expected.append((result - 1, int(number) - 1 if number else None, oks))
    assert match_results(truth, results, sigmas, 0.5) == expected


def test_the_drawn_sets_have_all_cases() -> None:
    """Crowds, people without keypoints, matches at .95, more than 20 poses of an image, ties."""
    counts = dict.fromkeys(("crowd", "bare", "near", "many", "ties", "ignored"), 0)
    for seed in range(30):
        truth, results = draw_set(seed, 17)
        people = keypoint_eval.read_people(truth, 17)
        poses = keypoint_eval.read_poses(truth, results, 17)
        matching = keypoint_eval.match_poses(people, poses, np.full(17, 0.08))
        counts["crowd"] += people.crowd.sum()
        counts["bare"] += (people.keypoints[..., 2] == 0).all(axis=1).sum()
        counts["near"] += (matching.person[0, -1] >= 0).sum()
        counts["many"] += np.bincount(poses.image).max() > keypoint_eval.MAX_POSES
        counts["ties"] += len(poses.score) - len(np.unique(poses.score))
        counts["ignored"] += matching.pose_ignored[0].sum()
    assert min(counts.values()) >= 5, counts


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_is_annotated(count: int) -> None:
    truth, results = draw_set(1, 17)
    truth["annotations"] = []
    sigmas = np.full(17, 0.08)
    found = coco_metrics.coco_eval(truth, results[:count], sigmas)
    assert found == coco_metrics.pycocotools_eval(truth, results[:count], sigmas)
    assert set(found.values()) == {-1.0 if count else 0.0}
