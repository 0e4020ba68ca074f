"""The library that the stages share. CONTRIBUTING.md lists its rooms and what an edit reruns.

Letters in shapes: B batch, N people, K keypoints, H W heatmap, h w input, C channels, D embedding.
"""

import os
import time

# OpenMP's threads wait for each other in a loop before they sleep, by libgomp's default for 300,000
# rounds. On an idle machine threads that sleep early are slow to come back; beside other processes
# a thread in the loop takes the core from the one that is waited for (benchmarks/contention.md).
# libgomp reads the variable when torch is imported, so scripts import pose first. Results do not
# depend on it.
SPIN_COUNT_IDLE, SPIN_COUNT_BUSY = "10000", "1000"


def set_spin_count() -> None:
    """Set GOMP_SPINCOUNT if the user set neither it nor OMP_WAIT_POLICY."""
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = _spin_count()


def _spin_count() -> str:
    """By whether other threads keep half of the cores or more in use, at three looks in 10 ms."""
    for wait in (0.005, 0.005, 0.0):
        try:
            with open("/proc/loadavg") as file:
                running = int(file.read().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):  # not Linux
            return SPIN_COUNT_BUSY
        if running - 1 < (os.cpu_count() or 1) / 2:
            return SPIN_COUNT_IDLE
        time.sleep(wait)
    return SPIN_COUNT_BUSY


set_spin_count()
