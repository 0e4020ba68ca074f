"""Helper processes that never outlive the one they work for, even when that one is killed."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import psutil


def die_with(pid: int) -> None:
    """From now on, be killed as soon as process `pid` ends; a thread watches it."""
    threading.Thread(target=_follow, args=(pid,), daemon=True).start()


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Spawned helpers, OpenCV on one thread each, that end with this process."""
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (os.getpid(),))


def _begin_worker(pid: int) -> None:
    die_with(pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process tells it
    cv2.setNumThreads(0)


def _follow(pid: int) -> None:
    if psutil.pid_exists(pid):
        psutil.Process(pid).wait()
    os.kill(os.getpid(), signal.SIGKILL)
