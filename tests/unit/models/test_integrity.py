"""Sizes and checksums of files of tensors."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pose.models.integrity import reason_of, require_zip_checksums, safetensors_damage, zip_members


def with_header(path: Path, header: bytes, data: int) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    return path


def test_a_whole_file_of_safetensors(tmp_path: Path) -> None:
    for state in ({}, {"a": torch.ones(3)}, {"a": torch.ones(3), "b": torch.ones(5)}):
        safetensors.torch.save_file(state, tmp_path / "x", {"k": "v"})
        assert safetensors_damage(tmp_path / "x") is None


@pytest.mark.parametrize(
    ("data", "expected"), [(7, "promises {} bytes, the file has {}"), (9, "promises {} bytes, the")]
)
def test_sizes_that_do_not_agree(tmp_path: Path, data: int, expected: str) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = with_header(tmp_path / "x", header, data)
    whole = 8 + len(header) + 8
    assert expected.format(whole, path.stat().st_size) in str(safetensors_damage(path))
    assert safetensors_damage(with_header(path, header, 8)) is None


@pytest.mark.parametrize(
    "header", [b"[]", b"{]", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b"[" * 9999]
)
def test_a_header_of_something_else(tmp_path: Path, header: bytes) -> None:
    path = with_header(tmp_path / "x", header, 8)
    assert safetensors_damage(path) == "its header is not that of safetensors"


@pytest.mark.parametrize("length", [0, 5, 7])
def test_a_file_without_its_header(tmp_path: Path, length: int) -> None:
    (tmp_path / "x").write_bytes(b"\1" + bytes(length))
    assert "the file has" in str(safetensors_damage(tmp_path / "x"))


def test_checksums_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.full((50,), 7.0)}, path)
    require_zip_checksums(path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((50,), 7.0).numpy().tobytes()) + 100] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x/data/0 does not match its CRC-32"):
        require_zip_checksums(path)


def test_folders_in_a_zip_are_no_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/", "")
        archive.writestr("d/a", "x")
        assert [member.filename for member in zip_members(archive)] == ["d/a"]


def test_reason_is_one_short_line() -> None:
    assert reason_of(ValueError("first. second\nthird")) == "first"
    assert (
        reason_of(ValueError("Weights only ... WeightsUnpickler error: \n\nbad\n\nmore")) == "bad"
    )
    assert reason_of(ValueError("a\x1bb")) == "a\\x1bb"
    assert len(reason_of(ValueError("x" * 9999))) == 200
