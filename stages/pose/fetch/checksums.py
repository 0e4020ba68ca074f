"""What a downloaded file has to be before it gets its final name; COCO's sizes and digests."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from pose.common.files import BAD_ZIP, digest
from pose.common.log import log


@dataclass(frozen=True)
class Pin:
    """A file known beforehand: hex digest, hashlib's name of it, exact size in bytes or None.

    key: where these are written down, for messages.
    """

    digest: str
    key: str
    algorithm: str = "sha256"
    size: int | None = None

    @property
    def label(self) -> str:
        """Tells files of one name apart."""
        return self.digest[:12]

    @property
    def md5(self) -> str | None:
        """Known md5, if any."""
        return self.digest if self.algorithm == "md5" else None

    @property
    def expected_bytes(self) -> int:
        """For the check of the disk; 0 if nothing is known."""
        return self.size or 0

    def fault(self, path: Path) -> str | None:
        """What is wrong with a file, or None. Continues a sentence that names it."""
        if self.size not in (None, path.stat().st_size):
            return f"has {path.stat().st_size:,} bytes, {self.key} says {self.size:,}"
        found = digest(path, self.algorithm)
        if found != self.digest:
            return f"{self.algorithm} is {found}, {self.key} says {self.digest}"
        return None


@dataclass(frozen=True)
class ZipPin:
    """A zip of which nobody vouches for more than a digest of one source, or not even that.

    With another digest it serves if all its members' CRCs are right and their names are below
    `folder`; the log then says so. about: bytes, only roughly known. md5: of one source, or None.
    """

    folder: str
    about: int
    md5: str | None
    size: None = None
    key: str = "its own CRCs"

    @property
    def label(self) -> str:
        return "zip"

    @property
    def expected_bytes(self) -> int:
        return self.about

    def fault(self, path: Path) -> str | None:
        """What is wrong with a file, or None. Continues a sentence that names it."""
        if self.md5 and digest(path, "md5") == self.md5:
            return None
        if fault := _zip_fault(path, self.folder):
            return fault
        known = f"its md5 is not the {self.md5} of one source" if self.md5 else "no digest known"
        log(f"{path.name}: {known}; all CRCs are right; not verified further; {_sha256(path)}")
        return None


def _sha256(path: Path) -> str:
    return f"sha256 {digest(path)}"


def _zip_fault(path: Path, folder: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            strange = [n for n in names if not n.startswith(f"{folder}/") or ".." in n.split("/")]
            if strange or not names:
                return f"is not the zip wanted: {strange[:1] or 'no'} member outside {folder}/"
            damaged = archive.testzip()
    except BAD_ZIP as error:
        return f"is not a whole zip ({error})"
    return f"is damaged at {damaged}" if damaged else None


KEY = "stages/pose/fetch/checksums.py"
COCO = {
    "zips/train2017.zip": Pin("cced6f7f71b7629ddf16f17bbcfab6b2", KEY, "md5", 19_336_861_798),
    "zips/val2017.zip": Pin("442b8da7639aecaf257c1dceb8ba8c80", KEY, "md5", 815_585_330),
    "annotations/annotations_trainval2017.zip": Pin(
        "f4bbac642086de4f52a3fdda2de5fa2c", KEY, "md5", 252_907_541
    ),
}
UNLABELLED = {
    "zips/unlabeled2017.zip": ZipPin(
        "unlabeled2017", 19_000_000_000, "7ebc562819fdb32847aab79530457326"
    ),
    "annotations/image_info_unlabeled2017.zip": ZipPin("annotations", 0, None),  # megabytes
}
