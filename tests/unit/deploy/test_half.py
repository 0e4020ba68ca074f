"""The float16 graph against the float32 one, on crops of val."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

from pose.deploy.half import HalfNetwork
from pose.deploy.keypoints_graph import KeypointsGraph, write_keypoints_onnx
from tiny_model import random_model, tiny_manifest


def test_weights_are_float16_and_keypoints_float32(tmp_path: Path) -> None:
    manifest, path = tiny_manifest(), tmp_path / "half.onnx"
    model = random_model(manifest)
    graph = KeypointsGraph(HalfNetwork(model), manifest, False).eval()
    write_keypoints_onnx(graph, torch.zeros(2, 32, 24, 3, dtype=torch.uint8), path)
    written = onnx.load(path).graph
    kinds = {output.type.tensor_type.elem_type for output in written.output}
    assert kinds == {onnx.TensorProto.FLOAT}
    sizes = {onnx.TensorProto.FLOAT: 0, onnx.TensorProto.FLOAT16: 0}
    for tensor in written.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[onnx.TensorProto.FLOAT16] > 0.9 * sum(p.numel() for p in model.parameters())
    assert sizes[onnx.TensorProto.FLOAT] < 100
    assert next(model.parameters()).dtype == torch.float32
