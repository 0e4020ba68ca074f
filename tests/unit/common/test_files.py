"""Files are whole or absent; digests and locks."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pose.common import files
from pose.common.errors import PoseError

CONTENT = np.random.default_rng(0).bytes(3_500_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    for content in (b"", b"one", b"two"):
        files.write_atomic(path, content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["b.bin"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch, broken: str) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_json_bytes_are_stable(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert path.read_text("utf-8") == '{\n "b": [\n  1,\n  2.5\n ],\n "a": "é"\n}\n'
    assert files.read_json(path) == {"b": [1, 2.5], "a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"b": [1, 2.5], "a": "é"}


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(PoseError, match="no such file; run the stage that writes it first"):
        files.read_json(path)
    for content in (b"", b'{"a": [1', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(PoseError, match="not valid JSON"):
            files.read_json(path)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert files.digest(tmp_path / "x", "md5") == MD5
    assert files.digest(tmp_path / "x") == hashlib.sha256(CONTENT).hexdigest()


def test_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    def digest(name: str, entries: dict[str, bytes]) -> str:
        for entry, content in entries.items():
            path = tmp_path / name / entry
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return files.digest(tmp_path / name)

    first = digest("1", {"a": b"x", "d/b": b"y"})
    assert digest("2", {"d/b": b"y", "a": b"x"}) == first
    assert digest("3", {"a": b"x", "d/c": b"y"}) != first
    assert digest("4", {"a": b"x", "d/b": b"z"}) != first


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1', "; the file ends before the JSON does: copy or download it again"),
        ('{"a": "é"}'.encode("latin-1"), "; save it as UTF-8"),
        (b"{'a': 1}", """line 1 column 2 (char 1)); found "'a': 1}" there"""),
        (b"<html>", "; found '<html>' there"),
    ],
)
def test_json_that_cannot_be_read_says_what_was_seen(content: bytes, said: str) -> None:
    with pytest.raises(PoseError) as caught:
        files.parse_json(content, "a.json")
    assert str(caught.value).startswith("a.json: not valid JSON (")
    assert str(caught.value).endswith(said)


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    code = f"""
import sys; sys.path.insert(0, {str(Path(files.__file__).parents[2])!r})
from pathlib import Path
from pose.common import files
with files.locked(Path({str(folder)!r}), "run of x"):
    print("mine")
"""
    command = [sys.executable, "-c", code]
    with files.locked(folder, "run of x"):
        rival = subprocess.run(command, capture_output=True, text=True)
    assert f"{folder}: another run of x is running; wait for it" in rival.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "mine\n"


@pytest.mark.parametrize("other_file_system", [False, True])
def test_a_folder_is_replaced_once_its_successor_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_file_system: bool
) -> None:
    finished, target = tmp_path / "resume" / "coco", tmp_path / "data" / "coco"
    for folder, text in ((finished, "new"), (target, "old"), (tmp_path / "data/coco.new", "cut")):
        (folder / "zips").mkdir(parents=True)
        (folder / "zips" / f"{text}.zip").write_text(text)
    present = []

    def rename(source: str, moved: str) -> None:
        present.append((target / "zips" / "old.zip").exists())
        if other_file_system:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        os.replace(source, moved)

    monkeypatch.setattr(os, "rename", rename)  # what shutil.move tries first
    files.replace_folder(finished, target)
    assert present == [True]
    assert [path.name for path in (target / "zips").iterdir()] == ["new.zip"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["coco"]
    assert not finished.exists()


def test_bytes_of_a_file(tmp_path: Path) -> None:
    assert files.size_of(tmp_path / "x") == 0
    (tmp_path / "x").write_bytes(b"abc")
    assert files.size_of(tmp_path / "x") == 3


@pytest.mark.parametrize(
    ("folder", "value", "expected"),
    [
        ("p", "x.ckpt", "'x.ckpt': no such file in {cwd}; correct the path"),
        ("p", "/x/y.ckpt", "'/x/y.ckpt': no such file; correct the path"),
        (
            "p/.dvc/tmp/exps/tmp_1",
            "sub/x.ckpt",
            "'sub/x.ckpt': no such file in {cwd}; `dvc exp run`",
        ),
        ("p/.dvc/tmp/exps/tmp_1", "/x/y.ckpt", "'/x/y.ckpt': no such file; correct the path"),
    ],
)
def test_a_missing_path_is_told_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, value: str, expected: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / folder)
    with pytest.raises(PoseError) as caught:
        files.existing_path("weights.file", value)
    line = "params.yaml: weights.file = " + expected.format(cwd=tmp_path / folder)
    assert str(caught.value).startswith(line)


def test_an_existing_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert files.existing_path("weights.file", "~/x") == tmp_path / "x"
