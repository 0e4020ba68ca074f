"""The Makefile, without network: which Python it takes, and what it hands on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project import ROOT

RUN = ["setup", "repro", "seeds", "reproduce", "verify-metrics", "demo", "demo-exp"]
DEV = ["dev", "test", "unit", "test-long", "coverage", "mutants", "check", "lock", "setup-matrix"]
SCRIPT = "tools/setup_environment.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a space in its name that holds what make reads."""
    folder = tmp_path / "a project"
    folder.mkdir()
    (folder / "tools").mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", SCRIPT):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """As typed in a shell, also where these tests run by make, which would print its folder."""
    of_make = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in of_make} | variables
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def python_of(version: str) -> str:
    """A script that runs SCRIPT as a Python of that version."""
    prelude = f"import sys, runpy; sys.version_info = {version}; del sys.argv[0]"
    prelude += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    return f'exec "{sys.executable}" -c "{prelude}" "$@"'


def test_make_alone_lists_the_targets_and_runs_none(folder: Path) -> None:
    alone = make(folder)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == make(folder, "help").stdout
    listed = [line.split()[1] for line in alone.stdout.splitlines()]
    text = (folder / "Makefile").read_text()
    targets = [line.split(":")[0] for line in text.splitlines() if re.match(r"[a-z-]+:( |$)", line)]
    assert listed == [target for target in targets if target != "remake"]
    assert all(len(line.split()) > 2 for line in alone.stdout.splitlines())
    assert not (folder / ".venv").exists()


def test_the_size_is_printed_before_the_first_installation_only(folder: Path) -> None:
    size = "installs 6.6 GB into .venv"
    first = make(folder, "setup", "PYTHON=true").stdout
    assert first.index(size) < first.index(SCRIPT)
    (folder / ".venv").mkdir()
    (folder / ".venv/ready").touch()
    (folder / "requirements.txt").touch()
    assert size not in make(folder, "setup", "PYTHON=true").stdout


@pytest.mark.parametrize("target", RUN + DEV)
def test_targets_bring_their_environment(folder: Path, target: str) -> None:
    """What runs takes the first lock alone; tests and linters take the second too."""
    done = make(folder, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    assert f"{SCRIPT} .venv requirements.txt\n" in done.stdout
    assert (f"{SCRIPT} .venv requirements-dev.txt\n" in done.stdout) is (target in DEV)


@pytest.mark.parametrize("version", ["(3, 9, 18)", "(3, 14, 0)"])
def test_another_python_is_refused(folder: Path, tmp_path: Path, version: str) -> None:
    write_script(tmp_path / "python", python_of(version))
    done = make(folder, "setup", f"PYTHON={tmp_path}/python")
    assert done.returncode == 2
    assert "Python 3.10 to 3.13 is needed" in done.stderr
    assert "try make PYTHON=" in done.stderr
    assert not (folder / ".venv").exists()


def test_a_fitting_python_is_taken(folder: Path, tmp_path: Path) -> None:
    """Also where the environment's own python is on PATH and does not run."""
    write_script(tmp_path / "bin/python3", 'echo taken: "$@"')
    write_script(folder / ".venv/bin/python3", "exit 7")
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = make(folder, "setup", PATH=path)
    assert done.returncode == 0, done.stderr
    assert f"taken: {SCRIPT} .venv requirements.txt\n" in done.stdout


def installed(folder: Path, *stamps: str) -> None:
    """A python that prints what it is asked for, and the stamps of a finished installation."""
    write_script(folder / ".venv/bin/python", 'echo "$@" with "$PATH"')
    for stamp in stamps:
        (folder / ".venv" / stamp).touch()


def test_repro_puts_the_environment_first(folder: Path) -> None:
    installed(folder, "ready")
    done = make(folder, "repro")
    assert done.returncode == 0, done.stderr
    assert f"-m dvc repro with {folder}/.venv/bin:" in done.stdout


def test_a_finished_environment_stays(folder: Path) -> None:
    installed(folder, "ready", "ready-dev")
    assert SCRIPT not in make(folder, "--dry-run", "test").stdout


@pytest.mark.parametrize("cause", ["lock", "python"])
def test_a_changed_lock_or_a_python_that_is_gone_sets_up_again(folder: Path, cause: str) -> None:
    installed(folder, "ready", "ready-dev")
    if cause == "lock":
        later = (folder / ".venv/ready-dev").stat().st_mtime + 5
        os.utime(folder / "requirements.txt", (later, later))
    else:
        (folder / ".venv/bin/python").unlink()
        (folder / ".venv/bin/python").symlink_to("nowhere")
    output = make(folder, "--dry-run", "test").stdout
    assert f"{SCRIPT} .venv requirements.txt\n" in output
    assert f"{SCRIPT} .venv requirements-dev.txt\n" in output


def test_a_failed_setup_leaves_no_stamp(folder: Path, tmp_path: Path) -> None:
    write_script(tmp_path / "python", "exit 3")
    (folder / ".venv").mkdir()
    assert make(folder, "setup", f"PYTHON={tmp_path}/python").returncode == 2
    assert not (folder / ".venv/ready").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_review_takes_a_small_environment_if_there_is_no_other(folder: Path, whole: bool) -> None:
    shutil.copy(ROOT / "tools/requirements.txt", folder / "tools")
    if whole:
        installed(folder, "ready")
    done = make(folder, "--dry-run", "pr-report", "BASE=$(touch x)")
    assert done.returncode == 0, done.stderr
    place = ".venv" if whole else ".venv-review"
    assert f'{place}/bin/python tools/pr_report.py --base "$BASE"' in done.stdout
    alone = f"{SCRIPT} .venv-review tools/requirements.txt\n"
    assert (alone in done.stdout) is not whole
    assert done.stdout.count(SCRIPT) == (not whole)
