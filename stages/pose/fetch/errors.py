"""Error messages for network, server and disk: one line that ends in the next step."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import requests
from urllib3.exceptions import MaxRetryError

from pose.common.errors import PoseError


def require_disk_space(what: str, needed: int, folder: Path) -> None:
    """Raise PoseError if `needed` bytes do not fit on the disk of `folder`, which may not exist."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise PoseError(
            f"{what}: needs {needed:,} bytes, {free:,} are free in {existing}; free some disk space"
        )


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn exceptions of requests and the file system into a PoseError of one line."""
    try:
        yield
    except requests.TooManyRedirects:
        raise PoseError(f"{what}: too many redirects; correct the URL") from None
    except requests.HTTPError as error:
        raise PoseError(f"{what}: {describe_status(error.response.status_code)}") from None
    except (OSError, MaxRetryError) as error:  # a RequestException is an OSError
        raise PoseError(f"{what}: {describe_error(error)}") from None


def describe_status(status: int) -> str:
    """One line for an HTTP status that is an error."""
    if status in (401, 403):
        return f"HTTP {status}: access denied; check the URL and whether it needs a login"
    if status in (404, 410):
        return f"HTTP {status}: not found; correct the URL"
    if status == 429 or status >= 500:
        return f"HTTP {status}: the server is overloaded or failing; rerun later"
    return f"HTTP {status}: the server refused the request; check the URL"


def describe_error(error: BaseException, missing_bytes: int | None = None) -> str:
    """One line for a failing disk or connection, from the exception that started the chain.

    missing_bytes: what is still to be written, if known.
    """
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        missing = "" if missing_bytes is None else f", {missing_bytes:,} bytes are missing"
        return f"the disk is full{missing}; free some disk space and rerun to continue"
    reason = first_line(error)
    if isinstance(error, OSError) and error.filename:
        return f"{reason}; check that path and rerun"
    return f"{reason}; check the network and the proxy, then rerun to continue"


def first_line(error: BaseException) -> str:
    """First line of the exception's text, or its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
