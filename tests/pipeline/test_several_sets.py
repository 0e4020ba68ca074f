"""Two training sets of different keypoints and a further val, through the whole chain."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from own_keypoints_data import NAMES, save_mice, write_mice
from pipeline.project import STAGES, Project, assert_refused, new_project, ran
from pose.crop_table import CropTable, TrainingSet

RAT = ["Snout", "L ear", "R ear", "whisker", "tip"]
MAP = {"Snout": "nose", "L ear": "left_ear", "R ear": "right_ear", "tip": "tail_tip"}


@dataclass(frozen=True)
class Sets:
    """A project reproduced on mice and rats; `root` has both folders."""

    project: Project
    root: Path
    output: str


def write_rats(root: Path, split: str, count: int) -> None:
    raw = write_mice(root, split, count, unlabelled=1)
    raw["categories"][1] |= {"name": "rat", "keypoints": RAT, "skeleton": []}
    save_mice(root, split, raw)


def rats(root: Path, **values: Any) -> dict[str, Any]:
    return {"name": "rats", "root": str(root / "rats"), "category": "rat", "map": MAP, **values}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root = tmp_path_factory.mktemp("sets")
    write_mice(root / "mice", "train", 9, unlabelled=3)
    write_mice(root / "mice", "val", 4)
    write_rats(root / "rats", "train", 6)
    write_rats(root / "rats", "val", 3)
    project = new_project(tmp_path_factory.mktemp("several"))
    values = {"source": "local", "root": str(root / "mice"), "category": "mouse"}
    values |= {"train_split": "train", "val_split": "val", "shard_persons": 4}
    values |= {"also": [rats(root, weight=1.6)], "also_val": [rats(root)]}
    project.set(**{f"data.{key}": value for key, value in values.items()})
    return Sets(project, root, project.must("dvc", "repro"))


@pytest.fixture
def own(sets: Sets, tmp_path: Path) -> Project:
    return sets.project.copy(tmp_path)


def rows(project: Project, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((project.root / name).read_text().splitlines()))


def test_the_cache_has_both_sets(sets: Sets) -> None:
    assert sorted(ran(sets.output)) == sorted(STAGES)
    cache = sets.project.root / "data/cache"
    table = CropTable(cache / "train")
    assert table.sets == (TrainingSet("main", 1.0, 5), TrainingSet("rats", 1.6, 4))
    assert table.set_index.tolist() == [0] * 6 + [1] * 5
    labelled = (table.keypoints[list(range(11))][..., 2] > 0).sum(axis=0)
    assert labelled.tolist() == [11, 11, 11, 6, 11]
    assert not table.target[list(range(6, 11))][:, NAMES.index("tail_base")].any()
    assert len(CropTable(cache / "unlabelled")) == 3 + 1
    truth = json.loads((cache / "vals/rats.json").read_text())
    assert truth["keypoints"] == [0, 1, 2, 4]
    assert truth["truth"]["categories"][0]["keypoints"] == [NAMES[k] for k in (0, 1, 2, 4)]
    assert {len(one["keypoints"]) for one in truth["truth"]["annotations"]} == {12}
    assert len(CropTable(cache / "val")) == 4  # the main val alone


def test_coverage_has_a_column_for_each_set(sets: Sets) -> None:
    table = {
        row["keypoint"]: row for row in rows(sets.project, "metrics/build_cache/keypoints.csv")
    }
    base = table["tail_base"]
    assert (base["train_main"], base["train_rats"], base["train"]) == ("1.0", "0.0", "0.5455")
    page = (sets.project.root / "report/index.html").read_text()
    assert "train_rats" in page


def test_the_further_val_has_rows_and_a_metric(sets: Sets) -> None:
    table = rows(sets.project, "metrics/evaluate/ablation.csv")
    further = [row for row in table if row["val"]]
    assert [(row["val"], row["model"]) for row in further] == [
        ("rats", name) for name in ("phase1", "phase2", "ssl")
    ]
    metrics = sets.project.json("metrics/evaluate/metrics.json")
    assert metrics["AP_rats"] == pytest.approx(float(further[-1]["AP"]), abs=1e-6)
    results = sets.project.json("data/predictions/vals/rats-ssl.json")
    assert {len(one["keypoints"]) for one in results} == {12}
    final = [row for row in table if not row["val"] and row["model"] == "ssl"][-1]
    assert metrics["AP"] == pytest.approx(float(final["AP"]), abs=1e-6)
    assert "Further vals" in (sets.project.root / "report/index.html").read_text()


def test_without_further_sets_nothing_is_left_of_them(own: Project) -> None:
    path = own.root / "params.yaml"
    listed = r"(?m)^(  also(?:_val)?:).*\n(?:  - .*\n(?:    .*\n)*)+"
    text, count = re.subn(listed, r"\1\n", path.read_text())
    path.write_text(text)
    assert count == 2
    own.must("dvc", "repro", "build_cache")
    table = CropTable(own.root / "data/cache/train")
    assert (len(table), table.sets) == (6, ())
    assert not (own.root / "data/cache/vals").exists()
    assert not (own.root / "data/coco/further.json").exists()
    header = (own.root / "metrics/build_cache/keypoints.csv").read_text().splitlines()[0]
    assert header == "keypoint,train,train_in_crop,val"


def test_a_set_is_cached_alike_wherever_it_is_listed(own: Project, sets: Sets) -> None:
    write_rats(sets.root / "voles", "train", 4)
    voles = rats(sets.root) | {"name": "voles", "root": str(sets.root / "voles")}
    found = []
    for listed in ([rats(sets.root), voles], [voles, rats(sets.root)]):
        own.set(**{"data.also": listed})
        own.must_stage("build_cache")
        table = CropTable(own.root / "data/cache/train")
        names = [table.sets[index].name for index in table.set_index]
        targets = table.target[list(range(len(table)))]
        found.append({n: targets[[m == n for m in names]].tolist() for n in {*names}})
    assert found[0] == found[1]
    assert {name: len(part) for name, part in found[0].items()} == {
        "main": 6,
        "rats": 5,
        "voles": 3,
    }


def test_a_bad_record_of_a_set_is_its_own_matter(own: Project, sets: Sets) -> None:
    write_rats(sets.root / "bad", "train", 4)
    path = sets.root / "bad/annotations/person_keypoints_train.json"
    raw = json.loads(path.read_text())
    del raw["annotations"][1]["bbox"]
    path.write_text(json.dumps(raw))
    (sets.root / "bad/train/mouse 4.jpg").write_bytes(b"no image")
    bad = rats(sets.root) | {"name": "bad", "root": str(sets.root / "bad")}
    own.set(**{"data.also": [bad], "data.on_bad_record": "skip"})
    message = "repair them, or set data.also.0.on_bad_record: skip to skip them"
    for stage in ("download_coco", "build_cache"):
        done = own.stage(stage)
        assert done.returncode == 1
        assert "bad: person_keypoints_train.json: annotation 2 has no valid 'bbox'" in done.stderr
        assert message in done.stderr
    own.set(**{"data.also": [bad | {"on_bad_record": "skip"}], "data.on_bad_record": "stop"})
    own.must_stage("download_coco")
    own.must_stage("build_cache")
    table = CropTable(own.root / "data/cache/train")
    assert table.set_index.tolist() == [0] * 6 + [1]
    assert len(own.json("data/cache/quarantine.json")) == 2


def test_a_bad_image_of_a_training_set_stays_in_the_val_of_that_name(
    own: Project, sets: Sets
) -> None:
    """Both folders have a `mouse 2.jpg`."""
    root = sets.root / "uneven"
    write_rats(root, "train", 6)
    (root / "train/mouse 2.jpg").write_bytes(b"no image")
    bad = rats(sets.root) | {"root": str(root), "on_bad_record": "skip"}
    own.set(**{"data.also": [bad]})
    own.must_stage("download_coco")
    own.must_stage("build_cache")
    (record,) = own.json("data/cache/quarantine.json")
    assert (record["file"], record["record"]) == ("rats (also)", "mouse 2.jpg")
    assert len(own.json("data/cache/vals/rats.json")["truth"]["images"]) == 3


def test_shared_images_are_a_warning(own: Project, sets: Sets) -> None:
    leak = rats(sets.root) | {"name": "leak", "train_split": "val"}
    own.set(**{"data.also": [leak]})
    log = own.must_stage("download_coco")
    assert "3 of 3 images of rats are in leak too (same size and CRC-32)" in log
    assert "AP on rats is then of images" in own.must_stage("build_cache")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"snout": "nose"}, "data.also.0.map: 'snout' is no keypoint of the set"),
        ({"Snout": "nose", "tip": "nose"}, "data.also.0.map: 'Snout' and 'tip' are both mapped"),
        ({"L ear": "left_ear"}, "data.also.0.map: 'left_ear' is mapped to, its flip partner"),
    ],
)
def test_a_bad_map_is_one_line(
    own: Project, sets: Sets, names: dict[str, str], expected: str
) -> None:
    own.set(**{"data.also": [rats(sets.root) | {"map": names}]})
    done = own.stage("build_cache")
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]


def test_few_keypoints_cannot_train_with_many_asked_for(own: Project, sets: Sets) -> None:
    own.set(**{"augment.min_keypoints": 5})
    expected = "augment.min_keypoints = 5, but the training set rats has 4 of the keypoints"
    assert_refused(own.stage("train_phase1"), "train_phase1", expected, logged=1)
