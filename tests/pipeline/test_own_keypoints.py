"""A set of five keypoints through the whole chain, by params alone, and what stops it."""

from __future__ import annotations

import base64
import copy
import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from own_keypoints_data import NAMES, save_mice, write_mice
from pipeline.project import STAGES, Project, assert_refused, new_project, ran
from pose.crop_table import CropTable

MADE = ("data/cache", "models", "metrics")
Raw = dict[str, Any]


@dataclass(frozen=True)
class Mice:
    """A project reproduced on mice, their folder, and the content of train's json."""

    project: Project
    root: Path
    train: Raw
    output: str


@pytest.fixture(scope="module")
def mice(tmp_path_factory: pytest.TempPathFactory) -> Mice:
    root = tmp_path_factory.mktemp("mice")
    train = write_mice(root, "train", 12, unlabelled=4)
    write_mice(root, "val", 5)
    project = new_project(tmp_path_factory.mktemp("own"))
    values = {"source": "local", "root": str(root), "category": "mouse"}
    values |= {"train_split": "train", "val_split": "val"}
    project.set(**{f"data.{key}": value for key, value in values.items()})
    return Mice(project, root, train, project.must("dvc", "repro"))


@pytest.fixture
def own(mice: Mice, tmp_path: Path) -> Project:
    """A copy to change; its data.root holds the mice still."""
    return mice.project.copy(tmp_path)


def use(project: Project, mice: Mice, folder: Path, train: Raw) -> None:
    """The same images with another json of train."""
    shutil.copytree(mice.root, folder / "mice")
    save_mice(folder / "mice", "train", train)
    project.set(**{"data.root": str(folder / "mice")})


def use_both(project: Project, mice: Mice, folder: Path, change: Callable[[Raw], None]) -> None:
    """The same images with both jsons changed."""
    shutil.copytree(mice.root, folder / "mice")
    for split in ("train", "val"):
        raw = json.loads((mice.root / f"annotations/person_keypoints_{split}.json").read_text())
        change(raw)
        save_mice(folder / "mice", split, raw)
    project.set(**{"data.root": str(folder / "mice")})


def rows(project: Project, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((project.root / name).read_text().splitlines()))


def test_the_whole_chain(mice: Mice) -> None:
    assert sorted(ran(mice.output)) == sorted(STAGES)
    found = mice.project.json("data/cache/skeleton.json")
    assert found == {
        "names": NAMES,
        "flip_pairs": [[1, 2]],
        "upper_body": [],
        "lower_body": [],
        "limbs": [[0, 1], [0, 2], [0, 3], [3, 4]],
    }
    for split, count in (("train", 8), ("unlabelled", 4), ("val", 5)):
        table = CropTable(mice.project.root / "data/cache" / split)
        assert table.keypoints.shape == table.target.shape == (count, 5, 3)


@pytest.mark.parametrize("phase", ["phase1", "phase2", "ssl"])
def test_training_has_something_to_learn(mice: Mice, phase: str) -> None:
    curves = pd.read_csv(mice.project.root / f"metrics/train_{phase}/curves.csv")
    losses = curves["loss"].dropna().tolist()
    assert losses
    assert min(losses) > 1e-5
    with safe_open(mice.project.root / f"models/{phase}.safetensors", "pt") as stream:
        assert stream.get_slice("head.final_layer.weight").get_shape()[0] == 5


def test_evaluation_is_of_these_keypoints(mice: Mice) -> None:
    results = mice.project.json("data/predictions/ssl.json")
    assert results
    assert {one["category_id"] for one in results} == {7}
    assert {len(one["keypoints"]) for one in results} == {15}
    table = rows(mice.project, "metrics/evaluate/keypoints.csv")
    assert [row["keypoint"] for row in table] == NAMES
    assert [row["labelled"] for row in table] == ["5"] * 5
    assert 0 <= mice.project.json("metrics/evaluate/metrics.json")["AP"] <= 1


def test_the_report_shows_the_names(mice: Mice) -> None:
    page = (mice.project.root / "report/index.html").read_text()
    charts = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    bars = "".join(base64.b64decode(chart).decode() for chart in charts)
    for name in NAMES:
        assert f"{name}</th><td>1.000</td><td>1.000</td><td>1.000</td>" in page
        assert f">{name}</text>" in bars
    assert "left_eye" not in page


def test_other_sigmas_change_ap_alone(own: Project) -> None:
    """Looser ones raise AP and val_AP; the cache is made again and is the same."""
    made = own.content("data/cache")
    before = own.json("metrics/evaluate/metrics.json")["AP"]
    own.set(**{"keypoints.oks_sigmas": [2.0] * 5})
    assert ran(own.must("dvc", "repro")) == [*STAGES[2:]]
    assert own.content("data/cache") == made
    assert own.json("metrics/evaluate/metrics.json")["AP"] > max(before, 0.5)


def test_half_bodies_need_names(own: Project) -> None:
    own.set(**{"augment.half_body_prob": 1.0})
    expected = "keypoints.upper_body and keypoints.lower_body, or set augment.half_body_prob: 0"
    assert_refused(own.stage("train_phase1"), "train_phase1", expected, logged=1)


def test_a_head_of_coco_is_refused(own: Project) -> None:
    state = load_file(own.root / "models/phase1.safetensors")
    for kind in ("weight", "bias"):
        own_maps = state[f"head.final_layer.{kind}"]
        state[f"head.final_layer.{kind}"] = own_maps[[0] * 17].contiguous()
    save_file(state, own.root.parent / "coco.safetensors")
    head = str(own.root.parent / "coco.safetensors")
    own.set(**{"weights.source": "file", "weights.file": head, "weights.head": "keep"})
    own.must_stage("fetch_weights")
    expected = "its head has 17 maps, the keypoints here need 5"
    assert_refused(own.stage("train_phase1"), "train_phase1", expected)
    own.set(**{"keypoints.names": NAMES})
    assert_refused(own.stage("fetch_weights"), "fetch_weights", head, expected)


# ---------------------------------------------------------------------------------- bad input


def unlabelled(raw: Raw) -> None:
    for one in raw["annotations"]:
        one["keypoints"] = [0] * 15


def shares_of_the_image(raw: Raw) -> None:
    for one in raw["annotations"]:
        one["keypoints"] = [v if i % 3 == 2 else v / 160 for i, v in enumerate(one["keypoints"])]


def nameless(raw: Raw) -> None:
    del raw["categories"][1]["keypoints"]


@pytest.mark.parametrize(
    ("spoil", "logged", "expected"),
    [
        (unlabelled, 1, "person_keypoints_train.json: no person has a labelled keypoint"),
        (shares_of_the_image, 2, "40 keypoints are labelled, but none lies in its person's crop"),
        (nameless, 0, "category 'mouse' has no 'keypoints'; add their names there, or list them"),
    ],
)
def test_bad_annotations(
    mice: Mice,
    own: Project,
    tmp_path: Path,
    spoil: Callable[[Raw], None],
    logged: int,
    expected: str,
) -> None:
    raw = copy.deepcopy(mice.train)
    spoil(raw)
    use(own, mice, tmp_path, raw)
    before = own.content(*MADE)
    assert_refused(own.stage("build_cache"), "build_cache", expected, logged=logged)
    assert own.content(*MADE) == before


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"data.category": "rat"}, "0 categories are named 'rat'"),
        ({"keypoints.skeleton": [["nose", "leg"]]}, "keypoints.skeleton: 'leg' is not a keypoint"),
        ({"keypoints.oks_sigmas": [0.1] * 4}, "keypoints.oks_sigmas has 4 numbers, expected 5"),
    ],
)
def test_bad_params(own: Project, values: dict[str, Any], expected: str) -> None:
    own.set(**values)
    before = own.content(*MADE)
    assert_refused(own.stage("build_cache"), "build_cache", expected)
    assert own.content(*MADE) == before


def test_a_joint_that_is_never_labelled_is_named(mice: Mice, own: Project, tmp_path: Path) -> None:
    raw = copy.deepcopy(mice.train)
    for one in raw["annotations"]:
        one["keypoints"][12:] = [0, 0, 0]
    raw["annotations"][-1]["keypoints"][:3] = [0, 0, 0]
    use(own, mice, tmp_path, raw)
    log = own.must_stage("build_cache")
    assert log.count("cannot be learnt: tail_tip\n") == 1
    table = {row["keypoint"]: row for row in rows(own, "metrics/build_cache/keypoints.csv")}
    assert (table["nose"]["train"], table["tail_tip"]["train"]) == ("0.875", "0.0")
    assert table["tail_tip"]["val"] == "1.0"


# --------------------------------------------------------------------- sides, categories, limbs


def one_side(raw: Raw) -> None:
    raw["categories"][1]["keypoints"] = ["nose", "LeftEar", "RigthEar", "tail_base", "tail_tip"]


def no_sides(raw: Raw) -> None:
    raw["categories"][1]["keypoints"] = ["nose", "ear_a", "ear_b", "tail_base", "tail_tip"]


def two_species(raw: Raw) -> None:
    """The last mouse is a rat; some annotations are of cages; a limb has no end."""
    cage, mouse = raw["categories"]
    mouse["skeleton"] = [[1, 2], [4, 6]]
    raw["categories"] = [cage, {**mouse, "id": 9, "name": "rat"}, mouse]
    raw["annotations"][-1]["category_id"] = 9
    raw["annotations"] += [{"id": 90 + k, "category_id": cage["id"]} for k in range(3)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (one_side, "LeftEar has no single partner of the other side; set the pairs as [[left, "),
        (no_sides, "no side was found in the 5 names (nose, ear_a, ear_b, tail_base, tail_tip)"),
    ],
)
def test_sides_that_are_not_clear_need_pairs(
    mice: Mice, own: Project, tmp_path: Path, change: Callable[[Raw], None], expected: str
) -> None:
    use_both(own, mice, tmp_path, change)
    assert_refused(own.stage("build_cache"), "build_cache", expected)
    own.set(**{"keypoints.flip_pairs": []})
    assert "build_cache: 0 flip pairs; 5 unpaired: nose, " in own.must_stage("build_cache")
    own.set(**{"keypoints.flip_pairs": [["tail_tip", "nose"]]})
    log = own.must_stage("build_cache")
    assert "build_cache: 1 flip pair: tail_tip - nose; 3 unpaired: " in log
    assert own.json("data/cache/skeleton.json")["flip_pairs"] == [[4, 0]]


def test_several_categories_are_trained_as_one(mice: Mice, own: Project, tmp_path: Path) -> None:
    use_both(own, mice, tmp_path, two_species)
    log = own.must_stage("build_cache")
    assert (
        "person_keypoints_val.json: left out 4 annotations of other categories: rat 1, cage 3"
        in log
    )
    assert "left out 1 of 2 limbs, which are not two of its 5 keypoints; first: [4, 6]" in log
    assert len(CropTable(own.root / "data/cache/val")) == 4
    own.set(**{"data.category": "all", "keypoints.skeleton": [["nose", "tail_tip"]]})
    log = own.must_stage("build_cache")
    assert "person_keypoints_val.json: left out 3 annotations of other categories: cage 3" in log
    assert "limbs" not in log
    assert own.json("data/cache/skeleton.json")["limbs"] == [[0, 4]]
    truth = own.json("data/cache/ground_truth.json")
    assert [(one["id"], one["name"]) for one in truth["categories"]] == [(9, "rat, mouse")]
    assert [one["category_id"] for one in truth["annotations"]] == [9] * 5
    ids = own.json("data/cache/category_ids.json")
    assert (len(ids), 9 in ids) == (2, True)
    assert len(CropTable(own.root / "data/cache/val")) == 5
