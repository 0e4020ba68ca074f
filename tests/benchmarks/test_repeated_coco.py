"""The set of benchmarks/repeated_coco.py: ids, annotations and bytes of images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import repeated_coco
from pose.coco.annotations import read_annotations
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.common.errors import PoseError
from pose.common.params import load_params
from repeated_coco import Source, image_counts, read_source, required_bytes, write_set
from tiny_coco import SPLIT, TinyCoco

COUNTS = {"train2017": 7, "val2017": 2}
DATA = load_params(Path(__file__).resolve().parents[2] / "params.yaml").data


@pytest.fixture
def source(tiny_coco: TinyCoco) -> Source:
    return read_source(tiny_coco.root, SPLIT)


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    paths = {name: folder / "annotations" / f"person_keypoints_{name}.json" for name in COUNTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


@pytest.mark.parametrize(
    ("share", "expected"), [(1, (118_287, 5_000)), (0.1, (11_829, 500)), (1e-6, (1, 1))]
)
def test_a_share_of_coco(share: float, expected: tuple[int, int]) -> None:
    assert tuple(image_counts(share).values()) == expected


@pytest.mark.parametrize("links", [False, True])
def test_ids_are_unique_and_annotations_belong_to_their_images(
    source: Source, tmp_path: Path, links: bool
) -> None:
    write_set(source, tmp_path / "set", COUNTS, links)
    both = contents(tmp_path / "set")
    images = [image for content in both.values() for image in content["images"]]
    annotations = [one for content in both.values() for one in content["annotations"]]
    assert {name: len(content["images"]) for name, content in both.items()} == COUNTS
    assert len({image["id"] for image in images}) == len(images)
    assert len({image["file_name"] for image in images}) == len(images)
    assert len({one["id"] for one in annotations}) == len(annotations)
    for content in both.values():
        ids = {image["id"] for image in content["images"]}
        assert all(one["image_id"] in ids for one in content["annotations"])
    # the source's images have 2, 2 and 4 annotations; 7 = 2 rounds and the first, 2 = the first two
    assert [len(both[name]["annotations"]) for name in COUNTS] == [18, 4]


@pytest.mark.parametrize("links", [False, True])
def test_images_keep_their_bytes_and_annotations(
    tiny_coco: TinyCoco, source: Source, tmp_path: Path, links: bool
) -> None:
    write_set(source, tmp_path / "set", COUNTS, links)
    originals = tiny_coco.raw["images"]
    for split, content in contents(tmp_path / "set").items():
        images = Images(coco_files(tmp_path / "set", split))
        for number, entry in enumerate(content["images"]):
            original = originals[number % len(originals)]
            old = (tiny_coco.root / SPLIT / original["file_name"]).read_bytes()
            assert images.read(entry["file_name"]) == old
            assert (entry["width"], entry["height"]) == (original["width"], original["height"])
            boxes = [
                [one["bbox"] for one in raw["annotations"] if one["image_id"] == image_id]
                for raw, image_id in ((content, entry["id"]), (tiny_coco.raw, original["id"]))
            ]
            assert boxes[0] == boxes[1]


def test_the_chain_reads_the_set(source: Source, tmp_path: Path) -> None:
    write_set(source, tmp_path / "set", COUNTS, False)
    found = read_annotations(coco_files(tmp_path / "set", "train2017"), DATA, None)
    assert len(found.persons) == 14  # of 6 in three images, without the crowd and the dog
    assert not found.bad


def test_links_share_one_copy_until_there_are_too_many(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_at_most(old: Path, new: Path, link: Any = os.link) -> None:
        if os.stat(old).st_nlink == 2:
            raise OSError("too many links")
        link(old, new)

    monkeypatch.setattr(repeated_coco.os, "link", two_at_most)
    write_set(source, tmp_path / "set", {"train2017": 9}, links=True)
    paths = list((tmp_path / "set" / "train2017").iterdir())
    assert len(paths) == 9
    assert len({path.stat().st_ino for path in paths}) == 6  # of each image's three, two share


def test_zipped_sources_are_read(tiny_coco: TinyCoco, source: Source, tmp_path: Path) -> None:
    zipped = read_source(tiny_coco.zipped(tmp_path / "zipped"), SPLIT)
    assert zipped.raw == source.raw
    assert required_bytes(zipped, COUNTS) == required_bytes(source, COUNTS)


@pytest.mark.parametrize("links", [False, True])
def test_the_required_bytes_suffice(source: Source, tmp_path: Path, links: bool) -> None:
    counts = {"train2017": 300, "val2017": 60}
    write_set(source, tmp_path / "set", counts, links)
    files = {path.stat().st_ino: path for path in (tmp_path / "set").rglob("*") if path.is_file()}
    size = sum(path.stat().st_size for path in files.values())
    assert size <= 1.1 * required_bytes(source, counts)


def test_an_absent_image_is_one_line(tiny_coco: TinyCoco, source: Source) -> None:
    tiny_coco.image_path(2).unlink()
    with pytest.raises(PoseError, match=r"'000000000002\.jpg' is named in the annotations but abs"):
        required_bytes(source, COUNTS)


def test_a_file_without_images_is_refused(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["images"] = []
    tiny_coco.save()
    with pytest.raises(PoseError, match=r"person_keypoints_val2017\.json: has no images"):
        read_source(tiny_coco.root, SPLIT)


def test_an_absent_split_is_one_line(tiny_coco: TinyCoco) -> None:
    advice = r"_train2017\.json nor annotations_trainval2017\.zip; correct FOLDER or --split$"
    with pytest.raises(PoseError, match=advice):
        read_source(tiny_coco.root, "train2017")
