"""The set that benchmarks/scoring.py draws, and its page."""

from __future__ import annotations

from pose.common.skeleton import COCO_OKS_SIGMAS
from pose.evaluation.coco_metrics import coco_eval
from pose.evaluation.keypoint_eval import AREAS, OKS_THRS
from scoring import by_pycocotools, draw_set, to_markdown


def test_the_set_has_the_counts_of_val2017_per_image() -> None:
    truth, results = draw_set(100)
    assert len(truth["images"]) == 100
    assert sum(person["num_keypoints"] > 0 for person in truth["annotations"]) == 127
    assert len(results) == 1973
    ap = coco_eval(truth, results, COCO_OKS_SIGMAS)["AP"]
    assert 0.01 < ap < 0.9
    run = by_pycocotools(truth, results, COCO_OKS_SIGMAS, AREAS, OKS_THRS)
    assert run.eval["precision"][:, :, 0, 0, 0].mean() == ap


def test_the_page_sums_the_tables() -> None:
    page = to_markdown({"a": (10.0, 1.0), "b": (5.25, 0.5)}, 98_670, 5000, "python x")
    assert "`python x` scores 98,670 drawn results in 5,000 images" in page
    assert page.splitlines()[-2:] == ["| b | 5.2 | 0.5 |", "| all | 15.2 | 1.5 |"]
