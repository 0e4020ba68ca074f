"""One line for errors of network, server and disk, with the next step."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import requests

from pose.common.errors import PoseError
from pose.fetch import errors


def test_disk_space_is_checked_in_the_nearest_existing_folder(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    errors.require_disk_space("x.zip", 1, folder)
    with pytest.raises(PoseError, match=rf"^x.zip: needs {1 << 60:,} bytes, .* in {tmp_path}; "):
        errors.require_disk_space("x.zip", 1 << 60, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, "check the URL and whether it needs a login"),
        (403, "access denied"),
        (404, "not found; correct the URL"),
        (410, "not found; correct the URL"),
        (416, "the server refused the request"),
        (429, "rerun later"),
        (500, "rerun later"),
        (503, "rerun later"),
    ],
)
def test_a_status_names_the_next_step(status: int, expected: str) -> None:
    line = errors.describe_status(status)
    assert line.startswith(f"HTTP {status}: ")
    assert expected in line


def status_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (status_error(404), "f: HTTP 404: not found; correct the URL"),
        (requests.TooManyRedirects(), "f: too many redirects; correct the URL"),
        (OSError(errno.ENOSPC, "x"), "f: the disk is full; free some disk space and rerun"),
        (OSError(errno.EDQUOT, "x"), "f: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "/x"), "'/x'; check that path and rerun"),
        (requests.ConnectionError("a\nb"), "f: a; check the network and the proxy"),
        (requests.ReadTimeout(), "f: ReadTimeout; check the network"),
    ],
)
def test_exceptions_become_one_line(raised: Exception, expected: str) -> None:
    with pytest.raises(PoseError) as caught, errors.one_line("f"):
        raise raised
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_exception_of_a_chain_gives_the_reason() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "x")
        except OSError as error:
            raise requests.ConnectionError("later") from error
    except requests.ConnectionError as error:
        line = errors.describe_error(error, missing_bytes=12_345)
    assert line.startswith("the disk is full, 12,345 bytes are missing")


def test_other_exceptions_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), errors.one_line("f"):
        raise ZeroDivisionError
