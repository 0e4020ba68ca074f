"""The float16 graph against the float32 one, on crops of val."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from loopback import failure
from pose.deploy import half
from pose.deploy.half import HalfNetwork, compare_with_float32
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


def networks(monkeypatch: pytest.MonkeyPatch, shift: np.ndarray) -> None:
    """Two graphs: keypoints are the crop's first pixel, in half.onnx moved by `shift` (K, 2)."""

    def network(path: Path) -> SimpleNamespace:
        moved = shift if path.name == "half.onnx" else 0 * shift

        def run(names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [inputs["crops"][:, 0, 0, :2][:, None] + moved]

        return SimpleNamespace(session=SimpleNamespace(run=run))

    monkeypatch.setattr(half, "OnnxNetwork", network)


@pytest.mark.parametrize("people", [1, 32, 70])
def test_distances_are_of_all_people(monkeypatch: pytest.MonkeyPatch, people: int) -> None:
    networks(monkeypatch, np.array([[0.0, 0.0], [0.03, 0.04], [3.0, 4.0], [0.0, 0.01], [0, 0.01]]))
    found = compare_with_float32(
        Path("half.onnx"), Path("x"), np.zeros((people, 4, 3, 3), np.uint8)
    )
    assert found == pytest.approx({"median": 0.01, "max": 5.0, "people": people})


@pytest.mark.parametrize("shift", [0.06, float("nan")])
def test_keypoints_far_apart_are_an_error(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    networks(monkeypatch, np.full((3, 2), shift))
    crops = np.zeros((2, 4, 3, 3), np.uint8)
    line = failure(compare_with_float32, Path("half.onnx"), Path("full.onnx"), crops)
    assert line.startswith("half.onnx: half of its keypoints on val are ")
    assert line.endswith("of full.onnx, more than 0.05; export without --half")


def test_no_people(monkeypatch: pytest.MonkeyPatch) -> None:
    networks(monkeypatch, np.zeros((3, 2)))
    found = compare_with_float32(Path("half.onnx"), Path("x"), np.zeros((0, 4, 3, 3), np.uint8))
    assert found == {"median": 0.0, "max": 0.0, "people": 0}
