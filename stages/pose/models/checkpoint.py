"""Weights in and out: safetensors, .pth files of others, training state to resume from.

Nothing downloaded is ever unpickled: .pth files are read with weights_only=True, which admits
tensors and plain containers; objects of the few types in HARMLESS become empty stand-ins, every
other type is refused. Subclasses of dict that keep their items (mmcv's ConfigDict, defaultdict) are
refused too, by torch itself.
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

# What torch and safetensors raise on files that are cut off, damaged or hostile.
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

# What the metadata of real checkpoints is known to hold besides plain containers. An object of such
# a type is replaced by an Inert one: no code of the named module runs, nothing of it is kept. Add a
# name here only if tensors that matter do not pass through it.
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
DOS_FOLDER = 0x10  # of a zip member's external attributes
WRAPPERS = ("state_dict", "state_dict_ema", "model", "module")
STARTS = {"it is a web page": b"<", "it is a Git LFS pointer": b"version https://git-lfs"}


class Inert:
    """Stands for an object of a harmless type; whatever is done to it does nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def save_weights(path: Path, state: State, provenance: dict[str, Any]) -> None:
    """safetensors file with `provenance` as JSON under one metadata key, so bytes are stable."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"provenance": json.dumps(provenance, sort_keys=True)}
    with replacing(path) as beside:
        try:
            safetensors.torch.save_file(tensors, beside, metadata)
        except SafetensorError as error:  # a full disk, told in its own words
            raise OSError(str(error)) from None


def read_weights(path: Path) -> State:
    """Tensors of a .safetensors or .pth file. Raises PoseError if it cannot be read safely."""
    if not path.is_file():
        raise PoseError(f"{path}: no such checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
            mapped = zipfile.is_zipfile(path)  # then the file is not copied into memory as well
            if mapped:
                _require_unpacked(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            return _tensors(content, path)
    except UNREADABLE as error:
        if unknown := re.search(r"GLOBAL (\S+)", str(error)):
            raise PoseError(
                f"{path}: holds an object of type {printable(unknown[1])}, which is not "
                "unpickled; if you know it for harmless metadata, add it to HARMLESS in "
                "stages/pose/models/checkpoint.py"
            ) from None
        raise PoseError(
            f"{path}: not a readable checkpoint ({_reason(path, error)}); fetch it again"
        ) from None


def _reason(path: Path, error: Exception) -> str:
    """What is wrong, in a few words. torch's own text advises to unpickle whatever is there."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    with path.open("rb") as stream:
        start = stream.read(64).lstrip()
    for kind, sign in STARTS.items():
        if start.startswith(sign):
            return kind
    text = str(error).strip()
    if found := re.search(r"WeightsUnpickler error: (.+)", text):
        text = found[1]
    elif start.startswith(b"PK") and "TorchScript" not in text:
        return "it is cut off or damaged"
    text = text.split("\n")[0].split(". ")[0][:200]
    if not start or not text:
        return "it is empty or cut off"
    return printable(text)


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance that save_weights stored."""
    try:
        with safe_open(path, framework="pt") as stream:
            found = json.loads((stream.metadata() or {}).get("provenance", "{}"))
    except (*UNREADABLE, RecursionError) as error:
        raise PoseError(
            f"{path}: not a readable checkpoint ({_reason(path, error)}); rerun the stage before"
        ) from None
    return found if isinstance(found, dict) else {}


def _require_unpacked(path: Path) -> None:
    """torch packs no tensors; in a hostile file a thousand times its size may be packed."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in _records(archive))
    if claimed > 4 * path.stat().st_size + (1 << 20):
        raise zipfile.BadZipFile("more is packed in it than torch would")


def _records(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members. Refuses one marked as a folder: torch would leave its tensor as memory was."""
    if marked := [m.filename for m in archive.infolist() if m.external_attr & DOS_FOLDER]:
        raise zipfile.BadZipFile(f"{marked[0]} is marked as a folder")
    return archive.infolist()


def _tensors(content: Any, path: Path) -> State:
    """The tensor dictionary inside a .pth: flat, or under WRAPPERS, one inside another."""
    while inner := _wrapped(content):
        content = inner
    items = content.items() if isinstance(content, dict) else ()
    state = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    state = {k: v for k, v in state.items() if v.layout == torch.strided}
    if not state:
        keys = f" (keys: {shorten([_key(key) for key, _ in items])})" if items else ""
        raise PoseError(f"{path}: holds no tensors{keys}; is it a checkpoint?")
    if vast := [k for k, v in state.items() if v.nbytes > v.untyped_storage().nbytes()]:
        raise PoseError(f"{path}: {shorten(vast)} repeat what is stored; save them contiguous")
    return state


def _key(key: object) -> str:
    """A key of whatever type, in few characters: one that nests may have millions."""
    return key if isinstance(key, str) else reprlib.repr(key)


def _wrapped(content: Any) -> Any:
    if not isinstance(content, dict):
        return None
    return next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)


def require_finite(state: State) -> None:
    """Raises PoseError that names the first tensors with a NaN or an infinity."""
    if bad := [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise PoseError(f"has numbers that are not finite in {shorten(bad)}; fetch it again")


def require_same(expected: State, state: State) -> None:
    """Raises PoseError unless names and shapes are equal."""
    if missing := sorted(expected.keys() - state.keys()):
        raise PoseError(f"lacks tensors {shorten(missing)}; is params.yaml's model right?")
    if unknown := sorted(state.keys() - expected.keys()):
        raise PoseError(f"has unexpected tensors {shorten(unknown)}; is params.yaml's model right?")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise PoseError(
                f"{name} is {list(tensor.shape)}, the model of params.yaml needs "
                f"{list(expected[name].shape)}{_maps_hint(name, tensor, expected[name])}"
            )


def _maps_hint(name: str, tensor: Tensor, expected: Tensor) -> str:
    """What to do about a head that was made for other keypoints."""
    if not name.startswith("head.final_layer.") or tensor.shape[:1] == expected.shape[:1]:
        return ""
    found = len(tensor) if tensor.ndim else 0
    return (
        f": its head makes {found} maps, the keypoints here need {len(expected)}; set "
        "weights.head: fresh, or see keypoints.names and codec.type"
    )


def shorten(names: list[str]) -> str:
    """The first three names, and how many more."""
    shown = [printable(name[:100]) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_model(model: torch.nn.Module, path: Path) -> None:
    """Load weights that a training stage of ours wrote; every tensor must match."""
    _load_state(model, read_weights(path), path)


def load_start(model: torch.nn.Module, path: Path) -> str:
    """Load what fetch_weights wrote: the backbone, and the head if it is there; tells which."""
    state = read_weights(path)
    has_head = any(name.startswith("head.") for name in state)
    fresh = {k: v for k, v in model.state_dict().items() if k.startswith("head.") and not has_head}
    _load_state(model, {**fresh, **state}, path)
    return "backbone and head" if has_head else "backbone; the head starts fresh"


def _load_state(model: torch.nn.Module, state: State, path: Path) -> None:
    try:
        require_same(model.state_dict(), state)
    except PoseError as error:
        raise PoseError(f"{path}: {error}") from None
    model.load_state_dict(state)


def _require_checksums(path: Path) -> None:
    """torch.save writes a zip with a CRC-32 of each record, which torch.load does not compare."""
    with zipfile.ZipFile(path) as archive:
        _records(archive)
        if name := archive.testzip():
            raise ValueError(f"{name} is not what was written")
