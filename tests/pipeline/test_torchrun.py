"""How two processes that torchrun starts end: one reason, last, and the exit code."""

from __future__ import annotations

import gc
import os
import runpy
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.preloaded_python import python_folder

BUG = ["Traceback (most recent call last):", "ValueError: of rank 1"]


@pytest.mark.parametrize(
    ("body", "code", "first", "last"),
    [
        ("pass", 0, "stage: ready", "stage: ready"),
        ("raise PoseError('in all')", 1, "stage: in all", "stage: in all"),
        ("raise_late(ValueError('of rank 1'))", 1, *BUG),
        ("wait_for(PoseError('of rank 1'))", 1, "stage: of rank 1", "stage: of rank 1"),
        ("wait_for(ValueError('of rank 1'))", 1, *BUG),
        ("raise Stopped('saved')", 143, "stage: saved", "stage: saved"),
        ("wait_for(None)", 137, *["the process of rank 1 was killed by SIGKILL; rerun"] * 2),
    ],
)
def test_two_processes_end_like_one(
    tmp_path: Path, body: str, code: int, first: str, last: str
) -> None:
    """One reason, last, and the exit code; rank 0 waits for rank 1 or fails itself."""
    script = tmp_path / "stages" / "stage.py"
    script.parent.mkdir()
    script.write_text(SCRIPT.replace("BODY", body))
    found, errors = launched(script)
    assert found == code, errors
    lines = errors.splitlines()
    assert lines[0] == "stage: ready"
    reason = lines[1:] or lines
    assert reason[0].startswith(first), errors
    assert reason[-1].startswith(last)
    assert len(reason) == 1 or first != last
    assert errors.count("Traceback") == (first == BUG[0])


def launched(script: Path) -> tuple[int | None, str]:
    """Exit code and stderr of the script, which a fork of this process starts in two processes."""
    python_folder(*LIBRARIES)  # here, so that one server answers all forks
    errors = script.with_suffix(".txt")
    process = get_context("fork").Process(target=run_as_main, args=(script, errors))
    process.start()
    process.join(280)
    process.kill()
    return process.exitcode, errors.read_text()


def run_as_main(script: Path, errors: Path) -> None:
    """As `NPROC=2 python SCRIPT 2> ERRORS`, but torch is there already, in its processes too."""
    gc.freeze()  # a collection would copy all pages
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = sys.__stderr__
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PET_")}
    os.environ.clear()
    python = f"{python_folder(*LIBRARIES)}/python"  # torchrun starts forks
    own = {"NPROC": "2", "PYTHONPATH": STAGES, "POSE_LAUNCHER": "", "PYTHON_EXEC": python}
    os.environ.update(kept | own)
    sys.argv = [str(script)]
    runpy.run_path(str(script), run_name="__main__")


LIBRARIES = ("torch.distributed.run",)
STAGES = str(Path(__file__).parents[2] / "stages")
SCRIPT = """
import os, signal, time
from pose import distributed
from pose.common.errors import PoseError, Stopped
from pose.common.log import log
from pose.common.script import exit_codes

def wait_for(error):
    if rank == 0:
        distributed.broadcast("hello")
        distributed.all_gather("nothing comes")
    distributed.broadcast("hello")
    if error is None:
        os.kill(os.getpid(), signal.SIGKILL)
    raise error

def raise_late(error):
    if rank == 1:
        raise error
    time.sleep(1)
    raise PoseError("of rank 0")

with exit_codes("stage"):
    distributed.init(1)
    rank = distributed.rank()
    log("stage: ready")
    BODY
"""
