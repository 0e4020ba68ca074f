"""The person detector: its weights are verified, its boxes are persons'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import loopback
from loopback import CONTENT, SHA, Server, failure
from pose.deploy import detector
from pose.deploy.detector import Detector, fetch_weights, weights_path, weights_url
from pose.deploy.detectors import DETECTORS


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))


@pytest.fixture
def server() -> Iterator[Server]:
    yield from loopback.serve(loopback.Handler)


@pytest.mark.parametrize("name", DETECTORS)
def test_torchvision_states_url_digest_and_ap(name: str) -> None:
    weights = detector.get_model_weights(name).DEFAULT
    assert detector.re.search(r"-[0-9a-f]{8}\.pth$", weights_url(name))
    assert weights.meta["categories"][detector.PERSON_LABEL] == "person"
    ap = weights.meta["_metrics"]["COCO-val2017"]["box_map"]
    assert f"AP {ap}, {weights.meta['_file_size']:.0f} MB" in DETECTORS[name]


def test_weights_are_fetched_once_and_kept_where_torch_keeps_them(
    server: Server, tmp_path: Path
) -> None:
    url = f"{server.address}/light-{SHA[:8]}.pth"
    path = fetch_weights(url)
    assert path == tmp_path / "torch home/hub/checkpoints" / f"light-{SHA[:8]}.pth"
    assert path.read_bytes() == CONTENT
    loopback.stop(server)
    assert fetch_weights(url) == path


def test_another_file_is_refused(server: Server) -> None:
    url = f"{server.address}/light-01234567.pth"
    line = failure(fetch_weights, url)
    assert f"sha256 is {SHA}, the file name says 01234567..." in line
    assert not weights_path(url).exists()


def test_an_address_without_a_digest_is_refused() -> None:
    assert "holds no sha256 digest" in failure(fetch_weights, "http://127.0.0.1/light.pth")


class Light(torch.nn.Module):
    """Answers as torchvision's detectors do; `asked` keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (self.asked,) = images
        boxes = torch.tensor([[1.0, 2, 5, 9], [0, 0, 4, 4], [3, 3, 7, 8], [2, 2, 3, 3]])
        scores, labels = torch.tensor([0.9, 0.8, 0.6, 0.4]), torch.tensor([1, 3, 1, 1])
        return [{"boxes": boxes * self.scale, "scores": scores, "labels": labels}]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> Light:
    light = Light()
    monkeypatch.setattr(detector, "get_model", lambda name, **_: light)
    return light


def put_weights(state: dict[str, torch.Tensor]) -> str:
    """The address of weights that are on this machine already."""
    path = weights_path("http://127.0.0.1:9/x.pth")
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    name = f"x-{loopback.sha256(path.read_bytes())[:8]}.pth"
    path.rename(path.with_name(name))
    return f"http://127.0.0.1:9/{name}"


def test_persons_above_the_score_alone(light: Light) -> None:
    url = put_weights({"scale": torch.full((1,), 2.0)})
    find = Detector("light", url, 0.5, torch.device("cpu"))
    image = np.zeros((8, 10, 3), np.uint8)
    image[1, 2] = (255, 0, 51)
    boxes, scores = find(image)
    assert boxes.tolist() == [[2, 4, 8, 14], [6, 6, 8, 10]]
    np.testing.assert_allclose(scores, [0.9, 0.6], rtol=1e-6)
    assert light.asked.shape == (3, 8, 10)
    np.testing.assert_allclose(light.asked[:, 1, 2], [1, 0, 0.2])


def test_weights_of_another_model(light: Light) -> None:
    url = put_weights({"other": torch.ones(1)})
    line = failure(Detector, "light", url, 0.5, torch.device("cpu"))
    assert f"{weights_path(url)}: missing tensors scale" in line
