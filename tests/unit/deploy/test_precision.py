"""The distances of a graph's keypoints from float32's, and the crops that are compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from loopback import failure
from pose.deploy import precision
from pose.deploy.precision import compare_with_float32


def networks(monkeypatch: pytest.MonkeyPatch, shift: np.ndarray) -> None:
    """Two graphs: keypoints are the crop's first pixel, in half.onnx moved by `shift` (K, 2)."""

    def network(path: Path) -> SimpleNamespace:
        moved = shift if path.name == "half.onnx" else 0 * shift

        def run(names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [inputs["crops"][:, 0, 0, :2][:, None] + moved]

        return SimpleNamespace(session=SimpleNamespace(run=run))

    monkeypatch.setattr(precision, "OnnxNetwork", network)


@pytest.mark.parametrize("people", [1, 32, 70])
def test_distances_are_of_all_people(monkeypatch: pytest.MonkeyPatch, people: int) -> None:
    networks(monkeypatch, np.array([[0.0, 0.0], [0.03, 0.04], [3.0, 4.0], [0.0, 0.01], [0, 0.01]]))
    crops = np.zeros((people, 4, 3, 3), np.uint8)
    found = compare_with_float32(Path("half.onnx"), Path("x"), crops, 0.05)
    assert found == pytest.approx({"median": 0.01, "max": 5.0, "people": people})


@pytest.mark.parametrize("shift", [0.06, float("nan")])
def test_keypoints_far_apart_are_an_error(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    networks(monkeypatch, np.full((3, 2), shift))
    crops = np.zeros((2, 4, 3, 3), np.uint8)
    line = failure(compare_with_float32, Path("half.onnx"), Path("full.onnx"), crops, 0.05)
    assert line.startswith("half.onnx: half of its keypoints on val are ")
    assert line.endswith("of full.onnx, more than 0.05; export without it")


def test_no_people(monkeypatch: pytest.MonkeyPatch) -> None:
    networks(monkeypatch, np.zeros((3, 2)))
    found = compare_with_float32(
        Path("half.onnx"), Path("x"), np.zeros((0, 4, 3, 3), np.uint8), 0.05
    )
    assert found == {"median": 0.0, "max": 0.0, "people": 0}
