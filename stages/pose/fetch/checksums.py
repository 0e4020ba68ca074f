"""Checksums that downloads must match, and the known checksums of COCO 2017."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from pose.common.files import BAD_ZIP, digest
from pose.common.log import log

SOURCE = "stages/pose/fetch/checksums.py"


@dataclass(frozen=True)
class Checksum:
    """Expected hex digest of a file, hashlib's name of the algorithm, and exact size in bytes.

    source: where the values are written down, for error messages. size is None if unknown.
    """

    digest: str
    source: str
    algorithm: str = "sha256"
    size: int | None = None

    @property
    def label(self) -> str:
        """Part of the partial file's name, so that files of one name do not mix."""
        return self.digest[:12]

    @property
    def md5(self) -> str | None:
        """The md5, if that is the algorithm."""
        return self.digest if self.algorithm == "md5" else None

    @property
    def expected_bytes(self) -> int:
        """Size for the check of free disk space; 0 if unknown."""
        return self.size or 0

    def mismatch(self, path: Path) -> str | None:
        """How the file differs, as the end of a sentence that names it; None if it matches."""
        if self.size not in (None, path.stat().st_size):
            return f"has {path.stat().st_size:,} bytes, {self.source} says {self.size:,}"
        actual = digest(path, self.algorithm)
        if actual != self.digest:
            return f"{self.algorithm} is {actual}, {self.source} says {self.digest}"
        return None


@dataclass(frozen=True)
class ZipChecksums:
    """A zip that is verified by the CRC-32 of its members, because COCO publishes no digest.

    If md5 (reported by a single source, or None) does not match, the zip is accepted if all CRCs
    match and all members are inside `folder`; the log then says so.
    """

    folder: str
    approximate_bytes: int
    md5: str | None
    size: None = None
    source: str = "its own CRCs"

    @property
    def label(self) -> str:
        return "zip"

    @property
    def expected_bytes(self) -> int:
        return self.approximate_bytes

    def mismatch(self, path: Path) -> str | None:
        """What is wrong, as the end of a sentence that names the file; None if it is accepted."""
        if self.md5 and digest(path, "md5") == self.md5:
            return None
        if error := _zip_error(path, self.folder):
            return error
        reason = f"its md5 is not {self.md5} (single source)" if self.md5 else "no known digest"
        log(f"{path.name}: {reason}; all CRCs match; not verified further; sha256 {digest(path)}")
        return None


COCO_2017 = {
    "zips/train2017.zip": Checksum(
        "cced6f7f71b7629ddf16f17bbcfab6b2", SOURCE, "md5", 19_336_861_798
    ),
    "zips/val2017.zip": Checksum("442b8da7639aecaf257c1dceb8ba8c80", SOURCE, "md5", 815_585_330),
    "annotations/annotations_trainval2017.zip": Checksum(
        "f4bbac642086de4f52a3fdda2de5fa2c", SOURCE, "md5", 252_907_541
    ),
}
COCO_2017_UNLABELLED = {
    "zips/unlabeled2017.zip": ZipChecksums(
        "unlabeled2017", 19_000_000_000, "7ebc562819fdb32847aab79530457326"
    ),
    "annotations/image_info_unlabeled2017.zip": ZipChecksums("annotations", 0, None),  # megabytes
}


def _zip_error(path: Path, folder: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            outside = [n for n in names if not n.startswith(f"{folder}/") or ".." in n.split("/")]
            if outside or not names:
                return f"is not the expected zip: {outside[:1] or 'no'} member outside {folder}/"
            damaged = archive.testzip()
    except BAD_ZIP as error:
        return f"is not a complete zip ({error})"
    return f"is damaged at {damaged}" if damaged else None
