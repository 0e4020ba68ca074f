"""Processes that end with another one, and the flag for SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pose.common import processes


def test_sigterm_sets_the_flag_and_the_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with processes.sigterm_flag() as received:
        assert not received()
        os.kill(os.getpid(), signal.SIGTERM)
        assert received()
    assert signal.getsignal(signal.SIGTERM) is before


FOLLOWER = """
import os, signal, sys, time
from pose.common import processes
if "handler" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(0)))
else:
    signal.signal(signal.SIGTERM, lambda *_: print("ignored", flush=True))
processes.die_with(int(sys.argv[1]), float(sys.argv[2]))
print("following", flush=True)
while True:
    time.sleep(0.01)
"""


def run_follower(grace: str, kind: str) -> tuple[int, str]:
    """Exit code and output of a process after the one that it follows has ended."""
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
    output = follower.stdout.read()
    return follower.wait(), output


def test_sigterm_comes_first() -> None:
    assert run_follower("60", "handler") == (0, "terminated\n")


def test_sigkill_after_the_grace_time() -> None:
    assert run_follower("0.05", "no handler") == (-signal.SIGKILL, "ignored\n")


def test_without_grace_there_is_no_sigterm() -> None:
    assert run_follower("0", "handler") == (-signal.SIGKILL, "")
