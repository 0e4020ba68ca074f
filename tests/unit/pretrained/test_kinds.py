"""A file's kind is told by its content, whatever its name; each other kind has a next step."""

from __future__ import annotations

import io
import json
import pickle
import runpy
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint

from pose.common.errors import PoseError
from pose.pretrained.kinds import kind_of
from pose.pretrained.read import read_checkpoint

NAMES = ["x.pth", "x.safetensors", "x.bin", "x.ckpt", "x.pt2", "x"]
SAME_MODEL = "take the .pth or .safetensors of the same model"
UNPACK = "unpack it and give the checkpoint in it"


def refused(path: Path) -> str:
    with pytest.raises(PoseError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["safetensors", "torch", "old torch"])
def test_a_readable_kind_under_any_name(tmp_path: Path, name: str, kind: str) -> None:
    path, state = tmp_path / name, {"a": torch.randn(3)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch")
    assert kind_of(path) == kind
    assert torch.equal(read_checkpoint(path)[""]["a"], state["a"])


def exported(path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, path.with_name("program.pt2"))
    path.with_name("program.pt2").rename(path)


def traced(path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(path)


def scripted(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def onnx_model(path: Path) -> None:
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, producer_name="pytorch", producer_version="2.15.0")
    path.write_bytes(model.SerializeToString())


def numpy_archive(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.ones(3))


def numpy_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.ones(3))


def checkpoint_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.ones(3)}, stream)
    return stream.getvalue()


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/best.pth", checkpoint_bytes())


PROGRAM = f"is a program exported for inference (torch.export), no checkpoint; {SAME_MODEL}"
SCRIPT = f"is a TorchScript archive, exported for inference, no checkpoint; {SAME_MODEL}"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1340000000\n"
PAGE = "is a web page, no checkpoint; download the file itself (on the Hub: /resolve/, not /blob/)"
OTHERS = {
    "torch.export": (exported, PROGRAM),
    "traced": (traced, SCRIPT),
    "scripted": (scripted, SCRIPT),
    "onnx": (onnx_model, f"is an ONNX model, exported for inference, no checkpoint; {SAME_MODEL}"),
    "npz": (numpy_archive, f"is a NumPy archive (.npz), no checkpoint; {SAME_MODEL}"),
    "npy": (numpy_array, f"is a NumPy array, no checkpoint; {SAME_MODEL}"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file, as Keras and TensorFlow write, no"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), f"is packed by gzip, no checkpoint; {UNPACK}"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(64), f"is a 7z archive, no checkpoint; {UNPACK}"),
    "tar": (tar, f"is a tar archive, no checkpoint; {UNPACK}"),
    "zip": (zipped, f"is a zip archive of 1 files (weights/best.pth); {UNPACK}"),
    "page": (b"<!DOCTYPE html><html>not found</html>", PAGE),
    "another page": (b"\n <HTML lang=en></html>", PAGE),
    "lfs": (LFS, "is a Git LFS pointer to 1,340,000,000 bytes, no checkpoint; run `git lfs pull` "),
    "text": (b"Entry not found", "is text (it begins 'Entry not found'), no checkpoint; give the"),
    "config": (
        b"model = dict(\n  type='x')\n",
        "is text (it begins 'model = dict('), no checkpoint",
    ),
    "pickle": (
        pickle.dumps({"model": {"a": np.ones(3)}}, 2),
        "is a pickle that torch.save did not write, no checkpoint; where you trust it, load it and",
    ),
    "unknown": (b"\xde\xad\xbe\xef" * 9, "is of no known kind (it begins de ad be ef de ad be ef)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pt2"])
@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_is_named_with_a_next_step(tmp_path: Path, kind: str, name: str) -> None:
    make, expected = OTHERS[kind]
    path = tmp_path / name
    make(path) if callable(make) else path.write_bytes(make)
    message = refused(path)
    assert message.startswith(expected)
    assert "again" not in message


def test_what_export_writes_is_a_program(tmp_path: Path) -> None:
    """A format of torch before 2.8 too."""
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        for name in ("serialized_exported_program.json", "serialized_state_dict.pt", "version"):
            archive.writestr(name, "x")
    assert refused(tmp_path / "x.pt2") == PROGRAM


DAMAGED = [
    (b"", "it is empty"),
    (b"\n", "it is empty"),
    (b"PK\3\4", "it has 4 bytes"),
    (b"\0" * 600, "is 512 zero bytes at its start"),
    (struct.pack("<Q", 2**63 - 1) + b"{}", "its header promises 9,223,372,036,854,775,807 bytes"),
    (struct.pack("<Q", 2) + b"{]" + b"x", "its header is not that of safetensors"),
    (struct.pack("<Q", 2) + b"{}" + b"x", "its header promises 10 bytes, the file has 11"),
]


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(("content", "expected"), DAMAGED)
def test_damage_is_downloaded_again(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert message.startswith(expected)
    assert message.endswith("; download it again")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_says_what_was_seen(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    safetensors.torch.save_file({"a": torch.ones(999)}, tmp_path / "x.safetensors")
    torch.save({"a": torch.ones(999)}, tmp_path / "x.pth")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refused(path)
    assert f"{path.stat().st_size:,}" in message
    assert message.endswith("; download it again")
    assert ("header promises" if name == "x.safetensors" else "no readable directory") in message


# ------------------------------------------------------------------------------------ folders


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given_by", ["folder", "shard", ".metadata"])
def test_a_folder_of_distributed_checkpoint(tmp_path: Path, given_by: str, monkeypatch) -> None:
    """With the command that converts it, which is run here."""
    folder = tmp_path / "step-100"
    torch.distributed.checkpoint.save({"model": {"a": torch.ones(3)}}, checkpoint_id=folder)
    given = {"folder": folder, "shard": folder / "__0_0.distcp"}.get(given_by, folder / given_by)
    with pytest.raises(PoseError) as caught:
        read_checkpoint(given)
    message = str(caught.value)
    assert message.startswith(f"{folder}: is a folder of torch.distributed.checkpoint; ")
    python, option, module, *arguments = message.split("`")[1].split()
    assert (python, option) == ("python", "-m")
    if given_by != "folder":
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__")
    assert read_checkpoint(tmp_path / "model.pth")["model"]["a"].sum() == 3


def test_an_unpacked_archive_and_the_command_that_packs_it(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3000)}, tmp_path / "best.pth")
    with zipfile.ZipFile(tmp_path / "best.pth") as archive:
        archive.extractall(tmp_path)
    message = refused(tmp_path / "best")
    assert message.startswith("is an unpacked .pth file; run `zip -r0 best.pth best` in the folder")
    (tmp_path / "best.pth").unlink()
    if shutil.which("zip"):
        subprocess.run(message.split("`")[1].split(), check=True, cwd=tmp_path, capture_output=True)
        assert read_checkpoint(tmp_path / "best.pth")[""]["a"].sum() == 2999 * 1500


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], "is a folder without an index of shards; it holds no checkpoint"),
        (["a.pth", "b.txt"], "is a folder without an index of shards; it holds a.pth; give one of"),
        (["zero_to_fp32.py"], "is a folder of DeepSpeed; run its zero_to_fp32.py and give the"),
        (["saved_model.pb"], "is a TensorFlow SavedModel, no checkpoint; "),
        (
            ["a.safetensors.index.json", "b.safetensors.index.json"],
            "is a folder without an index of shards; it holds a.safetensors.index.json, b.",
        ),
    ],
)
def test_other_folders(tmp_path: Path, files: list[str], expected: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text(json.dumps({}))
    assert refused(folder).startswith(expected)
