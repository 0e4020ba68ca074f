"""The map of scores to probabilities: by hand, and fitted on other images than it is applied to."""

from __future__ import annotations

import numpy as np
import pytest

from pose.analysis import calibration
from pose.analysis.calibration import Calibration, cross_fit, fit_points


@pytest.fixture
def _bins_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BIN_KEYPOINTS", 2)


@pytest.mark.usefixtures("_bins_of_two")
def test_bins_that_fall_are_pooled() -> None:
    """Shares right of the bins: 0, 1, 1/2, 1; the second and third become one of 3/4."""
    scores = np.array([0.1, 0.3, 0.5, 0.5, 0.6, 0.8, 0.9, 1.1])
    right = np.array([0, 0, 1, 1, 0, 1, 1, 1], bool)
    order = np.array([5, 0, 7, 2, 4, 1, 6, 3])
    points = fit_points(scores[order], right[order])
    np.testing.assert_allclose(points, [[0.2, 0.6, 1.0], [0, 0.75, 1]])


@pytest.mark.usefixtures("_bins_of_two")
def test_pooling_goes_back_as_far_as_it_must() -> None:
    """Shares 1/2, 1, 0, 0: the third pulls the second below the first."""
    scores = np.arange(8) / 8
    right = np.array([0, 1, 1, 1, 0, 0, 0, 0], bool)
    found_scores, probabilities = fit_points(scores, right)
    assert found_scores.tolist() == [scores.mean()]
    assert probabilities.tolist() == [3 / 8]


def test_a_few_keypoints_are_one_point() -> None:
    scores, right = np.array([0.2, 0.4, 0.9]), np.array([False, True, True])
    assert [values.tolist() for values in fit_points(scores, right)] == [[0.5], [2 / 3]]


def test_equal_scores_are_one_point() -> None:
    scores, right = np.full(100, 0.5), np.arange(100) >= 40
    assert [values.tolist() for values in fit_points(scores, right)] == [[0.5], [0.6]]


def test_the_true_probability_is_found() -> None:
    """Keypoints that are right with the square of their score."""
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    points = fit_points(scores, rng.random(20_000) < scores**2)
    assert (np.diff(points) > 0).all()
    x = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.interp(x, *points), x**2, atol=0.05)


def test_outside_its_points_the_map_is_constant() -> None:
    found = Calibration("", True, 40, (0.2, 0.6), (0.5, 0.9))(np.array([[-1.0, 0.3, 5.0]]))
    np.testing.assert_allclose(found, [[0.5, 0.6, 0.9]])


def test_an_image_does_not_calibrate_itself() -> None:
    """Six images, two of them in one fold; the outcomes of image 10 change only other images."""
    rng = np.random.default_rng(1)
    scores, image_ids = rng.random(1200), np.repeat([10, 7, 3, 900, 15, 8], 200)
    right = rng.random(1200) < scores
    before = cross_fit(scores, right, image_ids)
    changed = right.copy()
    changed[image_ids == 10] = False
    after = cross_fit(scores, changed, image_ids)
    assert before is not None
    assert after is not None
    same = before == after
    assert same[image_ids == 10].all()
    assert not same[image_ids != 10].all()
    assert after.mean() < before.mean()


def test_a_single_image_has_no_other() -> None:
    assert cross_fit(np.array([0.5, 0.6]), np.array([True, False]), np.array([4, 4])) is None
    assert cross_fit(np.empty(0), np.empty(0, bool), np.empty(0, np.int64)) is None
