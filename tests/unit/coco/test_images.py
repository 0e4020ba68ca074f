"""Images out of zips and folders: damaged, encrypted or oversized files are refused."""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from pose.coco.files import SplitFiles, coco_files
from pose.coco.images import BadImageError, Images
from pose.common.errors import PoseError
from tiny_coco import SPLIT, TinyCoco


def test_a_byte_flipped_inside_a_zip(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    path = tiny_coco.zipped(tmp_path / "zips") / f"{SPLIT}.zip"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    errors = []
    with Images(coco_files(path.parent, SPLIT)) as images:
        for name in (f"{i:012d}.jpg" for i in (1, 2, 3)):
            try:
                images.read(name)
            except BadImageError as error:
                errors.append(str(error))
    assert len(errors) == 1
    assert errors[0].startswith("cannot be read: ")


@pytest.mark.parametrize("kind", ["twice", "encrypted", "bomb", "crc", "outside"])
def test_invalid_zips(tiny_coco: TinyCoco, tmp_path: Path, kind: str) -> None:
    root = tiny_coco.zipped(tmp_path / "zips")
    path, member = root / f"{SPLIT}.zip", f"{SPLIT}/000000000001.jpg"
    if kind in ("twice", "outside"):
        with (
            zipfile.ZipFile(path, "a") as archive,
            pytest.warns() if kind == "twice" else no_warning(),
        ):
            archive.writestr(member if kind == "twice" else "../../escaped.jpg", b"x")
    else:
        corrupt_member(path, member, kind)
    if kind == "twice":
        with pytest.raises(PoseError, match=rf"{SPLIT}.zip: has '{member}' 2 times") as caught:
            Images(coco_files(root, SPLIT))
        assert str(caught.value).endswith("or a folder; unpack it or zip it anew")
        return
    with Images(coco_files(root, SPLIT)) as images:
        assert images.read("000000000002.jpg") == tiny_coco.image_path(2).read_bytes()
        if kind == "outside":  # a name is a key, never a path on disk
            assert not list(tmp_path.rglob("escaped.jpg"))
            return
        reason = {"encrypted": "encrypted", "bomb": "claims 4,000,000,000", "crc": "CRC"}[kind]
        with pytest.raises(BadImageError, match=reason):
            images.read("000000000001.jpg")


def no_warning() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def corrupt_member(path: Path, member: str, kind: str) -> None:
    """Change a stored member's content, or its entry in the central directory, in place."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset
    entry = content.index(b"PK\1\2", start)
    while content[entry + 46 : entry + 46 + len(member)] != member.encode():
        entry = content.index(b"PK\1\2", entry + 4)
    if kind == "crc":
        content[start + 30 + len(member) + 40] ^= 255
    elif kind == "encrypted":
        content[entry + 8] |= 1
    else:
        content[entry + 24 : entry + 28] = (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)


def test_neither_folder_nor_zip(tmp_path: Path) -> None:
    for path in (None, tmp_path / "val.zip"):
        with pytest.raises(PoseError, match=r"check data\.root"):
            Images(SplitFiles(SPLIT, tmp_path / "val.json", path))


def test_a_file_that_is_not_a_zip(tmp_path: Path) -> None:
    (tmp_path / f"{SPLIT}.zip").write_bytes(b"")
    with pytest.raises(PoseError, match="download it again"):
        Images(SplitFiles(SPLIT, tmp_path / "val.json", tmp_path / f"{SPLIT}.zip"))


def test_another_archive_is_no_damaged_download(tmp_path: Path) -> None:
    path = tmp_path / "images.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__)
    with pytest.raises(PoseError) as caught:
        Images(SplitFiles(SPLIT, tmp_path / "val.json", path))
    assert str(caught.value) == f"{path}: expected a folder or a zip; unpack it"


def test_a_folder_in_place_of_an_image(tiny_coco: TinyCoco) -> None:
    (tiny_coco.root / SPLIT / "folder.jpg").mkdir()
    with (
        Images(coco_files(tiny_coco.root, SPLIT)) as images,
        pytest.raises(BadImageError, match="not a regular file"),
    ):
        images.read("folder.jpg")
