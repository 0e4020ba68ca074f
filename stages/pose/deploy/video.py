"""Reading of video files, cameras and streams frame by frame, and writing of videos."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pose.coco.images import BadImageError
from pose.common.errors import PoseError
from pose.common.files import move_into_place
from pose.deploy.media import Image, Stream

FALLBACK_FPS = 25.0  # of a video without a frame rate
MAX_FPS = 1000.0  # of what a file states; some streams state their clock's rate, 90,000

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: predict.py logs bad files


@dataclass(frozen=True)
class Frame:
    """A frame: its number, counted from 0 with all frames, its time in seconds, its RGB pixels."""

    index: int
    seconds: float
    image: Image  # (H, W, 3), uint8


class Video:
    """Every stride-th frame of a video, which can be iterated once.

    Frames are turned as the file's rotation says, and have 8 bits. Their times are those of the
    file or stream, so a variable frame rate is kept; a camera's are measured. fps and count
    (number of frames, 0 if unknown) are what the header states, of all frames.
    """

    def __init__(self, source: Path | Stream, stride: int = 1) -> None:
        """Raises BadImageError if OpenCV cannot read the source as a video."""
        self.stride, self._is_live = stride, isinstance(source, Stream)
        self._is_camera = isinstance(source, Stream) and source.is_camera
        self._capture = _open(source)
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= MAX_FPS else FALLBACK_FPS
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.frames_read = 0

    def __iter__(self) -> Iterator[Frame]:
        start, seconds = time.monotonic(), -1 / self.fps
        while self._capture.grab():
            seconds = self._seconds(start, seconds)
            index, self.frames_read = self.frames_read, self.frames_read + 1
            if index % self.stride:
                continue
            decoded, image = self._capture.retrieve()
            if not decoded:
                return
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Frame(index, seconds, rgb.astype(np.uint8, copy=False))

    def _seconds(self, start: float, before: float) -> float:
        """Time of the frame that was grabbed; by the frame rate if the file's time stands still."""
        if self._is_camera:
            return time.monotonic() - start
        seconds = max(0.0, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        return seconds if seconds > before else before + 1 / self.fps

    def close(self) -> None:
        """Close the file, camera or connection."""
        self._capture.release()

    def truncation(self) -> str | None:
        """What is missing at the end, if anything is; call it after the last frame.

        Some containers (Matroska) only estimate their number of frames. A stream that states no
        number may have ended or broken off.
        """
        if self.frames_read < self.count:
            return f"ends after {self.frames_read} of {self.count} frames; is the file truncated?"
        if not self.frames_read:
            return "has no frames"
        if self._is_live and not self.count:
            return f"the stream ended or broke off after {self.frames_read} frames"
        return None


def _open(source: Path | Stream) -> cv2.VideoCapture:
    address = source.address if isinstance(source, Stream) else str(source)
    is_camera = isinstance(source, Stream) and source.is_camera
    capture = cv2.VideoCapture(int(address)) if is_camera else cv2.VideoCapture(address)
    if capture.isOpened():
        return capture
    if isinstance(source, Path):
        raise BadImageError("not a readable video")
    what = "/dev/video" + address if is_camera else "the address, by a player such as ffplay"
    raise BadImageError(f"cannot be opened; check {what}")


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
