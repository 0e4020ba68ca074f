"""What benchmarks/inference.py measures."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import inference
from pose.codecs.geometry import apply_affine, udp_affine
from pose.deploy.int8 import write_int8
from pose.deploy.keypoints_graph import KEYPOINTS_ONNX, KeypointsGraph
from tiny_model import random_model, tiny_manifest

CPU = torch.device("cpu")


Found = tuple[np.ndarray, np.ndarray]


def run_openvino(paths: list[Path], crops: np.ndarray) -> list[Found]:
    """In a process of its own: one that ran OpenVINO dies of a SIGTERM, even if it handles it."""
    return [inference.openvino_form(path)(crops) for path in paths]


def test_every_form_gives_the_same_keypoints(exported: Path, tmp_path: Path) -> None:
    """Of a tiny model; int8 and float16 round, so only most of theirs are near."""
    manifest, path, in_int8 = tiny_manifest(), exported / KEYPOINTS_ONNX, tmp_path / "int8.onnx"
    model = random_model(manifest)
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    expected, scores = inference.torch_form(KeypointsGraph(model, manifest, False), CPU)(crops)
    write_int8(path, in_int8, crops, inference.INT8["all"])
    files = [path, in_int8]
    with ProcessPoolExecutor(1, get_context("fork")) as pool:  # without 4 s of imports
        by_openvino = pool.submit(run_openvino, files, crops).result()
    by_onnx_runtime = [inference.onnx_form(file, CPU)(crops) for file in files]
    pairs = zip(by_onnx_runtime + by_openvino, (1e-4, 1.0) * 2, strict=True)
    for (keypoints, found), largest in pairs:
        assert np.abs(found - scores).max() <= largest
        assert np.median(np.linalg.norm(keypoints - expected, axis=2)) <= largest
    quantised = {node.op_type for node in onnx.load(in_int8).graph.node}
    assert "DequantizeLinear" in quantised


def test_predictions_are_in_image_pixels_and_filled_batches_leave_no_trace() -> None:
    center, scale = np.array([50.0, 40.0]), np.array([48.0, 64.0])
    codec = SimpleNamespace(input_size=(24, 32))
    samples = SimpleNamespace(rows=np.arange(40), codec=codec, box=lambda row: (center, scale))
    crops = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 24, 3), np.uint8)
    sizes = []

    def form(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(batch))
        value = batch[:, 0, 0, :1].astype(np.float32)
        return np.stack([value / 4, value / 2], axis=2), value

    found = inference.predict(form, samples, crops)
    assert sizes == [32, 32]
    assert found.scores[:, 0].tolist() == list(range(40))
    affine = udp_affine(center, scale, 0.0, (24, 32))
    back = apply_affine(affine, found.keypoints[:, 0])
    np.testing.assert_allclose(back, np.stack([np.arange(40) / 4, np.arange(40) / 2], 1))


def test_a_rate_counts_all_crops_of_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(100))
    monkeypatch.setattr(inference, "clock", lambda device: float(next(times)))
    calls: list[int] = []
    rate = inference.crops_per_second(lambda crops: calls.append(1), np.zeros(8), 3.0, CPU)
    assert len(calls) == 2
    assert rate == pytest.approx(2 * 8 / 3)


def test_ratios_are_of_one_round() -> None:
    first = inference.Row("a", 0.5, {1: [10.0, 20.0, 40.0], 32: [1.0, 1.0, 1.0]})
    other = inference.Row("b", 0.4996, {1: [20.0, 40.0, 80.0], 32: [3.0, 1.0, 2.0]})
    text = inference.section("python x", CPU, [first, other], 7)
    assert "| a | 0.5000 | 20 | 1.00 | 1 | 1.00 |" in text
    assert "| b | 0.4996 | 40 | 2.00 | 2 | 2.00 |" in text
    assert "7 people of val" in text


def test_onnx_runtime_without_cuda_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(inference, "torch_network", lambda *_: random_model())
    monkeypatch.setattr(inference, "torch_form", lambda *_: None)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    names = dict(inference.forms(tiny_manifest(), Path(), torch.device("cuda"), Path()))
    assert list(names)[-1] == "torch eager float16"
    assert "has no CUDAExecutionProvider; left out" in capsys.readouterr().out
