"""The categories to train on: the file and params must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pose.coco.category import Category, read_category
from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17, names_of_parts

MOUSE = {"id": 7, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
OTHER = {"id": 1, "name": "cage"}


RAT = {**MOUSE, "id": 3, "name": "rat"}


def read(
    categories: list[Any], names: Any = None, wanted: str | Sequence[str] = "mouse"
) -> Category:
    return read_category(categories, wanted, names, "x.json")


def test_category_of_a_file() -> None:
    found = read([OTHER, MOUSE])
    assert (found.id, found.names, found.limbs) == (7, ("nose", "tail"), ((0, 1),))
    assert found.entry is MOUSE
    assert (found.ids, found.notes) == ({7}, ())
    assert read([OTHER, MOUSE], ("nose", "tail")) == found
    assert read([{**MOUSE, "skeleton": None}]).limbs == ()


@pytest.mark.parametrize("absent", [{}, {"keypoints": []}, {"keypoints": None}])
def test_names_come_from_params_if_the_file_has_none(absent: dict[str, Any]) -> None:
    bare = {"id": 7, "name": "mouse", **absent}
    assert read([bare], ("a", "b", "c")).names == ("a", "b", "c")
    with pytest.raises(PoseError, match=r"^x.json: category 'mouse' has no 'keypoints'; add"):
        read([bare])


def test_of_one_name_the_category_with_keypoints_is_meant() -> None:
    project = {"id": 0, "name": "mouse", "supercategory": "none"}
    assert read_category([project, MOUSE], "mouse", None, "a.json").id == MOUSE["id"]


def test_names_are_trimmed() -> None:
    found = read([{**MOUSE, "name": " mouse", "keypoints": ["nose ", " tail"]}], ("nose", "tail "))
    assert found.names == ("nose", "tail")
    assert read([MOUSE], wanted=" mouse ").id == 7


def test_one_hand_is_no_part_to_be_joined() -> None:
    person = {"id": 1, "name": "person", "keypoints": [*COCO_17.names]}
    names = names_of_parts(("body", "lefthand"))
    with pytest.raises(PoseError, match=r"keypoints\.names 38; missing: left_hand_root"):
        read([person], names, "person")


@pytest.mark.parametrize(
    ("wanted", "ids", "name"),
    [
        (["mouse", "rat"], [7, 3], "mouse, rat"),
        (["rat", "mouse"], [3, 7], "rat, mouse"),
        (["rat"], [3], "rat"),
        (["rat", "rat"], [3], "rat"),
        ("all", [7, 3], "mouse, rat"),
    ],
)
def test_several_categories_are_one(wanted: Any, ids: list[int], name: str) -> None:
    found = read([OTHER, MOUSE, RAT], wanted=wanted)
    assert found.id == found.entry["id"] == ids[0]
    assert found.ids == {*ids}
    assert found.entry["name"] == name
    assert (found.names, found.limbs) == (("nose", "tail"), ((0, 1),))
    others = {1: "cage", 7: "mouse", 3: "rat"}
    assert found.others == {k: others[k] for k in others if k not in ids}


def test_all_are_those_with_keypoints() -> None:
    root = {"id": 0, "name": "animals", "supercategory": "none", "keypoints": []}
    nameless = {"id": 4, "keypoints": ["nose", "tail"]}
    found = read([root, MOUSE, nameless], wanted="all")
    assert (found.id, found.ids, found.entry["name"]) == (7, {7, 4}, "mouse, None")
    assert found.others == {0: "animals"}
    bare = [root, {"id": 1, "name": "b"}]
    assert read(bare, ("a",), "all").ids == {0, 1}
    assert read([OTHER, {**MOUSE, "name": "all"}, RAT], wanted="all").ids == {7}


def test_many_categories_have_a_short_name() -> None:
    species = [{**MOUSE, "id": k, "name": f"s{k}"} for k in range(54)]
    found = read(species, wanted="all")
    assert len(found.ids) == 54
    assert found.entry["name"].endswith("s19 ... (54 in all)")


def test_limbs_of_the_first_category_that_has_some() -> None:
    assert read([{**MOUSE, "skeleton": []}, RAT], wanted="all").limbs == ((0, 1),)


def test_notes_name_file_and_category() -> None:
    found = read([{**MOUSE, "skeleton": [[0, 1], [1, 3]]}])
    assert found.limbs == ()
    assert found.notes == (
        "x.json: category mouse: left out 2 of 2 limbs, which are not two of its 2 keypoints; "
        "first: [0, 1]",
    )
    assert read([{**MOUSE, "skeleton": [[0, 1]]}]).notes == (
        "x.json: category mouse: limbs contain keypoint 0 and are read as counted from 0",
    )


@pytest.mark.parametrize(
    ("categories", "names", "expected"),
    [
        ([], None, "0 categories are named 'mouse', .*; there are: none; set data.category"),
        ([OTHER, "x"], None, "0 categories are named 'mouse', .*; there are: cage; set data.cat"),
        ([MOUSE, {**MOUSE}], None, "2 categories are named 'mouse', expected one"),
        ([{**MOUSE, "name": "Mouse"}], None, "there are: Mouse; set data.category to a name, a li"),
        ([{**MOUSE, "name": None}], None, "there are: None; set data.category to .*, or all"),
        ([{**MOUSE, "id": "7"}], None, "category mouse has id '7', expected an integer"),
        ([{**MOUSE, "id": True}], None, "category mouse has id True, expected an integer"),
        ([MOUSE, {**OTHER, "id": 7}], None, "categories mouse and cage have the same id 7; give"),
        ([{**MOUSE, "keypoints": {}}], None, r"has 'keypoints' {}, expected a list of names"),
        ([{**MOUSE, "keypoints": 5}], None, "has 'keypoints' 5, expected a list of names"),
        (
            [{**MOUSE, "keypoints": ["a", 1]}],
            None,
            "has 'keypoints' with a name that is not printable text",
        ),
        ([{**MOUSE, "keypoints": ["a", "b", "a"]}], None, "'keypoints' with a more than once"),
        ([{"id": 7, "name": "mouse"}], ("a", "a"), "'keypoints' with a more than once"),
        ([MOUSE], ("nose",), "has 2 keypoints, keypoints.names 1; unexpected: tail; make"),
        ([MOUSE], ("nose", "ear"), "missing: ear; unexpected: tail; make them equal"),
        ([MOUSE], ("tail", "nose"), "the order differs: nose, tail; make them equal"),
    ],
)
def test_mistakes(categories: list[Any], names: Any, expected: str) -> None:
    with pytest.raises(PoseError, match=expected) as caught:
        read(categories, names)
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "categories", "expected"),
    [
        ("all", [], "'categories' is empty"),
        ("all", [OTHER], "category 'cage' has no 'keypoints'; add their names there"),
        (
            "all",
            [MOUSE, RAT, {**RAT, "id": 9, "name": "bat", "keypoints": ["nose", "wing"]}],
            "other 'keypoints' than those of category mouse have: bat; list categories with equal",
        ),
        (
            ["mouse", "rat", "bat"],
            [
                MOUSE,
                {**RAT, "keypoints": ["tail", "nose"]},
                {**RAT, "id": 9, "name": "bat", "keypoints": ["nose"]},
            ],
            "of category mouse have: rat, bat; list",
        ),
        (["mouse", "cat"], [MOUSE, RAT], "0 categories are named 'cat', .*there are: mouse, rat;"),
        (["mouse", "cage"], [MOUSE, OTHER], "category 'cage' has no 'keypoints'"),
        ("all", [MOUSE, {**RAT, "id": 7}], "categories mouse and rat have the same id 7"),
        ("all", [MOUSE, {**RAT, "id": None}], "category rat has id None, expected an integer"),
    ],
)
def test_mistakes_with_several(wanted: Any, categories: list[Any], expected: str) -> None:
    with pytest.raises(PoseError, match=expected) as caught:
        read(categories, wanted=wanted)
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


ENTRIES = st.fixed_dictionaries(
    {"id": st.integers(0, 3), "name": st.sampled_from(["a", "b", " a", "all", None])},
    optional={"keypoints": st.sampled_from([[], None, ["n", "t"], ["n ", "t"], ["t", "n"]])},
)
WANTED = st.sampled_from(["a", "b", "all", ["a", "b"], ["b"]])


@given(st.lists(ENTRIES, max_size=4), WANTED, st.sampled_from([None, ("n", "t")]))
def test_a_selection_has_one_list_of_keypoints_and_clear_ids(
    categories: list[Any], wanted: Any, names: Any
) -> None:
    """What is not refused: each wanted name once, ids of one entry each, equal keypoint names."""
    try:
        found = read(categories, names, wanted)
    except PoseError:
        return
    chosen = [entry for entry in categories if entry["id"] in found.ids]
    assert len(chosen) == len(found.ids)
    for entry in chosen:
        listed = [name.strip() for name in entry.get("keypoints") or names]
        assert tuple(listed) == found.names == ("n", "t") or found.names == ("t", "n") != names
    trimmed = [str(entry["name"]).strip() for entry in chosen]
    if wanted != "all":
        assert sorted(trimmed) == sorted([wanted] if isinstance(wanted, str) else wanted)
    elif "all" not in [entry["name"] for entry in categories]:
        rest = [entry for entry in categories if entry["id"] not in found.ids]
        assert not any(entry.get("keypoints") for entry in rest)
    assert found.others.keys() == {entry["id"] for entry in categories} - found.ids
