"""Try the locks with old and new pips: each has to install exactly what is pinned.

    python tools/setup_matrix.py [PYTHON ...]     # default: all of 3.10 to 3.13 that are here

Prints a row for each Python and pip, and ends with 1 if one differs. The packages are hollow: real
names, versions, tags and metadata, no files, and of each package a newer release lies beside it.
A resolver reads nothing else, so one that takes what is pinned here takes it from the real index
too, whatever was published meanwhile. Real are setuptools and what has no wheel: these are built.

Two ways are tried: tools/setup_environment.py as `make setup` runs it, and a plain `pip install
--require-hashes -r`, which resolves. Reads the package index for metadata and the pips; where an
index serves metadata only within wheels, pip fetches those: 3 GB per Python. 1 to 5
minutes per row on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from hollow import Release, write_hollow_lock, write_index
from locks import Pin, read_lock

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
PIPS = ("21.2.3", "22.3.1", "23.2.1", "24.0", "newest")
OLDEST_PIP_OF = {(3, 12): "23.2.1", (3, 13): "24.0"}  # what these Pythons bring; older do not start
INSTALLED = (
    "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
)


@dataclass(frozen=True)
class Python:
    """An interpreter and its version."""

    path: str
    version: Version

    @property
    def minor(self) -> tuple[int, int]:
        return self.version.major, self.version.minor

    @property
    def environment(self) -> dict[str, str]:
        """What markers see there."""
        short = "{}.{}".format(*self.minor)
        return {"python_version": short, "python_full_version": str(self.version)}


def main(names: list[str]) -> None:
    rows, bad = [], 0
    for python in find_pythons(names):
        with tempfile.TemporaryDirectory(prefix="setup-matrix-") as folder:
            project = Project(Path(folder), python)
            for pip in PIPS:
                rows.append(f"| {python.version} | {' | '.join(project.row(pip))} |")
                bad += "FAILED" in rows[-1]
                print(rows[-1], flush=True)
    print(
        "\n".join(
            ["", "| Python | pip | make setup | pip install -r | s |", "|---" * 5 + "|", *rows]
        )
    )
    if bad or not rows:
        sys.exit(f"{bad} of {len(rows)} pips do not install what is pinned")


def find_pythons(names: list[str]) -> list[Python]:
    """Those named, or the Pythons 3.10 to 3.13 on PATH and of pyenv, one for each minor version."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    usual = [f"python3.{minor}" for minor in range(10, 14)]
    usual += [str(path) for path in sorted(home.glob("versions/3.1[0-3].*/bin/python3"))]
    found: dict[tuple[int, int], Python] = {}
    for name in names or usual:
        code = "import sys; print(sys.executable, sys.version.split()[0])"
        try:
            done = subprocess.run([name, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0:
            path, version = done.stdout.rsplit(maxsplit=1)
            python = Python(path, Version(version))
            found.setdefault(python.minor, python)
    return [found[key] for key in sorted(found)]


class Project:
    """Locks and an index of hollow packages for one Python, and the pips to try there."""

    def __init__(self, folder: Path, python: Python) -> None:
        self.folder, self.python = folder, python
        self.resolved, self.built, self.pips = (folder / n for n in ("resolved", "built", "pips"))
        helper = make_environment(folder / "helper", python)
        must([helper, "-m", "pip", "install", "--quiet", "--upgrade", "pip"])
        self.helper = helper
        pins = [pin for name in LOCKS for pin in read_lock(ROOT / name)]
        self.pins = [pin for pin in pins if pin.applies(python.environment)]
        report = self.report()
        hashes = write_index(self.resolved, [release(entry) for entry in report])
        self.copy_real(report)
        for name in LOCKS:
            write_hollow_lock(folder / name, read_lock(ROOT / name), hashes)

    def report(self) -> list[dict[str, Any]]:
        """pip's own account of the files that it would take for the pins: file name, metadata."""
        wanted = self.folder / "pins.txt"
        lines = dict.fromkeys(f"{pin.name}=={pin.version}" for pin in self.pins)
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path = self.folder / "report.json"
        command = [self.helper, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"]
        must([*command, "--ignore-installed", "--report", str(path), "-r", str(wanted)])
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["install"]
        return entries

    def copy_real(self, report: list[dict[str, Any]]) -> None:
        """The index of `make setup`: real setuptools, and sources where there is no wheel."""
        shutil.copytree(self.resolved, self.built)
        for entry in report:
            found = release(entry)
            if entry["download_info"]["url"].endswith(".whl") and found.name != "setuptools":
                continue
            (self.built / f"{found.stem}-{found.tags}.whl").unlink()
            command = [self.helper, "-m", "pip", "download", "--quiet", "--no-deps"]
            must([*command, "-d", str(self.built), f"{found.name}=={found.version}"])

    def row(self, pip: str) -> tuple[str, str, str, str]:
        """pip's version, what came of both ways, seconds."""
        if Version(OLDEST_PIP_OF.get(self.python.minor, "0")) > _version(pip):
            return pip, "does not start", "does not start", "-"
        begin = time.monotonic()
        wheel = self.fetch_pip(pip)
        script = [str(ROOT / "tools/setup_environment.py"), ".venv", *LOCKS]
        check = [".venv/bin/python", "-m", "pip", "check"]  # --no-deps itself checks nothing
        ours = self.attempt(wheel, self.built, [self.python.path, *script], check)
        plain = [".venv/bin/python", "-m", "pip", "install", "--require-hashes"]
        plain += [word for name in LOCKS for word in ("-r", name)]
        resolving = self.attempt(wheel, self.resolved, plain)
        return wheel.name.split("-")[1], ours, resolving, f"{time.monotonic() - begin:.0f}"

    def fetch_pip(self, pip: str) -> Path:
        """The wheel of that pip."""
        folder = self.pips / pip
        wanted = "pip" if pip == "newest" else f"pip=={pip}"
        command = [self.helper, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
        must([*command, wanted])
        (wheel,) = folder.glob("pip-*.whl")
        return wheel

    def attempt(self, pip: Path, index: Path, *commands: list[str]) -> str:
        """What the commands made of a new environment with that pip."""
        place = self.folder / ".venv"
        shutil.rmtree(place, ignore_errors=True)
        python = make_environment(place, self.python, pip)
        for command in commands:
            done = run(command, self.folder, offline(index))
            if done.returncode:
                return f"FAILED: {first_error(done.stdout + done.stderr)}"
        return compare(self.pins, python, self.folder)


def release(entry: dict[str, Any]) -> Release:
    """An entry of pip's report as a release with the tags of its real file."""
    metadata, file = entry["metadata"], entry["download_info"]["url"].rsplit("/", 1)[-1]
    tags = "-".join(file.removesuffix(".whl").split("-")[-3:]) if file.endswith(".whl") else None
    return Release(
        canonicalize_name(metadata["name"]),
        metadata["version"],
        tuple(metadata.get("requires_dist", ())),
        tuple(metadata.get("provides_extra", ())),
        metadata.get("requires_python", ""),
        tags or "py3-none-any",
    )


def make_environment(folder: Path, python: Python, pip: Path | None = None) -> str:
    """Path of the python in a new environment, with Python's own pip or the given wheel's."""
    options = ["--without-pip"] if pip else []
    must([python.path, "-m", "venv", *options, str(folder)])
    inside = str(folder / "bin" / "python")
    if pip:
        must([inside, f"{pip}/pip", "install", "--quiet", "--no-index", str(pip)], offline(pip))
    return inside


def offline(index: Path) -> dict[str, str]:
    """Environment variables that restrict pip to that folder, without its cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
    return kept | own | {"PIP_FIND_LINKS": str(index)}


def compare(pins: Iterable[Pin], python: str, folder: Path) -> str:
    """Whether exactly the pinned releases are installed."""
    wanted = {pin.name: pin.version for pin in pins}
    done = run([python, "-c", INSTALLED], folder, dict(os.environ))
    found = dict(item.split("==") for item in done.stdout.split())
    found = {canonicalize_name(name): version for name, version in found.items()}
    odd = [name for name in wanted if found.get(name) != wanted[name]]
    odd += sorted(found.keys() - wanted.keys() - {"pip", "setuptools"})
    return f"FAILED: {', '.join(odd)}" if odd else f"{len(wanted)} as pinned"


def first_error(text: str) -> str:
    """The first line in which pip says what went wrong, and the next, which names the package."""
    lines = text.strip().splitlines() or ["no output"]
    start = next((i for i, line in enumerate(lines) if "ERROR" in line), len(lines) - 1)
    return re.sub(r"\s+", " ", " ".join(lines[start : start + 2]))[:240]


def run(
    command: list[str], folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def must(command: list[str], variables: dict[str, str] | None = None) -> None:
    """SystemExit with what it printed if the command fails."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _version(pip: str) -> Version:
    return Version("999" if pip == "newest" else pip)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="a name on PATH, or a path")
    main(parser.parse_args().pythons)
