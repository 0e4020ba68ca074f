"""Predictions of a network over all batches, and made-up ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec
from pose.crop_table import CropTable
from pose.evaluation.predict import (
    Predictions,
    PredictionsByView,
    codec_decoders,
    concat_predictions,
    predict_batches,
)

CPU = torch.device("cpu")


def predict_all(
    model: nn.Module,
    codec: UdpCodec,
    batches: Iterable[dict[str, Any]],
    ttas: Sequence[str] = ("none", "flip"),
    zooms: Sequence[float] = (),
) -> PredictionsByView:
    """Predictions of all batches, one after the other, by (tta, decoder)."""
    decoders = codec_decoders(codec, Blur(11, "zero"))
    parts = list(predict_batches(model, codec, batches, CPU, "none", decoders, ttas, zooms))
    return {key: concat_predictions([part[key] for part in parts]) for key in parts[0]}


def perfect_predictions(table: CropTable) -> Predictions:
    """The labelled people's own keypoints, each with a score of 0.9."""
    rows = table.labelled()
    keypoints = table.keypoints[rows][..., :2].astype(float)
    return Predictions(keypoints, np.full((len(rows), 17), 0.9), rows)


def areas_of(found: Predictions) -> np.ndarray:
    """5000 square pixels for each."""
    return np.full(len(found.rows), 5000.0)


def numbered_predictions(table: CropTable) -> Predictions:
    """Poses far from each other, that of row i at 1000 i; three keypoints above 0.2, mean 0.5."""
    rows = np.arange(len(table))
    scores = np.full((len(rows), 17), 0.2)
    scores[:, 4:7] = 0.3, 0.5, 0.7
    return Predictions(np.full((len(rows), 17, 2), 1000.0) * rows[:, None, None], scores, rows)
