"""Which files match a checksum, and how a mismatch is reported."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from pose.fetch.checksums import Checksum, ZipChecksums

CONTENT = b"some bytes"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(CONTENT)
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("checksum", "mismatch"),
    [
        (Checksum(hashlib.sha256(CONTENT).hexdigest(), "a.key"), None),
        (Checksum(MD5, "a.key", "md5", 10), None),
        (Checksum(MD5, "a.key", "md5", 11), "has 10 bytes, a.key says 11"),
        (Checksum("0" * 32, "a.key", "md5", 10), f"md5 is {MD5}, a.key says {'0' * 32}"),
    ],
)
def test_size_and_digest(path: Path, checksum: Checksum, mismatch: str | None) -> None:
    assert checksum.mismatch(path) == mismatch


def write_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name * 100)
    return path


def test_a_zip_with_the_known_md5_is_accepted(path: Path) -> None:
    assert ZipChecksums("x", 0, MD5).mismatch(path) is None


@pytest.mark.parametrize("md5", [None, "0" * 32])
def test_a_zip_with_matching_crcs_is_accepted(
    tmp_path: Path, md5: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_zip(tmp_path / "x.zip", "some/", "some/a.jpg")
    with caplog.at_level("INFO", "pose"):
        assert ZipChecksums("some", 0, md5).mismatch(path) is None
    (line,) = caplog.messages
    assert "not verified further" in line
    assert hashlib.sha256(path.read_bytes()).hexdigest() in line
    assert (f"its md5 is not {md5}" in line) == bool(md5)


@pytest.mark.parametrize("names", [(), ("other/a",), ("some/a", "/some/b"), ("some/../a",)])
def test_members_outside_the_folder_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = write_zip(tmp_path / "x.zip", *names)
    assert "is not the expected zip" in str(ZipChecksums("some", 0, None).mismatch(path))


def test_damaged_and_truncated_zips_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", "some/a", "some/b")
    whole = path.read_bytes()
    for offset in (whole.index(b"some/asome/a") + 40, whole.rindex(b"some/bsome/b") + 5):
        path.write_bytes(whole[:offset] + b"#" + whole[offset + 1 :])
        assert "is damaged at some/" in str(ZipChecksums("some", 0, None).mismatch(path))
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is not a complete zip" in str(ZipChecksums("some", 0, None).mismatch(path))
