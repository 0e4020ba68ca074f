"""The further vals of data.also_val, as build_cache stored them in data/cache/vals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pose.analysis.tables import Val
from pose.common import stage
from pose.common.files import read_json
from pose.common.params import Params
from pose.crop_table import CropTable
from pose.data.samples import TestSamples
from pose.evaluation.predict import Predictions


@dataclass(frozen=True)
class FurtherVal:
    """A further val: its boxes are the ground truth's, truth and sigmas those of its keypoints.

    keypoints: indices of these among the model's. val.skeleton is the model's.
    """

    name: str
    val: Val
    keypoints: list[int]

    def select(self, predictions: Predictions) -> Predictions:
        """The poses with only the keypoints that this val has."""
        keypoints = predictions.keypoints[:, self.keypoints]
        return Predictions(keypoints, predictions.scores[:, self.keypoints], predictions.rows)


def read_further_vals(params: Params, val: Val) -> list[FurtherVal]:
    """The further vals in data/cache, by name; val: the main one, with the model's keypoints."""
    paths = sorted((stage.CACHE / "vals").glob("*.json"))
    return [_read(path, params, val) for path in paths]


def _read(path: Path, params: Params, val: Val) -> FurtherVal:
    content, table = read_json(path), CropTable(path.with_suffix(""))
    padding, codec = params.augment.bbox_padding, val.samples.codec
    further = replace(
        val,
        samples=TestSamples(table, table.labelled(), padding, codec),
        boxes="ground truth",
        persons=table,
        truth=content["truth"],
        sigmas=val.sigmas[content["keypoints"]],
    )
    return FurtherVal(path.stem, further, content["keypoints"])
