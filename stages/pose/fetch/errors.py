"""What to do about a failing network, server or disk: one line that ends in the next step."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import requests
from urllib3.exceptions import MaxRetryError

from pose.common.errors import PoseError


def need_space(what: str, need: int, folder: Path) -> None:
    """Raise PoseError if `need` bytes do not fit where folder is or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise PoseError(f"{what}: needs {need:,} bytes, {free:,} are free in {there}; make room")


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn what requests and the file system raise into a PoseError of one line."""
    try:
        yield
    except requests.TooManyRedirects:
        raise PoseError(f"{what}: redirects without end; correct the address") from None
    except requests.HTTPError as error:
        raise PoseError(f"{what}: {status_advice(error.response.status_code)}") from None
    except (OSError, MaxRetryError) as error:  # a RequestException is an OSError
        raise PoseError(f"{what}: {trouble(error)}") from None


def status_advice(status: int) -> str:
    if status in (401, 403):
        return f"HTTP {status}: not allowed; check the address and whether it needs a login"
    if status in (404, 410):
        return f"HTTP {status}: no such file; correct the address"
    if status == 429 or status >= 500:
        return f"HTTP {status}: the server is busy or in trouble; rerun later"
    return f"HTTP {status}: the server refuses; check the address"


def trouble(error: BaseException, missing: int | None = None) -> str:
    """One line for a failing disk or connection: the exception that began it tells most.

    missing: bytes yet to come, if known.
    """
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = "" if missing is None else f", {missing:,} bytes are missing"
        return f"the disk is full{need}; make room and rerun to go on"
    reason = first_line(error)
    if isinstance(error, OSError) and error.filename:
        return f"{reason}; check that path and rerun"
    return f"{reason}; check the network and the proxy, then rerun to go on"


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
