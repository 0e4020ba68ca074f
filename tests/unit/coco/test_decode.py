"""Decoded images: sizes, colours, orientation and bit depth; damaged images are refused."""

from __future__ import annotations

import io
import re
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from pose.coco.decode import ImageNote, PixelSettings, decode_image, read_note
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
        (b"", "is empty (0 bytes)"),
        (b"\n<html>no</html>", "is an HTML page, not an image; download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer of Git LFS, not the image",
        ),
        (bytes(2048), "has 2,048 bytes, all of them 0"),
        (b"a text", "is not a readable image"),
        (jpeg(40, 30)[:-2], "is truncated"),
        (jpeg(40, 30)[:200], "is truncated"),
        (b"\xff\xd8\xff\xd9", "is not a readable image"),
        (jpeg(41, 30), "is 41 x 30, the annotations say 40 x 30"),
        (jpeg(30, 40), "is 30 x 40 with no EXIF rotation, the annotations say 40 x 30"),
    ],
)
def test_unusable_images(content: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=re.escape(reason)):
        decode_image(content, (40, 30))


def test_an_image_of_too_many_pixels_is_told_with_both_numbers() -> None:
    size = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", size + b"\x08\0\0\0\0"), (b"IDAT", b""), (b"IEND", b"")):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        content += len(data).to_bytes(4, "big") + kind + data + check
    with pytest.raises(BadImageError) as caught:
        decode_image(content, (20_000, 10_000))
    assert str(caught.value) == (
        "is too large (Image size (200000000 pixels) exceeds limit of 178956970 pixels); scale it "
        "down"
    )


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


UPRIGHT = PixelSettings(upright=True)


def rotated(orientation: int, kind: str = "JPEG") -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    PIL.Image.fromarray(picture(0, 40, 30)).save(stream, kind, exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_if_set(orientation: int, kind: str) -> None:
    content = rotated(orientation, kind)
    shown = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
    image, note = decode_image(content, shown.size, UPRIGHT)
    np.testing.assert_array_equal(image[..., ::-1], np.asarray(shown.convert("RGB")))
    assert note == ImageNote((40, 30), orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exchanged_sizes_name_the_orientation(orientation: int) -> None:
    with pytest.raises(BadImageError) as caught:
        decode_image(rotated(orientation), (30, 40))
    rotation = f"EXIF orientation {orientation}" if orientation > 1 else "no EXIF rotation"
    seen = f"is 40 x 30 with {rotation}, the annotations say 30 x 40"
    advice = "; set data.orientation: apply" if orientation > 4 else ""
    assert str(caught.value) == seen + advice
    if advice:  # it helps
        assert decode_image(rotated(orientation), (30, 40), UPRIGHT)[0].shape == (40, 30, 3)


def test_other_sizes_do_not() -> None:
    with pytest.raises(BadImageError, match=r"the annotations say 30 x 41$"):
        decode_image(rotated(6), (30, 41))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_readers_apply_the_orientation_themselves(orientation: int) -> None:
    stream = io.BytesIO()
    image = PIL.Image.fromarray(picture(0, 40, 30))
    image.save(stream, "TIFF", tiffinfo={0x0112: orientation})
    expected = np.asarray(PIL.Image.open(stream))
    for settings in (UPRIGHT, PixelSettings()):
        found, note = decode_image(stream.getvalue(), expected.shape[1::-1], settings)
        np.testing.assert_array_equal(found[..., ::-1], expected)
        assert note.orientation == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_invalid_orientation_is_none(value: int) -> None:
    assert read_note(rotated(value)) == ImageNote((40, 30), 1)


def test_damaged_exif_data_do_not_matter() -> None:
    for at in range(6, 32):
        content = bytearray(rotated(6))
        start = content.index(b"Exif") + at
        content[start] ^= 0xFF
        assert decode_image(bytes(content), (40, 30))[0].shape == (30, 40, 3)


def deep(image: np.ndarray, kind: str) -> bytes:
    return cv2.imencode(kind, image)[1].tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3)])
@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_images_are_scaled_by_bit_depth(
    kind: str, shape: tuple[int, ...], bits: int
) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, shape).astype(np.uint16)
    values[0, 0], values[1, 1] = 0, 2**bits - 1
    image, note = decode_image(deep(values, kind), (40, 30), PixelSettings(bit_depth=bits))
    exact = values.astype(float) * 255 / (2**bits - 1)
    expected = np.broadcast_to(exact.reshape(30, 40, -1), (30, 40, 3))
    assert np.abs(image - expected).max() <= 0.51
    assert (image.min(), image.max(), note.max_value) == (0, 255, 2**bits - 1)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_16_bit_images_without_bit_depth(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16)
    image, note = decode_image(deep(values, kind), (40, 30))
    assert np.abs(image - values / 257).max() <= 1
    assert note.max_value == values.max()


def test_values_above_bit_depth_are_clipped() -> None:
    values = np.full((30, 40), 5000, np.uint16)
    image, note = decode_image(deep(values, ".png"), (40, 30), PixelSettings(bit_depth=12))
    assert (image == 255).all()
    assert note.max_value == 5000


def test_bit_depth_does_not_change_8_bit_images() -> None:
    values = picture(0, 40, 30)
    for kind in (".png", ".jpg", ".tiff"):
        plain, note = decode_image(deep(values, kind), (40, 30))
        scaled, _ = decode_image(deep(values, kind), (40, 30), PixelSettings(bit_depth=12))
        np.testing.assert_array_equal(plain, scaled)
        assert note.max_value is None
