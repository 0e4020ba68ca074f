"""How every script ends: errors as one line on standard error, and the exit code.

Imports no package beyond tqdm, so that tools/pr_report.py can use it without the project's own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sqlite3  # dvclive asks DVC, which keeps its state in sqlite
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from typing import NoReturn

from pose.common.errors import PoseError, ProcessesEnded, Stopped
from pose.common.log import BarSafeHandler, log, logger

ERROR_FILE = "POSE_ERROR_FILE"  # environment of the processes that distributed.py starts
PEER_ENDED = "gloo/transport"  # in the errors of a process that waits for one that has ended
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def exit_codes(name: str) -> Iterator[None]:
    """Log to standard error inside the context; on an error, print `name: message` and exit.

    1: a PoseError, Ctrl-C, or an error of the machine (machine_advice); 143: SIGTERM, after the
    state was saved. Any other exception is a bug and keeps its traceback. Of several processes
    (distributed.py) only the first to fail leaves its text, which their launcher prints last.
    """
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(BarSafeHandler())
    try:
        yield
    except PoseError as error:
        _fail(f"{name}: {error}")
    except Stopped as stopped:
        log(f"{name}: {stopped}")
        sys.exit(128 + signal.SIGTERM)
    except ProcessesEnded as ended:
        if text := str(ended):
            log(text)
        sys.exit(ended.code)
    except KeyboardInterrupt:
        _fail(f"{name}: interrupted; rerun to continue")
    except Exception as error:
        if advice := machine_advice(error):
            _fail(f"{name}: {advice}")
        if ERROR_FILE not in os.environ:
            raise
        if PEER_ENDED in str(error):
            sys.exit(1)  # that process has the reason
        _fail(traceback.format_exc().rstrip())


def _fail(text: str) -> NoReturn:
    """Exit with 1; the text goes to standard error, or to ERROR_FILE if no process has written it.

    Several processes fail alike, or one after the other: the first text is the reason.
    """
    path = os.environ.get(ERROR_FILE)
    if path is None:
        sys.exit(text)
    try:
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        pass
    except OSError:  # no room for it
        sys.exit(text)
    sys.exit(1)


def machine_advice(error: Exception) -> str | None:
    """One line on an error of the machine (disk, rights, memory), with what to do; else None."""
    text = next(iter(str(error).splitlines()), "")
    no_room = "No space left" in text or "disk is full" in text  # the second is sqlite's text
    if no_room or getattr(error, "errno", None) in DISK_FULL:
        return f"the disk is full ({text}); free some disk space and rerun"
    if isinstance(error, sqlite3.Error):
        advice = "check room and rights of .dvc/tmp and its cache, then rerun"
        return f"DVC's own state: {text}; {advice}"
    if isinstance(error, OSError):
        return f"{text or type(error).__name__}; check that path and its rights, then rerun"
    if isinstance(error, MemoryError):
        return "out of memory; set POSE_WORKERS lower or close other programs, then rerun"
    if is_torch_memory(error):
        reason = text.split(". ")[0]
        return f"out of memory ({reason}); set evaluate.batch_size (predict: --batch-size) lower"
    if isinstance(error, BrokenExecutor) or "DataLoader worker" in text:
        return "a helper process was killed (out of memory?); set POSE_WORKERS lower and rerun"
    return None


def is_torch_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, on the host or a device; does not import torch."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
