"""Downloads from a fake Hub on loopback: verified, cached, and errors name the key to correct."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from loopback import CONTENT, OTHER, SHA, Handler, Server, failure, little_disk, serve, sha256, stop
from pose.fetch import url
from pose.pretrained.hub import download_from_hub

STAGES = Path(url.__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO, FILE = "owner/name", "deep/snapshots/weights.pth"


class Hub(Handler):
    """HEAD and GET of /owner/name/resolve/<revision>/<file>, as hf_hub_download asks."""

    def do_GET(self) -> None:  # noqa: N802
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


def fetch(
    repo: str = REPO, file: str = FILE, revision: str = "main", expected: str | None = SHA
) -> Path:
    path, commit = download_from_hub(repo, file, revision, expected)
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
    path = fetch(revision=revision, expected=expected)
    assert path.as_posix().endswith(f"/snapshots/{COMMIT}/{FILE}")


def test_a_pinned_file_is_asked_for_once(hub: Server) -> None:
    fetch(revision=COMMIT)
    count = len(hub.asked)
    fetch(revision=COMMIT)
    assert len(hub.asked) == count


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_the_cache_serves_without_a_hub(
    hub: Server, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    hub.statuses = [(503, {})] * 9
    fetch(revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch(revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    stop(hub)
    fetch(revision=revision)


@pytest.mark.parametrize("trouble", [httpx2.ReadError, httpx2.ProxyError, httpx2.ReadTimeout])
def test_the_cache_serves_on_any_trouble(
    hub: Server, monkeypatch: pytest.MonkeyPatch, trouble: type[httpx2.TransportError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble("reset by peer")

    with monkeypatch.context() as bent:
        bent.setattr(huggingface_hub.file_download, "get_hf_file_metadata", fail)
        assert "reset by peer; check the network and the proxy" in failure(fetch)
    fetch()
    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", fail)
    fetch()


def test_offline_and_not_in_the_cache(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = failure(fetch)
    assert text.startswith(f"{hub.address}: {REPO}/{FILE} at main: not in the cache ")
    assert "HF_HUB_OFFLINE is set; unset it" in text


def test_a_hub_that_is_not_there(hub: Server, slept: list[float]) -> None:
    stop(hub)
    assert "Connection refused; check the network and the proxy" in failure(fetch)
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
    message = failure(lambda: fetch(**wrong))
    assert text in message
    assert f"{wrong.get('repo', REPO)}/{wrong.get('file', FILE)} at" in message
    assert not [name for name in cached(tmp_path) if name != "other.pth"]  # the Hub's .no_exist


@pytest.mark.parametrize(
    ("status", "headers", "text"),
    [
        (401, {}, "HTTP 401: weights.repo is private or the token is invalid; `hf auth login`"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no such weights.repo, or private; correct it, or"),
        (403, {"X-Error-Code": "GatedRepo"}, "weights.repo is gated; accept its terms at http"),
        (403, {}, "HTTP 403: access denied; `hf auth login` or HF_TOKEN"),
        (404, {}, "HTTP 404: not found; correct weights.repo, weights.revision or weights.file"),
        (500, {}, "HTTP 500: the server is overloaded or failing; rerun later"),
        (503, {}, "HTTP 503: the server is overloaded or failing; rerun later"),
        (429, {}, "HTTP 429: the server is overloaded or failing; rerun later"),
        (200, {}, "the answer is not from a Hub; check HF_ENDPOINT and the proxy"),
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
    message = failure(fetch)
    assert message.startswith(f"{hub.address}: {REPO}/{FILE} at main: ")
    assert text in message
    assert cached(tmp_path) == []


def test_a_hub_file_of_another_digest(hub: Server) -> None:
    wrong = "0" * 64
    text = failure(lambda: fetch(expected=wrong))
    assert f"sha256 is {SHA}, weights.sha256 says {wrong}" in text
    assert "weights.revision" in text


def test_a_damaged_copy_and_the_advice(hub: Server) -> None:
    """Deleting what the message names heals the cache."""
    path = fetch()
    blob = path.resolve()
    blob.write_bytes(OTHER)
    assert f"delete {blob} if that copy is damaged" in failure(fetch)
    blob.unlink()
    fetch()


def test_a_hub_that_closes_early(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.cuts = [200_000, 200_000]
    fetch()
    ranges = [text for text in hub.ranges_asked if text]
    assert len(ranges) == 2


def test_a_hub_that_always_closes_early(tmp_path: Path, hub: Server) -> None:
    hub.cuts = [200_000] + [0] * 99
    assert "check the network" in failure(fetch)
    assert cached(tmp_path) == []


def test_no_space_for_a_hub_file(
    tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bent:
        little_disk(bent)
        assert "needs 700,000 bytes, 100,000 are free" in failure(fetch)
    assert cached(tmp_path) == []
    fetch()
    little_disk(monkeypatch)
    fetch()


def test_a_disk_that_fills_up_with_a_hub_file(
    tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def http_get(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", http_get)
    assert "the disk is full, 700,000 bytes are missing; free some disk space" in failure(fetch)
    assert cached(tmp_path) == []


def test_the_environment_counts(tmp_path: Path, hub: Server) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE, as a stage's process meets them."""
    call = f"download_from_hub({REPO!r}, {FILE!r}, 'main', None)"
    code = f"from pose.pretrained.hub import download_from_hub; print(*{call})"
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
