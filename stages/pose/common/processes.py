"""Worker processes that end with their parent, even if it is killed, and a flag for SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import cv2
import psutil

POLL_SECONDS = 0.3


def die_with(pid: int, grace: float = 0.0) -> None:
    """Start a thread that kills this process with SIGKILL when process `pid` ends.

    grace: if not 0, send SIGTERM first and SIGKILL so many seconds later.
    """
    threading.Thread(target=_kill_after, args=(pid, grace), daemon=True).start()


@contextlib.contextmanager
def sigterm_flag() -> Iterator[Callable[[], bool]]:
    """A function that returns whether SIGTERM was received; the signal has no other effect."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


def worker_pool(workers: int) -> Executor:
    """Pool of spawned processes that end with this one, with one OpenCV thread per process.

    A single worker is a thread of this process, which takes no time to start.
    """
    if workers == 1:
        return ThreadPoolExecutor(1, initializer=cv2.setNumThreads, initargs=(0,))
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (os.getpid(),))


def _begin_worker(pid: int) -> None:
    die_with(pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent reports Ctrl-C
    cv2.setNumThreads(0)


def _kill_after(pid: int, grace: float) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_SECONDS)  # wait() would not return for a zombie
    if grace:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
