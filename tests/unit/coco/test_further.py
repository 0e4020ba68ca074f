"""Sets of data.also and data.also_val: read in the model's keypoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build_cache
from own_keypoints_data import save_mice, write_mice
from pose.coco.bad_records import BadRecord
from pose.coco.further import (
    Further,
    describe_map,
    map_keypoints,
    read_further,
    require_pairs,
    weight_of,
)
from pose.common.errors import PoseError
from pose.common.params import Data
from pose.common.skeleton import COCO_17, build_skeleton, names_of_parts
from sections import DEFAULT, changed

OURS = ["nose", "left_ear", "right_ear", "tail_tip", "chin"]
THEIRS = ["Snout", "L ear", "R ear", "whisker", "tip"]
MAP = {"Snout": "nose", "L ear": "left_ear", "R ear": "right_ear", "tip": "tail_tip"}
SKELETON = build_skeleton(OURS, (), None, None, None)


def data_with(root: Path, key: str = "also", /, **entry: Any) -> Data:
    entry = {"name": "rats", "root": str(root), "category": "rat", "map": MAP, **entry}
    return Data.model_validate_json(json.dumps(DEFAULT.data.model_dump() | {key: [entry]}))


@pytest.fixture
def rats(tmp_path: Path) -> Path:
    """Six images of a rat, the first without keypoints."""
    raw = write_mice(tmp_path, "train", 6, unlabelled=1)
    raw["categories"][1] |= {"name": "rat", "keypoints": THEIRS, "skeleton": []}
    save_mice(tmp_path, "train", raw)
    return tmp_path


def read(data: Data) -> Further:
    (further,) = read_further("train", data, OURS)
    return further


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(PoseError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------ reading


def test_keypoints_are_the_models(rats: Path) -> None:
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    further = read(data_with(rats))
    assert (further.key, further.covered) == ("data.also.0", [0, 1, 2, 3])
    annotations = further.split.annotations
    assert annotations.category.names == tuple(OURS)
    for person, one in zip(annotations.persons, raw["annotations"], strict=True):
        theirs = np.array(one["keypoints"], np.float32).reshape(-1, 3)
        assert np.array_equal(person.keypoints[:4], theirs[[0, 1, 2, 4]])
        assert not person.keypoints[4].any()
    assert [person.num_keypoints for person in annotations.persons] == [0, 4, 4, 4, 4, 4]
    found = [one["num_keypoints"] for one in annotations.annotations]
    assert found == [0, 4, 4, 4, 4, 4]
    assert [len(one["keypoints"]) for one in annotations.annotations] == [15] * 6
    assert describe_map(further, OURS) == (
        "has 4 of the 5 keypoints; unlabelled: chin; dropped: whisker"
    )


def test_without_a_map_equal_names_are_used(rats: Path) -> None:
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    raw["categories"][1]["keypoints"] = ["chin", "left_ear", "ear_a", "ear_b", "nose"]
    save_mice(rats, "train", raw)
    assert read(data_with(rats, map=None)).sources == (4, 1, None, None, 0)


def test_a_file_without_names_needs_them(rats: Path) -> None:
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    del raw["categories"][1]["keypoints"]
    save_mice(rats, "train", raw)
    assert "list them in params.yaml: data.also.0.names" in refusal(read, data_with(rats))
    assert read(data_with(rats, names=THEIRS)).covered == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        (
            {"category": "mouse"},
            ("rats: person_keypoints_train.json: 0 cat", "data.also.0.c"),
        ),
        ({"root": "nowhere"}, ("data.also.0.root",)),
        ({"train_split": "b"}, ("set data.also.0.root or data.also.0.train_annotations",)),
        ({"train_annotations": "b.json"}, ("data.also.0.train_annotations = 'b.json'",)),
    ],
)
def test_errors_name_the_keys_of_the_set(
    rats: Path, entry: dict[str, Any], parts: tuple[str, ...]
) -> None:
    message = refusal(read, data_with(rats, **entry))
    for part in parts:
        assert part in message


def test_areas_and_confidences_are_read_by_the_rules_of_the_set(rats: Path) -> None:
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    for one in raw["annotations"]:
        del one["area"]
        one["keypoints"][2::3] = [0.5] * 5
    save_mice(rats, "train", raw)
    bad = read(data_with(rats)).split.annotations.bad
    assert len(bad) == 6
    assert {record.file for record in bad} == {"rats: person_keypoints_train.json"}
    assert {record.advice for record in bad} == {"set data.also.0.area: box"}
    persons = read(data_with(rats, area="box", visibility_thr=0.4)).split.annotations.persons
    assert len(persons) == 6
    assert persons[0].area == pytest.approx(0.53 * np.prod(persons[0].bbox_xywh[2:]))


def test_warnings_name_the_keys_of_the_set(rats: Path) -> None:
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    for one in raw["annotations"]:
        one["area"] = 0
    save_mice(rats, "train", raw)
    (line,) = read(data_with(rats)).split.annotations.warnings
    assert line.startswith("rats: person_keypoints_train.json: area is 0 in 5 of 5 people")
    assert line.endswith("set data.also.0.area: box")


def test_a_val_is_read_by_its_own_keys(rats: Path) -> None:
    data = data_with(rats, "also_val", val_annotations="annotations/person_keypoints_train.json")
    (further,) = read_further("val", changed(data, val_fraction=0.2, source="local"), OURS)
    assert len(further.split.annotations.persons) == 6  # no part of it is held out
    assert further.split.files.split == "rats (also_val)"
    assert read_further("train", data, OURS) == []


def test_a_bad_image_is_that_of_one_of_two_sets_of_the_same_name(rats: Path) -> None:
    """data.also and data.also_val may both have `rats`, and both a file `mouse 2.jpg`."""
    train = read(data_with(rats)).split
    data = data_with(rats, "also_val", val_annotations="annotations/person_keypoints_train.json")
    (further,) = read_further("val", data, OURS)
    val, name = further.split.annotations, further.split.annotations.images[0]["file_name"]
    everyone = {image["id"] for image in val.images}
    bad = [BadRecord(train.files.split, name, "is damaged")]
    assert build_cache._usable_images(val, further.split.files, bad) == everyone
    bad = [BadRecord(further.split.files.split, name, "is damaged")]
    assert build_cache._usable_images(val, further.split.files, bad) < everyone


def test_a_set_is_not_named_as_a_part_of_the_model(rats: Path) -> None:
    """AP_foot would be two metrics."""
    names = names_of_parts(["body", "foot"])
    for name in ("foot", "wholebody"):
        found = refusal(read_further, "train", data_with(rats, name=name), names)
        assert found.startswith(
            f"params.yaml: data.also.0.name = {name!r}: AP_{name} is the metric"
        )
    assert read(data_with(rats, name="foot")).entry.name == "foot"


def test_weights() -> None:
    entries = [data_with(Path(), weight=w).also[0] for w in (None, 0.5, 2)]
    assert [weight_of(entry) for entry in entries] == [1.0, 0.5, 2.0]


# --------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"snout": "nose"}, "x.map: 'snout' is no keypoint of the set; there are: Snout, L ear"),
        ({"Snout": "nase"}, "x.map: 'nase' is no keypoint of the model; there are: nose, left_ear"),
        (None, "x.map is null, but the set has no keypoint of the model's names; map some"),
    ],
)
def test_bad_names(names: dict[str, str] | None, expected: str) -> None:
    assert f"params.yaml: {expected}" in refusal(map_keypoints, THEIRS, OURS, names, "x")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            {"Snout": "nose", "L ear": "left_ear"},
            "'left_ear' is mapped to, its flip partner 'right_ear' is not; map both",
        ),
        (
            {"L ear": "right_ear", "R ear": "left_ear"},
            "'R ear' -> 'left_ear', 'L ear' -> 'right_ear': the former are not left and right",
        ),
        (
            {"Snout": "left_ear", "whisker": "right_ear"},
            "'Snout' -> 'left_ear', 'whisker' -> 'right_ear': the former are not",
        ),
        ({"L ear": "nose"}, "'L ear' has a side, 'nose' has no flip partner"),
    ],
)
def test_a_map_that_breaks_a_pair(rats: Path, names: dict[str, str], expected: str) -> None:
    further = read(data_with(rats, map=names))
    message = refusal(require_pairs, further, SKELETON)
    assert message.startswith("params.yaml: data.also.0.map: ")
    assert expected in message


@pytest.mark.parametrize("names", [MAP, {"Snout": "nose"}, {"tip": "nose", "whisker": "chin"}])
def test_a_map_that_keeps_the_pairs(rats: Path, names: dict[str, str]) -> None:
    require_pairs(read(data_with(rats, map=names)), SKELETON)


def test_sides_are_not_asked_of_names_without_them(rats: Path) -> None:
    """kp1 to kp5 show no side, so only whole pairs are."""
    raw = json.loads((rats / "annotations/person_keypoints_train.json").read_text())
    raw["categories"][1]["keypoints"] = [f"kp{k}" for k in range(5)]
    save_mice(rats, "train", raw)
    require_pairs(read(data_with(rats, map={"kp0": "left_ear", "kp3": "right_ear"})), SKELETON)
    half = read(data_with(rats, map={"kp0": "left_ear"}))
    assert "flip partner 'right_ear' is not" in refusal(require_pairs, half, SKELETON)


def test_the_documented_map_of_ai_challenger() -> None:
    """The indices are those of mmpose's KeypointConverter for this set."""
    from ruamel.yaml import YAML

    root = Path(__file__).resolve().parents[3] / "recipes"
    yaml = YAML(typ="safe", pure=True)
    recipe = yaml.load(root / "vitpose_b_coco_aic_mpii.yaml")["data"]["also"]
    aic = yaml.load(root / "keypoints/aic.yaml")["keypoints"]["names"]
    mpii = yaml.load(root / "keypoints/mpii.yaml")["keypoints"]["names"]
    found = map_keypoints(aic, COCO_17.names, recipe[0]["map"], "x")
    assert found == (None,) * 5 + (3, 0, 4, 1, 5, 2, 9, 6, 10, 7, 11, 8)
    found = map_keypoints(mpii, COCO_17.names, recipe[1].get("map"), "x")
    assert found == (None,) * 5 + (13, 12, 14, 11, 15, 10, 3, 2, 4, 1, 5, 0)
