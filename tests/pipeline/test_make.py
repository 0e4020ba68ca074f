"""The Makefile, without network: which Python it takes, and what it hands on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project import ROOT

TARGETS = ["setup", "repro", "test", "unit", "check", "lock", "seeds"]
TARGETS += ["reproduce", "verify-metrics", "demo-exp"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds what make reads."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def python_of(version: str) -> str:
    """A script that answers `-c CODE` as a Python of that version."""
    prelude = f"import sys; sys.version_info = {version}; exec(sys.argv.pop(1))"
    return f'[ "$1" = -c ] || exit 7\nexec "{sys.executable}" -c "{prelude}" "$2"'


@pytest.mark.parametrize("target", TARGETS)
def test_targets_parse(folder: Path, target: str) -> None:
    done = make(folder, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert "--require-hashes -r requirements.txt" in done.stdout


@pytest.mark.parametrize("version", ["(3, 9, 18)", "(3, 14, 0)"])
def test_another_python_is_refused(folder: Path, tmp_path: Path, version: str) -> None:
    write_script(tmp_path / "python", python_of(version))
    done = make(folder, "setup", f"PYTHON={tmp_path}/python")
    assert done.returncode == 2
    assert "Python 3.10 to 3.13 is needed" in done.stderr
    assert "try make PYTHON=" in done.stderr
    assert not (folder / ".venv").exists()


def test_a_fitting_python_is_taken(folder: Path, tmp_path: Path) -> None:
    write_script(tmp_path / "python", python_of("(3, 10, 0)"))
    done = make(folder, "setup", f"PYTHON={tmp_path}/python")
    assert "is needed" not in done.stderr
    assert "-m venv .venv" in done.stdout  # reached; the script plays no further


def test_repro_puts_the_environment_first(folder: Path) -> None:
    write_script(folder / ".venv/bin/python", 'echo "$@" with "$PATH"')
    (folder / ".venv/ready").touch()
    done = make(folder, "repro")
    assert done.returncode == 0, done.stderr
    assert f"-m dvc repro with {folder}/.venv/bin:" in done.stdout


@pytest.mark.parametrize("whole", [True, False])
def test_a_review_takes_a_small_environment_if_there_is_no_other(folder: Path, whole: bool) -> None:
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools/requirements.txt", folder / "tools")
    if whole:
        (folder / ".venv").mkdir()
        (folder / ".venv/ready").touch()
    done = make(folder, "--dry-run", "pr-report", "BASE=$(touch x)")
    assert done.returncode == 0, done.stderr
    place = ".venv" if whole else ".venv-review"
    assert f'{place}/bin/python tools/pr_report.py --base "$BASE"' in done.stdout
    assert ("--require-hashes -r tools/requirements.txt" in done.stdout) is not whole
    assert "-r requirements.txt" not in done.stdout
