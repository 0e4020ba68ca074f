"""Fetch the starting weights and convert them to safetensors under the model's own names.

    python stages/fetch_weights.py

`weights.source: embedded` writes a randomly initialised backbone from run.seed: an honest
stand-in without a download, not a pretrained model. `file`, `url` and `huggingface` convert a
checkpoint of Sapiens, ViTPose (its own, mmpose's, Hugging Face's), timm, MAE, or ours; with
`weights.head: keep` a pose checkpoint's head as well (for keypoints other than COCO's 17 list
`keypoints.names`). Writes data/weights/start.safetensors and
metrics/fetch_weights. Seconds, plus the download; what a url gave stays in
data/resume/fetch_weights, so that another model's conversion does not fetch it again.

Known files of Sapiens on the Hugging Face Hub (CC BY-NC 4.0). Their names come from the projects'
documentation and were not fetched by us; they may have moved. weights.revision: main finds them,
and a line of the log then says what pins them.

    weights.repo: facebook/sapiens            pretrained backbones, weights.head: fresh
    weights.file: sapiens_host/pretrain/checkpoints/
        sapiens_0.3b/sapiens_0.3b_epoch_1600_clean.pth
        sapiens_0.6b/sapiens_0.6b_epoch_1600_clean.pth
        sapiens_1b/sapiens_1b_epoch_173_clean.pth
        sapiens_2b/sapiens_2b_epoch_660_clean.pth

    weights.repo: noahcao/sapiens-pose-coco   COCO's 17 keypoints, weights.head: keep
    weights.file: sapiens_host/pose/checkpoints/
        sapiens_0.3b/sapiens_0.3b_coco_best_coco_AP_796.pth
        sapiens_0.6b/sapiens_0.6b_coco_best_coco_AP_812.pth
        sapiens_1b/sapiens_1b_coco_best_coco_AP_821.pth
        sapiens_2b/sapiens_2b_coco_best_coco_AP_822.pth
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest
from pose.common.log import log
from pose.common.params import Params
from pose.common.skeleton import COCO_17
from pose.fetch.checksums import Pin
from pose.fetch.url import fetch_url
from pose.models.build import model_spec
from pose.models.checkpoint import State, read_weights, save_weights
from pose.models.vit import ModelSpec, build_backbone, build_on_meta
from pose.pretrained.convert import convert
from pose.pretrained.hub import fetch_hub

NAME = "fetch_weights"
LICENCE = "that of the file"


def main(params: Params) -> None:
    if params.weights.source == "embedded":
        state, provenance = _embedded(params)
    else:
        state, provenance = _converted(params)
    save_weights(stage.WEIGHTS, state, provenance)
    numbers = {"tensors": len(state), "parameters": sum(t.numel() for t in state.values())}
    log(f"{NAME}: {numbers['parameters']:,} parameters from {provenance['source']}")
    with stage.live(NAME) as live:
        live.summary.update(numbers)


def _spec(params: Params) -> ModelSpec:
    """K as far as params tell, for the data come later; it matters to a head that is kept alone."""
    return model_spec(params, len(params.keypoints.names or COCO_17.names))


def _embedded(params: Params) -> tuple[State, dict[str, Any]]:
    torch.manual_seed(params.run.seed)
    state = build_backbone(_spec(params)).state_dict()
    provenance = {
        "source": f"random initialisation, seed {params.run.seed}",
        "licence": "none needed",
    }
    return {f"backbone.{name}": tensor for name, tensor in state.items()}, provenance


def _converted(params: Params) -> tuple[State, dict[str, Any]]:
    sources = {"file": _file, "url": _url, "huggingface": _huggingface}
    path, provenance = sources[params.weights.source](params)
    model = build_on_meta(_spec(params))
    try:
        state, report = convert(read_weights(path), model, params.weights.head == "keep")
    except PoseError as error:
        raise PoseError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    log(f"{NAME}: {path}\n{report}")
    return state, {**provenance, "sha256": digest(path), "licence": LICENCE}


def _file(params: Params) -> tuple[Path, dict[str, Any]]:
    path = Path(str(params.weights.file)).expanduser()
    found = digest(path) if path.is_file() else None
    if params.weights.sha256 and found and found != params.weights.sha256:
        raise PoseError(f"{path}: sha256 is {found}, weights.sha256 says {params.weights.sha256}")
    return path, {"source": path.name}


def _url(params: Params) -> tuple[Path, dict[str, Any]]:
    law = params.weights
    path = fetch_url(str(law.url), stage.RESUME / NAME, Pin(str(law.sha256), "weights.sha256"))
    return path, {"source": law.url}


def _huggingface(params: Params) -> tuple[Path, dict[str, Any]]:
    law = params.weights
    path, commit = fetch_hub(str(law.repo), str(law.file), str(law.revision), law.sha256)
    if law.revision != commit or not law.sha256:
        log(f"{NAME}: to pin this file: weights.revision={commit} weights.sha256={digest(path)}")
    return path, {"source": f"{law.repo}/{law.file}", "revision": commit}


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
