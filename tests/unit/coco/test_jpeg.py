"""The end of a JPEG: bytes behind a whole one are allowed, a cut-off one is found."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pose.coco.decode import decode_image
from pose.coco.images import BadImageError
from pose.coco.jpeg import find_end
from tiny_coco import picture

EOI = b"\xff\xd9"
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 5},
    "progressive restarts": {"restart_marker_rows": 1, "progressive": True},
}
RANDOM = np.random.default_rng(0)


def thumbnail() -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x927C] = encode("baseline", 32, 24)[0]  # an end marker inside APP1
    return exif


def encode(kind: str, width: int = 160, height: int = 120, **options: Any) -> tuple[bytes, bytes]:
    """A JPEG and its pixels."""
    stream = io.BytesIO()
    image = PIL.Image.fromarray(picture(1, width, height))
    image.save(stream, "JPEG", **KINDS[kind], **options)
    return stream.getvalue(), np.asarray(PIL.Image.open(stream)).tobytes()


def trailer(name: str) -> bytes:
    noise = RANDOM.bytes(6000).replace(b"\xff", b"\xfe")
    return {
        "one byte": b"\0",
        "zeros": bytes(4000),
        "ones": b"\xff" * 3000,
        "video": b"\0\0\0\x18ftypmp42" + RANDOM.bytes(6000),
        "chance": noise[:1500] + EOI + noise,
        "chance soon": noise[:90] + EOI + noise,
        "chance late": noise + EOI + b"\0",
        "zeros, chance": bytes(3000) + EOI + bytes(100),
        "ones, chance": b"\xff" * 300 + EOI + noise,
        "image": encode("baseline", 64, 48)[0],
    }[name]


TRAILERS = (
    "one byte",
    "zeros",
    "ones",
    "video",
    "chance",
    "chance soon",
    "chance late",
    "zeros, chance",
    "ones, chance",
    "image",
)


@pytest.mark.parametrize("behind", TRAILERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_with_bytes_behind_its_end(kind: str, behind: str) -> None:
    content, pixels = encode(kind, exif=thumbnail())
    assert content.count(EOI) == 2
    image, _ = decode_image(content + trailer(behind), (160, 120))
    assert image[..., ::-1].tobytes() == pixels


@pytest.mark.parametrize("behind", ["", *TRAILERS])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_off_jpeg_is_refused_whatever_follows(kind: str, behind: str) -> None:
    content, _ = encode(kind, exif=thumbnail())
    first = content.index(b"\xff\xda")
    for cut in RANDOM.integers(first, len(content) - 300, 12):
        with pytest.raises(BadImageError):
            decode_image(content[:cut] + (trailer(behind) if behind else b""), (160, 120))


@pytest.mark.parametrize("kind", KINDS)
def test_each_cut_of_a_file_is_refused(kind: str) -> None:
    content, _ = encode(kind, 48, 32, exif=thumbnail())
    assert find_end(content).end == len(content)
    assert [cut for cut in range(2, len(content)) if find_end(content[:cut])] == []


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("side", [1, 8, 200])
def test_flat_images_with_bytes_behind(level: int, side: int) -> None:
    stream = io.BytesIO()
    PIL.Image.new("L", (side, side), level).save(stream, "JPEG")
    image, _ = decode_image(stream.getvalue() + bytes(5000), (side, side))
    assert (image == level).all()


def test_fill_bytes_and_padding_before_the_end_are_allowed() -> None:
    content, pixels = encode("baseline")
    for between in (b"\xff" * 5, bytes(18)):
        image, _ = decode_image(content[:-2] + between + EOI + bytes(2000), (160, 120))
        assert image[..., ::-1].tobytes() == pixels


def test_an_image_of_several_images_shows_the_first() -> None:
    stream = io.BytesIO()
    images = [PIL.Image.fromarray(picture(i, 160, 120)) for i in (1, 2)]
    images[0].save(stream, "MPO", save_all=True, append_images=images[1:])
    assert PIL.Image.open(stream).n_frames == 2
    image, _ = decode_image(stream.getvalue(), (160, 120))
    np.testing.assert_array_equal(image[..., ::-1], np.asarray(PIL.Image.open(stream)))
    with pytest.raises(BadImageError):
        decode_image(stream.getvalue()[: find_end(stream.getvalue()).end - 400], (160, 120))


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_end_in_an_image_or_an_error(kind: str) -> None:
    content, _ = encode(kind, exif=thumbnail())
    for _ in range(60):
        mutated = bytearray(content + bytes(RANDOM.integers(0, 2000)))
        for at in RANDOM.integers(0, len(content), RANDOM.integers(1, 8)):
            mutated[at] = RANDOM.integers(0, 256)
        try:
            image, _ = decode_image(bytes(mutated), (160, 120))
        except BadImageError:
            continue
        assert image.shape == (120, 160, 3)


@pytest.mark.parametrize(
    "unit", [b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\x01", b"\xff\xfe\0\2", b"\xff\xda\0\2"]
)
def test_hostile_files_take_linear_time(unit: bytes) -> None:
    start = time.perf_counter()
    assert find_end(b"\xff\xd8" + unit * (4_000_000 // len(unit))) is None
    assert time.perf_counter() - start < 5
