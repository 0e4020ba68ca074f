"""Fetch the backbone's starting weights and convert them to safetensors.

    python stages/fetch_weights.py

`weights.source: embedded` writes a randomly initialised backbone from run.seed: an honest
stand-in without a download, not a pretrained model. `file` converts a checkpoint on disk
(Sapiens pretrain, ViTPose, timm). Writes data/weights/backbone.safetensors and
metrics/fetch_weights. Seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import stage
from pose.checkpoint import State, backbone_state, read_weights, save_weights
from pose.errors import PoseError
from pose.files import digest
from pose.log import log
from pose.model import ModelSpec, build_backbone
from pose.params import Params

NAME = "fetch_weights"


def main(params: Params) -> None:
    sources = {"embedded": _embedded, "file": _file}
    state, provenance = sources[params.weights.source](params)
    save_weights(stage.WEIGHTS, state, provenance)
    numbers = {"tensors": len(state), "parameters": sum(t.numel() for t in state.values())}
    log(f"{NAME}: {numbers['parameters']:,} parameters from {provenance['source']}")
    with stage.live(NAME) as live:
        live.summary.update(numbers)


def _embedded(params: Params) -> tuple[State, dict[str, Any]]:
    torch.manual_seed(params.run.seed)
    spec = ModelSpec(input_wh=params.codec.input_size, **params.model.model_dump())
    provenance = {
        "source": f"random initialisation, seed {params.run.seed}",
        "licence": "none needed",
    }
    return build_backbone(spec).state_dict(), provenance


def _file(params: Params) -> tuple[State, dict[str, Any]]:
    path = Path(str(params.weights.file)).expanduser()
    found = digest(path) if path.is_file() else None
    if params.weights.sha256 and found and found != params.weights.sha256:
        raise PoseError(f"{path}: sha256 is {found}, weights.sha256 says {params.weights.sha256}")
    state, dropped = backbone_state(read_weights(path))
    if dropped:
        log(f"{NAME}: dropped {len(dropped)} tensors outside the backbone")
    provenance = {"source": path.name, "sha256": found, "licence": "that of the file"}
    return state, provenance


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
