"""Which operators of the quantised graph are in int8."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

from pose.deploy.int8 import write_int8
from pose.deploy.keypoints_graph import KEYPOINTS_ONNX


def test_matrix_products_are_in_int8_and_convolutions_in_float32(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "int8.onnx"
    crops = np.random.default_rng(0).integers(0, 256, (20, 32, 24, 3), dtype=np.uint8)
    monkeypatch.setattr(logging.root, "handlers", [])
    write_int8(exported / KEYPOINTS_ONNX, path, crops)
    assert logging.root.handlers == []
    nodes = onnx.load(path).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    quantised: dict[str, set[bool]] = {}
    for node in nodes:
        in_int8 = made_by.get((*node.input, "", "")[1]) == "DequantizeLinear"
        quantised.setdefault(node.op_type, set()).add(in_int8)
    assert {kind for kind, found in quantised.items() if True in found} <= {"MatMul", "Gemm", "Add"}
    assert quantised["Conv"] == {False}
    assert True in quantised.get("MatMul", set()) | quantised.get("Gemm", set())
    assert logging.root.manager.disable == logging.NOTSET
