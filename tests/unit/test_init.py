"""What importing pose sets: how long OpenMP's threads wait in a loop."""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pose

ROOT = Path(pose.__file__).parents[2]
LIBGOMP = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
CHOSEN = {pose.SPIN_COUNT_IDLE, pose.SPIN_COUNT_BUSY}
SCRIPTS = [*sorted((ROOT / "stages").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]


@pytest.fixture
def no_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_openmp")
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, CHOSEN),
        ({"GOMP_SPINCOUNT": "7"}, {"7"}),
        ({"OMP_WAIT_POLICY": "active"}, {None}),
        ({"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7"}, {"7"}),
    ],
)
def test_a_setting_of_the_user_is_kept(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str], expected: set[str | None]
) -> None:
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(pose.__file__)
    assert os.environ.get("GOMP_SPINCOUNT") in expected
    assert os.environ.get("OMP_WAIT_POLICY") == own.get("OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("running", "cores", "expected"),
    [
        ([1], 2, pose.SPIN_COUNT_IDLE),
        ([2, 2, 2], 2, pose.SPIN_COUNT_BUSY),
        ([3, 2, 1], 2, pose.SPIN_COUNT_IDLE),  # one reading below half is enough
        ([4], 8, pose.SPIN_COUNT_IDLE),
        ([5, 9, 5], 8, pose.SPIN_COUNT_BUSY),
        ([2, 2, 2], 1, pose.SPIN_COUNT_BUSY),
    ],
)
def test_threads_wait_long_only_where_cores_are_free(
    monkeypatch: pytest.MonkeyPatch, running: list[int], cores: int, expected: str
) -> None:
    """running: runnable threads at each reading, this one among them."""
    readings = (f"0.90 0.50 0.10 {number}/80 1234\n" for number in running)
    monkeypatch.setattr(pose, "open", lambda _: io.StringIO(next(readings)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert pose._spin_count() == expected
    assert next(readings, None) is None


def test_an_unknown_format_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pose, "open", lambda _: io.StringIO("0.9\n"), raising=False)
    assert pose._spin_count() == pose.SPIN_COUNT_BUSY


def test_without_proc_threads_wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(pose, "open", absent, raising=False)
    assert pose._spin_count() == pose.SPIN_COUNT_BUSY


@pytest.mark.skipif(not LIBGOMP.is_file(), reason="this torch has another OpenMP")
@pytest.mark.usefixtures("no_openmp")
def test_torchs_openmp_reads_it() -> None:
    """libgomp prints what it read when it is loaded."""
    code = f"import pose, ctypes; ctypes.CDLL({str(LIBGOMP)!r})"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "stages"), "OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    (found,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert found in CHOSEN


def imported(path: Path) -> list[str]:
    """First names of the modules that a file imports at its top level, in order."""
    found: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_scripts_import_pose_before_torch(path: Path) -> None:
    names = imported(path)
    if "torch" in names and "__main__" in path.read_text(encoding="utf-8"):
        assert "pose" in names[: names.index("torch")]


def test_this_suite_imports_pose_before_torch() -> None:
    names = imported(ROOT / "tests" / "conftest.py")
    assert names.index("pose") < names.index("torch")
