"""pose.json: all that a trained model needs besides its weights, to be used far from its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pose.codec import UdpCodec
from pose.errors import PoseError
from pose.files import read_json
from pose.gaussian import Blur
from pose.model import PIXEL_MEAN, PIXEL_STD, ModelSpec
from pose.skeleton import Skeleton

FILE = "pose.json"


@dataclass(frozen=True)
class Manifest:
    """A model's sizes, codec, keypoints, and how it is tested; names and units of params.yaml."""

    model: ModelSpec
    codec: UdpCodec
    blur: Blur
    skeleton: Skeleton
    oks_sigmas: tuple[float, ...]  # (K,)
    category_id: int
    category: str
    bbox_padding: float
    flip_test: bool
    keypoint_score_thr: float
    oks_nms_thr: float

    @property
    def sigmas(self) -> NDArray[np.float64]:
        return np.array(self.oks_sigmas)


def describe(about: Manifest) -> dict[str, Any]:
    """JSON of a manifest, with what other programs need to feed the network first."""
    return {
        "input": _input(about),
        **TypeAdapter(Manifest).dump_python(about, mode="json"),
    }


def _input(about: Manifest) -> dict[str, Any]:
    """How pixels enter the network: (value - mean) / std, in this order of colours."""
    return {
        "size": list(about.codec.input_size),  # w, h
        "layout": "batch, colour, y, x; float32",
        "colour_order": "RGB",
        "value_range": [0, 255],
        "mean": list(PIXEL_MEAN),
        "std": list(PIXEL_STD),
    }


def read_manifest(path: Path) -> Manifest:
    """The manifest of a pose.json. Raises PoseError, one line, if it cannot serve."""
    raw = read_json(path)
    try:
        about = TypeAdapter(Manifest).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PoseError(f"{path}: {key}: {first['msg'].lower()}; export the model again") from None
    counts = {about.skeleton.num_keypoints, about.model.num_keypoints, len(about.oks_sigmas)}
    if len(counts) > 1:
        raise PoseError(
            f"{path}: skeleton, model and oks_sigmas are of {sorted(counts)} keypoints; export the "
            "model again"
        )
    if raw.get("input") != _input(about):
        raise PoseError(
            f"{path}: input = {raw.get('input')}, expected {_input(about)}; export the model again"
        )
    return about
