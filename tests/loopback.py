"""HTTP servers on loopback that can be bent, for tests of what fetches files."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from pose.common.errors import PoseError
from pose.fetch import errors

CONTENT = np.random.default_rng(0).bytes(700_000)
OTHER = np.random.default_rng(1).bytes(700_001)
Answer = tuple[int, dict[str, str]]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


SHA = sha256(CONTENT)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; the lists bend its next answers, `asked` keeps each request's headers.

    files: if any, content by path. statuses: sent instead of the file. cuts: hang up
    after so many bytes, then call `on_cut`. limit: bytes it sends at most for a Range. etags: it
    tells when the content changed. extra: further headers of a file. rate: bytes a second, about.
    """

    daemon_threads = True

    def __init__(self, handler: type[Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.content, self.ranges, self.lengths, self.etags = CONTENT, True, True, True
        self.files: dict[str, bytes] = {}
        self.extra: dict[str, str] = {}
        self.rate: float | None = None
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
        if self.server.files and self.path not in self.server.files:
            return self.answer(404, {})
        content = self.server.files.get(self.path, self.server.content)
        etag = f'"{sha256(content)}"'
        wanted = self.headers.get("Range") if self.server.ranges else None
        if self.headers.get("If-Range") not in (None, etag):
            wanted = None
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers, body = {"ETag": etag} if self.server.etags else {}, content[start:]
        headers |= self.server.extra
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
            self.send(body[: self.server.cuts.pop(0)])
            self.server.on_cut()
        else:
            self.send(body)

    def send(self, body: bytes) -> None:
        rate = self.server.rate
        step = len(body) or 1 if rate is None else int(rate / 50)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            if rate is not None:
                threading.Event().wait(step / rate)  # time.sleep may be a test's

    def log_message(self, *_: object) -> None:
        pass


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


def failure(call: Callable[..., object], *args: object) -> str:
    """The one line of the PoseError that `call` has to raise."""
    with pytest.raises(PoseError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=100_000)
    monkeypatch.setattr(errors, "shutil", SimpleNamespace(disk_usage=lambda _: usage))
