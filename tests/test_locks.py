"""The locks hold all that the pinned packages ask for, in the form that old pips need.

By the metadata of what is installed here; the workflow runs this on each Python. `make
setup-matrix` tries the same with old and new pips.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hollow import Release, write_hollow_lock, write_index
from lock import with_all_extras
from locks import Pin, read_lock, read_pins

ROOT = Path(__file__).resolve().parents[1]
RUN, DEV, REVIEW = "requirements.txt", "requirements-dev.txt", "tools/requirements.txt"
LOCKS = (RUN, DEV, REVIEW)
PYTHONS = ("3.10.0", "3.11.0", "3.12.0", "3.13.0")
ENVIRONMENTS = [
    {
        "python_version": python.removesuffix(".0"),
        "python_full_version": python,
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for python in PYTHONS
    for machine in ("x86_64", "aarch64")
]


def read(name: str) -> list[Pin]:
    return read_lock(ROOT / name)


def installed(name: str, version: str) -> importlib.metadata.Distribution | None:
    """The distribution, if it is there in that version."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.version == version else None


@functools.cache
def requirements(name: str, version: str) -> list[Requirement]:
    """What the release asks for, if it is installed here."""
    found = installed(name, version)
    return [Requirement(text) for text in found.requires or []] if found else []


@functools.cache
def asked(name: str, version: str, extras: frozenset[str], index: int) -> list[Requirement]:
    """What the release, with these extras, asks for in that one of the environments."""
    wanted, environment = requirements(name, version), ENVIRONMENTS[index]
    return [
        one
        for one in wanted
        if one.marker is None
        or any(one.marker.evaluate(environment | {"extra": extra}) for extra in {*extras, ""})
    ]


def missing(pins: list[Pin], known: Iterable[Pin] = ()) -> set[str]:
    """Requirements of the pinned packages that no line of the lock, or of a known one, meets."""
    found = set()
    for index, environment in enumerate(ENVIRONMENTS):
        lines: dict[str, list[Pin]] = {}
        for pin in {
            pin.line(): pin for pin in (*pins, *known) if pin.applies(environment)
        }.values():
            lines.setdefault(pin.name, []).append(pin)
        for pin in (pin for pin in pins if pin in lines.get(pin.name, [])):
            for one in asked(pin.name, pin.version, frozenset(pin.requirement.extras), index):
                if not any(meets(line, one) for line in lines.get(canonicalize_name(one.name), [])):
                    found.add(f"{pin.name}: {one}")
    return found


def meets(pin: Pin, wanted: Requirement) -> bool:
    """Same package, same extras (old pips resolve each combination alone), a fitting version."""
    return (
        pin.name == canonicalize_name(wanted.name)
        and pin.requirement.extras == wanted.extras
        and wanted.specifier.contains(pin.version, prereleases=True)
    )


@pytest.mark.parametrize("name", LOCKS)
def test_what_is_pinned_for_this_python_is_installed(name: str) -> None:
    """Else the tests below would read nothing."""
    here = [pin for pin in read(name) if pin.applies()]
    assert [pin.line() for pin in here if not installed(pin.name, pin.version)] == []
    assert len(here) > 20


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_pinned_packages_ask_for_is_pinned(name: str) -> None:
    known = read(RUN) if name == DEV else []
    assert missing(read(name), known) == set()


@pytest.mark.parametrize(
    ("name", "line", "stripped", "asker"),
    [
        (RUN, "fsspec[http]==", "fsspec==", "dvc-http: fsspec[http]"),
        (RUN, "fsspec[tqdm]==", "fsspec==", "scmrepo: fsspec[tqdm]"),
        (RUN, "cuda-toolkit[", "cuda-toolkit==", "torch: cuda-toolkit["),
        (DEV, "coverage[toml]==", "coverage==", "pytest-cov: coverage[toml]"),
        (REVIEW, "fsspec[tqdm]==", "fsspec==", "scmrepo: fsspec[tqdm]"),
    ],
)
def test_an_extra_that_is_taken_out_is_missed(
    name: str, line: str, stripped: str, asker: str
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [
        stripped + row.split("==", 1)[1] if row.startswith(line) else row
        for row in text.splitlines()
    ]
    assert lines != text.splitlines()
    found = missing(read_pins("\n".join(lines)), read(RUN) if name == DEV else [])
    assert any(fault.startswith(asker) for fault in found), found


def test_the_locks_agree() -> None:
    """One version per package and environment, whichever lock brings it."""
    for environment in ENVIRONMENTS:
        versions: dict[str, str] = {}
        for pin in (pin for name in LOCKS for pin in read(name) if pin.applies(environment)):
            assert versions.setdefault(pin.name, pin.version) == pin.version, pin.line()


@pytest.mark.parametrize("name", LOCKS)
def test_each_need_is_in_its_lock(name: str) -> None:
    lines = (ROOT / name).with_suffix(".in").read_text(encoding="utf-8").splitlines()
    needs = [Requirement(line.split(" #")[0]) for line in lines if line and line[0] != "#"]
    for environment in ENVIRONMENTS:
        pins = [pin for pin in read(name) if pin.applies(environment)]
        assert [str(need) for need in needs if not any(meets(pin, need) for pin in pins)] == []


ENTRY = """\
fsspec[http, tqdm]==1.0 ; python_version < '3.11' \\
    --hash=sha256:aa
    # via
    #   dvc-http
    #   scmrepo
"""


@pytest.mark.parametrize(
    ("entry", "heads"),
    [
        ("", []),
        ("six==1.0 \\\n    --hash=sha256:aa\n    # via x\n", ["six==1.0"]),
        (
            "coverage[toml]==1.0 \\\n    --hash=sha256:aa\n    # via pytest-cov\n",
            ["coverage[toml]==1.0"],
        ),
        (
            ENTRY,
            ["fsspec==1.0", "fsspec[http]==1.0", "fsspec[tqdm]==1.0", "fsspec[http,tqdm]==1.0"],
        ),
        (
            ENTRY.replace("    #   scmrepo", "    #   -c requirements.txt"),
            ["fsspec[http,tqdm]==1.0"],
        ),
        (ENTRY.replace("scmrepo", "-r requirements.in"), 4),
    ],
)
def test_each_way_of_asking_gets_a_line(entry: str, heads: list[str] | int) -> None:
    text = with_all_extras(entry)
    found = [line.split(" ")[0] for line in text.splitlines() if line[0] not in " "]
    assert found == heads or len(found) == heads
    assert with_all_extras(text).count("--hash") == text.count("--hash")
    assert "python_version" not in entry or text.count("python_version < '3.11'") == len(found)


def imported(folder: str) -> set[str]:
    """Top-level names that the files of a folder import."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", ["stages", "recipes", "tools", "benchmarks"])
def test_what_runs_imports_nothing_of_the_tests(folder: str) -> None:
    owners = importlib.metadata.packages_distributions()
    pinned = {pin.name for pin in read(RUN)}
    others = {
        name
        for name in imported(folder) & owners.keys()
        if not {canonicalize_name(owner) for owner in owners[name]} & pinned
    }
    needs_dev = {"openvino"} if folder == "benchmarks" else set()  # inference.py
    assert others == needs_dev
    assert imported(folder) & owners.keys() or folder == "benchmarks"


def askers(pins: list[Pin]) -> list[Release]:
    """The packages pinned with extras, those that ask for them, and no other requirement."""
    names = {pin.name for pin in pins if pin.requirement.extras}
    found = {}
    for pin in pins:
        metadata = importlib.metadata.metadata(pin.name)
        wanted = [one for one in requirements(pin.name, pin.version) if one.name in names]
        if wanted or pin.name in names:
            extras = tuple(metadata.get_all("Provides-Extra") or ())
            found[pin.name] = Release(pin.name, pin.version, tuple(map(str, wanted)), extras)
    return list(found.values())


def test_pip_takes_what_is_pinned_whatever_is_newer(tmp_path: Path) -> None:
    """Python's own pip, hollow wheels of what extras concern, and a newer release of each."""
    pins = [pin for name in (RUN, DEV) for pin in read(name) if pin.applies()]
    here = askers(pins)
    names = {found.name for found in here}
    assert {"fsspec", "dvc-http", "cuda-toolkit", "torch", "coverage", "pytest-cov"} <= names
    hashes = write_index(tmp_path / "index", here)
    write_hollow_lock(tmp_path / "lock.txt", [p for p in pins if p.name in names], hashes)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    command = [tmp_path / "venv/bin/python", "-m", "pip", "--isolated", "download", "--quiet"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--no-index"]
    command += ["--find-links", tmp_path / "index", "--dest", tmp_path / "taken"]
    command += ["--require-hashes", "-r", tmp_path / "lock.txt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = {path.name for path in (tmp_path / "taken").iterdir()}
    assert taken == {f"{found.stem}-{found.tags}.whl" for found in here}
