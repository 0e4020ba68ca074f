"""Several files at once: all arrive, or the first trouble ends them and keeps what came."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tqdm

from loopback import Handler, Server, failure, little_disk, serve, sha256
from pose.fetch import url as fetch_url
from pose.fetch.checksums import Pin, ZipPin
from pose.fetch.url import fetch_all

FILES = {f"/{name}": np.random.default_rng(ord(name)).bytes(300_000) for name in "abcdef"}


@pytest.fixture
def server(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for server in serve(Handler):
        server.files = dict(FILES)
        yield server


def wanted(server: Server, names: str = "abcdef") -> list[tuple[str, Pin | ZipPin]]:
    paths = [f"/{name}" for name in names]
    return [(f"{server.address}{p}", Pin(sha256(FILES[p]), "x", size=300_000)) for p in paths]


def parts(folder: Path) -> dict[str, bytes]:
    return {f"/{path.name[0]}": path.read_bytes() for path in folder.glob("*.part")}


def test_nothing_wanted(tmp_path: Path) -> None:
    assert fetch_all([], tmp_path) == []


def test_all_arrive(tmp_path: Path, server: Server) -> None:
    paths = fetch_all(wanted(server), tmp_path)
    assert {f"/{path.name}": path.read_bytes() for path in paths} == FILES
    assert {path.name for path in tmp_path.iterdir()} == set("abcdef")
    assert len(server.asked) == len(FILES)
    assert len(fetch_all(wanted(server), tmp_path)) == len(FILES)
    assert len(server.asked) == len(FILES)


def test_they_come_at_once_but_not_all(tmp_path: Path, server: Server) -> None:
    """Four wait in the server for each other; nobody else asks while they do."""
    asked: list[int] = []

    def count() -> None:
        threading.Event().wait(0.2)
        asked.append(len(server.asked))

    barrier = threading.Barrier(4, count, timeout=20)
    server.cuts, server.on_cut = [200_000] * 4, barrier.wait
    assert len(fetch_all(wanted(server), tmp_path)) == len(FILES)
    assert asked == [4]


def test_the_disk_is_measured_for_all_that_is_missing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_disk(monkeypatch)
    fill(server, tmp_path, "a")
    part = tmp_path / f"b.{sha256(FILES['/b'])[:12]}.part"
    part.write_bytes(FILES["/b"][:250_000])
    for names, missing in (("abc", 350_000), ("c", 300_000)):
        text = failure(fetch_all, wanted(server, names), tmp_path)
        assert text.startswith(f"the download: needs {missing:,} bytes, 100,000 are free in ")
    assert server.asked == []
    assert len(fetch_all(wanted(server, "ab"), tmp_path)) == 2
    about = [(f"{server.address}/c", ZipPin("c", 200_000, None))]
    assert "needs 200,000 bytes" in failure(fetch_all, about, tmp_path)


def fill(server: Server, folder: Path, names: str) -> None:
    for name in names:
        (folder / name).write_bytes(FILES[f"/{name}"])


def test_the_first_trouble_ends_all(tmp_path: Path, server: Server) -> None:
    """While one connection is silent for as long as it likes."""
    del server.files["/b"]
    silence = threading.Event()
    server.on_cut = lambda: silence.wait(60)
    server.cuts = [200_000]
    try:
        text = failure(fetch_all, wanted(server, "ab"), tmp_path)
    finally:
        silence.set()
    assert text == f"{server.address}/b: HTTP 404: no such file; correct the address"
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    assert all(FILES[name].startswith(content) for name, content in parts(tmp_path).items())


def test_those_at_work_stop_at_the_next_block(tmp_path: Path, server: Server) -> None:
    server.rate = 300_000
    del server.files["/c"]
    failure(fetch_all, wanted(server, "abc"), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".part"}
    before = parts(tmp_path)
    assert before.keys() <= {"/a", "/b"}
    assert all(len(content) < 300_000 for content in before.values())
    server.rate, server.files = None, dict(FILES)
    fetch_all(wanted(server, "abc"), tmp_path)
    for name, content in before.items():
        assert not content or f"bytes={len(content)}-" in server.ranges_asked, name


FETCH = f"""
import signal, sys; sys.path.insert(0, {str(Path(fetch_url.__file__).parents[2])!r})
from pathlib import Path
from pose.fetch.url import fetch_all
from pose.fetch.checksums import Pin
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job of the background
fetch_all([(u, Pin("0" * 64, "x")) for u in sys.argv[2:]], Path(sys.argv[1]))
"""


def test_ctrl_c_ends_it(tmp_path: Path, server: Server) -> None:
    """Although all its connections are silent, for as long as they may."""
    silence = threading.Event()
    server.cuts, server.on_cut = [200_000] * 6, lambda: silence.wait(120)
    urls = [url for url, _ in wanted(server)]
    command = [sys.executable, "-c", FETCH, str(tmp_path), *urls]
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


def test_each_file_has_its_line(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Name, bytes, rate, time left; each bar keeps to its own line and leaves none behind."""
    monkeypatch.setitem(fetch_url.BAR, "disable", False)
    monkeypatch.setitem(fetch_url.BAR, "mininterval", 0.0)
    monkeypatch.setitem(fetch_url.BAR, "ncols", 80)
    fetch_all(wanted(server, "abc"), tmp_path)
    drawn = capsys.readouterr().err.replace("\x1b[A", "\n").replace("\r", "\n").split("\n")
    drawn = [line.strip() for line in drawn if line.strip()]
    assert all(line[:2] in ("a:", "b:", "c:") for line in drawn), drawn
    assert all(sum(f"{name}: " in line for name in "abc") == 1 for line in drawn)
    assert any("B/s" in line and "<" in line for line in drawn)
    assert not tqdm.tqdm._instances
