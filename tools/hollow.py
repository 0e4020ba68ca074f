"""Hollow wheels: the name, version, tags and metadata of a release, without its files.

A resolver reads nothing else of a wheel, so what it does with these it does with the real ones.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from locks import Pin

Hashes = Mapping[tuple[str, str], str]
DATE = (2020, 1, 1, 0, 0, 0)  # the same bytes each time


@dataclass(frozen=True)
class Release:
    """One version of a package, as its index and its METADATA describe it."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    requires_python: str = ""
    tags: str = "py3-none-any"

    @property
    def stem(self) -> str:
        """The beginning of its file names, as wheels spell it."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}"

    @property
    def metadata(self) -> str:
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines += [f"Requires-Python: {self.requires_python}"] if self.requires_python else []
        lines += [f"Provides-Extra: {extra}" for extra in self.extras]
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        return "\n".join(lines) + "\n"

    def newer(self) -> Release:
        """A later release that every open range admits, such as 1.2.post1 after 1.2."""
        version = Version(self.version)
        later = f"{version.base_version}.post{(version.post or 0) + 1}"
        return replace(self, version=later)


def write_wheel(folder: Path, release: Release, files: Iterable[tuple[str, bytes]] = ()) -> str:
    """sha256 of the wheel that it writes into the folder."""
    info = f"{release.stem}.dist-info"
    tags = "".join(f"Tag: {'-'.join(tag)}\n" for tag in single_tags(release.tags))
    wheel = f"Wheel-Version: 1.0\nGenerator: hollow\nRoot-Is-Purelib: true\n{tags}"
    members = [*files, (f"{info}/METADATA", release.metadata.encode())]
    members += [(f"{info}/WHEEL", wheel.encode())]
    record = "".join(f"{name},{_digest(content)},{len(content)}\n" for name, content in members)
    members.append((f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode()))
    path = folder / f"{release.stem}-{release.tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name, DATE), content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def single_tags(tags: str) -> Iterable[tuple[str, ...]]:
    """py2.py3-none-any as py2-none-any and py3-none-any, each in its three parts."""
    return itertools.product(*(part.split(".") for part in tags.split("-")))


def write_index(folder: Path, releases: Iterable[Release]) -> dict[tuple[str, str], str]:
    """sha256 by name and version of the hollow wheels in the folder; a newer one beside each."""
    folder.mkdir()
    hashes: dict[tuple[str, str], str] = {}
    for found in releases:
        hashes[canonicalize_name(found.name), found.version] = write_wheel(folder, found)
        write_wheel(folder, found.newer())
    return hashes


def write_hollow_lock(path: Path, pins: Iterable[Pin], hashes: Hashes) -> None:
    """The lock with the hollow wheels' sha256 added; the real ones stay, for what is real."""
    lines = []
    for pin in pins:
        own = hashes.get((pin.name, pin.version))
        lines.append(Pin(pin.requirement, (*([own] if own else []), *pin.hashes)).line())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return "sha256=" + digest.rstrip(b"=").decode()
