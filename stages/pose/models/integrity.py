"""Whether a file of tensors is whole: torch's zip archives and safetensors."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

from safetensors import SafetensorError

from pose.common.errors import printable

# Raised by torch and safetensors for truncated, damaged or hostile files.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,  # and RecursionError, NotImplementedError
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
)
DOS_DIRECTORY = 0x10  # bit of a zip member's external attributes
MAX_HEADER = 100_000_000  # bytes of a safetensors header; its own library's limit


def require_zip_checksums(path: Path) -> None:
    """Raise ValueError unless the CRC-32 of each record matches; torch.load does not check it.

    An archive without checksums (torch.serialization.set_crc32_options(False)) has 0 in all.
    """
    with zipfile.ZipFile(path) as archive:
        if not any(member.CRC for member in zip_members(archive)):
            return
        if name := archive.testzip():
            raise ValueError(f"{name} does not match its CRC-32")


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All files. Refuses one marked as a folder: torch would return uninitialised memory."""
    members = [one for one in archive.infolist() if not one.filename.endswith("/")]
    if marked := [m.filename for m in members if m.external_attr & DOS_DIRECTORY]:
        raise zipfile.BadZipFile(f"{printable(marked[0])} is marked as a folder")
    return members


def safetensors_damage(path: Path) -> str | None:
    """How a file that begins as safetensors is cut off or damaged; None if its sizes agree."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MAX_HEADER):
            return f"its header promises {length:,} bytes, the file has {size:,}"
        header = stream.read(length)
    try:
        entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        promised = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (*UNREADABLE, RecursionError):
        return "its header is not that of safetensors"
    if promised != size:
        return f"its header promises {promised:,} bytes, the file has {size:,}"
    return None


def unreadable_reason(path: Path, error: Exception) -> str:
    """Why a file of ours cannot be read, in a few words, without torch's advice to unpickle it."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    with path.open("rb") as stream:
        start = stream.read(64).lstrip()
    if isinstance(error, SafetensorError) and (damage := safetensors_damage(path)):
        return damage
    if start.startswith(b"PK"):
        return "it is truncated or damaged"
    return (reason_of(error) if start else "") or "it is empty or truncated"


def reason_of(error: Exception) -> str:
    """The first sentence of an error of torch or safetensors, on one line."""
    text = str(error).strip()
    if refusal := re.search(r"WeightsUnpickler error:\s*(.+)", text):
        text = refusal[1]
    return printable(text.split("\n")[0].split(". ")[0][:200])
