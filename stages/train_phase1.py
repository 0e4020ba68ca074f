"""Stage 1, phase 1: train the head on a frozen backbone.

    python stages/train_phase1.py

Reads data/cache, data/weights; writes models/phase1.safetensors and metrics/train_phase1. About
20 s on two cores with the embedded default.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

from pose.common.log import log
from pose.common.params import Params
from pose.engine.finetune import freeze_for_phase1_
from pose.engine.train import train_supervised
from pose.models.build import build_model, setup_torch
from pose.models.checkpoint import load_start

NAME = "train_phase1"
STREAM = 1  # part of the seed; other phases have other streams


def main(params: Params) -> None:
    device = setup_torch(params)
    skeleton = stage.skeleton()
    model = build_model(params, skeleton)
    log(f"{NAME}: loaded {load_start(model, stage.WEIGHTS)}")
    base = freeze_for_phase1_(model, params, stage.WEIGHTS)
    model.to(device)
    epochs = params.phase1.epochs
    train_supervised(NAME, STREAM, params, skeleton, model, epochs, stage.WEIGHTS, base)


if __name__ == "__main__":
    stage.run(NAME, main)
