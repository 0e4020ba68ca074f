"""The synthetic data set: reproducible bytes, COCO's layout, keypoints on the person."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from pose.common.params import Synthetic
from pose.common.skeleton import COCO_17
from pose.synthetic import body, dataset
from pose.synthetic import painter as synthetic_painter
from pose.synthetic.canvas import Canvas

IMAGE_WH = (480, 360)


def synthetic_settings(train: int, val: int, fraction: float, seed: int) -> Synthetic:
    return Synthetic(
        seed=seed,
        train_images=train,
        val_images=val,
        unlabelled_fraction=fraction,
        image_size=IMAGE_WH,
        jpeg_quality=90,
    )


SETTINGS = synthetic_settings(6, 3, 0.5, seed=3)
ZIPS = ("annotations_trainval2017.zip", "train2017.zip", "val2017.zip")


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("one")
    dataset.write_coco_zips(path, SETTINGS, workers=1)
    return path


@pytest.fixture(scope="module")
def rendered() -> list[tuple[np.ndarray, list[dict[str, Any]]]]:
    return [dataset.render_image(IMAGE_WH, np.random.default_rng([7, i])) for i in range(80)]


@pytest.fixture(scope="module")
def persons(rendered: list[tuple[np.ndarray, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    return [a for _, annotations in rendered for a in annotations if not a["iscrowd"]]


def document(folder: Path, split: str) -> dict[str, Any]:
    with zipfile.ZipFile(folder / ZIPS[0]) as archive:
        content: dict[str, Any] = json.loads(
            archive.read(f"annotations/person_keypoints_{split}.json")
        )
    return content


def table(annotation: dict[str, Any]) -> np.ndarray:
    """(K, 3) x, y, visibility."""
    return np.array(annotation["keypoints"], float).reshape(-1, 3)


def test_the_same_bytes_in_a_second_run_and_with_two_workers(folder: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    dataset.write_coco_zips(tmp_path / "again", SETTINGS, 1, steps.append)
    dataset.write_coco_zips(tmp_path / "two", SETTINGS, 2)
    assert sum(steps) == 9
    assert list(digests(folder)) == list(ZIPS)  # no temporary file is left
    assert digests(tmp_path / "again") == digests(folder)
    assert digests(tmp_path / "two") == digests(folder)


def test_another_seed_gives_other_images(folder: Path, tmp_path: Path) -> None:
    other = synthetic_settings(1, 1, 0.5, seed=4)
    dataset.write_coco_zips(tmp_path, other, 1)
    name = "train2017/000000000001.jpg"
    with zipfile.ZipFile(folder / ZIPS[1]) as a, zipfile.ZipFile(tmp_path / ZIPS[1]) as b:
        assert a.read(name) != b.read(name)


@pytest.mark.parametrize(("split", "size"), [("train2017", 6), ("val2017", 3)])
def test_pycocotools_reads_it_and_images_match(
    folder: Path, tmp_path: Path, split: str, size: int
) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(document(folder, split)))
    coco = COCO(path)
    assert len(coco.imgs) == size
    assert coco.getCatIds() == [1]
    assert coco.cats[1]["keypoints"] == list(COCO_17.names)
    with zipfile.ZipFile(folder / f"{split}.zip") as archive:
        names = [f"{split}/{image['file_name']}" for image in coco.imgs.values()]
        assert archive.namelist() == names
        for name in names:
            image = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            assert image.shape == (360, 480, 3)
    for annotation in coco.anns.values():
        assert annotation["image_id"] in coco.imgs
        assert int(coco.annToMask(annotation).sum()) == pytest.approx(annotation["area"], rel=0.15)


def test_ids_are_unique_over_both_splits(folder: Path) -> None:
    documents = [document(folder, split) for split in ("train2017", "val2017")]
    for key in ("images", "annotations"):
        ids = [row["id"] for content in documents for row in content[key]]
        assert len(ids) == len(set(ids)) >= 9


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, 6)])
def test_unlabelled_images_have_boxes_only(tmp_path: Path, fraction: float, expected: int) -> None:
    settings = synthetic_settings(6, 3, fraction, seed=3)
    counts = dataset.write_coco_zips(tmp_path, settings, 1)
    train, val = document(tmp_path, "train2017"), document(tmp_path, "val2017")
    without = {a["image_id"] for a in train["annotations"]} - {
        a["image_id"] for a in train["annotations"] if a["num_keypoints"]
    }
    assert len(without) == expected
    assert any(a["num_keypoints"] for a in val["annotations"])
    assert (counts["train2017_persons_labelled"] == 0) == (fraction == 1)
    for annotation in train["annotations"]:
        assert annotation["bbox"][2] > 0
        assert annotation["bbox"][3] > 0
        assert annotation["num_keypoints"] > 0 or not any(annotation["keypoints"])


def test_keypoints_and_boxes_agree_with_the_image(persons: list[dict[str, Any]]) -> None:
    width, height = IMAGE_WH
    for annotation in persons:
        keypoints = table(annotation)
        labelled = keypoints[:, 2] > 0
        assert annotation["num_keypoints"] == labelled.sum()
        assert not keypoints[~labelled].any()
        assert set(keypoints[:, 2]) <= {0, 1, 2}
        assert (keypoints[labelled, :2] >= 0).all()
        assert (keypoints[labelled, :2] <= (width - 1, height - 1)).all()
        x, y, w, h = annotation["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        assert 0 < annotation["area"] <= w * h


def test_visible_joints_lie_on_the_person(persons: list[dict[str, Any]]) -> None:
    for annotation in persons:
        parts = coco_mask.frPyObjects(annotation["segmentation"], IMAGE_WH[1], IMAGE_WH[0])
        person = cv2.dilate(coco_mask.decode(coco_mask.merge(parts)), np.ones((7, 7), np.uint8))
        for x, y, visibility in table(annotation):
            if visibility == 2:
                assert person[round(y), round(x)], (annotation["bbox"], x, y)


def test_elbows_and_knees_lie_where_two_limb_parts_meet() -> None:
    """By the painted parts: the joint is near both parts that it connects."""
    meets = []
    for i in range(25):
        empty = np.zeros((320, 320), np.uint8)
        plain = np.zeros((3, 320, 320), np.float32)
        canvas = Canvas(plain, empty, empty.copy(), (0.0, 0.0, 1.0), (0, 0))
        figure = body.sample_figure(np.random.default_rng([5, i]), camera_pitch=4.0)
        painter = synthetic_painter.Painter(canvas, figure, (160.0, 290.0), 220.0, instance=1)
        painter.paint()
        for k in (7, 8, 13, 14):
            x, y = painter.keypoints_image()[k].round().astype(int)
            around = canvas.parts[y - 8 : y + 9, x - 8 : x + 9]
            near = {p for p in synthetic_painter.KEYPOINT_PARTS[k] if (around == p).any()}
            if int(canvas.parts[y, x]) in synthetic_painter.KEYPOINT_PARTS[k]:
                meets.append(near == synthetic_painter.KEYPOINT_PARTS[k])
    assert len(meets) > 60
    assert np.mean(meets) > 0.93


def test_left_is_the_left_of_the_person(persons: list[dict[str, Any]]) -> None:
    """With both eyes visible the left shoulder is at the right of the image; from behind, left."""
    nose, left_eye, right_eye, left, right = (
        COCO_17.names.index(n)
        for n in ("nose", "left_eye", "right_eye", "left_shoulder", "right_shoulder")
    )
    front, back = [], []
    for keypoints in map(table, persons):
        if not (keypoints[left, 2] and keypoints[right, 2]):
            continue
        side = keypoints[left, 0] > keypoints[right, 0]
        if (keypoints[[nose, left_eye, right_eye], 2] == 2).all():
            front.append(side)
        elif not keypoints[[nose, left_eye, right_eye], 2].any():
            back.append(side)
    assert len(front) > 50
    assert np.mean(front) > 0.95
    assert len(back) >= 4
    assert np.mean(back) < 0.25


def test_difficulty_is_as_stated(persons: list[dict[str, Any]]) -> None:
    visibility = np.concatenate([table(a)[:, 2] for a in persons if a["num_keypoints"]])
    assert 1.2 < len(persons) / 80 < 2.0
    assert 0.80 < (visibility == 2).mean() < 0.93
    assert 0.02 < (visibility == 1).mean() < 0.10


def test_crowds_are_run_lengths_and_fill_their_box(
    rendered: list[tuple[np.ndarray, list[dict[str, Any]]]],
) -> None:
    crowds = [a for _, annotations in rendered for a in annotations if a["iscrowd"]]
    assert crowds
    for crowd in crowds:
        counts, (height, width) = crowd["segmentation"]["counts"], crowd["segmentation"]["size"]
        assert (width, height) == IMAGE_WH
        assert sum(counts) == width * height
        mask = np.repeat(np.arange(len(counts)) % 2, counts).reshape(width, height).T
        assert mask.sum() == crowd["area"]
        assert list(cv2.boundingRect(mask.astype(np.uint8))) == crowd["bbox"]


def test_images_are_neither_flat_nor_clipped(
    rendered: list[tuple[np.ndarray, list[dict[str, Any]]]],
) -> None:
    for image, _ in rendered:
        assert image.dtype == np.uint8
        assert image.shape == (360, 480, 3)
        assert image.std() > 12
        assert ((image == 0) | (image == 255)).mean() < 0.10
