"""The lines on EXIF orientation and 16-bit pixels."""

from __future__ import annotations

import re

import pytest

from pose.coco.decode import AS_STORED, ImageNote, PixelSettings
from pose.coco.image_notes import bit_depth_lines, is_noted, orientation_lines

WH = (40, 30)


def bits(*values: int) -> list[ImageNote]:
    return [ImageNote(WH, 1, value) for value in values]


def turned(*orientations: int) -> list[ImageNote]:
    return [ImageNote(WH, orientation) for orientation in orientations]


def test_what_is_noted() -> None:
    assert [is_noted(note) for note in turned(1, 2, 8)] == [False, True, True]
    assert is_noted(ImageNote(WH, 1, 0))


@pytest.mark.parametrize(
    ("orientations", "upright", "lines"),
    [
        ((), False, []),
        ((1, 1), True, []),
        (
            (6, 8, 6),
            False,
            [
                "3 of 40 images have an EXIF orientation other than 1 (6: 2, 8: 1); they are read "
                "as stored (data.orientation: ignore)"
            ],
        ),
        (
            (6, 5),
            True,
            [
                "2 of 40 images have an EXIF orientation other than 1 (5: 1, 6: 1); they are "
                "rotated (data.orientation: apply)"
            ],
        ),
        (
            (6, 3),
            True,
            [
                "2 of 40 images have an EXIF orientation other than 1 (3: 1, 6: 1); they are "
                "rotated (data.orientation: apply); the sizes of 1 are the same before and after: "
                "their annotations are taken as those of the rotated image"
            ],
        ),
    ],
)
def test_orientation_lines(orientations: tuple[int, ...], upright: bool, lines: list[str]) -> None:
    assert orientation_lines(turned(*orientations), 40, PixelSettings(upright)) == lines


def test_a_square_image_is_unclear_as_well() -> None:
    [line] = orientation_lines([ImageNote((30, 30), 6)], 1, PixelSettings(True))
    assert "the sizes of 1 are the same" in line


@pytest.mark.parametrize(
    ("values", "bit_depth", "end"),
    [
        ((0,), None, "largest value 0; as 16 bits .* they are dark; set data.bit_depth: 8"),
        ((255, 12), None, "largest value 255; .* set data.bit_depth: 8"),
        ((256, 12), None, "largest value 256; .* set data.bit_depth: 9"),
        ((1023, 1), None, "set data.bit_depth: 10"),
        ((4095, 1), None, "largest value 4,095; .* set data.bit_depth: 12"),
        ((4096, 1), None, "set data.bit_depth: 13"),
        ((32767, 1), None, "set data.bit_depth: 15"),
        (
            (32768, 1),
            None,
            r"largest value 32,768; they are read as 16 bits \(data.bit",
        ),
        ((4096, 4095), 12, r"values above 4,095 are clipped in 1 \(data.bit_depth: 12\)"),
    ],
)
def test_bit_depth_lines(values: tuple[int, ...], bit_depth: int | None, end: str) -> None:
    notes = [*bits(*values), *turned(6)]
    [line] = bit_depth_lines(notes, 40, PixelSettings(bit_depth=bit_depth))
    assert line.startswith(f"{len(values)} of 40 images have 16 bits, ")
    assert re.search(end, line), line


def test_no_line_without_16_bits_or_if_all_fit() -> None:
    assert bit_depth_lines(turned(6), 1, AS_STORED) == []
    assert bit_depth_lines(bits(4095), 1, PixelSettings(bit_depth=12)) == []
