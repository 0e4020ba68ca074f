"""Images of val that are in train too."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pose.coco.files import SplitFiles
from pose.coco.images import Images
from pose.coco.overlap import image_checksums, shared_images


def test_nothing_in_common() -> None:
    assert shared_images({}, {}) == []
    assert shared_images({"a": (1, 2)}, {"a": (1, 3), "b": (2, 2)}) == []


def test_only_the_names_of_val_are_listed() -> None:
    train = {"a": (1, 2), "b": (5, 6), "c": (5, 6)}
    (line,) = shared_images(train, {"x": (5, 6), "y": (9, 9), "z": (1, 2)})
    assert line.startswith("2 of 3 images of val are in train too")
    assert line.endswith(": x, z")


def test_many_are_counted_and_some_listed() -> None:
    checksums = {f"{i}.jpg": (i, i) for i in range(4000)}
    (line,) = shared_images(checksums, checksums)
    assert line.startswith("4,000 of 4,000 images of val")
    assert line.endswith("(4000 in all)")
    assert len(line) < 400


def test_folders_and_zips_have_the_same_checksums(tmp_path: Path) -> None:
    """A zip may have the images below a folder of its name, or as they are called."""
    contents = {"a.jpg": b"first", "video/b.jpg": b"second"}
    for name, content in contents.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    for zip_name, prefix in (("x.zip", "x/"), ("y.zip", "")):
        with zipfile.ZipFile(tmp_path / zip_name, "w") as archive:
            for name, content in contents.items():
                archive.writestr(prefix + name, content)
    entries = [{"file_name": name} for name in (*contents, "absent.jpg")]
    found = []
    for path in (tmp_path / "x", tmp_path / "x.zip", tmp_path / "y.zip"):
        with Images(SplitFiles("x", tmp_path / "x.json", path)) as images:
            found.append(image_checksums(images, entries))
            assert [images.read(name) for name in contents] == [*contents.values()]
    assert found[0] == found[1] == found[2]
    assert [*found[0]] == [*contents]
