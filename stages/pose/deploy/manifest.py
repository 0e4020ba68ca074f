"""pose.json: everything needed to use a trained model, except its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pose.analysis.calibration import CALIBRATION_FILE, Calibration
from pose.coco.decode import AS_STORED, PixelSettings
from pose.codecs.gaussian import Blur
from pose.codecs.udp import UdpCodec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest, read_json
from pose.common.params import Params, load_params
from pose.common.skeleton import Skeleton, oks_sigmas
from pose.data import build
from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD
from pose.models.spec import ModelSpec, model_spec

FILE = "pose.json"


@dataclass(frozen=True)
class Manifest:
    """Model sizes, codec, keypoints and test settings; names and units as in params.yaml."""

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
    pixels: PixelSettings = AS_STORED
    nms_area: Literal["box", "keypoints"] = "box"
    calibration: Calibration | None = None  # of keypoint scores; None: not measured
    category_ids: tuple[int, ...] = ()  # of data.category; none in older files: category_id alone

    def __post_init__(self) -> None:
        object.__setattr__(self, "category_ids", self.category_ids or (self.category_id,))

    @property
    def sigmas(self) -> NDArray[np.float64]:
        return np.array(self.oks_sigmas)


def project_params() -> Params:
    """The project's params.yaml. Raises PoseError if it is absent or invalid."""
    return load_params(stage.ROOT / "params.yaml")


def project_weights(name: str) -> Path:
    """Path of the trained weights; name is phase1, phase2 or ssl."""
    return stage.ROOT / stage.MODELS / f"{name}.safetensors"


def build_manifest(params: Params) -> Manifest:
    """The manifest from params and from the keypoints and categories in data/cache.

    Raises PoseError if a file is absent or invalid.
    """
    skeleton = TypeAdapter(Skeleton).validate_python(read_json(stage.ROOT / stage.SKELETON))
    truth = read_json(stage.ROOT / stage.CACHE / "ground_truth.json")
    ids = stage.ROOT / stage.CATEGORY_IDS
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    return Manifest(
        model=model_spec(params, skeleton.num_keypoints),
        codec=build.codec(params, skeleton),
        blur=Blur(params.codec.blur_kernel_size, params.codec.blur_border),
        skeleton=skeleton,
        oks_sigmas=tuple(sigmas.tolist()),
        category_id=truth["categories"][0]["id"],
        category=truth["categories"][0]["name"],
        bbox_padding=params.augment.bbox_padding,
        flip_test=params.evaluate.flip_test,
        keypoint_score_thr=params.evaluate.keypoint_score_thr,
        oks_nms_thr=params.evaluate.oks_nms_thr,
        pixels=PixelSettings(params.data.orientation == "apply", params.data.bit_depth),
        nms_area=params.evaluate.nms_area,
        category_ids=tuple(read_json(ids)) if ids.exists() else (),
    )


def project_calibration(weights: Path) -> Calibration | None:
    """What evaluate fitted for this file of weights; None if its main result is of another one."""
    fitted = main_calibration()
    return fitted if fitted and fitted.weights_sha256 == digest(weights) else None


def main_calibration() -> Calibration | None:
    """What evaluate fitted for its main result, with the digest of its weights; None without."""
    path = stage.ROOT / stage.PREDICTIONS / CALIBRATION_FILE
    raw = read_json(path) if path.is_file() else None
    return raw and TypeAdapter(Calibration).validate_python(raw)


def describe(manifest: Manifest) -> dict[str, Any]:
    """Content of pose.json: preprocessing of the network's input, and the manifest."""
    return {
        "input": _input(manifest),
        **TypeAdapter(Manifest).dump_python(manifest, mode="json"),
    }


def _input(manifest: Manifest) -> dict[str, Any]:
    """Preprocessing of the network's input: (value - mean) / std of RGB pixels."""
    return {
        "size": list(manifest.codec.input_size),  # w, h
        "layout": "batch, colour, y, x; float32",
        "colour_order": "RGB",
        "value_range": [0, 255],
        "mean": list(PIXEL_MEAN),
        "std": list(PIXEL_STD),
    }


def read_manifest(path: Path) -> Manifest:
    """Read a pose.json. Raises PoseError if a value is invalid or keypoint counts differ."""
    raw = read_json(path)
    try:
        manifest = TypeAdapter(Manifest).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PoseError(f"{path}: {key}: {first['msg'].lower()}; export the model again") from None
    counts = {
        manifest.skeleton.num_keypoints,
        manifest.model.num_keypoints,
        len(manifest.oks_sigmas),
    }
    if len(counts) > 1:
        raise PoseError(
            f"{path}: skeleton, model and oks_sigmas have {sorted(counts)} keypoints; export the "
            "model again"
        )
    if raw.get("input") != _input(manifest):
        raise PoseError(
            f"{path}: input = {raw.get('input')}, expected {_input(manifest)}; "
            "export the model again"
        )
    return manifest
