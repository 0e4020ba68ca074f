"""Evaluate the models on val: COCOeval for every combination asked for, and where it goes wrong.

    python stages/evaluate.py

Boxes are a detector's if the cache holds them (`data.detections`), else the ground truth's. Reads
data/cache and models/; `evaluate.models`, `ablation`, `scales` and `ensemble` say what is run. The
headline is the last model's, its peaks refined, with the flip test as in evaluate.flip_test: flat
in metrics/evaluate/metrics.json, in detail in the tables beside it (docs/evaluation.md), its poses
in data/predictions/keypoints.json, in COCO's results format. A val split without annotations
(test-dev) gets its poses and no scores.
A batch that is predicted is kept: a killed run goes on behind it. About 30 s on two cores with the
embedded default.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from pose import distributed
from pose.analysis import breakdown
from pose.analysis.error_diagnosis import MATCH_OKS, error_table
from pose.analysis.matching import assign, keypoint_similarity, match_results, partners, person_oks
from pose.analysis.predict_resumable import predict_resumable
from pose.codecs import geometry
from pose.codecs.gaussian import Blur
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest, read_json, write_atomic, write_json
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import Skeleton, oks_sigmas
from pose.crop_table import CropTable
from pose.data import build
from pose.data.samples import TestSamples
from pose.evaluation.coco_metrics import STATS, coco_eval, rescore, to_results
from pose.evaluation.predict import Ensemble, Predictions, PredictionsByView
from pose.models.build import build_model, setup_torch
from pose.models.checkpoint import load_model

NAME = "evaluate"
ENSEMBLE = "ensemble"
COLUMNS = {
    "ablation": ["model", "flip", "decoder", "tta", *STATS],
    "keypoints": ["keypoint", "labelled", "found", "AP", "PCK", "oks"],
    "errors": ["kind", "share", "ap_gain"],
    "groups": ["group", "bin", "persons", "AP", "oks"],
    "pr": ["oks_thr", "recall", "precision"],
    "oks": ["oks_thr", "share"],
    "calibration": ["bin", "count", "score", "oks"],
}
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Val:
    """What is evaluated on: the boxes, whose they are, the persons and the ground truth."""

    samples: TestSamples
    boxes: str
    persons: CropTable
    truth: dict[str, Any]
    sigmas: NDArray[np.float64]

    @property
    def scored(self) -> bool:
        """Whether there is a ground truth to score against."""
        return bool(self.truth["annotations"])


@dataclass(frozen=True)
class Headline:
    """The headline's predictions, and what is left of them as COCO results."""

    found: Predictions
    results: list[dict[str, Any]]


def main(params: Params) -> None:
    device = setup_torch(params)
    skeleton = stage.skeleton()
    val = _val(params, skeleton)
    log(f"{NAME}: boxes: {val.boxes} ({len(val.samples):,})")
    first = distributed.is_main_process()
    rows: list[dict[str, Any]] = []
    with stage.resume_folder(NAME) if first else nullcontext() as own:
        folder = distributed.broadcast(own or Path())
        for name, paths in _networks(params).items():
            kept = folder / f"{name}-{_identity(paths)}"
            found = _predictions(params, skeleton, name, paths, val, device, kept)
            if first:
                results = _results(params, val, found[_final(params, val)])
                write_json(stage.PREDICTIONS / f"{name}.json", results)
                rows += _scores(params, val, name, found)
                if name == params.evaluate.asked_models[-1]:
                    headline = Headline(found[_final(params, val)], results)
        if first:
            _write(params, skeleton, val, rows, headline)


def _val(params: Params, skeleton: Skeleton) -> Val:
    law = params.augment
    scales = params.evaluate.scales if "multiscale" in params.evaluate.ttas else (1.0,)
    reach = (law.scale_factor, law.shift_factor, law.rotate_deg)
    _require_room(scales, geometry.zoom_room(params.codec.input_size, *reach))
    persons = CropTable(stage.CACHE / "val")
    table, rows, boxes = persons, persons.labelled(), "ground truth"
    if (folder := stage.CACHE / "detections").is_dir():
        table, boxes = CropTable(folder), stage.DETECTIONS.name
        rows = np.arange(len(table), dtype=np.intp)
    codec = build.codec(params, skeleton)
    samples = TestSamples(table, rows, law.bbox_padding, codec, scales)
    truth = read_json(stage.CACHE / "ground_truth.json")
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    return Val(samples, boxes, persons, truth, sigmas)


def _require_room(scales: tuple[float, ...], room: float) -> None:
    """Raises PoseError if a scale shows more of the image than the cached crops hold."""
    if max(scales) > room + 1e-9:
        raise PoseError(
            f"params.yaml: evaluate.scales = {list(scales)}, but the cached crops reach "
            f"{room:.3f} boxes; lower {max(scales)} or raise augment.scale_factor"
        )


def _networks(params: Params) -> dict[str, list[Path]]:
    """Checkpoints by the name of what they make; of more than one the maps are averaged."""
    law = params.evaluate
    found = {name: [stage.MODELS / f"{name}.safetensors"] for name in law.asked_models}
    if law.ensemble and law.ablation != "headline":
        found[ENSEMBLE] = [_checkpoint(member) for member in law.ensemble]
    return found


def _checkpoint(member: str) -> Path:
    """A member of evaluate.ensemble: a model of the chain by name, or a path."""
    own = stage.MODELS / f"{member}.safetensors"
    path = own if own.is_file() else Path(member).expanduser()
    if not path.is_file():
        raise PoseError(f"params.yaml: evaluate.ensemble: {member!r} is no model and no file")
    return path


def _identity(paths: list[Path]) -> str:
    """Tells checkpoints from others of their names: the resume folder's key knows the chain's."""
    digests = "".join(digest(path) for path in paths)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _final(params: Params, val: Val) -> tuple[str, str]:
    """tta and decoder of the headline."""
    return params.evaluate.headline_tta, val.samples.codec.refinement


def _predictions(
    params: Params,
    skeleton: Skeleton,
    name: str,
    paths: list[Path],
    val: Val,
    device: torch.device,
    kept: Path,
) -> PredictionsByView:
    """Everyone's predictions by the mean of these checkpoints; finished batches are in `kept`."""

    def network() -> nn.Module:
        members = [build_model(params, skeleton) for _ in paths]
        for member, path in zip(members, paths, strict=True):
            load_model(member, path)
        return (members[0] if len(members) == 1 else Ensemble(members)).to(device).eval()

    return predict_resumable(
        kept,
        f"{NAME}: {name}",
        network,
        val.samples,
        params.evaluate.batch_size,
        params.evaluate.ttas,
        device,
        params.train.amp,
        Blur(params.codec.blur_kernel_size, params.codec.blur_border),
        build.loader_workers() if device.type == "cuda" else 0,
    )


def _results(params: Params, val: Val, found: Predictions) -> list[dict[str, Any]]:
    areas = val.samples.padded_areas(found.rows)
    law = params.evaluate
    thresholds = law.keypoint_score_thr, law.oks_nms_thr
    category_id = val.truth["categories"][0]["id"]
    return to_results(val.samples.table, found, areas, *thresholds, val.sigmas, category_id)


def _scores(params: Params, val: Val, name: str, found: PredictionsByView) -> list[dict[str, Any]]:
    """A row of the ablation for each (tta, decoder); none without a ground truth."""
    rows = []
    for (tta, decoder), predictions in found.items() if val.scored else ():
        stats = coco_eval(val.truth, _results(params, val, predictions), val.sigmas)
        rows.append({"model": name, "flip": tta != "none", "decoder": decoder, "tta": tta, **stats})
        if (tta, decoder) == _final(params, val):
            log(f"{NAME}: {name} AP {stats['AP']:.3f} AP50 {stats['AP50']:.3f}")
    return rows


def _write(
    params: Params, skeleton: Skeleton, val: Val, rows: list[dict[str, Any]], headline: Headline
) -> None:
    """Poses, tables and headline."""
    write_json(stage.PREDICTIONS / "keypoints.json", headline.results)
    tables: Tables = {name: pd.DataFrame(columns=names) for name, names in COLUMNS.items()}
    summary: dict[str, Any] = {"boxes": val.boxes}
    people: list[dict[str, Any]] = []
    if val.scored:
        shown, scores = _shown(params, val, headline.found)
        oks = person_oks(keypoint_similarity(val.persons, shown, val.sigmas))
        people = _people(shown, scores, oks)
        tables |= {"ablation": pd.DataFrame(rows)}
        tables |= _tables(params, skeleton, val, headline.results, shown, oks)
        summary = _headline(params, val, tables) | summary
    else:
        summary |= {"scored": False, "poses": len(headline.results)}
        log(f"{NAME}: val has no annotations, so nothing is scored; poses are in keypoints.json")
    if val.scored and not headline.results:
        summary["reason"] = f"no predictions: there is no box to predict in ({val.boxes})"
    write_json(stage.PREDICTIONS / "persons.json", people)
    for name, table in tables.items():
        content = table[COLUMNS[name]].round(6).to_csv(index=False)
        write_atomic(stage.METRICS / NAME / f"{name}.csv", content.encode())
    with stage.live(NAME) as live:
        live.summary.update(summary)
    _drop_others({"keypoints", "persons", *_networks(params)})


def _shown(params: Params, val: Val, found: Predictions) -> tuple[Predictions, NDArray[np.float64]]:
    """What the labelled persons are predicted as, and the scores of these poses before NMS."""
    table = val.samples.table
    threshold = params.evaluate.keypoint_score_thr
    scores = rescore(found.scores, table.bbox_score[found.rows].astype(np.float64), threshold)
    if table is val.persons:
        return found, scores
    index = partners(val.persons, table, found)
    return assign(val.persons, table, found), np.append(scores, 0.0)[index]  # -1: nobody's


def _tables(
    params: Params,
    skeleton: Skeleton,
    val: Val,
    results: list[dict[str, Any]],
    shown: Predictions,
    oks: NDArray[np.float64],
) -> Tables:
    truth, sigmas = val.truth, val.sigmas
    matches = match_results(truth, results, sigmas, MATCH_OKS)
    by_id = dict(zip(val.persons.ann_id[shown.rows].tolist(), oks.tolist(), strict=True))
    thr = params.evaluate.pck_thr
    return {
        "keypoints": breakdown.keypoint_table(
            skeleton.names, truth, results, val.persons, shown, sigmas, thr
        ),
        "errors": error_table(truth, results, matches, sigmas, skeleton.flip_indices),
        "groups": breakdown.group_table(truth, results, matches, sigmas, by_id),
        "pr": breakdown.pr_table(truth, results, sigmas),
        "oks": breakdown.oks_table(oks),
        "calibration": breakdown.calibration_table(results, matches),
    }


def _headline(params: Params, val: Val, tables: Tables) -> dict[str, Any]:
    """COCO's numbers, PCK of all keypoints, and the expected calibration error."""
    key: Any = (params.evaluate.asked_models[-1], *_final(params, val))
    chosen = tables["ablation"].set_index(["model", "tta", "decoder"]).loc[key]
    keypoints = tables["keypoints"]
    pck = (keypoints["PCK"] * keypoints["labelled"]).sum() / max(keypoints["labelled"].sum(), 1)
    return {
        **{name: float(chosen[name]) for name in STATS},
        "PCK": round(float(pck), 4),
        "ECE": round(breakdown.calibration_error(tables["calibration"]), 4),
    }


def _people(
    shown: Predictions, scores: NDArray[np.float64], oks: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Keypoints (image pixels), score and OKS of every person by its row, for pictures.

    A person that no box shows has null for keypoints, score and OKS 0.
    """
    return [
        {
            "row": int(row),
            "keypoints": keypoints.round(2).tolist() if np.isfinite(keypoints).all() else None,
            "oks": round(float(value), 4),
            "score": round(float(score), 4),
        }
        for row, keypoints, value, score in zip(
            shown.rows, shown.keypoints, oks, scores, strict=True
        )
    ]


def _drop_others(names: set[str]) -> None:
    """Remove poses of what an earlier run was asked for and this one was not."""
    for path in stage.PREDICTIONS.glob("*.json"):
        if path.stem not in names:
            path.unlink()


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
