"""The lines of a lock: requirements.txt, requirements-dev.txt and tools/requirements.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Pin:
    """`name[extras]==version ; marker` and the sha256 of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "==", self.requirement
        return specifier.version

    def applies(self, environment: Mapping[str, str] | None = None) -> bool:
        """Whether pip installs it there; without an environment: here."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(dict(environment) if environment else None)

    def line(self) -> str:
        """As it stands in a lock."""
        hashes = [f"--hash=sha256:{digest}" for digest in self.hashes]
        return " \\\n    ".join([str(self.requirement), *hashes])


def read_pins(text: str) -> list[Pin]:
    """The pins of a lock's text, in its order."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [_pin(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_lock(path: Path) -> list[Pin]:
    return read_pins(path.read_text(encoding="utf-8"))


def _pin(line: str) -> Pin:
    requirement = re.split(r"\s--hash=|\s#", line, maxsplit=1)[0]
    return Pin(Requirement(requirement), tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", line)))
