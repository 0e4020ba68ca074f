"""Downloads from servers on loopback: retries, resuming, verification, parallel downloads."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tqdm

from loopback import CONTENT, OTHER, SHA, Handler, Server, failure, little_disk, serve, sha256, stop
from pose.common import log as log_module
from pose.common.errors import PoseError
from pose.fetch import url as url_module
from pose.fetch.checksums import Checksum, ZipChecksums
from pose.fetch.url import download_all


@pytest.fixture
def server(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield from serve(Handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(server: Server, folder: Path, expected: str = SHA) -> Path:
    return url_module.download(f"{server.address}/a/x.pth?v=1", folder, checksum(expected))


def checksum(expected: str = SHA) -> Checksum:
    return Checksum(expected, "weights.sha256")


def hold(folder: Path, content: bytes, expected: str = SHA) -> Path:
    partial = folder / f"x.pth.{expected[:12]}.part"
    partial.write_bytes(content)
    return partial


def test_a_file_is_downloaded_once(tmp_path: Path, server: Server) -> None:
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
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    assert f"{url}: not an http:// or https:// URL" in failure(
        url_module.download, url, tmp_path, checksum()
    )


def test_a_redirect_to_a_file_is_refused(tmp_path: Path, server: Server) -> None:
    server.statuses = [(302, {"Location": "file:///etc/hosts"})]
    assert "file:///etc/hosts" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/x.pth?v=1#f", "x.pth"), ("/", "h"), ("/..", "h"), ("/%2e%2e%2fx%20y", "x y")],
)
def test_the_file_name_is_the_last_part_of_the_path(path: str, name: str) -> None:
    assert url_module.file_name(f"https://h{path}") == name


def test_a_long_name_keeps_its_end() -> None:
    assert url_module.file_name(f"https://h/{'a' * 300}.pth") == "a" * 96 + ".pth"


@pytest.mark.parametrize("have", [1, 300_000, len(CONTENT) - 1])
def test_a_partial_file_is_resumed(tmp_path: Path, server: Server, have: int) -> None:
    hold(tmp_path, CONTENT[:have])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={have}-"]
    assert names(tmp_path) == ["x.pth"]


def test_a_complete_partial_file_is_kept(tmp_path: Path, server: Server) -> None:
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
    assert all(0 <= count <= url_module.BLOCK * (i + 1) for i, count in enumerate(lost)), lost
    assert [asked["If-Range"] for asked in server.asked] == [None] + [f'"{SHA}"'] * 3


def test_a_server_that_sends_short_ranges_is_asked_again(tmp_path: Path, server: Server) -> None:
    server.limit = 200_000
    hold(tmp_path, CONTENT[:100_000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges_asked == [f"bytes={start}-" for start in range(100_000, 700_000, 200_000)]


def test_repeated_closes_without_progress_fail(
    tmp_path: Path, server: Server, slept: list[float]
) -> None:
    server.cuts = [200_000] + [0] * 100
    text = failure(fetch, server, tmp_path)
    assert "x.pth?v=1: connection closed early; check the network" in text
    assert text.endswith("rerun to continue")
    assert len(server.asked) == 1 + 5
    assert slept == [2, 4, 8, 16]
    (partial,) = tmp_path.iterdir()
    assert CONTENT.startswith(partial.read_bytes())
    assert partial.stat().st_size > 100_000
    server.cuts = []
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["x.pth"]


def test_many_closes_with_progress_succeed(tmp_path: Path, server: Server) -> None:
    server.cuts = [70_000] * 9
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 10


def test_a_file_that_changes_during_the_download_starts_over(
    tmp_path: Path, server: Server
) -> None:
    server.cuts = [400_000]
    server.on_cut = lambda: setattr(server, "content", OTHER)
    assert fetch(server, tmp_path, sha256(OTHER)).read_bytes() == OTHER
    assert len(server.asked) == 2
    assert server.asked[1]["If-Range"] == f'"{SHA}"'
    assert server.asked[1]["Range"] is not None


def test_no_content_length(tmp_path: Path, server: Server) -> None:
    server.lengths = False
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_no_content_length_and_an_early_close(tmp_path: Path, server: Server) -> None:
    server.lengths, server.cuts = False, [100_000]
    assert f"sha256 is {sha256(CONTENT[:100_000])}" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_overloaded_server_is_asked_again(
    tmp_path: Path, server: Server, slept: list[float], status: int
) -> None:
    server.statuses = [(status, {})] * 3
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert slept == [2, 4]


def test_retry_after_is_limited_to_a_minute(
    tmp_path: Path, server: Server, slept: list[float]
) -> None:
    server.statuses = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "9999"})]
    fetch(server, tmp_path)
    assert slept == [7, 60]


@pytest.mark.parametrize(
    ("status", "asked", "text"),
    [
        (503, 6, "HTTP 503: the server is overloaded or failing; rerun later"),
        (429, 6, "HTTP 429: the server is overloaded or failing; rerun later"),
        (401, 1, "HTTP 401: access denied; check the URL and whether it needs a login"),
        (403, 1, "HTTP 403: access denied; check the URL and whether it needs a login"),
        (404, 1, "HTTP 404: not found; correct the URL"),
        (400, 1, "HTTP 400: the server refused the request; check the URL"),
    ],
)
def test_error_statuses_name_the_next_step(
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


def test_connection_refused(tmp_path: Path, server: Server, slept: list[float]) -> None:
    stop(server)
    text = failure(fetch, server, tmp_path)
    assert "Connection refused; check the network and the proxy, then rerun" in text
    assert slept == [2, 4]
    assert names(tmp_path) == []


def test_a_silent_server(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_module, "TIMEOUT", (0.1, 0.1))
    monkeypatch.setattr(url_module, "RETRY", url_module.RETRY.new(total=1))
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


def test_too_little_disk_space_is_reported_before(
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
    assert "the disk is full, 700,000 bytes are missing; free some disk space and rerun" in text
    assert not (tmp_path / "x.pth").exists()


def test_a_file_in_place_of_the_folder(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in failure(fetch, server, tmp_path / "file")


def test_a_long_download_logs_without_a_terminal(
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(log_module, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(log_module, "LOG_SECONDS", 0.0)
    with caplog.at_level("INFO", "pose"):
        fetch(server, tmp_path)
    line = r"x\.pth: 100% \(700kB of 700kB\), [\d.]+[kM]B/s, eta 0m00s"
    assert any(re.fullmatch(line, message) for message in caplog.messages), caplog.messages
    assert caplog.messages[-1] == "x.pth: verified"


# ------------------------------------------------------------------------------- known size

SIZED = Checksum(hashlib.md5(CONTENT).hexdigest(), "the table", "md5", len(CONTENT))


def fetch_sized(server: Server, folder: Path) -> Path:
    return url_module.download(f"{server.address}/x.zip", folder, SIZED)


def hold_sized(folder: Path, content: bytes) -> Path:
    partial = folder / f"x.zip.{SIZED.digest[:12]}.part"
    partial.write_bytes(content)
    return partial


def test_a_complete_partial_of_known_size_needs_no_connection(
    tmp_path: Path, server: Server
) -> None:
    hold_sized(tmp_path, CONTENT)
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("corrupt", [OTHER[: len(CONTENT)], CONTENT + b"more"])
def test_a_corrupt_partial_of_known_size_starts_over(
    tmp_path: Path, server: Server, corrupt: bytes
) -> None:
    hold_sized(tmp_path, corrupt)
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
    assert text.endswith("the table says 700,000; check the URL")
    assert names(tmp_path) == ([partial.name] if partial else [])
    assert not partial or partial.read_bytes() == CONTENT[:have]
    assert len(server.asked) == 1


def test_a_web_page_is_refused_where_no_size_is_known(tmp_path: Path, server: Server) -> None:
    partial = hold(tmp_path, CONTENT[:300_000])
    page(server)
    server.extra = {"Content-Type": "text/html; charset=utf-8"}
    text = failure(fetch, server, tmp_path)
    assert text.endswith("the answer is a web page; check the URL and the proxy")
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
    """Without ETag only the digest shows the change; the download starts over."""
    server.etags, server.content = False, OTHER[: len(CONTENT)]
    server.cuts = [400_000]
    server.on_cut = lambda: setattr(server, "content", CONTENT)
    assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert [asked is None for asked in server.ranges_asked] == [True, False, True]


def test_a_wrong_file_of_the_right_size_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.content = OTHER[: len(CONTENT)]
    found = hashlib.md5(server.content).hexdigest()
    text = failure(fetch_sized, server, tmp_path)
    assert f"md5 is {found}, the table says {SIZED.digest}; removed; correct the URL" in text
    assert names(tmp_path) == []


def test_a_damaged_file_is_downloaded_again(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.zip").write_bytes(CONTENT[:-1] + b"!")
    with caplog.at_level("INFO", "pose"):
        assert fetch_sized(server, tmp_path).read_bytes() == CONTENT
    assert "downloading it again" in caplog.messages[0]


# ---------------------------------------------------------------------------- bad networks


def test_a_server_without_range_that_closes_early_loses_nothing(
    tmp_path: Path, server: Server
) -> None:
    """It sends everything from the first byte: received bytes are compared, not thrown away."""
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
    """Random early closes, 5xx and 429: no call loses bytes, and the last one has the file."""
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
    assert text.endswith("too many redirects; correct the URL")
    assert partial.read_bytes() == CONTENT[:10]


FETCH = f"""
import sys; sys.path.insert(0, {str(Path(url_module.__file__).parents[2])!r})
from pathlib import Path
from pose.fetch import url
from pose.fetch.checksums import Checksum
url.download(sys.argv[1], Path(sys.argv[2]), Checksum({SHA!r}, "x"))
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


# --------------------------------------------------------------------------- download_all

FILES = {f"/{name}": np.random.default_rng(ord(name)).bytes(300_000) for name in "abcdef"}


@pytest.fixture
def mirror(server: Server) -> Server:
    server.files = dict(FILES)
    return server


def urls_and_checksums(
    mirror: Server, names: str = "abcdef"
) -> list[tuple[str, Checksum | ZipChecksums]]:
    paths = [f"/{name}" for name in names]
    return [(f"{mirror.address}{p}", Checksum(sha256(FILES[p]), "x", size=300_000)) for p in paths]


def parts(folder: Path) -> dict[str, bytes]:
    return {f"/{path.name[0]}": path.read_bytes() for path in folder.glob("*.part")}


def test_no_files(tmp_path: Path) -> None:
    assert download_all([], tmp_path) == []


def test_all_files_are_downloaded_once(tmp_path: Path, mirror: Server) -> None:
    paths = download_all(urls_and_checksums(mirror), tmp_path)
    assert {f"/{path.name}": path.read_bytes() for path in paths} == FILES
    assert {path.name for path in tmp_path.iterdir()} == set("abcdef")
    assert len(mirror.asked) == len(FILES)
    assert len(download_all(urls_and_checksums(mirror), tmp_path)) == len(FILES)
    assert len(mirror.asked) == len(FILES)


def test_four_downloads_at_the_same_time(tmp_path: Path, mirror: Server) -> None:
    """Four requests wait for each other in the server; no fifth one arrives meanwhile."""
    asked: list[int] = []

    def count() -> None:
        threading.Event().wait(0.2)
        asked.append(len(mirror.asked))

    barrier = threading.Barrier(4, count, timeout=20)
    mirror.cuts, mirror.on_cut = [200_000] * 4, barrier.wait
    assert len(download_all(urls_and_checksums(mirror), tmp_path)) == len(FILES)
    assert asked == [4]


def test_disk_space_is_checked_for_all_missing_files(
    tmp_path: Path, mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_disk(monkeypatch)
    fill(mirror, tmp_path, "a")
    part = tmp_path / f"b.{sha256(FILES['/b'])[:12]}.part"
    part.write_bytes(FILES["/b"][:250_000])
    for names, missing in (("abc", 350_000), ("c", 300_000)):
        text = failure(download_all, urls_and_checksums(mirror, names), tmp_path)
        assert text.startswith(f"the download: needs {missing:,} bytes, 100,000 are free in ")
    assert mirror.asked == []
    assert len(download_all(urls_and_checksums(mirror, "ab"), tmp_path)) == 2
    approximate = [(f"{mirror.address}/c", ZipChecksums("c", 200_000, None))]
    assert "needs 200,000 bytes" in failure(download_all, approximate, tmp_path)


def fill(mirror: Server, folder: Path, names: str) -> None:
    for name in names:
        (folder / name).write_bytes(FILES[f"/{name}"])


def test_the_first_error_ends_all_downloads(tmp_path: Path, mirror: Server) -> None:
    """Even while another connection is silent."""
    del mirror.files["/b"]
    silence = threading.Event()
    mirror.on_cut = lambda: silence.wait(60)
    mirror.cuts = [200_000]
    try:
        text = failure(download_all, urls_and_checksums(mirror, "ab"), tmp_path)
    finally:
        silence.set()
    assert text == f"{mirror.address}/b: HTTP 404: not found; correct the URL"
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    assert all(FILES[name].startswith(content) for name, content in parts(tmp_path).items())


def test_running_downloads_stop_at_the_next_block(tmp_path: Path, mirror: Server) -> None:
    mirror.rate = 300_000
    del mirror.files["/c"]
    failure(download_all, urls_and_checksums(mirror, "abc"), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".part"}
    before = parts(tmp_path)
    assert before.keys() <= {"/a", "/b"}
    assert all(len(content) < 300_000 for content in before.values())
    mirror.rate, mirror.files = None, dict(FILES)
    download_all(urls_and_checksums(mirror, "abc"), tmp_path)
    for name, content in before.items():
        assert not content or f"bytes={len(content)}-" in mirror.ranges_asked, name


DOWNLOAD_ALL = f"""
import signal, sys; sys.path.insert(0, {str(Path(url_module.__file__).parents[2])!r})
from pathlib import Path
from pose.fetch.url import download_all
from pose.fetch.checksums import Checksum
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
download_all([(u, Checksum("0" * 64, "x")) for u in sys.argv[2:]], Path(sys.argv[1]))
"""


def test_ctrl_c_ends_all_downloads(tmp_path: Path, mirror: Server) -> None:
    """Even while all connections are silent."""
    silence = threading.Event()
    mirror.cuts, mirror.on_cut = [200_000] * 6, lambda: silence.wait(120)
    urls = [url for url, _ in urls_and_checksums(mirror)]
    command = [sys.executable, "-c", DOWNLOAD_ALL, str(tmp_path), *urls]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while len([part for part in parts(tmp_path).values() if part]) < 4:
            assert process.poll() is None
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=45)[1]  # below TIMEOUT's 60
    silence.set()
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert {path.suffix for path in tmp_path.iterdir()} == {".part"}
    assert all(FILES[name].startswith(content) for name, content in parts(tmp_path).items())


def test_each_file_has_its_own_progress_bar(
    tmp_path: Path, mirror: Server, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Name, bytes, rate, time left; each bar stays on its own line and is closed."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(url_module.BAR, "mininterval", 0.0)
    monkeypatch.setitem(url_module.BAR, "ncols", 80)
    download_all(urls_and_checksums(mirror, "abc"), tmp_path)
    drawn = capsys.readouterr().err.replace("\x1b[A", "\n").replace("\r", "\n").split("\n")
    drawn = [line.strip() for line in drawn if line.strip()]
    assert all(line[:2] in ("a:", "b:", "c:") for line in drawn), drawn
    assert all(sum(f"{name}: " in line for name in "abc") == 1 for line in drawn)
    assert any("B/s" in line and "<" in line for line in drawn)
    assert not tqdm.tqdm._instances
