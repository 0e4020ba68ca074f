"""Where a JPEG ends, and whether its image data reach that end.

Cameras append data to a whole JPEG (the video of a Motion Photo, the second image of an MPO file,
padding); a cut-off JPEG may be followed by such bytes too. Markers: ITU-T T.81, table B.1.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass

import PIL.Image

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"
MAX_MARKERS = 1 << 16  # a file of 128 MB with as many segments is no photo
START_OF_SCAN = 0xDA
STANDALONE = 0x01  # TEM, the only marker without a length besides RSTn, SOI and EOI
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
SEGMENTS = frozenset((0xC4, 0xCC, 0xFE, *range(0xDA, 0xF0)))  # tables, scans, APPn, comments
# 0xFF followed by 0 is a byte of image data, by RSTn a restart in them, by 0xFF a fill byte
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_NOISE = bytes((151 * i + 37) % 251 for i in range(32))  # image data without a marker
_MORE_DATA = b"".join(2 * _NOISE + bytes((0xFF, 0xD0 + i)) for i in range(8))


@dataclass(frozen=True)
class JpegEnd:
    """Offsets into the file: of the last scan's image data, and behind the end marker.

    segments: marker code and content of the frame header and of each scan header.
    """

    scan: int
    end: int
    segments: list[tuple[int, bytes]]


def find_end(content: bytes) -> JpegEnd | None:
    """End of the JPEG at the start of content; None if it ends before its end marker.

    Walks from segment to segment, so the end marker of an embedded thumbnail does not count.
    """
    position, scan = len(SOI), 0
    segments: list[tuple[int, bytes]] = []
    for _ in range(MAX_MARKERS):
        if not (marker := _MARKER.search(content, position)):
            return None
        code, position = marker[1][0], marker.end()
        if code == EOI[1]:
            return JpegEnd(scan, position, segments)
        if code == STANDALONE:
            continue
        length = int.from_bytes(content[position : position + 2], "big")
        if length < 2 or not (code in SEGMENTS or (code in FRAMES and not scan)):
            return None  # not a JPEG's marker: other bytes follow cut-off image data
        if code in FRAMES or code == START_OF_SCAN:
            segments.append((code, content[position + 2 : position + length]))
        position += length
        if code == START_OF_SCAN:
            scan = position
    return None


def reaches_end(content: bytes, found: JpegEnd) -> bool:
    """Whether all scans are there and their data fill the image exactly up to the end marker.

    For a file with bytes behind the end: if it was cut off, the end marker found may be two bytes
    of what follows, by chance. Then a decoder lacks data, and would read more if there were more;
    or it has enough before the end, and does not read the last 32 bytes. Decodes three times.
    """
    data = content[: found.end - len(EOI)].rstrip(b"\xff")
    pixels = _pixels(data + EOI)
    if pixels is None or not _has_all_coefficients(found.segments):
        return False
    if pixels != _pixels(data + _MORE_DATA + EOI):
        return False
    is_short = len(data) - found.scan < len(_NOISE)
    return is_short or pixels != _pixels(data[: -len(_NOISE)] + _NOISE + EOI)


def _has_all_coefficients(segments: list[tuple[int, bytes]]) -> bool:
    """Whether the scans have each of the 64 coefficients of each component in full precision."""
    (frame_code, frame), *scans = segments
    sent: set[tuple[int, int]] = set()
    for _, scan in scans:
        count = scan[0]
        first, last, bits = scan[1 + 2 * count : 4 + 2 * count]
        if frame_code not in PROGRESSIVE:
            first, last, bits = 0, 63, 0  # some encoders write other values
        if bits & 15 == 0:  # the lowest bit of the coefficients
            sent |= {
                (component, k)
                for component in scan[1 : 1 + 2 * count : 2]
                for k in range(first, last + 1)
            }
    return len(sent) == 64 * frame[5]


def _pixels(content: bytes) -> bytes | None:
    """By Pillow: OpenCV writes a line to stderr for each invalid file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # damaged EXIF data
            with PIL.Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                return image.tobytes()
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
