"""Val as a share of the images of one file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pose.coco.annotations import Annotations, Person
from pose.coco.bad_records import BadRecord
from pose.coco.category import Category
from pose.coco.holdout import hold_out, require_both_sides
from pose.common.errors import PoseError


def whole(*names: str) -> Annotations:
    """An annotation file of one person per image."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    persons = [
        Person(i, i, name, (9, 9), (0, 0, 5, 5), 9.0, 1, np.ones((1, 3), np.float32))
        for i, name in enumerate(names)
    ]
    annotations = [{"id": i, "image_id": i} for i in range(len(names))]
    bad = [BadRecord("a.json", "annotation 9", "is bad")]
    category = Category(1, ("nose",), (), {"id": 1}, frozenset({1}))
    return Annotations("a.json", images, annotations, category, persons, bad, outside=2)


def names_of(part: Annotations) -> set[str]:
    """File names, after a check that images, annotations and persons are of the same ones."""
    ids = {image["id"] for image in part.images}
    assert {one["image_id"] for one in part.annotations} == ids
    assert {person.image_id for person in part.persons} == ids
    return {image["file_name"] for image in part.images}


def frames(videos: int, each: int) -> list[str]:
    return [f"video{v}/frame_{k:05d}.jpg" for v in range(videos) for k in range(each)]


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_the_share_is_about_right_and_the_sides_are_disjoint(fraction: float) -> None:
    names = [f"{i:05d}.jpg" for i in range(2000)]
    train, val = hold_out(whole(*names), fraction, None)
    assert names_of(train) | names_of(val) == set(names)
    assert not names_of(train) & names_of(val)
    assert abs(len(val.images) / 2000 - fraction) < 0.03  # nearly three standard deviations


def test_both_sides_have_people() -> None:
    train, val = hold_out(whole(*(f"{i}.png" for i in range(9))), 0.5, None)
    nobody = replace(whole(), persons=[])
    require_both_sides(train, val)
    require_both_sides(nobody, nobody)  # is another mistake
    for sides, kind in (((train, nobody), "held-out"), ((nobody, val), "other")):
        with pytest.raises(PoseError) as caught:
            require_both_sides(*sides)
        assert str(caught.value) == (
            f"a.json: no person in the 0 {kind} images; change data.val_fraction"
        )


def test_images_added_later_move_no_other() -> None:
    names = [f"{i}.png" for i in range(60)]
    _, before = hold_out(whole(*names), 0.3, None)
    more = [f"new {i}.png" for i in range(40)]
    _, after = hold_out(whole(*more, *reversed(names)), 0.3, None)
    assert names_of(after) & {*names} == names_of(before)
    _, fewer = hold_out(whole(*names), 0.1, None)
    assert names_of(fewer) < names_of(before)


@pytest.mark.parametrize("group_by", [r"^video\d+", r"^(video\d+)/frame_\d+", r"^[^/]+/"])
def test_frames_of_one_video_stay_together(group_by: str) -> None:
    train, val = hold_out(whole(*frames(20, 7)), 0.3, group_by)
    videos = [{name.split("/")[0] for name in names_of(part)} for part in (train, val)]
    assert not videos[0] & videos[1]
    assert len(videos[0] | videos[1]) == 20
    for part, count in zip((train, val), videos, strict=True):
        assert len(part.images) == 7 * len(count)


def test_without_groups_videos_are_divided() -> None:
    train, val = hold_out(whole(*frames(3, 30)), 0.5, None)
    assert {name[:6] for name in names_of(train)} == {name[:6] for name in names_of(val)}


def test_a_name_listed_twice_is_on_one_side() -> None:
    for i in range(20):
        train, val = hold_out(whole("a.jpg", "b.jpg", *[f"{i}.jpg"] * 9, "c.jpg"), 0.5, None)
        assert not names_of(train) & names_of(val)


def test_bad_records_and_people_outside_are_counted_once() -> None:
    source = whole(*frames(2, 30))
    train, val = hold_out(source, 0.5, None)
    assert (train.bad, val.bad) == (source.bad, [])
    assert train.outside + val.outside == source.outside


def test_names_that_do_not_match() -> None:
    odd = [*frames(2, 3), "cover.jpg", "still.jpg"]
    with pytest.raises(PoseError) as caught:
        hold_out(whole(*odd), 0.5, r"^(video\d+)/")
    assert str(caught.value) == (
        "params.yaml: data.group_by = '^(video\\\\d+)/' does not match 2 of 8 file_names of "
        "a.json: cover.jpg, still.jpg; correct it"
    )


def test_a_group_that_takes_no_part_in_the_match() -> None:
    with pytest.raises(PoseError, match=r"does not match 1 of 2 file_names of a\.json: b\.jpg;"):
        hold_out(whole("clip1/a.jpg", "b.jpg"), 0.5, r"^(clip\d+/)?\w+")


@pytest.mark.parametrize(("fraction", "side"), [(1e-6, "val"), (1 - 1e-9, "train")])
def test_an_empty_side_names_values_that_divide(fraction: float, side: str) -> None:
    source = whole("a.jpg", "b.jpg", "c.jpg")
    with pytest.raises(PoseError, match=f"none is {side}; values from") as caught:
        hold_out(source, fraction, None)
    least, most = str(caught.value).split("values from ")[1].split(" divide")[0].split(" to ")
    for value in (least, most):
        train, val = hold_out(source, float(value), None)
        assert train.images
        assert val.images


@pytest.mark.parametrize("names", [[], ["a.jpg"], frames(1, 9)])
def test_one_group_cannot_be_divided(names: list[str]) -> None:
    with pytest.raises(PoseError, match=r"group\(s\) of images; add images or set"):
        hold_out(whole(*names), 0.5, "video" if len(names) > 1 else None)


def test_the_split_is_always_the_same() -> None:
    """A change of the hash would move images between train and val of people's sets."""
    _, val = hold_out(whole(*(f"{i}.jpg" for i in range(12))), 0.4, None)
    assert names_of(val) == FIXED
    moved = replace(whole(*(f"{i}.jpg" for i in range(12))), name="another.json")
    assert names_of(hold_out(moved, 0.4, None)[1]) == FIXED


FIXED = {"0.jpg", "1.jpg", "5.jpg"}
