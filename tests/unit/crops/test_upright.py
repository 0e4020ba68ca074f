"""data.orientation: apply: keypoints stay on their pixels, however the annotations were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from own_keypoints_data import COLOURS, save_mice, write_mice
from pose.coco.annotations import Annotations, read_annotations
from pose.coco.decode import PixelSettings
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.common.skeleton import Skeleton, build_skeleton
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings, write_shard
from pose.crops.upright import stored_orientations, upright_annotations, upright_persons
from sections import DEFAULT, changed

TO_STORED = {  # of an image as displayed
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}
MOUSE = changed(DEFAULT.data, category="mouse")


def store_turned(root: Path, raw: dict[str, Any], orientation: int) -> None:
    """Rewrite the images as a camera that was held in another way stores them."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    for image in raw["images"]:
        path = root / "val" / image["file_name"]
        shown = PIL.Image.open(path).convert("RGB")
        stored = shown.transpose(TO_STORED[orientation])
        stored.save(path, exif=exif, quality=95)
        assert PIL.ImageOps.exif_transpose(PIL.Image.open(path)).size == shown.size


def annotate_stored(raw: dict[str, Any], orientation: int) -> None:
    """Rewrite the annotations as a tool that shows the stored pixels writes them."""
    for image, annotation in zip(raw["images"], raw["annotations"], strict=True):
        w, h = image["width"], image["height"]
        columns, rows = np.meshgrid(np.arange(w), np.arange(h))
        grids = [PIL.Image.fromarray(grid.astype(np.int32)) for grid in (columns, rows)]
        x, y = (np.asarray(grid.transpose(TO_STORED[orientation])) for grid in grids)

        def stored(point: Any, x: Any = x, y: Any = y) -> list[float]:
            row, column = np.argwhere((x == round(point[0])) & (y == round(point[1])))[0]
            return [float(column), float(row)]

        left, top, width, height = annotation["bbox"]
        corners = np.array([stored((left, top)), stored((left + width, top + height))])
        annotation["bbox"] = [*corners.min(0).tolist(), *np.ptp(corners, axis=0).tolist()]
        points = np.array(annotation["keypoints"]).reshape(-1, 3)
        points[:, :2] = [stored(point) for point in points]
        annotation["keypoints"] = points.ravel().tolist()
        image["width"], image["height"] = h, w


def mice(tmp_path: Path, orientation: int, frame: str) -> Annotations:
    raw = write_mice(tmp_path, "val", 3)
    store_turned(tmp_path, raw, orientation)
    if frame == "stored":
        annotate_stored(raw, orientation)
    save_mice(tmp_path, "val", raw)
    return read_annotations(coco_files(tmp_path, "val"), MOUSE, None)


def mouse_skeleton(split: Annotations) -> Skeleton:
    return build_skeleton(split.category.names, split.category.limbs, None, None, None)


@pytest.mark.parametrize(
    ("orientation", "frame"),
    [*((o, "displayed") for o in range(2, 9)), *((o, "stored") for o in range(5, 9))],
)
def test_keypoints_stay_on_their_pixels(
    tmp_path: Path, crop_settings: CropSettings, orientation: int, frame: str
) -> None:
    split, images = mice(tmp_path, orientation, frame), Images(coco_files(tmp_path, "val"))
    turned = stored_orientations(images, split.images)
    assert turned == (dict.fromkeys((1, 2, 3), orientation) if frame == "stored" else {})
    split = upright_annotations(split, turned)
    skeleton = mouse_skeleton(split)
    settings = replace(
        crop_settings,
        codec=replace(crop_settings.codec, flip_indices=skeleton.flip_indices),
        skeleton=skeleton,
        pixels=PixelSettings(upright=True),
    )
    (tmp_path / "cache").mkdir()
    notes = write_shard(tmp_path / "cache" / "0.arrow", images, split.persons, settings)
    assert notes.bad == []
    assert {note.orientation for note in notes.images.values()} == {orientation}
    table = CropTable(tmp_path / "cache")
    for row, annotation in enumerate(split.annotations):
        assert table.image_wh[row].tolist() == [160, 120]
        keypoints = np.array(annotation["keypoints"]).reshape(-1, 3)  # of ground_truth.json
        np.testing.assert_allclose(table.keypoints[row], keypoints, rtol=1e-6)
        crop, offset = table.crop(row), table.crop_xy[row]
        for (x, y), colour in zip(keypoints[:, :2] - offset, COLOURS, strict=True):
            assert np.abs(crop[round(y), round(x)].astype(int) - colour).max() < 60
        x, y, w, h = annotation["bbox"]
        assert ((keypoints[:, :2] >= (x, y)) & (keypoints[:, :2] <= (x + w, y + h))).all()


def test_as_stored_without_the_setting(tmp_path: Path, crop_settings: CropSettings) -> None:
    """Annotations of the stored pixels fit; those of the displayed image name the setting."""
    for frame, bad in (("stored", 0), ("displayed", 3)):
        split = mice(tmp_path / frame, 6, frame)
        skeleton = mouse_skeleton(split)
        codec = replace(crop_settings.codec, flip_indices=skeleton.flip_indices)
        settings = replace(crop_settings, codec=codec, skeleton=skeleton)
        images = Images(coco_files(tmp_path / frame, "val"))
        notes = write_shard(tmp_path / "0.arrow", images, split.persons, settings)
        assert len(notes.bad) == bad
        for record in notes.bad:
            assert "with EXIF orientation 6, " in record.reason
            assert record.reason.endswith("; set data.orientation: apply")


def test_detected_boxes_turn_with_their_image(tmp_path: Path) -> None:
    split = mice(tmp_path, 8, "stored")
    person = replace(split.persons[0], keypoints=np.zeros((5, 3), np.float32), num_keypoints=0)
    [turned] = upright_persons([person], {1: 8})
    assert turned.image_wh == (160, 120)
    assert (turned.keypoints == 0).all()  # not labelled: no coordinates to turn
    [same] = upright_persons([person], {2: 8})
    assert same is person


def test_unreadable_images_are_left_to_the_decoder(tmp_path: Path) -> None:
    split = mice(tmp_path, 6, "stored")
    (tmp_path / "val" / "mouse 1.jpg").unlink()
    (tmp_path / "val" / "mouse 2.jpg").write_bytes(b"noise")
    assert stored_orientations(Images(coco_files(tmp_path, "val")), split.images) == {3: 6}
