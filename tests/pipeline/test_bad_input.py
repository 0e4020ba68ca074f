"""A person's mistake ends a stage with 1 and a line that says what, where and what next.

What earlier runs made stays as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.project import Finished, Project, assert_refused
from tiny_coco import SPLIT, TinyCoco

MADE = ("data/coco", "data/cache", "data/weights", "metrics")


@pytest.fixture
def unharmed(project: Project) -> Iterator[Project]:
    """A project whose earlier results have to be there after the test."""
    before = project.content(*MADE)
    yield project
    assert project.content(*MADE) == before


@pytest.fixture
def local_coco(tiny_coco: TinyCoco) -> TinyCoco:
    """tiny_coco as val2017, to be spoilt, beside a train2017 that is sound."""
    shutil.copytree(tiny_coco.root / SPLIT, tiny_coco.root / "train2017")
    train = tiny_coco.json_path.with_name("person_keypoints_train2017.json")
    shutil.copy(tiny_coco.json_path, train)
    return tiny_coco


def use_local(project: Project, root: Path, **others: str) -> None:
    values = {"source": "local", "root": str(root), **others}
    project.set(**{f"data.{key}": value for key, value in values.items()})


def assert_listed(done: Finished, *lines: str) -> None:
    """It ended with 1 and, behind its log, named these bad records and then their number."""
    assert done.returncode == 1, done.stdout + done.stderr
    *listed, summary = done.stderr.splitlines()[-len(lines) - 1 :]
    assert [listed[0].removeprefix("build_cache: "), *listed[1:]] == list(lines)
    assert summary.startswith(f"{len(lines)} bad records; repair them, or set data.on_bad_record")


# ---------------------------------------------------------------------------------- params.yaml


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("\n  lr: ", "\n  lrr: 1\n  lr: ", "params.yaml: train.lrr = 1 is not a known key"),
        ("\n  batch_size: 2", "\n  batch_size: two", 'train.batch_size = "two", expected: '),
        ("\n  seed: 0", "\n  seed: [0", "params.yaml: not valid YAML: "),
    ],
    ids=["unknown key", "wrong type", "no YAML"],
)
def test_bad_params(unharmed: Project, old: str, new: str, expected: str) -> None:
    params = unharmed.root / "params.yaml"
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new, 1))
    assert_refused(unharmed.stage("download_coco"), "download_coco", expected)


# ---------------------------------------------------------------------------------- local COCO


def cut_annotations(coco: TinyCoco) -> None:
    coco.json_path.write_bytes(coco.json_path.read_bytes()[:-200])


def lose_annotations(coco: TinyCoco) -> None:
    coco.json_path.unlink()


def lose_root(coco: TinyCoco) -> None:
    shutil.rmtree(coco.root)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lose_root, "no such file"),
        (lose_annotations, f"person_keypoints_{SPLIT}.json"),
        (cut_annotations, f"person_keypoints_{SPLIT}.json: not valid JSON"),
    ],
)
def test_unusable_local_coco(
    unharmed: Project, local_coco: TinyCoco, spoil: Callable[[TinyCoco], None], expected: str
) -> None:
    spoil(local_coco)
    use_local(unharmed, local_coco.root)
    assert_refused(unharmed.stage("download_coco"), "download_coco", expected)


def test_local_without_root(unharmed: Project) -> None:
    """data/own has only its README.md."""
    unharmed.set(**{"data.source": "local"})
    expected = "person_keypoints_train2017.json"
    assert_refused(unharmed.stage("download_coco"), "download_coco", expected)


# ---------------------------------------------------------------------------------- detections


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file; correct the path"),
        ('[{"image_id": 1', "not valid JSON"),
        ('{"annotations": []}', "expected a list of boxes, found dict"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, NaN, 4], "score": 1}]', "record 0"),
    ],
    ids=["missing", "cut off", "no list", "not finite"],
)
def test_unusable_detections(
    unharmed: Project, tmp_path: Path, content: str | None, expected: str
) -> None:
    path = tmp_path / "boxes.json"
    if content is not None:
        path.write_text(content)
    unharmed.set(**{"data.detections": str(path)})
    assert_refused(unharmed.stage("download_coco"), "download_coco", str(path), expected)


# ---------------------------------------------------------------------------------- bad records

REASONS = {
    11: "has 48 numbers in 'keypoints', expected 51 (17 x 3)",
    13: "has a keypoint that is not a finite number: nan of 'nose'",
    14: "has a box without width or height: 0 x 80 pixels",
    16: "names an image that is not in 'images': 99",
}


def spoil_records_(coco: TinyCoco) -> list[dict[str, Any]]:
    """Spoils four of the annotations; returns them as quarantine.json should list them."""
    persons = {annotation["id"]: annotation for annotation in coco.raw["annotations"]}
    persons[11]["keypoints"] = persons[11]["keypoints"][:48]
    persons[13]["keypoints"][0] = float("nan")
    persons[14]["bbox"] = [60, 90, 0, 80]
    persons[16]["image_id"] = 99
    coco.save()
    bad = [number for number in persons if number in REASONS]
    return [
        {"file": coco.json_path.name, "record": f"annotation {number}", "reason": REASONS[number]}
        for number in bad
    ]


def spoil_images_(coco: TinyCoco) -> list[dict[str, Any]]:
    """Cuts one image off and removes another."""
    cut = coco.image_path(1)
    cut.write_bytes(cut.read_bytes()[:-300])
    coco.image_path(2).unlink()
    reasons = {
        1: "is truncated (a JPEG without its end marker)",
        2: "is named in the annotations but absent",
    }
    return [
        {"file": SPLIT, "record": coco.image_path(number).name, "reason": reason}
        for number, reason in reasons.items()
    ]


SPOILERS = pytest.mark.parametrize(
    ("spoil", "persons", "images"),
    [(spoil_records_, [12, 15], {1, 2, 3}), (spoil_images_, [15, 16], {3})],
    ids=["annotations", "images in a zip"],
)
Spoil = Callable[[TinyCoco], list[dict[str, Any]]]


def zipped_with_train(coco: TinyCoco, folder: Path) -> Path:
    """The folder's zips, and train2017 as a folder beside them."""
    root = coco.zipped(folder)
    shutil.copytree(coco.root / "train2017", root / "train2017")
    shutil.copytree(coco.root / "annotations", root / "annotations")
    return root


@SPOILERS
def test_bad_records_stop(
    unharmed: Project,
    local_coco: TinyCoco,
    tmp_path: Path,
    spoil: Spoil,
    persons: list[int],
    images: set[int],
) -> None:
    bad = spoil(local_coco)
    use_local(unharmed, zipped_with_train(local_coco, tmp_path / "zips"))
    lines = [f"{record['file']}: {record['record']} {record['reason']}" for record in bad]
    assert_listed(unharmed.stage("build_cache"), *lines)


@SPOILERS
def test_bad_records_are_left_out(
    project: Project,
    local_coco: TinyCoco,
    tmp_path: Path,
    spoil: Spoil,
    persons: list[int],
    images: set[int],
) -> None:
    bad = spoil(local_coco)
    use_local(project, zipped_with_train(local_coco, tmp_path / "zips"), on_bad_record="skip")
    log = project.must_stage("build_cache")
    assert log.count(f"skipped {len(bad)} bad records") == 1
    for record in bad:
        assert f"{record['record']} {record['reason']}" in log
    assert project.json("data/cache/quarantine.json") == bad
    counts = project.json("metrics/build_cache/metrics.json")
    assert counts["bad_records"] == len(bad)
    assert (counts["train"], counts["unlabelled"]) == (5, 1)
    assert counts["val"] == len(persons)
    truth = project.json("data/cache/ground_truth.json")
    kept = [one["id"] for one in truth["annotations"] if not one["iscrowd"]]
    assert sorted(kept) == persons
    assert {image["id"] for image in truth["images"]} == images


# ---------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
def test_unreadable_checkpoint(unharmed: Project, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(256)) * 8)
    unharmed.set(**{"weights.source": "file", "weights.file": str(tmp_path / name)})
    assert_refused(unharmed.stage("fetch_weights"), "fetch_weights", name, "of no known kind")


def test_wrong_digest(unharmed: Project) -> None:
    own = unharmed.root / "own.safetensors"
    shutil.copy(unharmed.root / "data/weights/start.safetensors", own)
    unharmed.set(**{"weights.source": "file", "weights.file": str(own), "weights.sha256": "0" * 64})
    assert_refused(unharmed.stage("fetch_weights"), "fetch_weights", str(own), "sha256", "0" * 64)
