"""Decode images of any common format, the same for training and prediction."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass, replace

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pose.coco.formats import seen_instead, unreadable_kind
from pose.coco.images import BadImageError
from pose.coco.jpeg import SOI, find_end, reaches_end
from pose.coco.orientation import exchanges_sides, upright_image

ORIENTATION_TAG = 0x0112  # of EXIF
BAD_HEADER = (  # raised by PIL for damaged or hostile images
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    struct.error,
    PIL.Image.DecompressionBombError,
)


@dataclass(frozen=True)
class PixelSettings:
    """How pixels are read: upright is data.orientation: apply; bit_depth as in params.yaml."""

    upright: bool = False
    bit_depth: int | None = None


AS_STORED = PixelSettings()


@dataclass(frozen=True)
class ImageNote:
    """What an image file states beside its pixels.

    orientation: EXIF orientation, 1 if there is none. max_value: the largest of a 16-bit image,
    else None.
    """

    stored_wh: tuple[int, int]
    orientation: int
    max_value: int | None = None


def decode_image(
    content: bytes,
    image_wh: tuple[int, int] | None,
    settings: PixelSettings = AS_STORED,
    suffix: str = "",
) -> tuple[NDArray[np.uint8], ImageNote]:
    """BGR pixels (H, W, 3), and a note. EXIF rotation is ignored by default, as in COCO.

    Raises BadImageError if content is not an image, is truncated, or is not of size image_wh; None
    allows any size. suffix: the file's extension, see formats.unreadable_kind.
    """
    if kind := unreadable_kind(content, suffix.lower()):
        raise BadImageError(f"is a {kind} file, which cannot be read; convert it to JPEG or PNG")
    end = find_end(content) if content.startswith(SOI) else None
    if content.startswith(SOI) and end is None:
        raise BadImageError("is truncated (a JPEG without its end marker)")
    note = read_note(content)
    if note is None:
        raise BadImageError(seen_instead(content))
    if image_wh is not None:
        _check_size(note, image_wh, settings.upright)
    if end is not None and end.end < len(content) and not reaches_end(content, end):
        raise BadImageError("is truncated (a JPEG with other bytes after part of its data)")
    image, max_value = _decode(content, settings.bit_depth)
    if image is None or image.shape[1::-1] != note.stored_wh:
        raise BadImageError("is not a readable image")
    if settings.upright:
        image = upright_image(image, note.orientation)
    return image, replace(note, max_value=max_value)


def _check_size(note: ImageNote, image_wh: tuple[int, int], upright: bool) -> None:
    """Raises BadImageError if the annotations' image_wh is not that of the image."""
    turns = exchanges_sides(note.orientation)
    wh = note.stored_wh[::-1] if upright and turns else note.stored_wh
    if wh == image_wh:
        return
    is_exchanged = wh[::-1] == image_wh
    rotation = (
        f"EXIF orientation {note.orientation}" if note.orientation > 1 else "no EXIF rotation"
    )
    seen = f" with {rotation}" if is_exchanged else ""
    advice = "; set data.orientation: apply" if is_exchanged and turns and not upright else ""
    annotated = f"the annotations say {image_wh[0]} x {image_wh[1]}"
    raise BadImageError(f"is {wh[0]} x {wh[1]}{seen}, {annotated}{advice}")


def _decode(content: bytes, bit_depth: int | None) -> tuple[NDArray[np.uint8] | None, int | None]:
    """BGR pixels as stored, or None; and the largest value if they have 16 bits.

    With bit_depth b, 16-bit values are scaled by 255 / (2^b - 1) and clipped; else as by OpenCV.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    data = np.frombuffer(content, np.uint8)
    try:
        image = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH)
        max_value = int(image.max()) if image is not None and image.dtype == np.uint16 else None
        if image is None or (image.dtype != np.uint8 and (max_value is None or bit_depth is None)):
            image = cv2.imdecode(data, flags)
    except cv2.error:  # more pixels than OpenCV allows
        return None, None
    if image is not None and max_value is not None and bit_depth is not None:
        image = np.minimum(np.rint(image * np.float32(255 / (2**bit_depth - 1))), 255)
    return None if image is None else image.astype(np.uint8, copy=False), max_value


def read_note(content: bytes) -> ImageNote | None:
    """Size and orientation in the image's header, before anything of that size is allocated.

    None if it cannot be read, also for a PNG with a damaged chunk: OpenCV would allocate whatever
    length the chunk claims. Raises BadImageError for more pixels than PIL allows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # damaged EXIF data
            with PIL.Image.open(io.BytesIO(content)) as image:
                orientation = _orientation(image)
                image.verify()
                return ImageNote(image.size, orientation)
    except PIL.Image.DecompressionBombError as error:  # the text has both numbers of pixels
        size = str(error).split(",")[0]
        raise BadImageError(f"is too large ({size}); scale it down") from None
    except BAD_HEADER:
        return None


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation; 1 if there is none or it is invalid, and for TIFF: all readers apply it."""
    if image.format == "TIFF":
        return 1
    try:
        value = PIL.Image.Image.getexif(image).get(ORIENTATION_TAG)
    except BAD_HEADER:
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1
