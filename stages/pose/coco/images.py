"""Read the files of images of a COCO split, from its zip or its folder, without extracting."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import TracebackType

from pose.coco.files import SplitFiles
from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP

ABSENT = "is named in the annotations but absent"
MAX_IMAGE_BYTES = 1 << 27  # the largest image of COCO has 1 MB


class BadImageError(Exception):
    """An image that cannot be used; the text is the end of a sentence that names the image."""


class Images:
    """Reads the images of a split by file name, from a folder or a zip.

    In a zip x.zip, a file_name is a member below x/, as in COCO's, or one of that very name. Raises
    PoseError if there is neither a folder nor a readable zip.
    """

    def __init__(self, files: SplitFiles) -> None:
        self.split = files.split
        if files.images is None:
            raise PoseError(f"{files.name}: its images are in no folder or zip; check data.root")
        self.path = files.images
        self._zip = None if self.path.is_dir() else open_zip(self.path)

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
        """Content of an image file. Raises BadImageError if it is absent, damaged or too large."""
        try:
            if self._zip is not None:
                return read_member(self._zip, self._member(file_name), MAX_IMAGE_BYTES)
            path = self.path / file_name
            if path.stat().st_size > MAX_IMAGE_BYTES or not path.is_file():
                raise OSError(f"not a regular file, or larger than {MAX_IMAGE_BYTES:,} bytes")
            return path.read_bytes()
        except (KeyError, FileNotFoundError, NotADirectoryError):
            raise BadImageError(ABSENT) from None
        except BAD_ZIP as error:
            raise BadImageError(f"cannot be read: {error or type(error).__name__}") from None

    def checksum(self, file_name: str) -> tuple[int, int] | None:
        """Size and CRC-32 of an image file, in a zip those in its directory; None if not read."""
        if self._zip is not None:
            with contextlib.suppress(KeyError):
                info = self._zip.getinfo(self._member(file_name))
                return info.file_size, info.CRC
            return None
        try:
            content = (self.path / file_name).read_bytes()
        except OSError:
            return None
        return len(content), zlib.crc32(content)

    def _member(self, file_name: str) -> str:
        below = f"{self.path.stem}/{file_name}"
        return below if self._zip and below in self._zip.NameToInfo else file_name


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opened zip. Raises PoseError if it is absent or damaged, or has a member twice."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise PoseError(f"{path}: does not exist; check data.root") from None
    except BAD_ZIP as error:
        if path.suffix.lower() != ".zip":
            raise PoseError(f"{path}: expected a folder or a zip; unpack it") from None
        raise PoseError(f"{path}: {error}; download it again") from None
    names = Counter(archive.namelist())
    if duplicates := [name for name, count in names.items() if count > 1]:
        first = duplicates[0]
        raise PoseError(
            f"{path}: has {first!r} {names[first]} times, expected a zip with each name once, or a "
            "folder; unpack it or zip it anew"
        )
    return archive


def read_member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Content of a member; its name is only a key, never a path on disk.

    Raises KeyError if it is absent, one of BAD_ZIP if it is damaged, encrypted or too large.
    """
    info = archive.getinfo(name)
    if info.flag_bits & 1:
        raise zipfile.BadZipFile("it is encrypted")
    if info.file_size > max_bytes:
        raise zipfile.BadZipFile(f"it claims {info.file_size:,} bytes, more than {max_bytes:,}")
    return archive.read(info)
