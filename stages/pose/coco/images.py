"""Read the files of images of a COCO split, from its zip or its folder, without extracting."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from types import TracebackType

from pose.common.errors import PoseError
from pose.common.files import BAD_ZIP

MAX_IMAGE_BYTES = 1 << 27  # the largest image of COCO has 1 MB


class BadImageError(Exception):
    """An image that cannot be used; the text is the end of a sentence that names the image."""


class Images:
    """Reads the images of a split by file name, from `<split>/` or `<split>.zip` in root.

    As in COCO, the images of test-dev2017 are those of test2017. Raises PoseError if there is
    neither a folder nor a readable zip.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.split = image_split(split)
        self.folder = root / self.split
        self._zip: zipfile.ZipFile | None = None
        if not self.folder.is_dir():
            self._zip = open_zip(root / f"{self.split}.zip", f"{self.folder}/")

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
                return read_member(self._zip, f"{self.split}/{file_name}", MAX_IMAGE_BYTES)
            path = self.folder / file_name
            if path.stat().st_size > MAX_IMAGE_BYTES or not path.is_file():
                raise OSError(f"not a regular file, or larger than {MAX_IMAGE_BYTES:,} bytes")
            return path.read_bytes()
        except (KeyError, FileNotFoundError):
            raise BadImageError("is named in the annotations but absent") from None
        except BAD_ZIP as error:
            raise BadImageError(f"cannot be read: {error or type(error).__name__}") from None


def image_split(split: str) -> str:
    """The split whose folder or zip has the images: COCO's test-dev is a part of test."""
    return split.replace("test-dev", "test")


def open_zip(path: Path, alternative: str) -> zipfile.ZipFile:
    """Opened zip. Raises PoseError if it is absent or damaged, or has a member twice.

    alternative: the folder or file that could be there instead, for the error message.
    """
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise PoseError(f"neither {alternative} nor {path} exists; check data.root") from None
    except BAD_ZIP as error:
        raise PoseError(f"{path}: {error}; download it again") from None
    names = Counter(archive.namelist())
    if duplicates := [name for name, count in names.items() if count > 1]:
        first = duplicates[0]
        raise PoseError(f"{path}: has {first!r} {names[first]} times; download it again")
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
