"""Ids and names of what predict.py writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pose.deploy.results import numeric_ids, overlay_paths


def test_names_of_overlays_are_distinct() -> None:
    paths = [Path(name) for name in ("x/a.jpg", "y/a.png", "y/a.avi", "y/a-2.png", "z/a.jpg")]
    found = overlay_paths(paths, Path("o"))
    names = ["a.jpg", "a-2.jpg", "a.mp4", "a-2-2.jpg", "a-3.jpg"]
    assert [path.name for path in found.values()] == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["000139.jpg", "7.png"], [139, 7]),
        (["7.jpg", "007.jpg"], []),
        (["7.jpg", "a.jpg"], []),
        (["7.jpg", "8.avi"], []),
        ([], []),
    ],
)
def test_ids_are_the_names_numbers_if_all_have_one(names: list[str], expected: list[int]) -> None:
    assert list(numeric_ids([Path(name) for name in names]).values()) == expected
