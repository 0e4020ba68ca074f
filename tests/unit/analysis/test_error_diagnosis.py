"""Ronchi and Perona's kinds of error on keypoints placed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pose.analysis import error_diagnosis
from pose.analysis.matching import Match, match_results

SIGMAS = np.full(6, 0.05)
AREA = 1e4  # with these sigmas a similarity of exp(-d^2 / 200)
FLIP = (0, 2, 1, 4, 3, 5)
MATCHED = np.array([[100.0 * k, 0, 2] for k in range(6)])
OTHER = MATCHED + np.array([0.0, 1000, 0])
PREDICTED = np.array([[5.0, 0], [109, 0], [101, 0], [300, 1000], [300, 1003], [500, 30]])
KINDS = ["good", "jitter", "inversion", "swap", "swap", "miss"]


def similarity(distance: float) -> float:
    return float(np.exp(-(distance**2) / 200))


def classify(points, *people):
    areas = np.full(len(people), AREA)
    return error_diagnosis.classify(points, np.stack(people), areas, SIGMAS, FLIP)


def test_kinds_by_hand() -> None:
    """As in the paper's code, the mirror partner of another person's keypoint is a swap too."""
    kinds, best = classify(PREDICTED, MATCHED, OTHER)
    assert kinds.tolist() == KINDS
    assert best == pytest.approx([similarity(d) for d in (5, 9, 1, 0, 3, 30)])


def test_with_a_single_person_there_is_no_swap() -> None:
    kinds, _ = classify(PREDICTED, MATCHED)
    assert kinds.tolist() == ["good", "jitter", "inversion", "miss", "miss", "miss"]


@pytest.mark.parametrize(
    ("expected_similarity", "kind"),
    [(0.86, "good"), (0.84, "jitter"), (0.51, "jitter"), (0.49, "miss")],
)
def test_similarity_limits_of_the_kinds(expected_similarity: float, kind: str) -> None:
    points = MATCHED[:, :2].copy()
    points[5, 1] += np.sqrt(-200 * np.log(expected_similarity))
    assert classify(points, MATCHED)[0][5] == kind


def test_unlabelled_keypoints_have_no_kind_and_are_no_candidates() -> None:
    hidden = MATCHED.copy()
    hidden[[1, 5], 2] = 0  # 2's mirror partner, and the missed one
    kinds, _ = classify(PREDICTED, hidden, OTHER)
    assert kinds.tolist() == ["good", "", "miss", "swap", "swap", ""]


def truth() -> dict:
    annotations = [
        {
            "id": 7 + i,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0, 1000 * i, 500, 20],
            "area": AREA,
            "iscrowd": 0,
            "num_keypoints": 6,
            "keypoints": keypoints.reshape(-1).tolist(),
        }
        for i, keypoints in enumerate((MATCHED, OTHER))
    ]
    return {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": annotations}


def result(points, score: float) -> dict:
    keypoints = np.column_stack([points[:, :2], np.ones(6)]).reshape(-1).tolist()
    return {"image_id": 1, "category_id": 1, "keypoints": keypoints, "score": score}


RESULTS = [result(PREDICTED, 0.9), result(OTHER, 0.5)]


def ap(oks: float) -> float:
    """AP of two results: the result with the higher score has this OKS, the other is perfect."""
    passed = 0.5 + 0.05 * np.arange(10) <= oks
    return float(np.where(passed, 1.0, 0.5 * 51 / 101).mean())


def test_gains_are_those_of_successive_corrections() -> None:
    matches = match_results(truth(), RESULTS, SIGMAS, error_diagnosis.MATCH_OKS)
    assert [(m.result, m.annotation) for m in matches] == [(0, 7), (1, 8)]
    table = error_diagnosis.error_table(truth(), RESULTS, matches, SIGMAS, FLIP).set_index("kind")
    assert table.index.tolist() == ["good", "jitter", "inversion", "swap", "miss"]
    assert table["share"].tolist() == pytest.approx([7 / 12, 1 / 12, 1 / 12, 2 / 12, 1 / 12])
    oks = np.array([similarity(d) for d in (5, 9, 1000, 1000, 1000, 30)])
    steps = [oks.mean()]
    for places, values in [
        ([5], [0.5]),
        ([3, 4], [1, similarity(3)]),
        ([2], [similarity(1)]),
        ([1], [0.85]),
    ]:
        oks[places] = values
        steps.append(oks.mean())
    gains = np.diff([ap(step) for step in steps])
    ap_gains = [table["ap_gain"][kind] for kind in ("miss", "swap", "inversion", "jitter")]
    assert ap_gains == pytest.approx(gains.tolist(), abs=1e-6)
    assert max(ap_gains) > 0.2
    assert table["ap_gain"]["good"] == 0
    assert RESULTS[0]["keypoints"][0] == 5  # unchanged


@pytest.mark.parametrize("results", [[], [result(OTHER + 9000, 0.9)]])
def test_without_a_match_shares_and_gains_are_zero(results: list[dict]) -> None:
    matches = match_results(truth(), results, SIGMAS, error_diagnosis.MATCH_OKS)
    assert matches == [Match(0, None, 0.0)][: len(results)]
    table = error_diagnosis.error_table(truth(), results, matches, SIGMAS, FLIP)
    assert (table[["share", "ap_gain"]] == 0).all(axis=None)
