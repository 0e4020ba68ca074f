"""Annotations and images: each kind of bad record is named, nothing is guessed."""

from __future__ import annotations

import contextlib
import io
import json
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from pose.coco.annotations import by_image, is_unannotated, read_annotations, read_unannotated
from pose.coco.images import BadImageError, Images, decode_image
from pose.common.errors import PoseError
from tiny import SPLIT, TinyCoco, picture

NAME = f"person_keypoints_{SPLIT}.json"
KEYPOINTS = [10.0, 20.0, 2] * 17


def test_persons_are_sorted_by_image_and_crowds_and_others_left_out(tiny_coco: TinyCoco) -> None:
    found = read_annotations(tiny_coco.root, SPLIT, "person", None)
    assert [p.ann_id for p in found.persons] == [11, 12, 13, 14, 15, 16]
    assert [p.num_keypoints for p in found.persons] == [17, 0, 17, 8, 17, 12]
    assert {a["id"] for a in found.annotations} == {11, 12, 13, 14, 15, 16, 17}
    assert not found.bad
    first = found.persons[0]
    assert first.bbox_xywh == (30, 10, 50, 100)
    assert first.image_wh == (160, 120)
    assert first.keypoints.shape == (17, 3)
    assert [[p.ann_id for p in group] for group in by_image(found.persons)] == [
        [11, 12],
        [13, 14],
        [15, 16],
    ]


def test_a_box_off_the_image_is_no_person_but_stays_in_the_truth(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["annotations"][1]["bbox"] = [300, 10, 50, 100]
    tiny_coco.save()
    found = read_annotations(tiny_coco.root, SPLIT, "person", None)
    assert 11 not in {p.ann_id for p in found.persons}
    assert 11 in {a["id"] for a in found.annotations}
    assert (found.outside, found.bad) == (1, [])


def unannotated(coco: TinyCoco, split: str = "test-dev2017") -> None:
    """Adds a split as COCO's test-dev is: its images' list alone, the images in test2017."""
    path = coco.root / "annotations" / f"image_info_{split}.json"
    path.write_text(json.dumps({"images": coco.raw["images"], "categories": []}))
    (coco.root / "test2017").symlink_to(coco.root / SPLIT)


def test_a_split_without_annotations_has_images_alone(tiny_coco: TinyCoco) -> None:
    unannotated(tiny_coco)
    assert is_unannotated(tiny_coco.root, "test-dev2017")
    category = read_annotations(tiny_coco.root, SPLIT, "person", None).category
    found = read_unannotated(tiny_coco.root, "test-dev2017", category)
    assert [image["id"] for image in found.images] == [1, 2, 3]
    assert (found.persons, found.annotations, found.annotated) == ([], [], False)
    assert found.category is category
    name = tiny_coco.raw["images"][0]["file_name"]
    assert Images(tiny_coco.root, "test-dev2017").read(name) == tiny_coco.image_path(1).read_bytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_annotations_go_before_an_image_list(
    tiny_coco: TinyCoco, tmp_path: Path, zipped: bool
) -> None:
    unannotated(tiny_coco, SPLIT)
    root = tiny_coco.root
    if zipped:
        root = tiny_coco.zipped(tmp_path / "zips")
        with zipfile.ZipFile(root / f"image_info_{SPLIT}.zip", "w") as archive:
            archive.writestr(f"annotations/image_info_{SPLIT}.json", "{}")
    assert not is_unannotated(root, SPLIT)
    assert not is_unannotated(root, "train2017")


def test_image_lists_out_of_cocos_zip(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    """test-dev's list is in the zip of test's."""
    with zipfile.ZipFile(tmp_path / "image_info_test2017.zip", "w") as archive:
        content = json.dumps({"images": tiny_coco.raw["images"]})
        archive.writestr("annotations/image_info_test-dev2017.json", content)
    assert is_unannotated(tmp_path, "test-dev2017")
    assert not is_unannotated(tmp_path, "test-dev2015")


def test_by_image_of_nobody() -> None:
    assert list(by_image([])) == []


def test_zips_give_what_folders_give(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    zipped = tiny_coco.zipped(tmp_path / "zips")
    plain, packed = (
        read_annotations(root, SPLIT, "person", None) for root in (tiny_coco.root, zipped)
    )
    assert plain.annotations == packed.annotations
    with Images(tiny_coco.root, SPLIT) as loose, Images(zipped, SPLIT) as archive:
        name = plain.persons[0].file_name
        assert loose.read(name) == archive.read(name) == tiny_coco.image_path(1).read_bytes()
        for images in (loose, archive):
            with pytest.raises(BadImageError, match="named in the annotations but absent"):
                images.read("no.jpg")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": []}, "has 0 numbers in 'keypoints', expected 51 (17 x 3)"),
        ({"keypoints": KEYPOINTS[:48]}, "has 48 numbers in 'keypoints', expected 51 (17 x 3)"),
        ({"keypoints": None}, "has nothing in 'keypoints', expected 51 (17 x 3)"),
        ({"keypoints": [math.nan, *KEYPOINTS[1:]]}, "has a keypoint that is not a finite number"),
        ({"keypoints": ["1", *KEYPOINTS[1:]]}, "has a keypoint that is not a finite number"),
        ({"keypoints": [*KEYPOINTS[:-1], 3]}, "has a visibility other than 0, 1, 2"),
        ({"bbox": [1, 2, 0, 9]}, "has a box of 0 x 9 pixels"),
        ({"bbox": [1, 2, 9, -1]}, "has a box of 9 x -1 pixels"),
        ({"bbox": [1, 2, 3]}, "has bbox [1, 2, 3], expected 4 finite numbers"),
        ({"bbox": [1, 2, 3, math.inf]}, "has bbox [1, 2, 3, inf], expected 4 finite numbers"),
        ({"area": None}, "has area None, expected a finite number >= 0"),
        ({"area": -1}, "has area -1, expected a finite number >= 0"),
        ({"image_id": 99}, "names image 99, which is not in 'images'"),
    ],
)
def test_a_bad_annotation_is_set_aside_and_named(tiny_coco: TinyCoco, change, reason) -> None:
    tiny_coco.raw["annotations"][1].update(change)
    tiny_coco.save()
    found = read_annotations(tiny_coco.root, SPLIT, "person", None)
    assert [str(record) for record in found.bad] == [f"{NAME}: annotation 11 {reason}"]
    assert [p.ann_id for p in found.persons] == [12, 13, 14, 15, 16]
    assert 11 not in {a["id"] for a in found.annotations}


def test_an_annotation_without_id(tiny_coco: TinyCoco) -> None:
    del tiny_coco.raw["annotations"][1]["id"]
    tiny_coco.save()
    (record,) = read_annotations(tiny_coco.root, SPLIT, "person", None).bad
    assert str(record) == f"{NAME}: annotation None has no integer 'id'"


def broken(root: Path) -> str:
    with pytest.raises(PoseError) as caught:
        read_annotations(root, SPLIT, "person", None)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_json_that_is_cut_off(tiny_coco: TinyCoco, keep: int) -> None:
    tiny_coco.json_path.write_bytes(tiny_coco.json_path.read_bytes()[:keep])
    found = broken(tiny_coco.root)
    assert found.startswith(f"{NAME}: not valid JSON (")
    assert found.endswith("is it cut off?")


def test_json_without_its_lists(tiny_coco: TinyCoco) -> None:
    del tiny_coco.raw["categories"]
    tiny_coco.save()
    expected = f"{NAME}: expected a list under 'categories'; is it a COCO keypoint file?"
    assert broken(tiny_coco.root) == expected


def test_nothing_there(tmp_path: Path) -> None:
    found = broken(tmp_path)
    assert str(tmp_path / "annotations" / NAME) in found
    assert str(tmp_path / "annotations_trainval2017.zip") in found
    with pytest.raises(PoseError, match=r"check data\.root"):
        Images(tmp_path, SPLIT)


def test_what_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "annotations_trainval2017.zip").write_bytes(b"<html>")
    assert broken(tmp_path).endswith("File is not a zip file; fetch it again")
    (tmp_path / f"{SPLIT}.zip").write_bytes(b"")
    with pytest.raises(PoseError, match="fetch it again"):
        Images(tmp_path, SPLIT)


def test_a_zip_without_the_split(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w"):
        pass
    assert broken(tmp_path).endswith(f"holds no annotations/{NAME}")


def test_a_byte_flipped_inside_a_zip(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    path = tiny_coco.zipped(tmp_path / "zips") / f"{SPLIT}.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    errors = []
    with Images(path.parent, SPLIT) as images:
        for name in (f"{i:012d}.jpg" for i in (1, 2, 3)):
            try:
                images.read(name)
            except BadImageError as error:
                errors.append(str(error))
    assert len(errors) == 1
    assert errors[0].startswith("cannot be read: ")


@pytest.mark.parametrize(
    "change", [{"file_name": "../1.jpg"}, {"file_name": "/etc/1.jpg"}, {"file_name": ""}]
)
def test_a_file_name_that_leaves_its_folder(tiny_coco: TinyCoco, change) -> None:
    tiny_coco.raw["images"][0].update(change)
    tiny_coco.save()
    expected = f"{NAME}: image 1 has file_name {change['file_name']!r}, not a name"
    assert broken(tiny_coco.root) == expected


@pytest.mark.parametrize("key", ["id", "width", "height"])
def test_an_image_without_its_numbers(tiny_coco: TinyCoco, key: str) -> None:
    del tiny_coco.raw["images"][0][key]
    tiny_coco.save()
    assert "lacks an integer id, width or height" in broken(tiny_coco.root)


def jpeg(width: int, height: int) -> bytes:
    return cv2.imencode(".jpg", picture(0, width, height))[1].tobytes()


def with_exif_rotation(content: bytes) -> bytes:
    """The JPEG with an EXIF block that says: rotate by 90 degrees (orientation 6)."""
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + content[2:]


def test_exif_rotation_is_ignored() -> None:
    turned = with_exif_rotation(jpeg(40, 30))
    as_shown = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert as_shown.shape == (40, 30, 3)  # the marker works: a plain reader does turn it
    np.testing.assert_array_equal(
        decode_image(turned, (40, 30)), decode_image(jpeg(40, 30), (40, 30))
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a readable image"),
        (b"<html>no</html>", "is not a readable image"),
        (jpeg(40, 30)[:-2], "is cut off"),
        (jpeg(40, 30)[:200], "is cut off"),
        (b"\xff\xd8\xff\xd9", "is not a readable image"),
        (jpeg(41, 30), "is 41 x 30, the annotations say 40 x 30"),
        (jpeg(30, 40), "is 30 x 40, the annotations say 40 x 30"),
    ],
)
def test_images_that_cannot_serve(content: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_image(content, (40, 30))


def test_grey_images_become_three_channels() -> None:
    grey = cv2.imencode(".jpg", np.full((30, 40), 77, np.uint8))[1].tobytes()
    found = decode_image(grey, (40, 30))
    assert found.shape == (30, 40, 3)
    assert (found == 77).all()


@pytest.mark.parametrize("kind", ["twice", "encrypted", "bomb", "crc", "outside"])
def test_zips_that_are_not_as_they_should(tiny_coco: TinyCoco, tmp_path: Path, kind: str) -> None:
    root = tiny_coco.zipped(tmp_path / "zips")
    path, member = root / f"{SPLIT}.zip", f"{SPLIT}/000000000001.jpg"
    if kind in ("twice", "outside"):
        with zipfile.ZipFile(path, "a") as archive, pytest.warns() if kind == "twice" else none():
            archive.writestr(member if kind == "twice" else "../../escaped.jpg", b"x")
    else:
        spoil_member(path, member, kind)
    if kind == "twice":
        with pytest.raises(PoseError, match=rf"{SPLIT}.zip: holds '{member}' 2 times"):
            Images(root, SPLIT)
        return
    with Images(root, SPLIT) as images:
        assert images.read("000000000002.jpg") == tiny_coco.image_path(2).read_bytes()
        if kind == "outside":  # a name is a key, never a path
            assert not list(tmp_path.rglob("escaped.jpg"))
            return
        reason = {"encrypted": "encrypted", "bomb": "claims 4,000,000,000", "crc": "CRC"}[kind]
        with pytest.raises(BadImageError, match=reason):
            images.read("000000000001.jpg")


def none() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def spoil_member(path: Path, member: str, kind: str) -> None:
    """Change a stored member's content, or its entry in the central directory, in place."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset
    entry = content.index(b"PK\1\2" + content[0:0], start)
    while content[entry + 46 : entry + 46 + len(member)] != member.encode():
        entry = content.index(b"PK\1\2", entry + 4)
    if kind == "crc":
        content[start + 30 + len(member) + 40] ^= 255
    elif kind == "encrypted":
        content[entry + 8] |= 1
    else:
        content[entry + 24 : entry + 28] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)


def coded(image: PIL.Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def test_pictures_of_other_kinds_become_colour() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30)[..., ::-1].copy())
    expected = np.asarray(rgb)[..., ::-1].astype(int)
    for mode in ("RGB", "CMYK"):
        found = decode_image(coded(rgb.convert(mode)), (40, 30))
        assert found.shape == (30, 40, 3)
        assert np.abs(found - expected).mean() < 8
    grey = decode_image(coded(rgb.convert("L")), (40, 30))
    assert (grey[..., 0] == grey[..., 2]).all()


def test_exif_rotation_is_ignored_as_cocos_annotations_do() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(
        decode_image(coded(rgb, exif=exif), (40, 30)), decode_image(coded(rgb), (40, 30))
    )


def test_a_claim_of_giant_size_is_refused_before_it_is_decoded() -> None:
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    for wh in ((8, 8), (60_000, 60_000)):
        with pytest.raises(BadImageError):
            decode_image(bytes(content), wh)


def test_a_picture_of_one_pixel_shows_nobody(tiny_coco: TinyCoco) -> None:
    tiny_coco.raw["images"][0].update(width=1, height=1)
    tiny_coco.image_path(1).write_bytes(coded(PIL.Image.new("RGB", (1, 1))))
    tiny_coco.save()
    found = read_annotations(tiny_coco.root, SPLIT, "person", None)
    assert found.outside == 2
    assert decode_image(tiny_coco.image_path(1).read_bytes(), (1, 1)).shape == (1, 1, 3)
