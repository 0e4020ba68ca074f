"""Fetch the starting weights and convert them to safetensors under the model's own names.

    python stages/fetch_weights.py

`weights.source: embedded` writes a randomly initialised backbone from run.seed: an honest
stand-in without a download, not a pretrained model. `file`, `url` and `huggingface` convert a
checkpoint of Sapiens, ViTPose (its own, mmpose's, Hugging Face's), timm, MAE, or ours; with
`weights.head: keep` a pose checkpoint's head as well. Writes data/weights/start.safetensors and
metrics/fetch_weights. Seconds, plus the download.

Known files on the Hugging Face Hub, for weights.repo and weights.file (CC BY-NC 4.0; SIZE is
0.3b, 0.6b, 1b or 2b):

TABLE
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import stage
from pose.checkpoint import State, read_weights, save_weights
from pose.errors import PoseError
from pose.families import convert
from pose.files import digest
from pose.log import log
from pose.model import ModelSpec, build_backbone, build_on_meta
from pose.params import Params
from pose.remote import fetch_hub, fetch_url

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
    law = params.codec
    maps = law.maps_per_keypoint
    return stage.pick(ModelSpec, params.model, input_wh=law.input_size, maps_per_keypoint=maps)


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
    return fetch_url(str(law.url), stage.RESUME / NAME, str(law.sha256)), {"source": law.url}


def _huggingface(params: Params) -> tuple[Path, dict[str, Any]]:
    law = params.weights
    path, commit = fetch_hub(str(law.repo), str(law.file), str(law.revision), law.sha256)
    if law.revision != commit or not law.sha256:
        log(f"{NAME}: to pin this file: weights.revision={commit} weights.sha256={digest(path)}")
    return path, {"source": f"{law.repo}/{law.file}", "revision": commit}


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
