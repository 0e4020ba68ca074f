"""SIGTERM as a question; followers are asked before they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pose.common import processes


def test_the_signal_is_noted_and_its_handler_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with processes.sigterm_noted() as came:
        assert not came()
        os.kill(os.getpid(), signal.SIGTERM)
        assert came()
    assert signal.getsignal(signal.SIGTERM) is before


FOLLOWER = """
import os, signal, sys, time
from pose.common import processes
if "asked" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), os._exit(0)))
else:
    signal.signal(signal.SIGTERM, lambda *_: print("deaf", flush=True))
processes.die_with(int(sys.argv[1]), float(sys.argv[2]))
print("following", flush=True)
while True:
    time.sleep(0.01)
"""


def followed(grace: str, kind: str) -> tuple[int, str]:
    """Exit code and last words of a process whose master has ended."""
    master = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, str(master.pid), grace, kind],
        env=os.environ | {"PYTHONPATH": str(Path(processes.__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == "following\n"
    master.communicate(b"\n")
    said = follower.stdout.read()
    return follower.wait(), said


def test_one_who_listens_is_asked() -> None:
    assert followed("60", "asked") == (0, "asked\n")


def test_the_deaf_are_killed() -> None:
    assert followed("0.05", "deaf") == (-signal.SIGKILL, "deaf\n")


def test_without_grace_nobody_is_asked() -> None:
    assert followed("0", "asked") == (-signal.SIGKILL, "")
