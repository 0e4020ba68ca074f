"""Against servers on loopback: what arrives is right, what fails says so and leaves no file."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub.file_download
import numpy as np
import pytest
from huggingface_hub import constants

from pose import remote
from pose.errors import PoseError

STAGES = Path(remote.__file__).parents[1]
CONTENT = np.random.default_rng(0).bytes(700_000)
OTHER = np.random.default_rng(1).bytes(700_001)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO, FILE = "owner/name", "deep/snapshots/weights.pth"
Answer = tuple[int, dict[str, str]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SHA = sha256(CONTENT)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; the lists bend its next answers, `asked` keeps each request's headers.

    statuses: sent instead of the file. cuts: hang up after so many bytes, then call `on_cut`.
    limit: bytes it sends at most for a Range.
    """

    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.content, self.ranges, self.lengths = CONTENT, True, True
        self.limit = len(OTHER)
        self.statuses: list[Answer] = []
        self.cuts: list[int] = []
        self.on_cut: Callable[[], object] = lambda: None
        self.asked: list[dict[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers["Range"] for headers in self.asked]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        names = ("Range", "If-Range", "Accept-Encoding", "Authorization")
        self.server.asked.append({name: self.headers.get(name) for name in names})
        if self.server.statuses:
            self.answer(*self.server.statuses.pop(0))
        else:
            self.send_file()

    def send_file(self) -> None:
        content, etag = self.server.content, f'"{sha256(self.server.content)}"'
        wanted = self.headers.get("Range") if self.server.ranges else None
        if self.headers.get("If-Range") not in (None, etag):
            wanted = None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers, body = {"ETag": etag}, content[start:]
        if wanted:
            body = body[: self.server.limit]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(content)}"
        if self.server.lengths:
            headers["Content-Length"] = str(len(body))
        self.answer(206 if wanted else 200, headers, body)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in ({} if body else {"Content-Length": "0"} | headers).items():
            self.send_header(name, value)
        for name, value in (headers if body else {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if body and self.server.cuts:
            self.wfile.write(body[: self.server.cuts.pop(0)])
            self.server.on_cut()
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Hub(Handler):
    """HEAD and GET of /owner/name/resolve/<revision>/<file>, as hf_hub_download asks."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):  # statistics of the library
            self.answer(404, {})
        else:
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def send_file(self) -> None:
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        for given, right, code in (
            (repo, (REPO,), "RepoNotFound"),
            (revision, ("main", COMMIT), "RevisionNotFound"),
            (file, (FILE,), "EntryNotFound"),
        ):
            if given not in right:
                return self.answer(404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
        super().send_file()

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        if code in (200, 206):
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{sha256(self.server.content)}"')
            self.send_header("X-Linked-Size", str(len(self.server.content)))


def serve(handler: type[Handler]) -> Iterator[Server]:
    with Server(handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def stop(server: Server) -> None:
    """Refuse connections from now on; a socket that is still polled would take one more."""
    server.shutdown()
    server.server_close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def server(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield from serve(Handler)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(server: Server, folder: Path, expected: str = SHA) -> Path:
    return remote.fetch_url(f"{server.address}/a/x.pth?v=1", folder, expected, "weights.sha256")


def failure(call: Callable[..., object], *args: object) -> str:
    """The one line of the PoseError that `call` has to raise."""
    with pytest.raises(PoseError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    assert f"{url}: not a http:// or https://" in failure(remote.fetch_url, url, tmp_path, SHA)


def test_a_redirect_to_a_file_is_refused(tmp_path: Path, server: Server) -> None:
    server.statuses = [(302, {"Location": "file:///etc/hosts"})]
    assert "file:///etc/hosts" in failure(fetch, server, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/x.pth?v=1#f", "x.pth"), ("/", "h"), ("/..", "h"), ("/%2e%2e%2fx%20y", "x y")],
)
def test_the_name_is_the_last_part_of_the_address(path: str, name: str) -> None:
    assert remote._file_name(f"https://h{path}") == name


def test_a_long_name_keeps_its_end() -> None:
    assert remote._file_name(f"https://h/{'a' * 300}.pth") == "a" * 96 + ".pth"


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
    assert all(0 <= count <= remote.BLOCK * (i + 1) for i, count in enumerate(lost)), lost
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
    monkeypatch.setattr(remote, "TIMEOUT", (0.1, 0.1))
    monkeypatch.setattr(remote, "RETRY", remote.RETRY.new(total=1))
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


def little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=100_000)
    monkeypatch.setattr(remote, "shutil", SimpleNamespace(disk_usage=lambda _: usage))


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
    monkeypatch.setattr(remote, "LOG_SECONDS", 0.0)
    with caplog.at_level("INFO", "pose"):
        fetch(server, tmp_path)
    assert caplog.messages[-1] == "x.pth: 700,000 of 700,000 bytes"


@pytest.fixture
def hub(tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A fake Hub, and the library's constants as if its environment had named it."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for server in serve(Hub):
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        yield server


def fetch_hub(
    repo: str = REPO, file: str = FILE, revision: str = "main", expected: str | None = SHA
) -> Path:
    path, commit = remote.fetch_hub(repo, file, revision, expected)
    assert commit == COMMIT
    assert path.read_bytes() == CONTENT
    return path


def cached(tmp_path: Path) -> list[str]:
    """What the cache shows as files, whole or not."""
    return [path.name for path in (tmp_path / "hub").rglob("*.pth")] + [
        path.name for path in (tmp_path / "hub").rglob("*.incomplete")
    ]


@pytest.mark.parametrize("revision", ["main", COMMIT])
@pytest.mark.parametrize("expected", [SHA, None])
def test_a_hub_file_and_its_commit(hub: Server, revision: str, expected: str | None) -> None:
    path = fetch_hub(revision=revision, expected=expected)
    assert path.as_posix().endswith(f"/snapshots/{COMMIT}/{FILE}")


def test_a_pinned_file_is_asked_for_once(hub: Server) -> None:
    fetch_hub(revision=COMMIT)
    count = len(hub.asked)
    fetch_hub(revision=COMMIT)
    assert len(hub.asked) == count


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_the_cache_serves_without_a_hub(
    hub: Server, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_hub()
    hub.statuses = [(503, {})] * 9
    fetch_hub(revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch_hub(revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    stop(hub)
    fetch_hub(revision=revision)


@pytest.mark.parametrize("trouble", [httpx2.ReadError, httpx2.ProxyError, httpx2.ReadTimeout])
def test_the_cache_serves_on_any_trouble(
    hub: Server, monkeypatch: pytest.MonkeyPatch, trouble: type[httpx2.TransportError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble("reset by peer")

    with monkeypatch.context() as bent:
        bent.setattr(huggingface_hub.file_download, "get_hf_file_metadata", fail)
        assert "reset by peer; check the network and the proxy" in failure(fetch_hub)
    fetch_hub()
    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", fail)
    fetch_hub()


def test_offline_and_not_in_the_cache(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = failure(fetch_hub)
    assert text.startswith(f"{hub.address}: {REPO}/{FILE} at main: not in the cache ")
    assert "HF_HUB_OFFLINE is set; unset it" in text


def test_a_hub_that_is_not_there(hub: Server, slept: list[float]) -> None:
    stop(hub)
    assert "Connection refused; check the network and the proxy" in failure(fetch_hub)
    assert 0 < sum(slept) < 60


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"repo": "owner/other"}, "no such weights.repo, or private; correct it, or `hf auth log"),
        ({"file": "other.pth"}, "no such weights.file at this revision; correct its path"),
        ({"revision": "other"}, "no such weights.revision; correct it"),
        ({"repo": "a/b/c"}, "correct weights.repo"),
        ({"file": "../x.pth"}, "../x.pth"),
    ],
)
def test_what_the_hub_does_not_have(
    tmp_path: Path, hub: Server, wrong: dict[str, str], text: str
) -> None:
    said = failure(lambda: fetch_hub(**wrong))
    assert text in said
    assert f"{wrong.get('repo', REPO)}/{wrong.get('file', FILE)} at" in said
    assert not [name for name in cached(tmp_path) if name != "other.pth"]  # the Hub's .no_exist


@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [
        (401, {}, "HTTP 401: weights.repo is private or the token not accepted; `hf auth login`"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no such weights.repo, or private; correct it, or"),
        (403, {"X-Error-Code": "GatedRepo"}, "weights.repo is gated; accept its terms at http"),
        (403, {}, "HTTP 403: not allowed; `hf auth login` or HF_TOKEN"),
        (404, {}, "HTTP 404: not found; correct weights.repo, weights.revision or weights.file"),
        (500, {}, "HTTP 500: the server is busy or in trouble; rerun later"),
        (503, {}, "HTTP 503: the server is busy or in trouble; rerun later"),
        (429, {}, "HTTP 429: the server is busy or in trouble; rerun later"),
        (200, {}, "the answer is not a Hub's; check HF_ENDPOINT and the proxy"),
    ],
)
def test_the_hub_refuses(
    tmp_path: Path,
    hub: Server,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    text: str,
) -> None:
    monkeypatch.setattr(Hub, "send_response", Handler.send_response)  # no X-Repo-Commit
    hub.statuses = [(status, headers)] * 20
    said = failure(fetch_hub)
    assert said.startswith(f"{hub.address}: {REPO}/{FILE} at main: ")
    assert text in said
    assert cached(tmp_path) == []


def test_a_hub_file_of_another_digest(hub: Server) -> None:
    wrong = "0" * 64
    text = failure(lambda: fetch_hub(expected=wrong))
    assert f"sha256 is {SHA}, weights.sha256 says {wrong}" in text
    assert "weights.revision" in text


def test_a_damaged_copy_and_the_advice(hub: Server) -> None:
    """Deleting what the message names heals the cache."""
    path = fetch_hub()
    blob = path.resolve()
    blob.write_bytes(OTHER)
    assert f"delete {blob} if that copy is damaged" in failure(fetch_hub)
    blob.unlink()
    fetch_hub()


def test_a_hub_that_closes_early(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cuts = [200_000, 200_000]
    fetch_hub()
    ranges = [text for text in hub.ranges_asked if text]
    assert len(ranges) == 2


def test_a_hub_that_always_closes_early(tmp_path: Path, hub: Server) -> None:
    hub.cuts = [200_000] + [0] * 99
    assert "check the network" in failure(fetch_hub)
    assert cached(tmp_path) == []


def test_no_space_for_a_hub_file(
    tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bent:
        little_disk(bent)
        assert "needs 700,000 bytes, 100,000 are free" in failure(fetch_hub)
    assert cached(tmp_path) == []
    fetch_hub()
    little_disk(monkeypatch)
    fetch_hub()


def test_a_disk_that_fills_up_with_a_hub_file(
    tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def http_get(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", http_get)
    assert "the disk is full, 700,000 bytes are missing; make room" in failure(fetch_hub)
    assert cached(tmp_path) == []


def test_the_environment_counts(tmp_path: Path, hub: Server) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE, as a stage's process meets them."""
    code = f"from pose.remote import fetch_hub; print(*fetch_hub({REPO!r}, {FILE!r}, 'main', None))"
    mine = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}

    def run(**others: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **mine, **others, "PYTHONPATH": str(STAGES)}
        env.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    first = run()
    assert first.returncode == 0, first.stderr
    path, commit = first.stdout.split()
    assert (Path(path).read_bytes(), commit) == (CONTENT, COMMIT)
    assert (tmp_path / "home") in Path(path).parents
    assert {asked["Authorization"] for asked in hub.asked} == {"Bearer hf_secret"}
    count = len(hub.asked)
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout
    assert len(hub.asked) == count
