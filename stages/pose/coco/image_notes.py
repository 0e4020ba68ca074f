"""Lines about EXIF orientation and 16-bit pixels, counted over many images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from pose.coco.decode import ImageNote, PixelSettings

MIN_BIT_DEPTH = 8


def is_noted(note: ImageNote) -> bool:
    """Whether an image is counted in one of the lines."""
    return note.orientation != 1 or note.max_value is not None


def orientation_lines(
    notes: Collection[ImageNote], count: int, settings: PixelSettings
) -> list[str]:
    """At most one line; notes are those of some of the `count` images."""
    turned = [note for note in notes if note.orientation != 1]
    if not turned:
        return []
    numbers = Counter(note.orientation for note in turned)
    listed = ", ".join(f"{value}: {numbers[value]:,}" for value in sorted(numbers))
    line = f"{len(turned):,} of {count:,} images have an EXIF orientation other than 1 ({listed}); "
    if not settings.upright:
        return [line + "they are read as stored (data.orientation: ignore)"]
    unclear = [n for n in turned if n.orientation < 5 or n.stored_wh[0] == n.stored_wh[1]]
    line += "they are rotated (data.orientation: apply)"
    if unclear:
        line += (
            f"; the sizes of {len(unclear):,} are the same before and after: their annotations are "
            "taken as those of the rotated image"
        )
    return [line]


def bit_depth_lines(notes: Collection[ImageNote], count: int, settings: PixelSettings) -> list[str]:
    """At most one line; none if data.bit_depth is set and no value is above it."""
    values = [note.max_value for note in notes if note.max_value is not None]
    if not values:
        return []
    line = f"{len(values):,} of {count:,} images have 16 bits, largest value {max(values):,}; "
    if settings.bit_depth is None:
        depth = max(max(values).bit_length(), MIN_BIT_DEPTH)
        if depth == 16:
            return [line + "they are read as 16 bits (data.bit_depth: null)"]
        dark = f"as 16 bits (data.bit_depth: null) they are dark; set data.bit_depth: {depth}"
        return [line + dark]
    limit = 2**settings.bit_depth - 1
    above = sum(value > limit for value in values)
    clipped = f"values above {limit:,} are clipped in {above:,} (data.bit_depth: "
    return [f"{line}{clipped}{settings.bit_depth})"] if above else []
