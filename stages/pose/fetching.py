"""Several files of plain URLs at once; the first trouble, or Ctrl-C, ends them all."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from pose.advice import need_space
from pose.files import size_of
from pose.pins import Pin, ZipPin
from pose.remote import fetch_url, file_name, partial_path

AT_ONCE = 4  # connections
END_SECONDS = 2.0  # that all get to end once one failed


def fetch_all(wanted: Sequence[tuple[str, Pin | ZipPin]], folder: Path) -> list[Path]:
    """Paths of (url, pin) files, a few fetched at once, each as by fetch_url; in no certain order.

    Raises PoseError before the first byte if the disk is too small for all that is missing. The
    first trouble, or Ctrl-C, ends all within seconds; what came so far stays for the next call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    need_space("the download", sum(_missing(url, folder, pin) for url, pin in wanted), folder)
    waiting, stop = deque(wanted), threading.Event()
    done: queue.SimpleQueue[Path | BaseException] = queue.SimpleQueue()

    def work() -> None:
        with contextlib.suppress(IndexError):  # nothing waits any more
            while not stop.is_set():
                done.put(_outcome(*waiting.popleft(), folder, stop))

    # daemons: nobody waits for one that hangs in a silent connection
    threads = [threading.Thread(target=work, daemon=True) for _ in wanted[:AT_ONCE]]
    try:
        for thread in threads:
            thread.start()
        return [_path(done.get()) for _ in wanted]
    finally:
        stop.set()
        for thread in threads:
            thread.join(END_SECONDS / len(threads))


def _outcome(
    url: str, pin: Pin | ZipPin, folder: Path, stop: threading.Event
) -> Path | BaseException:
    try:
        return fetch_url(url, folder, pin, stop)
    except BaseException as error:
        return error


def _path(outcome: Path | BaseException) -> Path:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _missing(url: str, folder: Path, pin: Pin | ZipPin) -> int:
    """Bytes still to come, as far as known."""
    path = folder / file_name(url)
    return max(0, pin.expected_bytes - max(size_of(path), size_of(partial_path(path, pin))))
