"""What a pin finds wrong with a file, and what it lets pass."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from pose.fetch.checksums import Pin, ZipPin

CONTENT = b"some bytes"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(CONTENT)
    return tmp_path / "x"


@pytest.mark.parametrize(
    ("pin", "fault"),
    [
        (Pin(hashlib.sha256(CONTENT).hexdigest(), "a.key"), None),
        (Pin(MD5, "a.key", "md5", 10), None),
        (Pin(MD5, "a.key", "md5", 11), "has 10 bytes, a.key says 11"),
        (Pin("0" * 32, "a.key", "md5", 10), f"md5 is {MD5}, a.key says {'0' * 32}"),
    ],
)
def test_size_and_digest(path: Path, pin: Pin, fault: str | None) -> None:
    assert pin.fault(path) == fault


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name * 100)
    return path


def test_a_zip_with_the_digest_needs_no_more(path: Path) -> None:
    assert ZipPin("x", 0, MD5).fault(path) is None


@pytest.mark.parametrize("hint", [None, "0" * 32])
def test_a_zip_is_vouched_for_by_its_crcs(
    tmp_path: Path, hint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = zipped(tmp_path / "x.zip", "some/", "some/a.jpg")
    with caplog.at_level("INFO", "pose"):
        assert ZipPin("some", 0, hint).fault(path) is None
    (line,) = caplog.messages
    assert "not verified further" in line
    assert hashlib.sha256(path.read_bytes()).hexdigest() in line
    assert (f"its md5 is not the {hint}" in line) == bool(hint)


@pytest.mark.parametrize("names", [(), ("other/a",), ("some/a", "/some/b"), ("some/../a",)])
def test_another_zip(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = zipped(tmp_path / "x.zip", *names)
    assert "is not the zip wanted" in str(ZipPin("some", 0, None).fault(path))


def test_every_spoilt_byte_of_content_and_every_cut_is_seen(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", "some/a", "some/b")
    whole = path.read_bytes()
    for place in (whole.index(b"some/asome/a") + 40, whole.rindex(b"some/bsome/b") + 5):
        path.write_bytes(whole[:place] + b"#" + whole[place + 1 :])
        assert "is damaged at some/" in str(ZipPin("some", 0, None).fault(path))
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "is not a whole zip" in str(ZipPin("some", 0, None).fault(path))
