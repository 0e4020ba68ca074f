"""Save and load weights: our safetensors files and .pth files of other projects.

A downloaded file is never unpickled: .pth files are read with weights_only=True, which allows
tensors and plain containers. Objects of the few types in HARMLESS are replaced by empty stand-ins;
all other types are refused. torch itself also refuses subclasses of dict that keep their items
(mmcv's ConfigDict, defaultdict).
"""

from __future__ import annotations

import json
import pickle
import re
import reprlib
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pose.common.errors import PoseError, printable
from pose.common.files import replacing

State = dict[str, Tensor]

# Raised by torch and safetensors for truncated, damaged or hostile files.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    AssertionError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)

# Types in the metadata of known checkpoints, besides plain containers. An object of such a type is
# replaced by an Inert one: no code of the named module runs, and its content is dropped. Add a type
# only if no needed tensor is stored inside such an object.
HARMLESS = (
    "argparse.Namespace",
    "datetime.datetime",
    "datetime.timedelta",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)
DOS_DIRECTORY = 0x10  # bit of a zip member's external attributes
WRAPPERS = ("state_dict", "state_dict_ema", "model", "module")
FILE_STARTS = {"it is a web page": b"<", "it is a Git LFS pointer": b"version https://git-lfs"}


class Inert:
    """Empty stand-in for an object of a harmless type."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def save_weights(path: Path, state: State, provenance: dict[str, Any]) -> None:
    """Write safetensors; `provenance` is JSON under one metadata key, so that bytes are stable."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
    with replacing(path) as beside:
        try:
            safetensors.torch.save_file(tensors, beside, metadata)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(str(error)) from None


def read_weights(path: Path) -> State:
    """Tensors of a .safetensors or .pth file. Raises PoseError if it cannot be read safely."""
    if not path.is_file():
        raise PoseError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
            is_zip = zipfile.is_zipfile(path)
            if is_zip:
                _refuse_compressed(path)
            # mmap: the file is not copied into memory
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
            return _tensors(content, path)
    except UNREADABLE as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise PoseError(
                f"{path}: contains an object of type {printable(refused[1])}, which is not "
                "unpickled; if it is harmless metadata, add it to HARMLESS in "
                "stages/pose/models/checkpoint.py"
            ) from None
        reason = unreadable_reason(path, error)
        raise PoseError(
            f"{path}: not a readable checkpoint ({reason}); download it again"
        ) from None


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance that save_weights stored."""
    try:
        with safe_open(path, framework="pt") as stream:
            provenance = json.loads((stream.metadata() or {}).get("provenance", "{}"))
    except (*UNREADABLE, RecursionError) as error:
        reason = unreadable_reason(path, error)
        raise PoseError(
            f"{path}: not a readable checkpoint ({reason}); rerun the stage that writes it"
        ) from None
    return provenance if isinstance(provenance, dict) else {}


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Load weights that a training stage wrote; every tensor must match."""
    _load_state(model, read_weights(path), path)


def load_start(model: torch.nn.Module, path: Path) -> str:
    """Load the output of fetch_weights: the backbone, and the head if the file has one.

    Without a head in the file, the model's head keeps its initial weights. Returns a text that says
    what was loaded.
    """
    state = read_weights(path)
    has_head = any(name.startswith("head.") for name in state)
    initial_head = {
        k: v for k, v in model.state_dict().items() if k.startswith("head.") and not has_head
    }
    _load_state(model, {**initial_head, **state}, path)
    return "backbone and head" if has_head else "backbone; the head is newly initialised"


def require_finite(state: State) -> None:
    """Raise PoseError that names the first tensors with a NaN or Inf."""
    if bad := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise PoseError(f"has NaN or Inf in {shorten(bad)}; download it again")


def require_same(expected: State, state: State) -> None:
    """Raise PoseError unless names and shapes are equal."""
    if missing := sorted(expected.keys() - state.keys()):
        raise PoseError(f"missing tensors {shorten(missing)}; check model in params.yaml")
    if unknown := sorted(state.keys() - expected.keys()):
        raise PoseError(f"unexpected tensors {shorten(unknown)}; check model in params.yaml")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise PoseError(
                f"{name} is {list(tensor.shape)}, the model of params.yaml needs "
                f"{list(expected[name].shape)}{_maps_hint(name, tensor, expected[name])}"
            )


def _maps_hint(name: str, tensor: Tensor, expected: Tensor) -> str:
    """The next step for a head that was trained for other keypoints; else an empty text."""
    if not name.startswith("head.final_layer.") or tensor.shape[:1] == expected.shape[:1]:
        return ""
    maps = len(tensor) if tensor.ndim else 0
    return (
        f": its head has {maps} maps, the keypoints here need {len(expected)}; set "
        "weights.head: fresh, or check keypoints.names and codec.type"
    )


def shorten(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    shown = [printable(name[:100]) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _load_state(model: torch.nn.Module, state: State, path: Path) -> None:
    try:
        require_same(model.state_dict(), state)
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None
    model.load_state_dict(state)


def unreadable_reason(path: Path, error: Exception) -> str:
    """Why a checkpoint cannot be read, in a few words, without torch's advice to unpickle it."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    with path.open("rb") as stream:
        start = stream.read(64).lstrip()
    for kind, signature in FILE_STARTS.items():
        if start.startswith(signature):
            return kind
    text = str(error).strip()
    if refusal := re.search(r"WeightsUnpickler error: (.+)", text):
        text = refusal[1]
    elif start.startswith(b"PK") and "TorchScript" not in text:
        return "it is truncated or damaged"
    text = text.split("\n")[0].split(". ")[0][:200]
    if not start or not text:
        return "it is empty or truncated"
    return printable(text)


def require_zip_checksums(path: Path) -> None:
    """Raise ValueError unless the CRC-32 of each record matches; torch.load does not check it."""
    with zipfile.ZipFile(path) as archive:
        _members(archive)
        if name := archive.testzip():
            raise ValueError(f"{name} is not what was written")


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip bomb. torch does not compress tensors; a hostile file may, 1000 to 1."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in _members(archive))
    if total > 4 * path.stat().st_size + (1 << 20):
        raise zipfile.BadZipFile("it is compressed, which torch does not do")


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All members. Refuses one marked as a folder: torch would return uninitialised memory."""
    if marked := [m.filename for m in archive.infolist() if m.external_attr & DOS_DIRECTORY]:
        raise zipfile.BadZipFile(f"{marked[0]} is marked as a folder")
    return archive.infolist()


def _tensors(content: Any, path: Path) -> State:
    """The tensors of a .pth file: at the top, or under keys of WRAPPERS, which may be nested."""
    while isinstance(content, dict) and (
        key := next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
    ):
        content = content[key]
    items = content.items() if isinstance(content, dict) else ()
    state = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    state = {k: v for k, v in state.items() if v.layout == torch.strided}
    if not state:
        # reprlib: a key may be a nested object with millions of parts
        names = [key if isinstance(key, str) else reprlib.repr(key) for key, _ in items]
        keys = f" (keys: {shorten(names)})" if names else ""
        raise PoseError(f"{path}: contains no tensors{keys}; is it a checkpoint?")
    if repeated := [k for k, v in state.items() if v.nbytes > v.untyped_storage().nbytes()]:
        raise PoseError(
            f"{path}: {shorten(repeated)} repeat stored values (stride 0); save them contiguous"
        )
    return state
