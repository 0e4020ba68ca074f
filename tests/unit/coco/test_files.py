"""Where a split's annotations and images are found, and the line if they are not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pose.coco.files import SplitFiles, coco_files, locate_images, split_files
from pose.common.errors import PoseError
from pose.common.params import Data
from sections import DEFAULT, changed


def local(**values: Any) -> Data:
    return changed(DEFAULT.data, source="local", **values)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "file_name": name} for number, name in enumerate(names)]


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(PoseError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------- COCO's layout


def test_folders_come_before_zips(tmp_path: Path) -> None:
    touch(tmp_path, "annotations/person_keypoints_a.json", "a/1.jpg", "a.zip")
    path = tmp_path / "annotations/person_keypoints_a.json"
    assert coco_files(tmp_path, "a") == SplitFiles("a", path, tmp_path / "a")


def test_zips(tmp_path: Path) -> None:
    touch(tmp_path, "a.zip")
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w") as archive:
        archive.writestr("annotations/person_keypoints_a.json", "{}")
    found = coco_files(tmp_path, "a")
    assert found.images == tmp_path / "a.zip"
    assert found.annotations == tmp_path / "annotations_trainval2017.zip"
    assert (found.name, found.annotated) == ("person_keypoints_a.json", True)


@pytest.mark.parametrize("zipped", [False, True])
def test_annotations_are_preferred_to_an_image_list(tmp_path: Path, zipped: bool) -> None:
    touch(tmp_path, "annotations/image_info_a.json", "b.zip")
    name = "annotations/person_keypoints_a.json"
    if zipped:
        with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w") as archive:
            archive.writestr(name, "{}")
    else:
        touch(tmp_path, name)
    assert coco_files(tmp_path, "a").annotated


@pytest.mark.parametrize("zipped", [False, True])
def test_the_list_of_test_dev_and_the_images_of_test(tmp_path: Path, zipped: bool) -> None:
    """The list of test-dev is in the zip of test."""
    name = "annotations/image_info_test-dev2017.json"
    if zipped:
        with zipfile.ZipFile(tmp_path / "image_info_test2017.zip", "w") as archive:
            archive.writestr(name, json.dumps({"images": []}))
        touch(tmp_path, "test2017.zip")
    else:
        touch(tmp_path, name, "test2017/1.jpg")
    found = coco_files(tmp_path, "test-dev2017")
    assert not found.annotated
    assert found.images == tmp_path / ("test2017.zip" if zipped else "test2017")


def test_the_json_files_that_are_there_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "train/_annotations.coco.json", "a.json", "x/y/deep.json")
    text = refusal(coco_files, tmp_path, "train2017")
    assert str(tmp_path / "annotations/person_keypoints_train2017.json") in text
    assert f"JSON files in {tmp_path}: a.json, train/_annotations.coco.json;" in text
    assert text.endswith("set data.root, data.train_annotations or data.val_annotations")


def test_no_json_file_at_all(tmp_path: Path) -> None:
    assert f"JSON files in {tmp_path}: none;" in refusal(coco_files, tmp_path, "train2017")


# ---------------------------------------------------------------------------- named files


def test_files_and_folders_that_params_name(tmp_path: Path) -> None:
    touch(tmp_path, "root/made/a.json", "elsewhere/b.json", "root/pictures/1.jpg", "root/v.zip")
    values = {"train_annotations": "made/a.json", "train_images": "pictures"}
    values |= {"val_annotations": str(tmp_path / "elsewhere/b.json"), "val_images": "v.zip"}
    root, data = tmp_path / "root", local(**values)
    train, val = split_files(root, data, "train"), split_files(root, data, "val")
    assert train == SplitFiles("train", root / "made/a.json", root / "pictures")
    assert val == SplitFiles("val", tmp_path / "elsewhere/b.json", root / "v.zip")


def test_only_the_images_are_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "annotations/person_keypoints_a.json", "a/1.jpg", "b/1.jpg")
    data = local(val_split="a", val_images="b")
    path = tmp_path / "annotations/person_keypoints_a.json"
    assert split_files(tmp_path, data, "val") == SplitFiles("a", path, tmp_path / "b")


def test_val_of_a_fraction_has_trains_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.json")
    data = local(train_annotations="a.json", val_fraction=0.5)
    assert split_files(tmp_path, data, "val") == split_files(tmp_path, data, "train")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train_annotations", "a.json", "expected a file"),
        ("train_annotations", "folder", "expected a file"),
        ("val_annotations", "/nowhere/a.json", "/nowhere/a.json does not exist"),
        ("val_images", "pictures", "expected a folder or a zip"),
    ],
)
def test_a_named_file_that_is_absent(tmp_path: Path, key: str, value: str, expected: str) -> None:
    touch(tmp_path, "folder/b.json", "annotations/person_keypoints_val2017.json")
    text = refusal(split_files, tmp_path, local(**{key: value}), key.split("_")[0])
    assert text.startswith(f"params.yaml: data.{key} = {value!r}, ")
    assert expected in text
    assert "annotations/person_keypoints_val2017.json, folder/b.json" in text


# ---------------------------------------------------------------------------- images


LAYOUTS = {  # tool: the annotation file, file_names, and where the images are
    "Roboflow": ("train/_annotations.coco.json", ["a.jpg", "b.jpg"], "train"),
    "CVAT": ("annotations/person_keypoints_default.json", ["a.jpg", "d/b.jpg"], "images/default"),
    "Label Studio": ("result.json", ["images/a.jpg", "images/b.jpg"], "."),
    "COCO-Annotator": ("mice-1.json", ["a.jpg", "b.jpg"], "mice"),
}


@pytest.mark.parametrize(("json_name", "names", "folder"), LAYOUTS.values(), ids=[*LAYOUTS])
def test_the_folder_is_found(tmp_path: Path, json_name: str, names: list[str], folder: str) -> None:
    touch(tmp_path, json_name, *(f"{folder}/{name}" for name in names))
    touch(tmp_path, f"{folder}/.thumbnail/a.jpg", "valid/c.jpg")
    files = SplitFiles("train", tmp_path / json_name, None)
    found = locate_images(files, tmp_path, listed(*names))
    assert found.images == tmp_path / folder


def test_of_two_folders_that_with_all_images(tmp_path: Path) -> None:
    """Of two splits that count their images from 1 the longer one has more."""
    touch(tmp_path, "a.json", "train/1.jpg", "train/2.jpg", "val/1.jpg", "val/2.jpg", "val/3.jpg")
    files = SplitFiles("train", tmp_path / "a.json", None)
    images = listed("1.jpg", "2.jpg", "3.jpg")
    assert locate_images(files, tmp_path, images).images == tmp_path / "val"
    text = refusal(locate_images, files, tmp_path, images[:2])
    assert "2 folders have its first image, '1.jpg'" in text
    assert f"{tmp_path / 'train'}, {tmp_path / 'val'}; set data.train_images" in text


def test_the_folder_beside_the_annotations_comes_first(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.json", "train/1.jpg", "val/1.jpg", "val/2.jpg")
    files = SplitFiles("train", tmp_path / "train/a.json", None)
    found = locate_images(files, tmp_path, listed("1.jpg", "2.jpg"))
    assert found.images == tmp_path / "train"


def test_no_folder_has_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.json", "2.jpg")
    files = SplitFiles("train", tmp_path / "a.json", None)
    text = refusal(locate_images, files, tmp_path, listed("1.jpg", "2.jpg"))
    assert text.startswith(f"a.json: no folder has its first image, '1.jpg': searched {tmp_path};")
    assert text.endswith("data.train_images or data.val_images to the folder or zip of the images")


@pytest.mark.parametrize(
    ("listed_name", "name"),
    [
        ("a.jpg", "a.JPG"),
        ("a.png", "a.jpg"),
        ("train/a", "a.jpg"),
        ("my%20photo.jpg", "my photo.jpg"),
        ("\u00e9.jpg", "e\u0301.jpg"),
        (" a.jpg", "a.jpg"),
    ],
)
def test_a_file_whose_name_is_written_otherwise(
    tmp_path: Path, listed_name: str, name: str
) -> None:
    touch(tmp_path, "a.json", f"pictures/{name}")
    files = SplitFiles("train", tmp_path / "a.json", None)
    text = refusal(locate_images, files, tmp_path, listed(listed_name))
    path = str(tmp_path / "pictures" / name)
    assert text.endswith(f"; there is {path!r}: rename it, or write its name in the annotations")


def test_a_file_without_images(tmp_path: Path) -> None:
    files = SplitFiles("train", tmp_path / "a.json", None)
    assert refusal(locate_images, files, tmp_path, []).startswith("a.json: its list 'images' is e")


def test_given_images_are_not_searched(tmp_path: Path) -> None:
    files = SplitFiles("train", tmp_path / "a.json", tmp_path / "pictures")
    assert locate_images(files, tmp_path, listed("1.jpg")) is files


def test_a_folder_linked_into_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a.json", "pictures/1.jpg")
    (tmp_path / "pictures/again").symlink_to(tmp_path)
    files = SplitFiles("train", tmp_path / "a.json", None)
    assert locate_images(files, tmp_path, listed("1.jpg")).images == tmp_path / "pictures"
