"""Reading of pictures and videos, and writing of videos. Errors name unreadable files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.coco.decode import ImageNote, PixelSettings, decode_image
from pose.coco.formats import UNREADABLE
from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import move_into_place

Image = NDArray[np.uint8]
JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
PICTURES = (*JPEGS, ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FALLBACK_FPS = 25.0  # of a video without a frame rate


os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: predict.py logs bad files


def is_video(path: Path) -> bool:
    """Whether the file extension is that of a video."""
    return path.suffix.lower() in VIDEOS


def list_inputs(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Files to read, each once, and one error message per input that has none.

    A folder stands for the pictures and videos directly in it, sorted by name, with pictures of
    formats that read_picture refuses. No file is opened.
    """
    inputs: dict[Path, None] = {}  # a set in order
    errors = []
    for path in paths:
        files = _pictures_and_videos(path) if path.is_dir() else [path]
        if not path.exists():
            errors.append(f"{path}: no such file or folder")
        elif not files:
            errors.append(f"{path}: no picture ({' '.join(PICTURES)}) or video in this folder")
        else:
            inputs |= dict.fromkeys(files)
    return list(inputs), errors


def _pictures_and_videos(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in PICTURES + VIDEOS + UNREADABLE)


def read_picture(path: Path, settings: PixelSettings) -> tuple[Image, ImageNote]:
    """RGB pixels (H, W, 3) of a picture and a note, decoded as for training.

    Raises BadImageError if the file is not a readable picture or is truncated.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from None
    image, note = decode_image(content, None, settings, path.suffix)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), note


class Video:
    """RGB frames (H, W, 3) of a video file, which can be iterated once.

    fps and count (number of frames) are what the file's header states.
    """

    def __init__(self, path: Path) -> None:
        """Raises BadImageError if OpenCV cannot read the file as a video."""
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise BadImageError("not a readable video")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or FALLBACK_FPS
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self._frames_read = 0

    def __iter__(self) -> Iterator[Image]:
        while True:
            read, frame = self._capture.read()
            if not read:
                return
            self._frames_read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)

    def truncation(self) -> str | None:
        """Error message if fewer frames were read than the header states; call it after the last.

        Some containers (Matroska) only estimate their number of frames.
        """
        if self._frames_read >= max(1, self.count):
            return None
        return f"ends after {self._frames_read} of {self.count} frames; is the file truncated?"


@contextlib.contextmanager
def video_writer(
    path: Path, fps: float, image_wh: tuple[int, int]
) -> Iterator[Callable[[Image], object]]:
    """Yield a function that appends a BGR frame to an MP4 file (MPEG-4 Part 2).

    The file appears under `path` only once it is complete. The encoder drops the last column or row
    of frames with an odd width or height. Raises PoseError if OpenCV cannot write MP4 files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")  # the extension sets the container
    writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), fps, image_wh)
    if not writer.isOpened():
        raise PoseError(f"{path}: OpenCV cannot write an MP4 file; install it with FFmpeg")
    try:
        yield writer.write
        writer.release()
        move_into_place(temporary, path)
    finally:
        writer.release()
        temporary.unlink(missing_ok=True)
