"""Evaluate phase 1, phase 2 and SSL on val: COCOeval, with and without flip test and DARK.

    python stages/evaluate.py

Boxes are a detector's if the cache holds them (`data.detections`), else the ground truth's. Reads
data/cache and models/; writes the headline (SSL, DARK, flip as in evaluate.flip_test) to
metrics/evaluate/metrics.json, every combination to ablation.csv, the keypoints to data/predictions.
About 20 s on two cores with the embedded default.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import stage
import training
from pose import distributed
from pose.cache import CropTable
from pose.checkpoint import load_model
from pose.dataset import TestSamples, test_loader
from pose.evaluation import (
    STATS,
    assign,
    coco_eval,
    keypoint_similarity,
    person_oks,
    to_results,
)
from pose.files import read_json, write_atomic, write_json
from pose.gaussian import Blur
from pose.inference import Predictions, gather_predictions, predict
from pose.log import log
from pose.params import Params
from pose.skeleton import Skeleton, oks_sigmas

NAME = "evaluate"
PHASES = ("phase1", "phase2", "ssl")


def main(params: Params) -> None:
    device = training.setup_torch(params)
    skeleton = stage.skeleton()
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    persons = CropTable(stage.CACHE / "val")
    samples, boxes = _samples(params, skeleton, persons)
    log(f"{NAME}: boxes: {boxes} ({len(samples):,})")
    truth = read_json(stage.CACHE / "ground_truth.json")
    category_id = truth["categories"][0]["id"]
    rows = []
    final = (params.evaluate.flip_test, samples.codec.refinement)
    for phase in PHASES:
        found = _predictions(params, skeleton, phase, samples, device)
        if not distributed.is_first():
            continue
        for (flip, decoder), predictions in found.items():
            results = _results(params, samples, predictions, sigmas, category_id)
            stats = coco_eval(truth, results, sigmas)
            rows.append({"model": phase, "flip": flip, "decoder": decoder, **stats})
            if (flip, decoder) == final:
                write_json(stage.PREDICTIONS / f"{phase}.json", results)
                log(f"{NAME}: {phase} AP {stats['AP']:.3f} AP50 {stats['AP50']:.3f}")
    if not distributed.is_first():
        return
    shown = found[final]
    if samples.table is not persons:
        shown = assign(persons, samples.table, shown)
    similarity = keypoint_similarity(persons, shown, sigmas)
    _write_metrics(pd.DataFrame(rows), skeleton.names, similarity, final, boxes)
    _write_persons(shown, person_oks(similarity))


def _samples(params: Params, skeleton: Skeleton, persons: CropTable) -> tuple[TestSamples, str]:
    """The boxes to predict in, and whose they are."""
    table, rows, boxes = persons, persons.labelled(), "ground truth"
    if (folder := stage.CACHE / "detections").is_dir():
        table, boxes = CropTable(folder), stage.DETECTIONS.name
        rows = np.arange(len(table), dtype=np.intp)
    codec = training.codec(params, skeleton)
    return TestSamples(table, rows, params.augment.bbox_padding, codec), boxes


def _predictions(
    params: Params, skeleton: Skeleton, phase: str, samples: TestSamples, device: torch.device
) -> dict[tuple[bool, str], Predictions]:
    model = training.build_model(params, skeleton)
    load_model(model, stage.MODELS / f"{phase}.safetensors")
    model.to(device).eval()
    size = params.evaluate.batch_size
    batches = tqdm(
        test_loader(samples, size, distributed.rank(), distributed.world_size()),
        f"evaluating {phase}",
        disable=None if distributed.is_first() else True,
    )
    blur = stage.pick(Blur, params.codec)
    found = predict(model, samples.codec, batches, device, params.train.amp, blur)
    return gather_predictions(found, len(samples), size)


def _results(
    params: Params, samples: TestSamples, found: Predictions, sigmas: np.ndarray, category_id: int
) -> list[dict[str, object]]:
    areas = np.array([np.prod(samples.box(int(row))[1]) for row in found.rows])
    law = params.evaluate
    thresholds = law.keypoint_score_thr, law.oks_nms_thr
    return to_results(samples.table, found, areas, *thresholds, sigmas, category_id)


def _write_metrics(
    ablation: pd.DataFrame,
    names: tuple[str, ...],
    similarity: np.ndarray,
    final: tuple[bool, str],
    boxes: str,
) -> None:
    """Headline, ablation table, and each keypoint's share found (similarity above 0.5)."""
    with stage.live(NAME) as live:
        chosen = ablation.query("model == 'ssl' and flip == @final[0] and decoder == @final[1]")
        live.summary.update({name: float(chosen[name].iloc[0]) for name in STATS})
        live.summary["boxes"] = boxes
    folder = stage.METRICS / NAME
    write_atomic(folder / "ablation.csv", ablation.round(4).to_csv(index=False).encode())
    labelled = (~np.isnan(similarity)).sum(axis=0)
    hits = np.nansum(similarity > 0.5, axis=0)
    keypoints = pd.DataFrame(
        {"keypoint": names, "labelled": labelled, "found": hits / np.maximum(labelled, 1)}
    )
    write_atomic(folder / "keypoints.csv", keypoints.round(4).to_csv(index=False).encode())


def _write_persons(found: Predictions, oks: np.ndarray) -> None:
    """Keypoints (image pixels) and OKS of every person by its row in the cache, for pictures.

    A person that no box shows has null for keypoints, and OKS 0.
    """
    persons = [
        {
            "row": int(row),
            "keypoints": keypoints.round(2).tolist() if np.isfinite(keypoints).all() else None,
            "oks": round(float(value), 4),
        }
        for row, keypoints, value in zip(found.rows, found.keypoints, oks, strict=True)
    ]
    write_json(stage.PREDICTIONS / "persons.json", persons)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
