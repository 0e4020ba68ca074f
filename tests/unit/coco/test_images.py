"""Images out of zips and folders: damaged, encrypted or oversized files are refused."""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from pose.coco.images import BadImageError, Images, decode_image
from pose.common.errors import PoseError
from tiny_coco import SPLIT, TinyCoco, picture


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


def jpeg(width: int, height: int) -> bytes:
    return cv2.imencode(".jpg", picture(0, width, height))[1].tobytes()


def with_exif_rotation(content: bytes) -> bytes:
    """The JPEG with an EXIF block with orientation 6 (rotate by 90 degrees)."""
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    body = b"Exif\0\0" + tiff
    return content[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + content[2:]


def test_exif_rotation_is_ignored() -> None:
    turned = with_exif_rotation(jpeg(40, 30))
    as_shown = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert as_shown.shape == (40, 30, 3)  # the marker works: by default OpenCV rotates
    np.testing.assert_array_equal(
        decode_image(turned, (40, 30)), decode_image(jpeg(40, 30), (40, 30))
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a readable image"),
        (b"<html>no</html>", "is not a readable image"),
        (jpeg(40, 30)[:-2], "is truncated"),
        (jpeg(40, 30)[:200], "is truncated"),
        (b"\xff\xd8\xff\xd9", "is not a readable image"),
        (jpeg(41, 30), "is 41 x 30, the annotations say 40 x 30"),
        (jpeg(30, 40), "is 30 x 40, the annotations say 40 x 30"),
    ],
)
def test_unusable_images(content: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_image(content, (40, 30))


def test_grey_images_become_three_channels() -> None:
    grey = cv2.imencode(".jpg", np.full((30, 40), 77, np.uint8))[1].tobytes()
    found = decode_image(grey, (40, 30))
    assert found.shape == (30, 40, 3)
    assert (found == 77).all()


@pytest.mark.parametrize("kind", ["twice", "encrypted", "bomb", "crc", "outside"])
def test_invalid_zips(tiny_coco: TinyCoco, tmp_path: Path, kind: str) -> None:
    root = tiny_coco.zipped(tmp_path / "zips")
    path, member = root / f"{SPLIT}.zip", f"{SPLIT}/000000000001.jpg"
    if kind in ("twice", "outside"):
        with (
            zipfile.ZipFile(path, "a") as archive,
            pytest.warns() if kind == "twice" else no_warning(),
        ):
            archive.writestr(member if kind == "twice" else "../../escaped.jpg", b"x")
    else:
        corrupt_member(path, member, kind)
    if kind == "twice":
        with pytest.raises(PoseError, match=rf"{SPLIT}.zip: has '{member}' 2 times"):
            Images(root, SPLIT)
        return
    with Images(root, SPLIT) as images:
        assert images.read("000000000002.jpg") == tiny_coco.image_path(2).read_bytes()
        if kind == "outside":  # a name is a key, never a path on disk
            assert not list(tmp_path.rglob("escaped.jpg"))
            return
        reason = {"encrypted": "encrypted", "bomb": "claims 4,000,000,000", "crc": "CRC"}[kind]
        with pytest.raises(BadImageError, match=reason):
            images.read("000000000001.jpg")


def no_warning() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def corrupt_member(path: Path, member: str, kind: str) -> None:
    """Change a stored member's content, or its entry in the central directory, in place."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset
    entry = content.index(b"PK\1\2", start)
    while content[entry + 46 : entry + 46 + len(member)] != member.encode():
        entry = content.index(b"PK\1\2", entry + 4)
    if kind == "crc":
        content[start + 30 + len(member) + 40] ^= 255
    elif kind == "encrypted":
        content[entry + 8] |= 1
    else:
        content[entry + 24 : entry + 28] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)


def encode(image: PIL.Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def test_other_color_modes_become_bgr() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30)[..., ::-1].copy())
    expected = np.asarray(rgb)[..., ::-1].astype(int)
    for mode in ("RGB", "CMYK"):
        found = decode_image(encode(rgb.convert(mode)), (40, 30))
        assert found.shape == (30, 40, 3)
        assert np.abs(found - expected).mean() < 8
    grey = decode_image(encode(rgb.convert("L")), (40, 30))
    assert (grey[..., 0] == grey[..., 2]).all()


def test_exif_rotation_written_by_pil_is_ignored() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(
        decode_image(encode(rgb, exif=exif), (40, 30)), decode_image(encode(rgb), (40, 30))
    )


def test_a_giant_size_in_the_header_is_refused() -> None:
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    for wh in ((8, 8), (60_000, 60_000)):
        with pytest.raises(BadImageError):
            decode_image(bytes(content), wh)


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match=r"check data\.root"):
        Images(tmp_path, SPLIT)


def test_a_file_that_is_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / f"{SPLIT}.zip").write_bytes(b"")
    with pytest.raises(PoseError, match="download it again"):
        Images(tmp_path, SPLIT)


def test_a_folder_in_place_of_an_image(tiny_coco: TinyCoco) -> None:
    (tiny_coco.root / SPLIT / "folder.jpg").mkdir()
    with (
        Images(tiny_coco.root, SPLIT) as images,
        pytest.raises(BadImageError, match="not a regular file"),
    ):
        images.read("folder.jpg")
