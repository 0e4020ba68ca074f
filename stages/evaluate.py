"""Evaluate the models on val: COCOeval for every combination asked for, and where it goes wrong.

    python stages/evaluate.py

Boxes are a detector's if the cache holds them (`data.detections`), else the ground truth's. Reads
data/cache and models/; `evaluate.models`, `ablation`, `scales` and `ensemble` select what is
evaluated. The main result is the last model's, with refined peaks and, if evaluate.flip_test, the
flip test. Its numbers go to metrics/evaluate/metrics.json, its tables beside it
(docs/evaluation.md), its poses to data/predictions/keypoints.json, in COCO's results format;
instances.csv there lists the people of val, the lowest OKS first; calibration.json maps keypoint
scores to probabilities. For a val split without annotations (test-dev) only poses are written.
A further val (`data.also_val`) adds a row per model to ablation.csv, its name in the column `val`,
and `AP_<name>` of the last model to metrics.json; it is measured in its own boxes and on the
keypoints that it has.
Predictions are stored batch by batch: a killed run resumes at the next batch. About 12 s on two
cores with the embedded default.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from pose import distributed
from pose.analysis.calibration import CALIBRATION_FILE, Calibration
from pose.analysis.further_vals import FurtherVal, read_further_vals
from pose.analysis.predict_resumable import predict_resumable
from pose.analysis.reliability import (
    ScoredKeypoints,
    fit_calibration,
    keypoint_errors,
    reliability_table,
    scored_keypoints,
)
from pose.analysis.tables import (
    COLUMNS,
    INSTANCE_COLUMNS,
    Val,
    instances_table,
    main_result,
    persons_json,
    poses_per_person,
    tables,
    to_csv,
)
from pose.codecs import geometry
from pose.codecs.gaussian import Blur
from pose.common.errors import PoseError
from pose.common.files import digest, existing_path, read_json, write_atomic, write_json
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import oks_sigmas, parts_of
from pose.crop_table import CropTable
from pose.data import build
from pose.data.samples import TestSamples
from pose.evaluation.coco_metrics import (
    coco_eval,
    keypoint_areas,
    pycocotools_eval,
    to_results,
)
from pose.evaluation.predict import Ensemble, Predictions, PredictionsByView
from pose.evaluation.whole_body_eval import whole_body_eval
from pose.models.build import build_model, describe_device, setup_torch
from pose.models.checkpoint import load_model

NAME = "evaluate"
ENSEMBLE = "ensemble"


def main(params: Params) -> None:
    device = setup_torch(params)
    val = _val(params)
    boxes = f"{val.boxes} ({len(val.samples):,})"
    log(f"{NAME}: boxes: {boxes}; device: {describe_device(device)}")
    vals = read_further_vals(params, val)
    first, final = distributed.is_main_process(), _final(params, val)
    rows: list[dict[str, Any]] = []
    further_rows: list[dict[str, Any]] = []
    with stage.resume_folder(NAME) if first else nullcontext() as resume_folder:
        folder = distributed.broadcast(resume_folder or Path())
        if first:
            shutil.rmtree(stage.PREDICTIONS / "vals", ignore_errors=True)  # of an earlier run
        for name, paths in _networks(params).items():
            stored = folder / f"{name}-{_digest(paths)}"
            predictions = _predict(params, val, name, paths, device, stored, params.evaluate.ttas)
            for further in vals:
                place, ttas = stored / further.name, [final[0]]
                poses = _predict(params, further.val, name, paths, device, place, ttas)[final]
                further_rows += [_further_row(params, further, name, poses)] if first else []
            if first:
                results = _results(params, val, predictions[final])
                write_json(stage.PREDICTIONS / f"{name}.json", results)
                rows += _scores(params, val, name, predictions)
                if name == params.evaluate.asked_models[-1]:
                    main_predictions, main_results = predictions[final], results
        if first:
            _write(params, val, rows, main_predictions, main_results, further_rows)


def _val(params: Params) -> Val:
    augment, skeleton = params.augment, stage.skeleton()
    scales = params.evaluate.scales if "multiscale" in params.evaluate.ttas else (1.0,)
    reach = (augment.scale_factor, augment.shift_factor, augment.rotate_deg)
    _require_room(scales, geometry.zoom_room(params.codec.input_size, *reach))
    persons = CropTable(stage.CACHE / "val")
    table, rows, boxes = persons, persons.labelled(), "ground truth"
    if (folder := stage.CACHE / "detections").is_dir():
        table, boxes = CropTable(folder), stage.DETECTIONS.name
        rows = np.arange(len(table), dtype=np.intp)
    codec = build.codec(params, skeleton)
    samples = TestSamples(table, rows, augment.bbox_padding, codec, scales)
    truth = read_json(stage.CACHE / "ground_truth.json")
    names = read_json(stage.IMAGES)
    truth["images"] = [image | {"file_name": names[str(image["id"])]} for image in truth["images"]]
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    return Val(samples, boxes, persons, truth, skeleton, sigmas)


def _further_row(
    params: Params, further: FurtherVal, name: str, predictions: Predictions
) -> dict[str, Any]:
    """A row of the ablation: the main combination of a model on a further val."""
    val, (tta, decoder) = further.val, _final(params, further.val)
    results = _results(params, val, further.select(predictions))
    stats = coco_eval(val.truth, results, val.sigmas)
    write_json(stage.PREDICTIONS / "vals" / f"{further.name}-{name}.json", results)
    log(f"{NAME}: {name} AP_{further.name} {stats['AP']:.3f} AP50 {stats['AP50']:.3f}")
    row = {"model": name, "flip": tta != "none", "decoder": decoder, "tta": tta}
    return {**row, **stats, "val": further.name}


def _require_room(scales: tuple[float, ...], room: float) -> None:
    """Raises PoseError if a scale shows more of the image than the cached crops hold."""
    if max(scales) > room + 1e-9:
        raise PoseError(
            f"params.yaml: evaluate.scales = {list(scales)}, but the cached crops reach "
            f"{room:.3f} boxes; lower {max(scales)} or raise augment.scale_factor"
        )


def _networks(params: Params) -> dict[str, list[Path]]:
    """Checkpoints by the name of their predictions; the maps of several are averaged."""
    settings = params.evaluate
    networks = {name: [stage.MODELS / f"{name}.safetensors"] for name in settings.asked_models}
    if settings.ensemble and settings.ablation != "headline":
        networks[ENSEMBLE] = [_checkpoint(member) for member in settings.ensemble]
    return networks


def _checkpoint(member: str) -> Path:
    """A member of evaluate.ensemble: a model of the chain by name, or a path."""
    model = stage.MODELS / f"{member}.safetensors"
    return model if model.is_file() else existing_path("evaluate.ensemble", member)


def _digest(paths: list[Path]) -> str:
    """Of the checkpoints' bytes: the key of the resume folder covers only the chain's models."""
    digests = "".join(digest(path) for path in paths)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _final(params: Params, val: Val) -> tuple[str, str]:
    """tta and decoder of the main result."""
    return params.evaluate.headline_tta, val.samples.codec.refinement


def _predict(
    params: Params,
    val: Val,
    name: str,
    paths: list[Path],
    device: torch.device,
    stored: Path,
    ttas: Sequence[str],
) -> PredictionsByView:
    """Predictions on val, in all processes, of the mean maps of these checkpoints."""

    def network() -> nn.Module:
        members = [build_model(params, val.skeleton) for _ in paths]
        for member, path in zip(members, paths, strict=True):
            load_model(member, path)
        return (members[0] if len(members) == 1 else Ensemble(members)).to(device).eval()

    return predict_resumable(
        stored,
        f"{NAME}: {name}",
        network,
        val.samples,
        params.evaluate.batch_size,
        ttas,
        device,
        params.train.amp,
        Blur(params.codec.blur_kernel_size, params.codec.blur_border),
        build.loader_workers() if device.type == "cuda" else 0,
    )


def _results(params: Params, val: Val, predictions: Predictions) -> list[dict[str, Any]]:
    settings = params.evaluate
    if settings.nms_area == "keypoints":
        areas = keypoint_areas(predictions.keypoints)
    else:
        areas = val.samples.padded_areas(predictions.rows)
    thresholds = settings.keypoint_score_thr, settings.oks_nms_thr
    category_id = val.truth["categories"][0]["id"]
    return to_results(val.samples.table, predictions, areas, *thresholds, val.sigmas, category_id)


def _scores(
    params: Params, val: Val, name: str, predictions: PredictionsByView
) -> list[dict[str, Any]]:
    """Rows of the ablation, one per (tta, decoder); none without annotations."""
    rows, parts = [], parts_of(val.skeleton.names)
    for (tta, decoder), poses in predictions.items() if val.scored else ():
        is_final = (tta, decoder) == _final(params, val)
        is_main = is_final and name == params.evaluate.asked_models[-1]
        results = _results(params, val, poses)
        if parts:
            stats = whole_body_eval(val.truth, results, parts, val.sigmas)
        else:
            evaluate = pycocotools_eval if is_main else coco_eval
            stats = evaluate(val.truth, results, val.sigmas)
        rows.append({"model": name, "flip": tta != "none", "decoder": decoder, "tta": tta, **stats})
        if is_final:
            log(f"{NAME}: {name} AP {stats['AP']:.3f} AP50 {stats['AP50']:.3f}")
    return rows


def _write(
    params: Params,
    val: Val,
    rows: list[dict[str, Any]],
    predictions: Predictions,
    results: list[dict[str, Any]],
    further_rows: list[dict[str, Any]],
) -> None:
    """Poses, tables and metrics.json of the main result's predictions and COCO results."""
    settings = params.evaluate
    write_json(stage.PREDICTIONS / "keypoints.json", results)
    metrics = {name: pd.DataFrame(columns=columns) for name, columns in COLUMNS.items()}
    summary: dict[str, Any] = {"boxes": val.boxes}
    persons: list[dict[str, Any]] = []
    calibration: Calibration | None = None
    instances = pd.DataFrame(columns=INSTANCE_COLUMNS)
    if val.scored:
        person_poses = poses_per_person(val, predictions, settings.keypoint_score_thr)
        persons = persons_json(person_poses)
        instances = instances_table(val, person_poses)
        metrics |= {"ablation": pd.DataFrame(rows)}
        metrics |= tables(val, results, person_poses, settings.pck_thr)
        keypoints = scored_keypoints(val, person_poses)
        calibration = _calibration(params, keypoints)
        metrics |= {"keypoint_scores": reliability_table(keypoints)}
        main_row = main_result(metrics, settings.asked_models[-1], *_final(params, val))
        summary = main_row | keypoint_errors(metrics["keypoint_scores"]) | summary
        if not results:
            summary["reason"] = f"no predictions: there is no box to predict in ({val.boxes})"
    else:
        summary |= {"scored": False, "poses": len(results)}
        log(f"{NAME}: val has no annotations, so nothing is scored; poses are in keypoints.json")
    if further_rows:
        metrics["ablation"] = pd.DataFrame([*rows, *further_rows])
        main = [row for row in further_rows if row["model"] == settings.asked_models[-1]]
        summary |= {f"AP_{row['val']}": row["AP"] for row in main}
    write_json(stage.PREDICTIONS / "persons.json", persons)
    write_json(stage.PREDICTIONS / CALIBRATION_FILE, calibration and asdict(calibration))
    write_atomic(stage.PREDICTIONS / "instances.csv", instances.to_csv(index=False).encode())
    for name, table in metrics.items():
        write_atomic(stage.METRICS / NAME / f"{name}.csv", to_csv(name, table))
    with stage.live(NAME) as live:
        live.summary.update(summary)
    for path in stage.PREDICTIONS.glob("*.json"):  # poses of models that are no longer asked for
        if path.stem not in {"calibration", "keypoints", "persons", *_networks(params)}:
            path.unlink()


def _calibration(params: Params, keypoints: ScoredKeypoints) -> Calibration | None:
    """The map of the main result's keypoint scores to probabilities."""
    weights = stage.MODELS / f"{params.evaluate.asked_models[-1]}.safetensors"
    return fit_calibration(keypoints, digest(weights), params.evaluate.flip_test)


if __name__ == "__main__":
    stage.run(NAME, main)
