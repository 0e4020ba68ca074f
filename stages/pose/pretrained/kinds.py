"""What a file is, by its content: readable kinds, and a next step for each other kind."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from shlex import quote
from typing import Literal

from pose.common.errors import PoseError, printable
from pose.common.files import BAD_ZIP
from pose.models.checkpoint import shorten
from pose.models.integrity import safetensors_damage, zip_members

Kind = Literal["safetensors", "torch", "old torch", "index"]

DOWNLOAD = "download it again"
SAME_MODEL = "take the .pth or .safetensors of the same model"
UNPACK = "unpack it and give the checkpoint in it"
EXPORTED = "a program exported for inference (torch.export)"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".json")
START = 512  # bytes, enough for every signature
TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # the first pickle of torch.save before 1.6
STARTS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write", SAME_MODEL),
    (b"\x93NUMPY", "a NumPy array", SAME_MODEL),
    (b"GGUF", "a GGUF file", SAME_MODEL),
    (b"\x1f\x8b", "packed by gzip", UNPACK),
    (b"BZh", "packed by bzip2", UNPACK),
    (b"\xfd7zXZ\0", "packed by xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
)
INSIDE_ZIPS = (  # the first pattern that matches a member's path decides
    (r"(^|/)(archive_format|models/[^/]+\.json)$", EXPORTED),
    (r"(^|/)serialized_exported_program\.(json|pt)$", EXPORTED),  # torch before 2.8
    (r"(^|/)constants\.pkl$", "a TorchScript archive, exported for inference"),
    (r"(^|/)model\.weights\.h5$", "a Keras model"),
    (r"\.npy$", "a NumPy archive (.npz)"),
)


def kind_of(path: Path) -> Kind:
    """How to read a file. Raises PoseError with its kind and the next step if it cannot be read."""
    if path.suffix == ".distcp" or path.name == ".metadata":
        raise folder_error(path.parent)
    with path.open("rb") as stream:
        start = stream.read(START)
    if not start.strip():
        raise damaged(path, "it is empty")
    if start.lstrip()[:1] == b"{" and 0 not in start[:8]:
        return "index"
    if len(start) < 9:
        raise damaged(path, f"it has {len(start)} bytes")
    if start[:2] == b"PK":
        return _kind_of_zip(path)
    if start[8:9] == b"{":
        if damage := safetensors_damage(path):
            raise damaged(path, damage)
        return "safetensors"
    if TORCH_MAGIC in start[:64]:
        return "old torch"
    raise _foreign(path, start)


def damaged(path: Path, reason: str) -> PoseError:
    """The error for a file that is not whole."""
    return PoseError(f"{path}: {printable(reason)}; {DOWNLOAD}")


def _kind_of_zip(path: Path) -> Kind:
    """Of a file that begins as a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in zip_members(archive)]
    except BAD_ZIP as error:
        if isinstance(error, PermissionError):
            raise
        size = f"{path.stat().st_size:,} bytes"
        reason = f"it begins as a zip archive, but has no readable directory ({size}: {error})"
        raise damaged(path, reason) from None
    for pattern, what in INSIDE_ZIPS:
        if any(re.search(pattern, name) for name in names):
            raise PoseError(f"{path}: is {what}, no checkpoint; {SAME_MODEL}")
    if any(re.fullmatch(r"([^/]+/)?data\.pkl", name) for name in names):
        return "torch"
    shown = printable(", ".join(names[:3])[:200])
    raise PoseError(f"{path}: is a zip archive of {len(names)} files ({shown}); {UNPACK}")


def _foreign(path: Path, start: bytes) -> PoseError:
    """The error for a file that cannot be read, with its kind and the next step."""
    what, step = _describe(start)
    return PoseError(f"{path}: is {what}, no checkpoint; {step}")


def _describe(start: bytes) -> tuple[str, str]:
    for signature, what, step in STARTS:
        if start.startswith(signature):
            return what, step
    if start[257:262] == b"ustar":
        return "a tar archive", UNPACK
    if start.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d{1,20})", start)
        what = f"a Git LFS pointer to {int(size[1]):,} bytes" if size else "a Git LFS pointer"
        return what, "run `git lfs pull` in its repository"
    if re.match(rb"\s*<(!doctype html|html|head|body|script)", start, re.IGNORECASE):
        return "a web page", "download the file itself (on the Hub: /resolve/, not /blob/)"
    if _begins_as_onnx(start):
        return "an ONNX model, exported for inference", SAME_MODEL
    if re.match(rb"\x80[\0-\5]", start):
        return (
            "a pickle that torch.save did not write",
            "where you trust it, load it and torch.save its tensors",
        )
    if not start.strip(b"\0"):
        return f"{len(start)} zero bytes at its start", DOWNLOAD
    text = start.split(b"\n")[0].decode("latin-1")
    if text.isprintable():
        return f"text (it begins {printable(text[:60])!r})", "give the checkpoint itself"
    return f"of no known kind (it begins {start[:8].hex(' ')})", SAME_MODEL


def _begins_as_onnx(start: bytes) -> bool:
    """Whether the fields of a protobuf message are those of ONNX's ModelProto, up to its graph.

    onnx.proto: 1 ir_version (a number), 2 to 6 texts and model_version, 7 graph.
    """
    at = 0
    fields: list[int] = []
    while at < len(start) and fields[-1:] != [7]:
        field, wire = start[at] >> 3, start[at] & 7
        value, at = _varint(start, at + 1)
        at += value if wire == 2 else 0
        if wire not in (0, 2) or not 1 <= field <= 7:
            return False
        fields.append(field)
    return fields[:1] == [1] and fields[-1] == 7


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A protobuf number (seven bits a byte, lowest first), and the place behind it."""
    value = shift = 0
    for byte in content[at : at + 10]:
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            break
    return value, at


def folder_error(path: Path) -> PoseError:
    """The error for a folder without an index: its kind or its files, and the next step."""
    names = sorted(entry.name for entry in path.iterdir())
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        module = "torch.distributed.checkpoint.format_utils"
        command = f"python -m {module} dcp_to_torch {quote(str(path))} model.pth"
        return PoseError(
            f"{path}: is a folder of torch.distributed.checkpoint; where you trust it, run "
            f"`{command}` and give model.pth"
        )
    if "zero_to_fp32.py" in names:
        return PoseError(
            f"{path}: is a folder of DeepSpeed; run its zero_to_fp32.py and give the file it writes"
        )
    if "data.pkl" in names:
        name = quote(path.name)
        return PoseError(
            f"{path}: is an unpacked .pth file; run `zip -r0 {name}.pth {name}` in the "
            f"folder above and give {name}.pth"
        )
    if "saved_model.pb" in names:
        return PoseError(f"{path}: is a TensorFlow SavedModel, no checkpoint; {SAME_MODEL}")
    likely = [name for name in names if Path(name).suffix in SUFFIXES]
    holds = f"holds {shorten(likely)}; give one of them" if likely else "holds no checkpoint"
    return PoseError(f"{path}: is a folder without an index of shards; it {holds}")
