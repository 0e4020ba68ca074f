"""What predict and export share: a model that the chain trained, with all that its use needs.

No stage itself. Paths are the project's, wherever the command was given.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

import stage
import training
from pose.files import read_json
from pose.gaussian import Blur
from pose.manifest import Manifest
from pose.params import Params, load_params
from pose.skeleton import Skeleton, oks_sigmas


def params() -> Params:
    """The whole of params.yaml."""
    return load_params(stage.ROOT / "params.yaml")


def weights(name: str) -> Path:
    """Of phase1, phase2 or ssl."""
    return stage.ROOT / stage.MODELS / f"{name}.safetensors"


def manifest(params: Params) -> Manifest:
    """Of params and the keypoints in data/cache."""
    skeleton = TypeAdapter(Skeleton).validate_python(read_json(stage.ROOT / stage.SKELETON))
    truth = read_json(stage.ROOT / stage.CACHE / "ground_truth.json")
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    return Manifest(
        model=training.model_spec(params, skeleton.num_keypoints),
        codec=training.codec(params, skeleton),
        blur=stage.pick(Blur, params.codec),
        skeleton=skeleton,
        oks_sigmas=tuple(sigmas.tolist()),
        category_id=truth["categories"][0]["id"],
        category=truth["categories"][0]["name"],
        bbox_padding=params.augment.bbox_padding,
        flip_test=params.evaluate.flip_test,
        keypoint_score_thr=params.evaluate.keypoint_score_thr,
        oks_nms_thr=params.evaluate.oks_nms_thr,
    )
