"""The inputs of predict.py, and reading of pictures. Errors name unreadable files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from pose.coco.decode import ImageNote, PixelSettings, decode_image
from pose.coco.formats import UNREADABLE
from pose.coco.images import BadImageError

Image = NDArray[np.uint8]
JPEGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
PICTURES = (*JPEGS, ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".avif")
SCHEMES = ("rtsp", "rtsps", "http", "https")  # of streams
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Stream:
    """A camera, by its number, or a stream, by its URL. str() leaves out a user name and password.

    >>> str(Stream("rtsp://me:secret@10.0.0.7:554/yard")), Stream("rtsp://10.0.0.7/yard").stem
    ('rtsp://10.0.0.7:554/yard', 'yard')
    """

    address: str

    def __str__(self) -> str:
        if self.is_camera:
            return f"camera {self.address}"
        parts = urlsplit(self.address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def is_camera(self) -> bool:
        return self.address.isdecimal()

    @property
    def stem(self) -> str:
        """Name for its overlay."""
        if self.is_camera:
            return f"camera-{self.address}"
        parts = urlsplit(self.address)
        return Path(parts.path).stem or parts.hostname or "stream"


def is_video(source: Path | Stream) -> bool:
    """Whether it is a stream, or its file extension is that of a video."""
    return isinstance(source, Stream) or source.suffix.lower() in VIDEOS


def list_inputs(names: Sequence[str]) -> tuple[list[Path | Stream], list[str]]:
    """Inputs to read, each once, and one error message per name that has none.

    A folder stands for the pictures and videos directly in it, sorted by name, with pictures of
    formats that read_picture refuses. A URL is a stream, and so is a number unless a file has that
    name. No file is opened.
    """
    inputs: dict[Path | Stream, None] = {}  # a set in order
    errors = []
    for name in names:
        path = Path(name)
        if "://" in name and not _is_address(name):
            errors.append(f"{name}: not a valid address of a stream ({', '.join(SCHEMES)})")
            continue
        if "://" in name or (name.isdecimal() and not path.exists()):
            inputs[Stream(name)] = None
            continue
        files = _pictures_and_videos(path) if path.is_dir() else [path]
        if not path.exists():
            errors.append(f"{path}: no such file or folder")
        elif not files:
            errors.append(f"{path}: no picture ({' '.join(PICTURES)}) or video in this folder")
        else:
            inputs |= dict.fromkeys(files)
    return list(inputs), errors


def _is_address(name: str) -> bool:
    try:
        parts = urlsplit(name)
    except ValueError:  # a bracket that is not closed
        return False
    return parts.scheme in SCHEMES and bool(parts.netloc)


def _pictures_and_videos(folder: Path) -> list[Path]:
    """Without hidden files: macOS writes ._a.jpg beside a.jpg, which is no picture."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
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
