"""Decoded images: sizes, colours, orientation and bit depth; damaged images are refused."""

from __future__ import annotations

import io
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from pose.coco.decode import decode_image
from pose.coco.images import BadImageError
from tiny_coco import picture


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
        decode_image(turned, (40, 30))[0], decode_image(jpeg(40, 30), (40, 30))[0]
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
    found, _ = decode_image(grey, (40, 30))
    assert found.shape == (30, 40, 3)
    assert (found == 77).all()


def encode(image: PIL.Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def test_other_color_modes_become_bgr() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30)[..., ::-1].copy())
    expected = np.asarray(rgb)[..., ::-1].astype(int)
    for mode in ("RGB", "CMYK"):
        found, _ = decode_image(encode(rgb.convert(mode)), (40, 30))
        assert found.shape == (30, 40, 3)
        assert np.abs(found - expected).mean() < 8
    grey, _ = decode_image(encode(rgb.convert("L")), (40, 30))
    assert (grey[..., 0] == grey[..., 2]).all()


def test_exif_rotation_written_by_pil_is_ignored() -> None:
    rgb = PIL.Image.fromarray(picture(0, 40, 30))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(
        decode_image(encode(rgb, exif=exif), (40, 30))[0], decode_image(encode(rgb), (40, 30))[0]
    )


def test_a_giant_size_in_the_header_is_refused() -> None:
    content = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    for wh in ((8, 8), (60_000, 60_000)):
        with pytest.raises(BadImageError):
            decode_image(bytes(content), wh)
