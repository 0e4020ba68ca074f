"""AP of parts: each part is scored for itself, the whole for all; see also tests/golden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pose.analysis.tables import COLUMNS, main_result, part_columns, to_csv
from pose.common.errors import PoseError
from pose.common.skeleton import names_of_parts, oks_sigmas, parts_of
from pose.common.whole_body import ALL_PARTS
from pose.evaluation.coco_metrics import STATS
from pose.evaluation.whole_body_eval import whole_body_eval

NAMES = names_of_parts(ALL_PARTS)
PARTS, SIGMAS = parts_of(NAMES), oks_sigmas(NAMES, None)
APS = [f"AP_{part}" for part in (*ALL_PARTS, "wholebody")]


def scene(people: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One person an image, with all keypoints, and results that equal them."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {"images": [], "categories": [{"id": 1}], "annotations": []}
    results = []
    for number in range(1, people + 1):
        points = np.full((133, 3), 2.0)
        points[:, :2] = rng.uniform(10, 200, (133, 2)).round(3)
        ids = {"image_id": number, "category_id": 1}
        flat = points.reshape(-1).tolist()
        truth["images"].append({"id": number})
        truth["annotations"].append(
            {"id": number, **ids, "bbox": [10, 10, 190, 190], "area": 20_000.0, "iscrowd": 0,
             "num_keypoints": 133, "keypoints": flat}
        )  # fmt: skip
        results.append({**ids, "keypoints": [*flat], "score": 0.9})
    return truth, results


def move(results: list[dict[str, Any]], part: str, pixels: float) -> None:
    for result in results:
        points = np.reshape(result["keypoints"], (-1, 3))
        points[PARTS[part], 0] += pixels
        result["keypoints"] = points.reshape(-1).tolist()


def test_right_poses_score_1_everywhere() -> None:
    found = whole_body_eval(*scene(), PARTS, SIGMAS)
    assert [*found] == [*STATS, *APS]
    assert [found[name] for name in ("AP", "APl", "AR", *APS)] == [pytest.approx(1.0)] * 9
    assert found["APm"] == -1


@pytest.mark.parametrize("part", ALL_PARTS)
def test_a_wrong_part_lowers_its_own_ap_and_that_of_the_whole(part: str) -> None:
    truth, results = scene()
    move(results, part, 100)
    found = whole_body_eval(truth, results, PARTS, SIGMAS)
    wrong = {name for name in APS if found[name] < 0.99}
    few = {"AP_wholebody"} if part == "foot" else set()  # 6 of 133 keep OKS at 0.955
    assert wrong == {f"AP_{part}", "AP_wholebody"} - few
    assert found["AP"] == found["AP_wholebody"]


def test_parts_have_their_own_sigmas() -> None:
    """4 pixels of 141 are much for a face and little for feet."""
    truth, results = scene()
    for part in ALL_PARTS:
        move(results, part, 4)
    found = whole_body_eval(truth, results, PARTS, SIGMAS)
    assert found["AP_face"] < found["AP_lefthand"] < found["AP_foot"] == pytest.approx(1.0)


def test_people_without_the_part_are_ignored() -> None:
    truth, results = scene()
    for person in truth["annotations"][:2]:
        points = np.reshape(person["keypoints"], (-1, 3))
        points[PARTS["foot"]] = 0
        person["keypoints"] = points.reshape(-1).tolist()
    assert whole_body_eval(truth, results, PARTS, SIGMAS)["AP_foot"] == pytest.approx(1.0)
    for person in truth["annotations"]:
        person["keypoints"][3 * 17 : 3 * 23] = [0] * 18
    assert whole_body_eval(truth, results, PARTS, SIGMAS)["AP_foot"] == -1


def test_poses_without_a_score_in_the_part_are_left_out() -> None:
    truth, results = scene()
    results[0]["keypoints"][3 * 17 + 2 : 3 * 23 : 3] = [0.0] * 6
    found = whole_body_eval(truth, results, PARTS, SIGMAS)
    assert found["AP_foot"] == pytest.approx(2 / 3, abs=0.01)
    assert found["AP_wholebody"] == pytest.approx(1.0)


def test_a_pose_has_the_area_of_its_body() -> None:
    """An unmatched pose whose hands reach far is still medium, and so counts against APm."""
    truth, results = scene()
    for person in truth["annotations"]:
        person["area"] = 64.0**2
    stray = {**results[0], "score": 1.0}
    points = np.reshape(stray["keypoints"], (-1, 3)).copy()
    points[:, 0] *= 100
    points[PARTS["body"], :2] = np.arange(17)[:, None] * 4.0 + 3000
    stray["keypoints"] = points.reshape(-1).tolist()
    found = whole_body_eval(truth, [*results, stray], PARTS, SIGMAS)
    assert found["APm"] < 0.8


def test_without_results() -> None:
    truth, results = scene()
    assert whole_body_eval(truth, [], PARTS, SIGMAS) == dict.fromkeys((*STATS, *APS), 0.0)
    results[1]["keypoints"] = results[1]["keypoints"][:51]
    with pytest.raises(PoseError, match=r"^results: record 1 has 51 numbers in 'keypoints'"):
        whole_body_eval(truth, results, PARTS, SIGMAS)


def test_tables_have_columns_of_the_parts_that_were_scored() -> None:
    parts = parts_of(names_of_parts(("body", "foot")))
    assert [*parts] == ["body", "foot"]
    names = ["AP_body", "AP_foot", "AP_wholebody"]
    row = {"model": "ssl", "flip": True, "decoder": "dark", "tta": "flip"}
    row |= dict.fromkeys(STATS, 0.5)
    plain, scored = pd.DataFrame([row]), pd.DataFrame([row | dict.fromkeys(names, 0.25)])
    assert part_columns(plain) == []
    assert part_columns(scored) == names
    assert to_csv("ablation", plain).decode().splitlines()[0] == ",".join(COLUMNS["ablation"])
    assert to_csv("ablation", scored).decode().splitlines()[0].endswith(f"ARl,{','.join(names)}")
    keypoints = pd.DataFrame({"PCK": [1.0], "labelled": [1]})
    calibration = pd.DataFrame({"count": [1], "score": [1.0], "oks": [1.0]})
    tables = {"ablation": scored, "keypoints": keypoints, "calibration": calibration}
    assert main_result(tables, "ssl", "flip", "dark")["AP_foot"] == 0.25
