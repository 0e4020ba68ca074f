"""Videos for tests, written by OpenCV, and MP4 boxes as OpenCV does not write them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CONTAINERS = (b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl")
TURN_CLOCKWISE = (0, 1, 0, -1, 0, 0)  # a, b, u, c, d, v of the display matrix, in whole numbers


def write_clip(
    path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, codec: str = "mp4v"
) -> Path:
    """Write BGR frames of one size; returns the path."""
    writer = None
    for frame in frames:
        if writer is None:
            image_wh = frame.shape[1::-1]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, image_wh)
            assert writer.isOpened()
        writer.write(frame)
    assert writer is not None
    writer.release()
    return path


def rotate_mp4(path: Path) -> None:
    """Mark the video as to be displayed turned clockwise by 90 degrees, as phones do."""

    def turn(body: bytes) -> bytes:
        matrix = struct.pack(">6i", *(v << 16 for v in TURN_CLOCKWISE))
        start = 40 if body[0] == 0 else 52  # version 1 has 64-bit times
        return body[:start] + matrix + body[start + 24 :]

    _change_mp4(path, b"tkhd", turn)


def retime_mp4(path: Path, durations: list[int]) -> None:
    """Give each frame its own duration, in units of the track's time scale."""
    table = b"".join(struct.pack(">2I", 1, duration) for duration in durations)
    _change_mp4(path, b"stts", lambda _: struct.pack(">2I", 0, len(durations)) + table)
    _change_mp4(path, b"elst", lambda body: body[:8] + struct.pack(">I", 1 << 30) + body[12:])


def mp4_box(path: Path, kind: bytes) -> bytes:
    """Content of the first box of a kind."""
    found: list[bytes] = []

    def note(body: bytes) -> bytes:
        found.append(body)
        return body

    _changed(path.read_bytes(), kind, note)
    return found[0]


def _change_mp4(path: Path, kind: bytes, change: Callable[[bytes], bytes]) -> None:
    content = path.read_bytes()
    assert content.index(b"mdat") < content.index(b"moov")  # else offsets into mdat would change
    path.write_bytes(_changed(content, kind, change))


def _changed(content: bytes, kind: bytes, change: Callable[[bytes], bytes]) -> bytes:
    out, at = b"", 0
    while at < len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + size]
        if name in CONTAINERS:
            body = _changed(body, kind, change)
        elif name == kind:
            body = change(body)
        out += struct.pack(">I4s", len(body) + 8, name) + body
        at += size
    return out
