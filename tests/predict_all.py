"""Predictions of whole loaders, for tests that do not store them batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec
from pose.evaluation.predict import (
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
