"""Read the tensors of other projects' checkpoints: .pth, safetensors, and shards with an index.

The kind of a file is decided by its content. A downloaded file is never unpickled: files of
torch.save are read with weights_only=True, which allows tensors and plain containers. Objects of
the few types in HARMLESS are replaced by empty stand-ins; all other types are refused. torch itself
also refuses subclasses of dict that keep their items (mmcv's ConfigDict, defaultdict).
"""

from __future__ import annotations

import re
import reprlib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pose.common.errors import PoseError, printable
from pose.common.files import BAD_ZIP, read_json
from pose.models.checkpoint import State, shorten, with_base
from pose.models.integrity import UNREADABLE, reason_of, require_zip_checksums, zip_members
from pose.pretrained.kinds import damaged, folder_error, kind_of

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
INDEXES = ("*.safetensors.index.json", "*.bin.index.json")  # the first that a folder has
PARTS = ("backbone", "head", "keypoint_head")  # dictionaries that are parts of one model
MAX_DICTIONARIES = 1000  # examined in one file; dictionaries may contain themselves

Dictionaries = dict[str, State]
KeysAndItems = tuple[tuple[str, ...], dict[Any, Any]]


class Inert:
    """Empty stand-in for an object of a harmless type."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(path: Path) -> Dictionaries:
    """The tensors of a file, or of the shards of an index or of its folder.

    Returned by dictionary: {"": ...} if they are at the top, else by the keys that lead to them,
    joined by dots, such as "state_dict"; those of an optimizer are left out. Raises PoseError that
    names what the file is if it cannot be read safely.
    """
    if path.is_dir() and not (path := index_of(path)).is_file():
        raise folder_error(path)
    if not path.is_file():
        raise PoseError(f"{path}: no such checkpoint")
    return {"": _read_shards(path)} if shards_of(path) else _read_file(path)


def index_of(path: Path) -> Path:
    """The only index in a folder, safetensors first; a path that is no such folder is returned."""
    for pattern in INDEXES:
        if len(found := sorted(path.glob(pattern))) == 1:
            return found[0]
    return path


def _read_file(path: Path) -> Dictionaries:
    """Of a safetensors file or one of torch.save."""
    kind = kind_of(path)
    if kind == "index":
        raise PoseError(f"{path}: is JSON, no checkpoint")
    try:
        if kind == "safetensors":
            own = dict(safetensors.torch.load_file(path))
            return {"": with_base(path, own)}
        content = _load_zip(path) if kind == "torch" else _load(path, mmap=False)
    except UNREADABLE as error:
        raise _unreadable(path, kind, error) from None
    return _dictionaries(content, path)


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = zip_members(archive)
    # torch does not compress tensors; a hostile file may, 1000 to 1
    if sum(member.file_size for member in members) > 4 * path.stat().st_size + (1 << 20):
        raise PoseError(f"{path}: is compressed to a quarter or less, which torch does not do")
    try:
        require_zip_checksums(path)
    except BAD_ZIP as error:
        raise damaged(path, str(error)) from None
    # mmap: the file is not copied into memory
    return _load(path, all(member.compress_type == zipfile.ZIP_STORED for member in members))


def _load(path: Path, mmap: bool) -> Any:
    with torch.serialization.safe_globals([(Inert, name) for name in HARMLESS]):
        if path.suffix == ".safetensors":  # torch would go by this name
            with path.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _unreadable(path: Path, kind: str, error: Exception) -> PoseError:
    """What torch or safetensors saw, and the next step."""
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return PoseError(
            f"{path}: contains an object of type {printable(refused[1])}, which is not unpickled; "
            "save the tensors alone, as torch.save(model.state_dict(), ...) does, or, if it is "
            "harmless metadata, add it to HARMLESS in stages/pose/pretrained/read.py"
        )
    reason = reason_of(error) or type(error).__name__
    if re.match(r"Unsupported operand (128|14[0-9]|15[01])$", reason):
        reason = "it was saved with pickle_protocol=4 or above"
    elif kind == "old torch":
        return damaged(path, f"not a readable checkpoint ({reason})")
    return PoseError(
        f"{path}: not a readable checkpoint ({reason}); save it again where it can be read, with "
        "the defaults of torch.save"
    )


# ---------------------------------------------------------------------------------- shards


def shards_of(index: Path) -> dict[str, list[str]]:
    """The tensor names of each shard that an index lists, by the shard's name.

    {} if the file is no JSON. Raises PoseError if the file is of no readable kind, or is JSON but
    no index, or names a shard outside its folder.
    """
    try:
        if kind_of(index) != "index":
            return {}
    except PermissionError:
        raise PoseError(f"{index}: no permission to read it") from None
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        keys = f" ({shorten(list(content))})" if isinstance(content, dict) and content else ""
        raise PoseError(f"{index}: is JSON without a weight_map{keys}, no index of a checkpoint")
    shards: dict[str, list[str]] = {}
    for tensor, shard in names.items():
        parts = PurePosixPath(shard).parts if isinstance(shard, str) else ("..",)
        if not parts or ".." in parts or "/" in parts or "\\" in shard or not shard.isprintable():
            raise PoseError(f"{index}: weight_map: {shard!r} is not a file in the index's folder")
        shards.setdefault(shard, []).append(tensor)
    return shards


def _read_shards(index: Path) -> State:
    shards = shards_of(index)
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise PoseError(
            f"{index}: {len(missing)} of {len(shards)} shards are not in its folder: "
            f"{shorten(missing)}; download them into it"
        )
    state: State = {}
    for shard, names in shards.items():
        found = _read_file(index.parent / shard).get("", {})
        if absent := [name for name in names if name not in found]:
            raise PoseError(f"{index.parent / shard}: lacks {shorten(absent)} of {index.name}")
        state |= {name: found[name] for name in names}
    return state


# ---------------------------------------------------------------------------------- dictionaries


def _dictionaries(content: Any, path: Path) -> Dictionaries:
    """The dictionaries of tensors in a file; those named in PARTS are joined to the one above."""
    found: Dictionaries = {}
    for keys, items in _walk(content):
        state = {k: v for k, v in items.items() if isinstance(k, str) and _is_weight(v)}
        if keys and keys[-1] in PARTS:
            state, keys = {f"{keys[-1]}.{name}": v for name, v in state.items()}, keys[:-1]
        if state:
            found.setdefault(".".join(keys), {}).update(state)
    if not found:
        raise PoseError(
            f"{path}: contains no tensors{_contents(content)}; save the model's state_dict()"
        )
    for state in found.values():
        if repeated := [k for k, v in state.items() if v.nbytes > v.untyped_storage().nbytes()]:
            raise PoseError(
                f"{path}: {shorten(repeated)} repeat stored values (stride 0); save them contiguous"
            )
    return found


def _walk(content: Any) -> list[KeysAndItems]:
    """All dictionaries with the keys that lead to them, upper levels first; no optimizer's."""
    found: list[KeysAndItems] = [((), content)] if isinstance(content, dict) else []
    for keys, items in found:  # which grows
        inner = [((*keys, key), v) for key, v in items.items() if _may_hold_weights(key, v)]
        found += inner[: MAX_DICTIONARIES - len(found)]
    return found


def _may_hold_weights(key: Any, value: Any) -> bool:
    is_named = isinstance(key, str) and not re.match(r"optim(izer)?(s|_.*)?$", key)
    return is_named and isinstance(value, dict) and "param_groups" not in value


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def _contents(content: Any) -> str:
    """What a file without tensors holds."""
    if not isinstance(content, dict):
        return f" in a dictionary (it is a {type(content).__name__})"
    if objects := sum(isinstance(v, Inert) for _, items in _walk(content) for v in items.values()):
        return f" but {objects} objects, such as NumPy arrays, which are not read"
    # reprlib: a key may be a nested object with millions of parts
    names = [key if isinstance(key, str) else reprlib.repr(key) for key in content]
    return f" (keys: {shorten(names)})" if names else ""
