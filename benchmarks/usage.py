"""Seconds and memory of a command and of its helper processes, and disk space of folders."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from pose.common.errors import PoseError

SAMPLE_SECONDS = 0.2  # between two looks at the memory


@dataclass(frozen=True)
class Usage:
    """wall, cpu: seconds, cpu of all processes. first, helpers: peak bytes of own memory (USS)."""

    wall: float
    cpu: float
    first: int
    helpers: list[int]


def measure(command: list[str], folder: Path, environment: Mapping[str, str]) -> Usage:
    """Run a command to its end. Raises PoseError with its last line if it fails."""
    start, peaks = time.perf_counter(), dict[int, int]()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                for pid, size in own_memory(process.pid).items():
                    peaks[pid] = max(size, peaks.get(pid, 0))
                time.sleep(SAMPLE_SECONDS)
            process.returncode = os.waitstatus_to_exitcode(ended[1])
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        log.seek(0)
        require_success(command, process.returncode, log.read().decode())
    first = peaks.pop(process.pid, 0)
    cpu = ended[2].ru_utime + ended[2].ru_stime
    return Usage(time.perf_counter() - start, cpu, first, list(peaks.values()))


def own_memory(pid: int) -> dict[int, int]:
    """Own memory (USS) of a process and of its spawned helpers, by process id."""
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        spawned = [one for one in first.children() if "spawn_main" in " ".join(one.cmdline())]
        return {one.pid: one.memory_full_info().uss for one in (first, *spawned)}
    return {}  # one of them has just ended


def require_success(command: list[str], code: int, output: str) -> None:
    """Raise PoseError with the command and its last line of output if the code is not 0."""
    if code:
        last = next(iter(output.strip().splitlines()[-1:]), "no output")
        raise PoseError(f"`{' '.join(command)}` exited with {code}: {last}")


def disk_bytes(*folders: Path) -> int:
    """Disk space of all files below the folders; a file with several hard links counts once."""
    stats = [path.lstat() for one in folders for path in one.rglob("*") if not path.is_dir()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_blocks * 512 for stat in stats}.values())
