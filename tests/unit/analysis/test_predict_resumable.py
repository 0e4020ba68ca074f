"""Stored predictions are not computed again, and a resumed run returns the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pose import distributed
from pose.analysis.predict_resumable import load_predictions, predict_resumable
from pose.codecs.gaussian import Blur
from pose.common.errors import PoseError
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings
from pose.data.samples import TestSamples, test_batches
from pose.evaluation.predict import PredictionsByView

TTAS = ("none", "flip", "multiscale")


class Maps(torch.nn.Module):
    """A network whose maps depend on the image; counts the images of its forward passes."""

    def __init__(self, height: float = 1.0) -> None:
        super().__init__()
        self.height, self.seen = height, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        small = torch.nn.functional.interpolate(images, (32, 24)).mean(1, keepdim=True)
        return self.height * small * torch.linspace(-1, 1, 17)[:, None, None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stored"


@pytest.fixture
def samples(crop_table: CropTable, crop_settings: CropSettings) -> TestSamples:
    return TestSamples(
        crop_table, crop_table.labelled(), 1.25, crop_settings.codec, (0.9, 1.0, 1.1)
    )


def run(folder: Path, samples: TestSamples, network: torch.nn.Module) -> PredictionsByView:
    return predict_resumable(
        folder, "evaluate: x", lambda: network, samples, 2, TTAS, torch.device("cpu"), "none",
        Blur(11), 0,
    )  # fmt: skip


def assert_equal(actual: PredictionsByView, expected: PredictionsByView) -> None:
    assert set(actual) == {(t, d) for t in TTAS for d in ("argmax", "dark")} == set(expected)
    for key, predictions in actual.items():
        for name, column in vars(predictions).items():
            np.testing.assert_array_equal(column, getattr(expected[key], name))


def test_stored_batches_are_read(folder: Path, samples: TestSamples) -> None:
    first, again, rest = Maps(), Maps(), Maps()
    expected = run(folder, samples, first)
    assert expected["flip", "dark"].rows.tolist() == samples.rows.tolist()
    assert first.seen == 5 * 2 * 3  # mirrored, three scales; both decoders from the same maps
    assert_equal(run(folder, samples, again), expected)
    assert again.seen == 0
    (folder / "00000002.npz").unlink()
    (folder / "00000004.npz.tmp").write_bytes(b"cut off")  # left by a kill while writing
    (folder / "00000004.npz").unlink()
    assert_equal(run(folder, samples, rest), expected)
    assert rest.seen == 3 * 2 * 3


def test_another_number_of_processes_can_resume(
    folder: Path, samples: TestSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes start, one resumes: only the batches of the other process are predicted."""
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather", lambda predictions: [predictions, {}])
    monkeypatch.setattr(
        "pose.analysis.predict_resumable.gather_predictions", lambda predictions, *_: predictions
    )
    run(folder, samples, Maps())
    assert sorted(p.stem for p in folder.iterdir()) == ["00000000", "00000004"]
    monkeypatch.undo()
    network = Maps()
    predictions = run(folder, samples, network)
    assert network.seen == 2 * 2 * 3
    assert_equal(predictions, run(folder / "new", samples, Maps()))


def test_without_samples_predictions_are_empty(
    folder: Path, crop_table: CropTable, crop_settings: CropSettings
) -> None:
    no_samples = TestSamples(crop_table, np.empty(0, np.intp), 1.25, crop_settings.codec)
    predictions = predict_resumable(
        folder, "x", Maps, no_samples, 2, ("flip",), torch.device("cpu"), "none", Blur(11), 0
    )
    assert predictions["flip", "dark"].keypoints.shape == (0, 17, 2)
    assert test_batches(0, 2, 0, 1) == []


def test_the_error_names_a_diverged_network(folder: Path, samples: TestSamples) -> None:
    with pytest.raises(PoseError, match=r"evaluate: x: the pose in row 0 of the cache is not"):
        run(folder, samples, Maps(float("nan")))
    assert not folder.exists()


def test_files_hold_no_pickle(folder: Path, samples: TestSamples) -> None:
    run(folder, samples, Maps())
    with np.load(folder / "00000000.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)
    assert load_predictions(folder / "00000000.npz").keys() == {
        (t, d) for t in TTAS for d in ("argmax", "dark")
    }
