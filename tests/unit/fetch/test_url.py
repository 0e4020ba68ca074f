"""Against servers on loopback: what arrives is right, what fails says so and leaves no file."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from loopback import CONTENT, OTHER, SHA, Handler, Server, failure, little_disk, serve, sha256, stop
from pose.common.errors import PoseError
from pose.fetch import url as fetch_url
from pose.fetch.checksums import Pin


@pytest.fixture
def server(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield from serve(Handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(server: Server, folder: Path, expected: str = SHA) -> Path:
    return fetch_url.fetch_url(f"{server.address}/a/x.pth?v=1", folder, pin(expected))


def pin(expected: str = SHA) -> Pin:
    return Pin(expected, "weights.sha256")


def hold(folder: Path, content: bytes, expected: str = SHA) -> Path:
    partial = folder / f"x.pth.{expected[:12]}.part"
    partial.write_bytes(content)
    return partial


def test_a_file_is_fetched_once(tmp_path: Path, server: Server) -> None:
    for _ in range(2):
        path = fetch(server, tmp_path / "new" / "folder")
        assert path.read_bytes() == CONTENT
        assert names(path.parent) == ["x.pth"]
    assert [(asked["Range"], asked["Accept-Encoding"]) for asked in server.asked] == [
        (None, "identity")
    ]


def test_another_file_under_the_name_is_replaced(tmp_path: Path, server: Server) -> None:
    (tmp_path / "x.pth").write_bytes(OTHER)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://a/b", "x.pth", "http://", "http://[a"])
def test_only_http_is_spoken(tmp_path: Path, url: str) -> None:
    assert f"{url}: not a http:// or https://" in failure(fetch_url.fetch_url, url, tmp_path, pin())


def test_a_redirect_to_a_file_is_refused(tmp_path: Path, server: Server) -> None:
    server.statuses = [(302, {"Location": "file:///etc/hosts"})]
    assert "file:///etc/hosts" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/x.pth?v=1#f", "x.pth"), ("/", "h"), ("/..", "h"), ("/%2e%2e%2fx%20y", "x y")],
)
def test_the_name_is_the_last_part_of_the_address(path: str, name: str) -> None:
    assert fetch_url.file_name(f"https://h{path}") == name


def test_a_long_name_keeps_its_end() -> None:
    assert fetch_url.file_name(f"https://h/{'a' * 300}.pth") == "a" * 96 + ".pth"


@pytest.mark.parametrize("have", [1, 300_000, len(CONTENT) - 1])
def test_a_partial_file_is_resumed(tmp_path: Path, server: Server, have: int) -> None:
    hold(tmp_path, CONTENT[:have])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={have}-"]
    assert names(tmp_path) == ["x.pth"]


def test_a_whole_partial_file_is_kept(tmp_path: Path, server: Server) -> None:
    hold(tmp_path, CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("have", [300_000, len(CONTENT)])
def test_a_server_without_range_starts_over(tmp_path: Path, server: Server, have: int) -> None:
    server.ranges = False
    hold(tmp_path, CONTENT[:have])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("have", [OTHER[:300_000], OTHER])
def test_a_partial_of_another_file_starts_over(tmp_path: Path, server: Server, have: bytes) -> None:
    hold(tmp_path, have)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={len(have)}-", None]


def test_early_closes_are_resumed(tmp_path: Path, server: Server, slept: list[float]) -> None:
    server.cuts = [200_000, 200_000, 200_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    starts = [int(str(asked)[6:-1]) for asked in server.ranges_asked[1:]]
    assert len(starts) == 3
    lost = [200_000 * (i + 1) - start for i, start in enumerate(starts)]
    assert all(0 <= count <= fetch_url.BLOCK * (i + 1) for i, count in enumerate(lost)), lost
    assert [asked["If-Range"] for asked in server.asked] == [None] + [f'"{SHA}"'] * 3


def test_a_server_of_short_ranges_is_asked_for_the_rest(tmp_path: Path, server: Server) -> None:
    server.limit = 200_000
    hold(tmp_path, CONTENT[:100_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={start}-" for start in range(100_000, 700_000, 200_000)]


def test_closes_that_bring_nothing_end(tmp_path: Path, server: Server, slept: list[float]) -> None:
    server.cuts = [200_000] + [0] * 100
    text = failure(fetch, server, tmp_path)
    assert "x.pth?v=1: connection closed early; check the network" in text
    assert text.endswith("rerun to go on")
    assert len(server.asked) == 1 + 5
    assert slept == [2, 4, 8, 16]
    (partial,) = tmp_path.iterdir()
    assert CONTENT.startswith(partial.read_bytes())
    assert partial.stat().st_size > 100_000
    server.cuts = []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["x.pth"]


def test_many_closes_with_progress_do_not_end_it(tmp_path: Path, server: Server) -> None:
    server.cuts = [70_000] * 9
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 10


def test_a_file_that_changes_meanwhile_starts_over(tmp_path: Path, server: Server) -> None:
    server.cuts = [400_000]
    server.on_cut = lambda: setattr(server, "content", OTHER)
    assert fetch(server, tmp_path, sha256(OTHER)).read_bytes() == OTHER
    assert len(server.asked) == 2
    assert server.asked[1]["If-Range"] == f'"{SHA}"'
    assert server.asked[1]["Range"] is not None


def test_a_length_nobody_tells(tmp_path: Path, server: Server) -> None:
    server.lengths = False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_length_nobody_tells_and_a_close(tmp_path: Path, server: Server) -> None:
    server.lengths, server.cuts = False, [100_000]
    assert f"sha256 is {sha256(CONTENT[:100_000])}" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    tmp_path: Path, server: Server, slept: list[float], status: int
) -> None:
    server.statuses = [(status, {})] * 3
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert slept == [2, 4]


def test_retry_after_counts_up_to_a_minute(
    tmp_path: Path, server: Server, slept: list[float]
) -> None:
    server.statuses = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "9999"})]
    fetch(server, tmp_path)
    assert slept == [7, 60]


@pytest.mark.parametrize(
    ("status", "asked", "text"),
    [
        (503, 6, "HTTP 503: the server is busy or in trouble; rerun later"),
        (429, 6, "HTTP 429: the server is busy or in trouble; rerun later"),
        (401, 1, "HTTP 401: not allowed; check the address and whether it needs a login"),
        (403, 1, "HTTP 403: not allowed; check the address and whether it needs a login"),
        (404, 1, "HTTP 404: no such file; correct the address"),
        (400, 1, "HTTP 400: the server refuses; check the address"),
    ],
)
def test_refusals_say_what_to_do(
    tmp_path: Path, server: Server, status: int, asked: int, text: str
) -> None:
    server.statuses = [(status, {})] * 10
    partial = hold(tmp_path, CONTENT[:10])
    assert failure(fetch, server, tmp_path) == f"{server.address}/a/x.pth?v=1: {text}"
    assert len(server.asked) == asked
    assert partial.read_bytes() == CONTENT[:10]
    assert names(tmp_path) == [partial.name]


@pytest.mark.parametrize("span", ["", "bytes 5-6", "bytes 7-699999/700000"])
def test_a_206_of_other_bytes_is_refused(tmp_path: Path, server: Server, span: str) -> None:
    server.statuses = [(206, {"Content-Range": span})]
    partial = hold(tmp_path, CONTENT[:10])
    failure(fetch, server, tmp_path)
    assert partial.read_bytes() == CONTENT[:10]


def test_a_server_that_is_not_there(tmp_path: Path, server: Server, slept: list[float]) -> None:
    stop(server)
    text = failure(fetch, server, tmp_path)
    assert "Connection refused; check the network and the proxy, then rerun" in text
    assert slept == [2, 4]
    assert names(tmp_path) == []


def test_a_silent_server(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_url, "TIMEOUT", (0.1, 0.1))
    monkeypatch.setattr(fetch_url, "RETRY", fetch_url.RETRY.new(total=1))
    silence = threading.Event()
    server.on_cut = lambda: silence.wait(5)
    server.cuts = [100_000, 0, 0, 0]
    text = failure(fetch, server, tmp_path)
    silence.set()
    assert "connection closed early; check the network" in text
    assert len(server.asked) == 2


@pytest.mark.parametrize("have", [b"", CONTENT[:10]])
def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: Server, have: bytes) -> None:
    wrong = "0" * 64
    if have:
        hold(tmp_path, have, wrong)
    (tmp_path / "x.pth").write_bytes(b"older")
    text = failure(fetch, server, tmp_path, wrong)
    assert f"sha256 is {SHA}, weights.sha256 says {wrong}" in text
    assert names(tmp_path) == ["x.pth"]
    assert (tmp_path / "x.pth").read_bytes() == b"older"


def test_too_little_space_is_told_before(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_disk(monkeypatch)
    assert "needs 700,000 bytes, 100,000 are free" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []
    hold(tmp_path, CONTENT[:650_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's disk that is always full")
def test_a_disk_that_fills_up(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"x.pth.{SHA[:12]}.part").symlink_to("/dev/full")
    text = failure(fetch, server, tmp_path)
    assert "the disk is full, 700,000 bytes are missing; make room and rerun" in text
    assert not (tmp_path / "x.pth").exists()


def test_a_folder_that_cannot_be(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in failure(fetch, server, tmp_path / "file")


def test_a_long_download_logs_without_a_terminal(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fetch_url, "LOG_SECONDS", 0.0)
    with caplog.at_level("INFO", "pose"):
        fetch(server, tmp_path)
    assert "x.pth: 700,000 of 700,000 bytes" in caplog.messages
    assert caplog.messages[-1] == "x.pth: verified"


# ------------------------------------------------------------------- a size known beforehand

SIZED = Pin(hashlib.md5(CONTENT).hexdigest(), "the table", "md5", len(CONTENT))


def fetch_sized(server: Server, folder: Path) -> Path:
    return fetch_url.fetch_url(f"{server.address}/x.zip", folder, SIZED)


def hold_sized(folder: Path, content: bytes) -> Path:
    partial = folder / f"x.zip.{SIZED.digest[:12]}.part"
    partial.write_bytes(content)
    return partial


def test_a_whole_partial_of_known_size_needs_no_connection(tmp_path: Path, server: Server) -> None:
    hold_sized(tmp_path, CONTENT)
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("spoilt", [OTHER[: len(CONTENT)], CONTENT + b"more"])
def test_a_spoilt_partial_of_known_size_starts_over(
    tmp_path: Path, server: Server, spoilt: bytes
) -> None:
    hold_sized(tmp_path, spoilt)
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [None]
    assert names(tmp_path) == ["x.zip"]


def other_file(server: Server) -> None:
    server.content = OTHER


def shorter_file(server: Server) -> None:
    server.content = CONTENT[:1000]


def no_range_no_length(server: Server) -> None:
    server.ranges = server.lengths = False


def page(server: Server) -> None:
    server.ranges = False
    server.content = b"<!DOCTYPE html><html>Please sign in</html>"


@pytest.mark.parametrize("bend", [other_file, shorter_file, no_range_no_length, page])
@pytest.mark.parametrize("have", [0, 300_000])
def test_another_file_is_refused_before_a_byte(
    tmp_path: Path, server: Server, bend: Callable[[Server], None], have: int
) -> None:
    partial = hold_sized(tmp_path, CONTENT[:have]) if have else None
    bend(server)
    text = failure(fetch_sized, server, tmp_path)
    assert "x.zip: the server offers " in text
    assert text.endswith("the table says 700,000; check the address")
    assert names(tmp_path) == ([partial.name] if partial else [])
    assert not partial or partial.read_bytes() == CONTENT[:have]
    assert len(server.asked) == 1


def test_a_web_page_is_refused_where_no_size_is_known(tmp_path: Path, server: Server) -> None:
    partial = hold(tmp_path, CONTENT[:300_000])
    page(server)
    server.extra = {"Content-Type": "text/html; charset=utf-8"}
    text = failure(fetch, server, tmp_path)
    assert text.endswith("answers with a web page; check the address and the proxy")
    assert partial.read_bytes() == CONTENT[:300_000]


def test_a_changed_file_of_another_size_keeps_what_came(tmp_path: Path, server: Server) -> None:
    server.cuts = [400_000]
    server.on_cut = lambda: other_file(server)
    assert "the server offers 700,001 bytes" in failure(fetch_sized, server, tmp_path)
    (partial,) = tmp_path.iterdir()
    assert CONTENT.startswith(partial.read_bytes())
    assert partial.stat().st_size > 300_000
    server.content = CONTENT
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT


def test_a_changed_file_of_the_same_size_ends_right(tmp_path: Path, server: Server) -> None:
    """Without ETag nothing tells: the digest does, and it starts over."""
    server.etags, server.content = False, OTHER[: len(CONTENT)]
    server.cuts = [400_000]
    server.on_cut = lambda: setattr(server, "content", CONTENT)
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert [asked is None for asked in server.ranges_asked] == [True, False, True]


def test_a_wrong_file_of_the_right_size_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.content = OTHER[: len(CONTENT)]
    found = hashlib.md5(server.content).hexdigest()
    text = failure(fetch_sized, server, tmp_path)
    assert f"md5 is {found}, the table says {SIZED.digest}; removed; correct the address" in text
    assert names(tmp_path) == []


def test_a_damaged_file_is_fetched_again(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.zip").write_bytes(CONTENT[:-1] + b"!")
    with caplog.at_level("INFO", "pose"):
        assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert "fetching it again" in caplog.messages[0]


# ---------------------------------------------------------------------------- bad networks


def test_a_server_without_range_that_closes_early_loses_nothing(
    tmp_path: Path, server: Server
) -> None:
    """It sends all from the first byte: what is here is compared, not thrown away."""
    server.ranges, server.cuts = False, [100_000] * 20
    partial = hold_sized(tmp_path, CONTENT[:300_000])
    failure(fetch_sized, server, tmp_path)
    assert partial.read_bytes() == CONTENT[:300_000]
    server.cuts = [100_000, 500_000, 400_000]
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT


def test_a_server_without_range_and_another_file(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    for content in (CONTENT[:400_000] + OTHER, CONTENT[:100_000]):
        server.content = content
        hold(tmp_path, CONTENT[:300_000] + b"spoilt", sha256(content))
        assert fetch(server, tmp_path, sha256(content)).read_bytes() == content
        assert server.ranges_asked.pop() == "bytes=300006-"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_random_faults_end_with_the_file_or_one_line(
    tmp_path: Path, server: Server, slept: list[float], ranges: bool, seed: int
) -> None:
    """Cut at random places, amid 5xx and 429: each call gains or holds, the last has the file."""
    rng = np.random.default_rng(seed)
    server.ranges, held = ranges, 0
    for _ in range(6):
        server.cuts = rng.integers(0, 600_000, rng.integers(1, 12)).tolist()
        server.statuses = [
            (int(status), {"Retry-After": "1"})
            for status in rng.choice([429, 500, 502, 503, 504, 403, 404], rng.integers(0, 5))
        ]
        with contextlib.suppress(PoseError):
            assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
            break
        parts = [path.read_bytes() for path in tmp_path.glob("*.part")] or [b""]
        assert not (tmp_path / "x.zip").exists()
        assert CONTENT.startswith(parts[0])
        assert len(parts[0]) >= held
        held = len(parts[0])
    server.cuts, server.statuses = [], []
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["x.zip"]


@pytest.mark.parametrize("address", ["/x.pth", "/elsewhere"])
def test_a_redirect_loop(tmp_path: Path, server: Server, address: str) -> None:
    server.statuses = [(302, {"Location": address})] * 100
    partial = hold(tmp_path, CONTENT[:10])
    text = failure(fetch, server, tmp_path)
    assert text.endswith("redirects without end; correct the address")
    assert partial.read_bytes() == CONTENT[:10]


FETCH = f"""
import sys; sys.path.insert(0, {str(Path(fetch_url.__file__).parents[2])!r})
from pathlib import Path
from pose.fetch import url
from pose.fetch.checksums import Pin
url.fetch_url(sys.argv[1], Path(sys.argv[2]), Pin({SHA!r}, "x"))
"""


def test_killed_at_random_moments(tmp_path: Path, server: Server) -> None:
    server.rate = 1e6
    rng = np.random.default_rng(0)
    folder = tmp_path / "x"
    command = [sys.executable, "-c", FETCH, f"{server.address}/x.pth", str(folder)]
    for goal in sorted(rng.integers(50_000, 600_000, 3)):
        with subprocess.Popen(command) as process:
            while sum(path.stat().st_size for path in folder.glob("*")) < goal:
                assert process.poll() is None
                threading.Event().wait(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        (partial,) = folder.iterdir()
        assert partial.suffix == ".part"
        assert CONTENT.startswith(partial.read_bytes())
    server.rate = None
    subprocess.run(command, check=True)
    assert (folder / "x.pth").read_bytes() == CONTENT
    assert names(folder) == ["x.pth"]
