"""Rows of the crop cache agree with geometry and codec; its bytes do not depend on the writer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pose.coco import boxes
from pose.coco.annotations import Person, read_annotations
from pose.coco.decode import decode_image
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.codecs import encode, geometry
from pose.common.params import Augment
from pose.common.skeleton import COCO_17
from pose.crop_table import CropTable
from pose.crops.shards import (
    CropSettings,
    canonical_target,
    context_box,
    plan_shards,
    psnr_db,
    write_shard,
)
from pose.data.augment import draw_affine
from sections import DEFAULT, NO_AUGMENT, changed
from tiny_coco import SPLIT, TinyCoco

NO_KEYPOINTS = np.zeros((17, 3), np.float32)


def persons_of(image_ids: list[int]) -> list[Person]:
    return [
        Person(i, image_id, "", (9, 9), (0, 0, 1, 1), 1, 0, NO_KEYPOINTS)
        for i, image_id in enumerate(image_ids)
    ]


@pytest.mark.parametrize(
    ("image_ids", "shards"),
    [
        ([], []),
        ([1], [1]),
        ([1, 1, 1, 1, 1], [5]),
        ([1, 2, 3, 4, 5], [2, 2, 1]),
        ([1, 2, 2, 2, 3], [4, 1]),
    ],
)
def test_people_of_an_image_are_in_one_shard(image_ids: list[int], shards: list[int]) -> None:
    persons = persons_of(image_ids)
    planned = plan_shards(persons, 2)
    assert [len(shard) for shard in planned] == shards
    assert [p for shard in planned for p in shard] == persons


def test_bytes_depend_only_on_the_persons(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings
) -> None:
    """Neither the order of writing nor whether COCO is zipped changes a shard."""
    zipped = tiny_coco.zipped(tmp_path / "zips")
    shards = plan_shards(
        read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons, 2
    )
    for name, root, order in (("a", tiny_coco.root, (0, 1, 2)), ("b", zipped, (2, 0, 1))):
        for i in order:
            write_shard(
                tmp_path / f"{name}{i}.arrow",
                Images(coco_files(root, SPLIT)),
                shards[i],
                crop_settings,
            )
    contents = [[(tmp_path / f"{n}{i}.arrow").read_bytes() for i in range(3)] for n in "ab"]
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 3


def test_rows_agree_with_geometry_and_codec(
    tiny_coco: TinyCoco, crop_table: CropTable, crop_settings: CropSettings
) -> None:
    persons = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    assert crop_table.ann_id.tolist() == [p.ann_id for p in persons]
    assert crop_table.image_id.tolist() == [p.image_id for p in persons]
    for row, person in enumerate(persons):
        np.testing.assert_array_equal(crop_table.keypoints[row], person.keypoints)
        assert crop_table.area[row] == np.float32(person.area)
        assert tuple(crop_table.image_wh[row].tolist()) == person.image_wh
        bbox = boxes.clip_bbox(np.array(person.bbox_xywh), person.image_wh)
        np.testing.assert_allclose(crop_table.bbox_xywh[row], bbox, rtol=1e-6)
        center, scale = geometry.bbox_to_center_scale(bbox, 1.25, (48, 64))
        cells = (person.keypoints[:, :2] - center + scale / 2) / scale * (23, 31)
        expected = encode.gaussian_targets(
            cells, np.minimum(person.keypoints[:, 2], 1), (24, 32), crop_settings.codec.sigma
        )
        np.testing.assert_allclose(crop_table.target[row], expected, atol=1e-4)


def test_cached_targets_follow_the_codecs_weights(crop_settings: CropSettings) -> None:
    """Three visible keypoints, an occluded one, and one just outside of the input."""
    codec = replace(crop_settings.codec, occluded_weight=0.5, outside="ignore")
    keypoints = np.zeros((17, 3), np.float32)
    keypoints[:5] = [[20, 30, 2], [30, 40, 2], [40, 50, 2], [30, 50, 1], [-1, 40, 2]]
    bbox = np.array([10.0, 20, 48, 64])
    found = [
        canonical_target(bbox, keypoints, replace(crop_settings, codec=c))[:5, 2].tolist()
        for c in (crop_settings.codec, codec)
    ]
    assert found == [[1, 1, 1, 1, 1], [1, 1, 1, 0.5, 0]]


def test_a_cubic_crop_holds_what_its_warp_reads(crop_settings: CropSettings) -> None:
    """Without augmentation the crop is only the box and its rim, which cubic taps need whole."""
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    codec = replace(crop_settings.codec, interpolation="cubic")
    settings = replace(crop_settings, codec=codec, augment=NO_AUGMENT)
    bbox = np.array([90.0, 90.0, 24.0, 32.0])
    left, top, right, bottom = context_box(bbox, NO_KEYPOINTS, (200, 200), settings)
    center, scale = geometry.bbox_to_center_scale(bbox, 1.25, codec.input_size)
    affine = geometry.udp_affine(center, scale, 0.0, codec.input_size)
    corner = geometry.translate(np.array([left, top]))
    crop = np.ascontiguousarray(image[top:bottom, left:right])
    found = codec.warp(crop, geometry.compose(affine, corner)).astype(int)
    assert np.abs(found - codec.warp(image, affine)).max() <= 1


def test_persons_without_keypoints_are_in_the_unlabelled_shard(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings
) -> None:
    persons = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    paths = tmp_path / "a" / "0.arrow", tmp_path / "b" / "0.arrow"
    write_shard(
        paths[0], Images(coco_files(tiny_coco.root, SPLIT)), persons, crop_settings, paths[1]
    )
    ids = [CropTable(path.parent).ann_id.tolist() for path in paths]
    assert ids == [[11, 13, 14, 15, 16], [12]]


def test_psnr_of_jpeg_crops(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings
) -> None:
    images, persons = (
        Images(coco_files(tiny_coco.root, SPLIT)),
        read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons,
    )
    psnr = []
    for quality in (30, 95):
        settings = replace(crop_settings, jpeg_quality=quality)
        notes = write_shard(tmp_path / "0.arrow", images, persons, settings)
        assert len(notes.squared_errors) == 1  # of six persons
        psnr.append(psnr_db(notes.squared_errors))
    assert 20 < psnr[0] < psnr[1] - 5 < 50


def test_psnr_of_lossless_crops_is_99() -> None:
    assert psnr_db([0.0, 0.0]) == 99.0
    assert psnr_db([255.0**2]) == 0.0


def test_crops_show_the_image_at_their_offset(tiny_coco: TinyCoco, crop_table: CropTable) -> None:
    for row in range(len(crop_table)):
        image_id, size = int(crop_table.image_id[row]), tuple(crop_table.image_wh[row].tolist())
        image, _ = decode_image(tiny_coco.image_path(image_id).read_bytes(), size)
        crop, (x, y) = crop_table.crop(row), crop_table.crop_xy[row]
        there = image[y : y + crop.shape[0], x : x + crop.shape[1]]
        assert there.shape == crop.shape
        assert np.abs(there.astype(int) - crop).mean() < 3


def test_bad_images_are_listed_and_their_persons_skipped(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings
) -> None:
    tiny_coco.image_path(1).unlink()
    tiny_coco.image_path(3).write_bytes(tiny_coco.image_path(3).read_bytes()[:-50])
    persons = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    images = Images(coco_files(tiny_coco.root, SPLIT))
    notes = write_shard(tmp_path / "00000.arrow", images, persons, crop_settings)
    assert [str(record) for record in notes.bad] == [
        "val2017: 000000000001.jpg is named in the annotations but absent",
        "val2017: 000000000003.jpg is truncated (a JPEG without its end marker)",
    ]
    assert CropTable(tmp_path).ann_id.tolist() == [13, 14]


def with_every_box_moved(settings: CropSettings, half_body_prob: float) -> Augment:
    """Augmentation that shifts, scales and rotates every box."""
    return changed(
        settings.augment,
        flip_prob=0.5,
        half_body_prob=half_body_prob,
        half_body_min_keypoints=9,
        shift_prob=1.0,
        rotate_prob=1.0,
    )


@pytest.mark.parametrize("rotate_deg", [0.0, 30.0, 80.0])
@pytest.mark.parametrize("bbox", [(900, 900, 60, 200), (900, 900, 200, 60), (900, 900, 90, 120)])
def test_context_box_covers_every_augmented_box(
    crop_settings: CropSettings, rotate_deg: float, bbox
) -> None:
    augment = crop_settings.augment
    augment = changed(augment, rotate_deg=rotate_deg, half_body_padding=augment.bbox_padding)
    settings = replace(crop_settings, augment=augment)
    image_wh, rng = (2000, 2000), np.random.default_rng(0)
    augment, bbox = with_every_box_moved(settings, half_body_prob=0.0), np.array(bbox, float)
    left, top, right, bottom = context_box(bbox, NO_KEYPOINTS, image_wh, settings)
    corners = np.array([[0, 0], [47, 0], [0, 63], [47, 63]], float)
    reach = []
    for _ in range(1500):
        affine, _ = draw_affine(
            rng, augment, COCO_17, bbox, np.zeros((17, 3)), image_wh, settings.codec.input_size
        )
        points = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
        assert (points >= (left, top)).all()
        assert (points <= (right - 1, bottom - 1)).all()
        reach.append([*points.min(0), *points.max(0)])
    reach = np.array(reach)
    used = (reach[:, 2:].max(0) - reach[:, :2].min(0)) / (right - left, bottom - top)
    assert (used > 0.8).all()  # and is not much larger than needed


def test_context_box_covers_half_bodies(crop_settings: CropSettings) -> None:
    """A half body that fills its box needs a larger crop than the padded whole person."""
    image_wh, rng = (2000, 2000), np.random.default_rng(0)
    bbox = np.array([900.0, 900, 60, 160])
    keypoints = np.ones((17, 3), np.float32)
    keypoints[:, :2] = rng.uniform(0, 1, (17, 2)) * (120, 90) + (880, 900)  # out of the box as well
    left, top, right, bottom = context_box(bbox, keypoints, image_wh, crop_settings)
    corners = np.array([[0, 0], [47, 0], [0, 63], [47, 63]], float)
    augment = with_every_box_moved(crop_settings, half_body_prob=1.0)
    for _ in range(1500):
        affine, _ = draw_affine(rng, augment, COCO_17, bbox, keypoints, image_wh, (48, 64))
        points = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
        assert (points >= (left, top)).all()
        assert (points <= (right - 1, bottom - 1)).all()


def test_context_box_has_every_pixel_that_interpolation_reads(crop_settings: CropSettings) -> None:
    augment = changed(crop_settings.augment, scale_factor=0.0, shift_factor=0.0, rotate_deg=0.0)
    still = replace(crop_settings, augment=augment)
    for x in np.linspace(500, 501, 11):
        bbox = np.array([x, x, 61.3, 90.7])
        center, scale = geometry.bbox_to_center_scale(bbox, augment.bbox_padding, (48, 64))
        left, top, right, bottom = context_box(bbox, NO_KEYPOINTS, (2000, 2000), still)
        assert ((left, top) <= np.floor(center - scale / 2)).all()
        assert ((right - 1, bottom - 1) >= np.floor(center + scale / 2) + 1).all()


@pytest.mark.parametrize(
    "bbox", [(0, 0, 20, 30), (150, 100, 10, 20), (0, 0, 160, 120), (159, 119, 0.5, 0.5)]
)
def test_context_box_is_inside_the_image(crop_settings: CropSettings, bbox) -> None:
    left, top, right, bottom = context_box(
        np.array(bbox, float), NO_KEYPOINTS, (160, 120), crop_settings
    )
    assert 0 <= left < right <= 160
    assert 0 <= top < bottom <= 120
