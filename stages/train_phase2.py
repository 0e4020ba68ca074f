"""Stage 1, phase 2: fine-tune the network from phase 1's weights, as train.finetune says.

    python stages/train_phase2.py

Reads data/cache, models/phase1.safetensors; writes models/phase2.safetensors and
metrics/train_phase2. About a minute and a half on two cores with the embedded default.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

from pose.common.params import Params
from pose.engine.finetune import load_for_training_
from pose.engine.train import model_path, train_supervised
from pose.models.build import build_model, setup_torch

NAME = "train_phase2"
STREAM = 2  # part of the seed; other phases have other streams


def main(params: Params) -> None:
    device = setup_torch(params)
    skeleton = stage.skeleton()
    model = build_model(params, skeleton)
    start_weights = model_path("train_phase1")
    base = load_for_training_(model, params, start_weights)
    epochs = params.phase2.epochs
    model.to(device)
    train_supervised(NAME, STREAM, params, skeleton, model, epochs, start_weights, base)


if __name__ == "__main__":
    stage.run(NAME, main)
