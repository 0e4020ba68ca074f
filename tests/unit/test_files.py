"""Files are whole or absent; a download resumes, verifies, and says what to do next."""

from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pose import files
from pose.errors import PoseError

CONTENT = np.random.default_rng(0).bytes(3_500_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    for content in (b"", b"one", b"two"):
        files.write_atomic(path, content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["b.bin"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch, broken: str) -> None:
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_json_bytes_are_stable(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert path.read_text("utf-8") == '{\n "b": [\n  1,\n  2.5\n ],\n "a": "é"\n}\n'
    assert files.read_json(path) == {"b": [1, 2.5], "a": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert files.read_json(path) == {"b": [1, 2.5], "a": "é"}


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(PoseError, match="no such file; the stage that makes it has to run first"):
        files.read_json(path)
    for content in (b"", b'{"a": [1', b"\xff"):
        path.write_bytes(content)
        with pytest.raises(PoseError, match="not valid JSON"):
            files.read_json(path)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    assert files.digest(tmp_path / "x", "md5") == MD5
    assert files.digest(tmp_path / "x") == hashlib.sha256(CONTENT).hexdigest()


def test_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    def digest(name: str, entries: dict[str, bytes]) -> str:
        for entry, content in entries.items():
            path = tmp_path / name / entry
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return files.digest(tmp_path / name)

    first = digest("1", {"a": b"x", "d/b": b"y"})
    assert digest("2", {"d/b": b"y", "a": b"x"}) == first
    assert digest("3", {"a": b"x", "d/c": b"y"}) != first
    assert digest("4", {"a": b"x", "d/b": b"z"}) != first


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `ranges` says whether it knows Range, `cut` after how many bytes it hangs up.

    `asked` collects each request's Range header.
    """

    daemon_threads = True
    ranges = True
    cut: int | None = None
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/x.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        body = self.server.content
        resumed = bool(wanted and self.server.ranges)
        if wanted and resumed:
            body = body[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
        self.send_response(206 if resumed else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Progress:
    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, gained: int) -> None:
        self.bytes += gained


def fetch(server: Server, path: Path, md5: str = MD5) -> int:
    progress = Progress()
    files.download(server.url, path, len(CONTENT), md5, progress)
    return progress.bytes


def test_a_fresh_download(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "deep" / "x.zip"
    assert fetch(server, path) == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["x.zip"]
    assert server.asked == [None]


@pytest.mark.parametrize("have", [1, 2_000_000, len(CONTENT) - 1])
def test_a_partial_file_is_resumed(tmp_path: Path, server: Server, have: int) -> None:
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:have])
    assert fetch(server, tmp_path / "x.zip") == len(CONTENT)
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert server.asked == [f"bytes={have}-"]


def test_a_complete_partial_file_is_only_verified(tmp_path: Path, server: Server) -> None:
    (tmp_path / "x.zip.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert server.asked == []


def test_a_server_without_range_starts_over(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:1000])
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_another_file_is_removed(tmp_path: Path, server: Server, content: bytes) -> None:
    server.content = content
    with pytest.raises(PoseError, match=rf"are not the known file .*md5 {MD5}\); removed"):
        fetch(server, tmp_path / "x.zip")
    assert names(tmp_path) == []


def test_a_spoilt_partial_file_is_removed(tmp_path: Path, server: Server) -> None:
    (tmp_path / "x.zip.part").write_bytes(b"0" * 1000)
    with pytest.raises(PoseError, match="are not the known file"):
        fetch(server, tmp_path / "x.zip")
    assert names(tmp_path) == []
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT


def test_a_connection_closed_early_keeps_what_came(tmp_path: Path, server: Server) -> None:
    server.cut = 2_500_000
    with pytest.raises(PoseError, match="rerun to resume"):
        fetch(server, tmp_path / "x.zip")
    assert names(tmp_path) == ["x.zip.part"]
    held = (tmp_path / "x.zip.part").read_bytes()
    assert len(held) >= 2_000_000
    assert held == CONTENT[: len(held)]
    server.cut = None
    fetch(server, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(held)}-"]


def test_a_server_that_is_not_there(tmp_path: Path, server: Server) -> None:
    (tmp_path / "x.zip.part").write_bytes(CONTENT[:10])
    server.server_close()
    with pytest.raises(PoseError, match=r"rerun to resume from x\.zip\.part"):
        fetch(server, tmp_path / "x.zip")
    assert names(tmp_path) == ["x.zip.part"]
