"""The float16 graph against the float32 one, on crops of val."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

from pose.deploy.half import HALF_ONNX, HalfNetwork
from tiny_model import random_model


def test_weights_are_float16_and_keypoints_float32(exported: Path) -> None:
    written = onnx.load(exported / HALF_ONNX).graph
    kinds = {output.type.tensor_type.elem_type for output in written.output}
    assert kinds == {onnx.TensorProto.FLOAT}
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in written.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    parameters = sum(p.numel() for p in random_model().parameters())
    assert sizes[onnx.TensorProto.FLOAT16] > 0.9 * parameters
    assert sizes[onnx.TensorProto.FLOAT] < 100


def test_the_network_itself_stays_in_float32() -> None:
    model = random_model()
    assert next(HalfNetwork(model).parameters()).dtype == torch.float16
    assert next(model.parameters()).dtype == torch.float32
