"""Drawings of people: what is left out, and one colour per id."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pose.deploy.overlay import ID_COLOURS, draw_people, id_colour
from pose.deploy.people import People
from tiny_model import tiny_manifest

GREY = np.full((200, 160, 3), 128, np.uint8)


def people(*ids: int, x: float = 80.0, y: float = 100.0) -> People:
    """One person per id at the same place, with keypoints within 40 pixels of x, y."""
    spread = np.random.default_rng(0).uniform(-40, 40, (17, 2))
    keypoints = np.stack([np.array([x, y]) + spread] * len(ids))
    boxes, count = np.array([[x - 40, y - 40, 80.0, 80.0]] * len(ids)), len(ids)
    return People(boxes, np.ones(count), keypoints, np.ones((count, 17)), np.array(ids))


def share(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image.astype(int) - colour) < 12).all(axis=2).mean())


def test_ten_ids_in_a_row_have_different_colours() -> None:
    assert len({id_colour(n) for n in range(7, 17)}) == len(ID_COLOURS) == 10


def test_a_persons_colour_is_the_ids() -> None:
    manifest = tiny_manifest()
    for number in (1, 2):
        drawn = draw_people(GREY, manifest, people(number))
        assert share(drawn, id_colour(number)) > 0.005
        assert share(drawn, id_colour(3 - number)) == 0
    without = draw_people(GREY, manifest, replace(people(1), track_ids=None))
    assert share(without, id_colour(1)) == 0
    assert (without != GREY).any()


def test_the_first_person_is_on_top() -> None:
    drawn = draw_people(GREY, tiny_manifest(), people(1, 2))
    assert share(drawn, id_colour(1)) > 3 * share(drawn, id_colour(2))


@pytest.mark.parametrize(("x", "y"), [(5, 5), (155, 100), (80, 195), (155, 5)])
def test_a_number_at_the_edge_is_inside(x: float, y: float) -> None:
    """The number is drawn whole wherever the person is cut off."""
    drawn = draw_people(GREY, tiny_manifest(), people(8888, x=x, y=y))
    outlined = (drawn == (20, 20, 20)).all(axis=2)
    assert outlined.sum() > 20
    columns = np.flatnonzero(outlined.any(axis=0))
    assert columns[-1] - columns[0] > 20  # four digits


def test_keypoints_of_low_score_or_outside_are_not_drawn() -> None:
    hidden = replace(people(1), keypoint_scores=np.full((1, 17), 0.2))
    np.testing.assert_array_equal(draw_people(GREY, tiny_manifest(), hidden), GREY)
    np.testing.assert_array_equal(draw_people(GREY, tiny_manifest(), people(1, x=999)), GREY)
