"""Scoring a val set of val2017's size: evaluate's tables by pycocotools, and as it makes them.

    python benchmarks/scoring.py [--images 5000]

Draws a set with val2017's counts (2,693 of 5,000 images with 6,352 labelled people, 98,670 results)
and measures CPU seconds of one core for each table, in one process. A table that needs the same run
of pycocotools many times is charged for one run times their number. Compares all numbers of
the first row. Rewrites benchmarks/scoring.md. Takes about 3 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pose.analysis import breakdown
from pose.analysis.error_diagnosis import MATCH_OKS, error_table
from pose.analysis.matching import match_results
from pose.common.files import write_atomic
from pose.common.skeleton import COCO_17, COCO_OKS_SIGMAS
from pose.evaluation.coco_metrics import coco_eval, pycocotools_eval
from pose.evaluation.keypoint_eval import ALL_AREAS, AREAS, OKS_THRS, Range

Json = dict[str, Any]
PAGE = Path(__file__).with_suffix(".md")
ROWS = 12  # of the ablation
IMAGES, WITH_PEOPLE, PEOPLE, UNLABELLED, RESULTS = 5000, 2693, 6352, 4652, 98_670  # val2017's
NOISE = (0.01, 0.03, 0.1)  # of a pose near a person, in parts of the root of the area


def draw_set(images: int, seed: int = 0) -> tuple[Json, list[Json]]:
    """Ground truth and results of so many images, with val2017's counts per image."""
    rng, part = np.random.default_rng(seed), images / IMAGES
    image_ids = rng.choice(10**6, images, replace=False) + 1
    labelled, unlabelled = round(PEOPLE * part), round(UNLABELLED * part)
    hosts = image_ids[rng.integers(0, max(1, round(WITH_PEOPLE * part)), labelled + unlabelled)]
    annotations = [
        draw_person(rng, number, int(image_id), number <= labelled)
        for number, image_id in enumerate(hosts, 1)
    ]
    count = round(RESULTS * part)
    near = [draw_near(rng, annotations[i % labelled]) for i in range(2 * labelled)]
    false = [draw_pose(rng, int(i)) for i in rng.choice(image_ids, count - len(near))]
    truth = {
        "images": [{"id": int(image_id)} for image_id in image_ids],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    return truth, near + false


def draw_person(rng: np.random.Generator, number: int, image_id: int, labelled: bool) -> Json:
    """A person with 17 keypoints, of which about 70 % are labelled, or with none."""
    bbox = np.array([*rng.uniform(0, 300, 2), *np.exp(rng.uniform(np.log(15), np.log(400), 2))])
    points = np.zeros((17, 3))
    if labelled:
        points[:, :2] = (bbox[:2] + rng.random((17, 2)) * bbox[2:]).round()
        points[:, 2] = rng.choice([0, 1, 2], 17, p=[0.3, 0.1, 0.6])
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": bbox.round(2).tolist(),
        "area": float(0.6 * bbox[2] * bbox[3]),
        "iscrowd": int(not labelled and rng.random() < 0.05),
        "num_keypoints": int((points[:, 2] > 0).sum()),
        "keypoints": points.reshape(-1).tolist(),
    }


def draw_near(rng: np.random.Generator, person: Json) -> Json:
    """A result near a person."""
    points = np.array(person["keypoints"]).reshape(17, 3)
    points[:, :2] += rng.normal(0, rng.choice(NOISE) * np.sqrt(person["area"]), (17, 2))
    return as_result(rng, person["image_id"], points)


def draw_pose(rng: np.random.Generator, image_id: int) -> Json:
    """A result where nobody is."""
    points = np.ones((17, 3))
    points[:, :2] = rng.uniform(0, 300, 2) + rng.random((17, 2)) * rng.uniform(15, 400, 2)
    return as_result(rng, image_id, points)


def as_result(rng: np.random.Generator, image_id: int, points: np.ndarray) -> Json:
    keypoints = points.round(4).reshape(-1).tolist()
    score = float(rng.random())
    return {"image_id": image_id, "category_id": 1, "keypoints": keypoints, "score": score}


def by_pycocotools(
    truth: Json,
    results: list[Json],
    sigmas: np.ndarray,
    areas: Sequence[Range],
    thresholds: np.ndarray,
) -> COCOeval:
    """One COCOeval, as evaluate ran it for each row before."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes([dict(result) for result in results]), "keypoints")
        run.params.kpt_oks_sigmas, run.params.areaRng = sigmas, areas
        run.params.iouThrs = thresholds
        run.evaluate()
        run.accumulate()
    return run


def one_keypoint(records: list[Json]) -> list[Json]:
    """The records as if the first keypoint were their only one."""
    return [{**r, "keypoints": r["keypoints"][:3], "num_keypoints": 1} for r in records]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process for the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(truth: Json, results: list[Json]) -> dict[str, tuple[float, float]]:
    """CPU seconds before and after, by table."""
    sigmas, names = COCO_OKS_SIGMAS, COCO_17.names

    def before(areas: Sequence[Range], thresholds: np.ndarray) -> float:
        return cpu_seconds(lambda: by_pycocotools(truth, results, sigmas, areas, thresholds))

    def first_keypoint() -> COCOeval:
        people = {**truth, "annotations": one_keypoint(truth["annotations"])}
        return by_pycocotools(people, one_keypoint(results), sigmas[:1], [ALL_AREAS], OKS_THRS)

    def ablation() -> None:
        pycocotools_eval(truth, results, sigmas)
        for _ in range(ROWS - 1):
            coco_eval(truth, results, sigmas)

    matches = match_results(truth, results, sigmas, MATCH_OKS)
    pairs = COCO_17.flip_indices
    one = before([ALL_AREAS], OKS_THRS)
    after: dict[str, Callable[[], object]] = {
        f"ablation, {ROWS} rows": ablation,
        f"AP of {len(names)} keypoints": lambda: breakdown.keypoint_ap(truth, results, sigmas),
        "groups": lambda: breakdown.group_table(truth, results, matches, sigmas, {}),
        "errors": lambda: error_table(truth, results, matches, sigmas, pairs),
        "matches": lambda: match_results(truth, results, sigmas, MATCH_OKS),
        "precision and recall": lambda: breakdown.pr_table(truth, results, sigmas),
    }
    earlier = (
        ROWS * before(AREAS, OKS_THRS),
        len(names) * cpu_seconds(first_keypoint),
        before([*breakdown.SIZE_RANGES.values()], OKS_THRS),
        5 * one,
        before([ALL_AREAS], np.array([MATCH_OKS])),
        before([ALL_AREAS], np.array(breakdown.PR_THRS)),
    )
    return {
        name: (seconds, cpu_seconds(work))
        for (name, work), seconds in zip(after.items(), earlier, strict=True)
    }


def to_markdown(
    rows: dict[str, tuple[float, float]], results: int, images: int, command: str
) -> str:
    """The page with the table."""
    before, after = (sum(column) for column in zip(*rows.values(), strict=True))
    lines = [f"| {name} | {old:.1f} | {new:.1f} |" for name, (old, new) in rows.items()]
    return f"""# Scoring

`{command}` scores {results:,} drawn results in {images:,} images and measures CPU seconds of one
core: with pycocotools (one run is measured and multiplied by the number of runs), and as evaluate
does it (stages/pose/evaluation/keypoint_eval.py). The main row of the ablation is still
pycocotools'. All ten numbers of a row are equal.

| table | pycocotools, s | evaluate, s |
|---|---|---|
{chr(10).join(lines)}
| all | {before:.1f} | {after:.1f} |
"""


def main(images: int) -> None:
    truth, results = draw_set(images)
    expected = pycocotools_eval(truth, results, COCO_OKS_SIGMAS)
    assert coco_eval(truth, results, COCO_OKS_SIGMAS) == expected
    command = shlex.join(["python", "benchmarks/scoring.py", *sys.argv[1:]])
    page = to_markdown(measure(truth, results), len(results), images, command)
    print(page)
    write_atomic(PAGE, page.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=IMAGES, help="of the set (5000)")
    main(parser.parse_args().images)
