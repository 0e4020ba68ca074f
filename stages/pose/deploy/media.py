"""Pictures and videos from people's own disks, in and out; what is no such thing is told."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import move_into_place

Image = NDArray[np.uint8]
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FALLBACK_FPS = 25.0  # of a video that does not tell


os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a bad file is told by us, in one line


def is_video(path: Path) -> bool:
    """By the name's ending."""
    return path.suffix.lower() in VIDEOS


def list_inputs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Files, each once; folders as their own pictures and videos, by name. And what is wrong.

    A fault names its path. Nothing is opened here.
    """
    found: dict[Path, None] = {}
    faults = []
    for path in paths:
        files = _seen_in(path) if path.is_dir() else [path]
        if not path.exists():
            faults.append(f"{path}: no such file or folder")
        elif not files:
            faults.append(f"{path}: holds no picture ({' '.join(PICTURES)}) and no video")
        else:
            found |= dict.fromkeys(files)
    return list(found), faults


def _seen_in(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in PICTURES + VIDEOS)


def read_picture(path: Path, upright: bool) -> Image:
    """RGB pixels (H, W, 3); upright: turned as its EXIF says, else as stored, as COCO counts.

    Raises BadImageError for what is no picture, is cut off or absurdly large.
    """
    try:
        with PIL.Image.open(path) as image:
            turned = PIL.ImageOps.exif_transpose(image) if upright else image
            return np.asarray(turned.convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise BadImageError(f"is no readable picture ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "of no known format"
    return " ".join(str(getattr(error, "strerror", None) or error).split())


class Video:
    """RGB frames (H, W, 3) of a file, once; fps, size and number of frames as the file tells."""

    def __init__(self, path: Path) -> None:
        """Raises BadImageError if the file is no video that OpenCV can read."""
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise BadImageError("is no readable video")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or FALLBACK_FPS
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._read = 0

    def __iter__(self) -> Iterator[Image]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            self._read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    def fault(self) -> str | None:
        """After the last frame: why there is no more, if the file tells of more.

        Some containers (Matroska) only estimate their number of frames.
        """
        if self._read >= max(1, self.count):
            return None
        return f"ends after {self._read} of {self.count} frames; is it cut off?"


@contextlib.contextmanager
def video_writer(
    path: Path, fps: float, image_wh: tuple[int, int]
) -> Iterator[Callable[[Image], object]]:
    """A function that appends a BGR frame to an MP4 (MPEG-4), which gets its name at the end.

    Of an odd width or height the encoder drops the last column or row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")  # the ending chooses the container
    writer = cv2.VideoWriter(str(beside), cv2.VideoWriter.fourcc(*"mp4v"), fps, image_wh)
    if not writer.isOpened():
        raise PoseError(f"{path}: this OpenCV cannot write MP4 there; install it with FFmpeg")
    try:
        yield writer.write
        writer.release()
        move_into_place(beside, path)
    finally:
        writer.release()
        beside.unlink(missing_ok=True)
