"""The tables of metrics/evaluate and the rows of persons.json; see docs/evaluation.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pose.analysis import breakdown
from pose.analysis.error_diagnosis import MATCH_OKS, error_table
from pose.analysis.matching import (
    assign_predictions,
    keypoint_similarity,
    match_predictions,
    match_results,
    person_oks,
)
from pose.common.skeleton import Skeleton
from pose.common.whole_body import ALL_PARTS, WHOLE
from pose.crop_table import CropTable
from pose.data.samples import TestSamples
from pose.evaluation.coco_metrics import STATS, rescore
from pose.evaluation.predict import Predictions
from pose.evaluation.whole_body_eval import part_metric

Array = NDArray[np.float64]
Json = dict[str, Any]
Tables = dict[str, pd.DataFrame]

COLUMNS = {
    "ablation": ["model", "flip", "decoder", "tta", *STATS],
    "keypoints": ["keypoint", "labelled", "found", "AP", "PCK", "oks"],
    "errors": ["kind", "share", "ap_gain"],
    "groups": ["group", "bin", "persons", "AP", "oks"],
    "pr": ["oks_thr", "recall", "precision"],
    "oks": ["oks_thr", "share"],
    "calibration": ["bin", "count", "score", "oks"],
    "keypoint_scores": ["scores", "bin", "count", "score", "right"],
}

INSTANCE_COLUMNS = ["oks", "image", "image_id", "ann_id", "score", "area"]


@dataclass(frozen=True)
class Val:
    """The validation split: the boxes to predict in and the ground truth."""

    samples: TestSamples
    boxes: str  # "ground truth", or the file of the detector's boxes
    persons: CropTable  # of the ground truth
    truth: Json  # each image with its file_name
    skeleton: Skeleton
    sigmas: Array  # (K,)

    @property
    def scored(self) -> bool:
        """Whether there are annotations to score against; test-dev has none."""
        return bool(self.truth["annotations"])


@dataclass(frozen=True)
class PersonPoses:
    """The predicted pose of each labelled person, with its score before NMS and its OKS."""

    predictions: Predictions
    scores: Array  # (N,)
    oks: Array  # (N,)


def poses_per_person(val: Val, predictions: Predictions, score_thr: float) -> PersonPoses:
    """The pose predicted for each labelled person.

    Predictions in detected boxes are assigned by matching the boxes; a person without a matching
    box has keypoints of infinity, score 0 and OKS 0. score_thr is that of rescore.
    """
    table = val.samples.table
    bbox_scores = table.bbox_score[predictions.rows].astype(np.float64)
    scores = rescore(predictions.scores, bbox_scores, score_thr)
    if table is not val.persons:
        index = match_predictions(val.persons, table, predictions)
        scores = np.append(scores, 0.0)[index]  # index -1, no box, reads the appended 0
        predictions = assign_predictions(val.persons, table, predictions)
    oks = person_oks(keypoint_similarity(val.persons, predictions, val.sigmas))
    return PersonPoses(predictions, scores, oks)


def tables(val: Val, results: list[Json], person_poses: PersonPoses, pck_thr: float) -> Tables:
    """Tables of COLUMNS by name, from COCO results and poses of labelled persons.

    Not `ablation`, and not `keypoint_scores` (reliability.py).
    """
    truth, sigmas, skeleton = val.truth, val.sigmas, val.skeleton
    matches = match_results(truth, results, sigmas, MATCH_OKS)
    ann_ids = val.persons.ann_id[person_poses.predictions.rows].tolist()
    oks_by_id = dict(zip(ann_ids, person_poses.oks.tolist(), strict=True))
    return {
        "keypoints": breakdown.keypoint_table(
            skeleton.names, truth, results, val.persons, person_poses.predictions, sigmas, pck_thr
        ),
        "errors": error_table(truth, results, matches, sigmas, skeleton.flip_indices),
        "groups": breakdown.group_table(truth, results, matches, sigmas, oks_by_id),
        "pr": breakdown.pr_table(truth, results, sigmas),
        "oks": breakdown.oks_table(person_poses.oks),
        "calibration": breakdown.calibration_table(results, matches),
    }


def main_result(tables: Tables, model: str, tta: str, decoder: str) -> dict[str, float]:
    """COCO's metrics and part_columns of one row of `ablation`, PCK, expected calibration error."""
    key: Any = (model, tta, decoder)
    row = tables["ablation"].set_index(["model", "tta", "decoder"]).loc[key]
    keypoints = tables["keypoints"]
    pck = (keypoints["PCK"] * keypoints["labelled"]).sum() / max(keypoints["labelled"].sum(), 1)
    return {
        **{name: float(row[name]) for name in (*STATS, *part_columns(tables["ablation"]))},
        "PCK": round(float(pck), 4),
        "ECE": round(breakdown.calibration_error(tables["calibration"]), 4),
    }


def part_columns(table: pd.DataFrame) -> list[str]:
    """The columns of whole_body_eval.part_metric, which only runs with keypoints.parts have."""
    return [name for name in map(part_metric, (*ALL_PARTS, WHOLE)) if name in table]


def persons_json(person_poses: PersonPoses) -> list[Json]:
    """Per labelled person: row, keypoints in image pixels (None without a box), OKS, score."""
    columns = (
        person_poses.predictions.rows,
        person_poses.predictions.keypoints,
        person_poses.oks,
        person_poses.scores,
    )
    return [
        {
            "row": int(row),
            "keypoints": keypoints.round(2).tolist() if np.isfinite(keypoints).all() else None,
            "oks": round(float(oks), 4),
            "score": round(float(score), 4),
        }
        for row, keypoints, oks, score in zip(*columns, strict=True)
    ]


def instances_table(val: Val, person_poses: PersonPoses) -> pd.DataFrame:
    """One row per labelled person with its image, the lowest OKS first; area in square pixels."""
    rows = person_poses.predictions.rows
    files = {image["id"]: image["file_name"] for image in val.truth["images"]}
    image_ids = val.persons.image_id[rows]
    columns = (
        person_poses.oks.round(4),
        [files[image_id] for image_id in image_ids.tolist()],
        image_ids,
        val.persons.ann_id[rows],
        person_poses.scores.round(4),
        val.persons.area[rows].astype(np.float64).round(2),
    )
    table = pd.DataFrame(dict(zip(INSTANCE_COLUMNS, columns, strict=True)))
    return table.sort_values(["oks", "image_id", "ann_id"], kind="stable", ignore_index=True)


def to_csv(name: str, table: pd.DataFrame) -> bytes:
    """The CSV file of a table of COLUMNS and part_columns, numbers rounded to six decimals.

    With further vals there is a column `val` with their names, empty for the main one.
    """
    columns = [*COLUMNS[name], *part_columns(table), *(["val"] if "val" in table else [])]
    return table[columns].round(6).to_csv(index=False).encode()
