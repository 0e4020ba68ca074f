"""Images of a COCO split, read out of its zip or its folder; nothing is extracted."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP

MAX_IMAGE_BYTES, MAX_JSON_BYTES = 1 << 27, 1 << 32  # of zip members; COCO's largest: 1 MB, 0.5 GB
STRANGE_HEADER = (OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error)  # of PIL


class Images:
    """Bytes of a split's images by file name, from `<split>/` or `<split>.zip` under root.

    Those of test-dev2017 are in test2017, as COCO has them.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.split = image_split(split)
        self.folder = root / self.split
        self._zip: zipfile.ZipFile | None = None
        if not self.folder.is_dir():
            self._zip = _open_zip(root / f"{self.split}.zip", f"{self.folder}/")

    def __enter__(self) -> Images:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._zip is not None:
            self._zip.close()

    def read(self, file_name: str) -> bytes:
        """Raises BadImageError if the file is absent, damaged, encrypted or of absurd size."""
        try:
            if self._zip is not None:
                return _member(self._zip, f"{self.split}/{file_name}", MAX_IMAGE_BYTES)
            return _loose(self.folder / file_name)
        except (KeyError, FileNotFoundError):
            raise BadImageError("is named in the annotations but absent") from None
        except BAD_ZIP as error:
            raise BadImageError(f"cannot be read: {error or type(error).__name__}") from None


def _loose(path: Path) -> bytes:
    """A plain file's content, bounded as a zip's member is."""
    size = path.stat().st_size
    if not path.is_file() or size > MAX_IMAGE_BYTES:
        raise OSError(f"it is no plain file, or has more than {MAX_IMAGE_BYTES:,} bytes")
    return path.read_bytes()


def image_split(split: str) -> str:
    """The split that a split's images belong to: COCO's test-dev is a part of test."""
    return split.replace("test-dev", "test")


class BadImageError(Exception):
    """An image that cannot serve; the text continues a sentence that names it."""


def decode_image(content: bytes, image_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """BGR pixels (H, W, 3). EXIF rotation is ignored, as COCO's annotations ignore it.

    Raises BadImageError for what is no image, is cut off, or differs in size from the annotations.
    """
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-1024:]:
        raise BadImageError("is cut off (a JPEG without its end marker)")
    if (found := _header_size(content)) not in (None, image_wh):
        wrong = f"is {found[0]} x {found[1]}"
        raise BadImageError(f"{wrong}, the annotations say {image_wh[0]} x {image_wh[1]}")
    image = _pixels(content) if found else None
    if image is None or image.shape[1::-1] != image_wh:
        raise BadImageError("is not a readable image")
    return image.astype(np.uint8, copy=False)


def _pixels(content: bytes) -> NDArray[Any] | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV allows
        return None


def _header_size(content: bytes) -> tuple[int, int] | None:
    """(w, h) that a picture's header claims, before anything of that size is allocated.

    None also for a PNG with a damaged chunk: OpenCV allocates whatever length the chunk claims.
    """
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            image.verify()
            return image.size
    except (*STRANGE_HEADER, PIL.Image.DecompressionBombError):
        return None


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member's content; a name serves as a key alone, never as a path. Raises BAD_ZIP."""
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise zipfile.BadZipFile("it is encrypted")
    if info.file_size > limit:
        raise zipfile.BadZipFile(f"it claims {info.file_size:,} bytes, more than {limit:,}")
    return archive.read(info)


def _open_zip(path: Path, alternative: str) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise PoseError(f"neither {alternative} nor {path} exists; check data.root") from None
    except BAD_ZIP as error:
        raise PoseError(f"{path}: {error}; fetch it again") from None
    names = Counter(archive.namelist())
    if twice := [name for name, count in names.items() if count > 1]:
        raise PoseError(f"{path}: holds {twice[0]!r} {names[twice[0]]} times; fetch it again")
    return archive
