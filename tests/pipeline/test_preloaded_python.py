"""A script in a fork ends as it does in a Python of its own: output, exit code, what is at exit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.preloaded_python import python_folder

ENDS = {
    "nothing": "",
    "code": "sys.exit(3)",
    "true": "sys.exit(True)",
    "text": "sys.exit('x: wrong')",
    "error": "raise ValueError('wrong')",
}


def run(python: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output, and the last line of standard error."""
    done = subprocess.run([python, "stages/x.py", "a"], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_python_does(tmp_path: Path, end: str) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/x.py").write_text(
        "import atexit, sys\n"
        "atexit.register(print, 'at exit')\n"
        f"print(sys.argv, sys.path[0], __name__)\n{ENDS[end]}\n"
    )
    found = run(f"{python_folder()}/python", tmp_path)
    assert found == run(sys.executable, tmp_path)
    assert found[1].endswith("at exit\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it_as_python(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/x.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    for python in (f"{python_folder()}/python", sys.executable):
        assert run(python, tmp_path) == (-number, "", "")


@pytest.mark.parametrize("words", [["dvc"], ["python", "-m", "dvc"]])
def test_dvc_runs_in_a_fork(tmp_path: Path, words: list[str]) -> None:
    command = [f"{python_folder()}/{words[0]}", *words[1:], "status"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 253  # as of dvc itself: no repository
    assert "not inside of a DVC repository" in found.stderr
