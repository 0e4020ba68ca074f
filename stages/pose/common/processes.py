"""Helper processes that never outlive the one they work for, even when that one is killed.

And SIGTERM as a question that a long piece of work may ask between two steps.
"""

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

WATCH = 0.3  # seconds between looks


def die_with(pid: int, grace: float = 0.0) -> None:
    """From now on, be killed as soon as process `pid` ends; a thread watches it.

    With grace (seconds) SIGTERM comes first, so long before.
    """
    threading.Thread(target=_follow, args=(pid, grace), daemon=True).start()


@contextlib.contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come, for whoever calls it; meanwhile the signal does nothing else."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_pool(workers: int) -> Executor:
    """Spawned helpers, OpenCV on one thread each, that end with this process.

    One worker is a thread of this process: its start costs nothing.
    """
    if workers == 1:
        return ThreadPoolExecutor(1, initializer=cv2.setNumThreads, initargs=(0,))
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (os.getpid(),))


def _begin_worker(pid: int) -> None:
    die_with(pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the first process tells it
    cv2.setNumThreads(0)


def _follow(pid: int, grace: float) -> None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH)  # wait() would take one that its parent never reaps for alive
    if grace:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
