"""Uploads to a fake Hub on loopback: what arrives, and what each refusal says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from loopback import Handler, Server, failure, serve, sha256, stop
from pose.deploy import push as module
from pose.deploy.push import push, require_token

REPO, TOKEN = "owner/name", "hf_of_the_environment"
WEIGHTS = bytes(range(256)) * 9
FILES = {"README.md": b"# A model\n", "pose.json": b"{}", "model.safetensors": WEIGHTS}


class Hub(Handler):
    """Creates one repository, takes small files in the commit and weights by git-lfs."""

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.statuses and self.path != "/api/validate-yaml":
            return self.answer(*self.server.statuses.pop(0))
        self.send_json(self.reply(body))

    def do_PUT(self) -> None:  # noqa: N802
        self.server.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {})

    def reply(self, body: bytes) -> dict[str, Any]:
        if self.path == "/api/repos/create":
            return {"url": f"{self.server.address}/{REPO}"}
        if self.path.startswith(f"/api/models/{REPO}/preupload/"):
            return {"files": [self.mode(file) for file in json.loads(body)["files"]]}
        if self.path == f"/{REPO}.git/info/lfs/objects/batch":
            return {"objects": [self.upload(entry) for entry in json.loads(body)["objects"]]}
        if self.path.startswith(f"/api/models/{REPO}/commit/"):
            return {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{self.server.address}/{REPO}",
            }
        assert self.path == "/api/validate-yaml", self.path
        return {"warnings": [], "errors": []}

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def upload(self, entry: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.server.address}/storage/{entry['oid']}"
        return entry | {"actions": {"upload": {"href": href}}}

    def send_json(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.answer(200, headers, body)


@pytest.fixture
def hub(tmp_path: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A fake Hub; without Xet, whose storage is another protocol."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for server in serve(Hub):
        server.requests, server.stored = [], {}
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "exported"
    path.mkdir()
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


def committed(hub: Server) -> dict[str, bytes]:
    """Content of the files by name, as the commit and the storage have it."""
    (body,) = (body for path, _, body in hub.requests if "/commit/" in path)
    files = {}
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.stored[f"/storage/{value['oid']}"]
            assert sha256(files[value["path"]]) == value["oid"]
    return files


@pytest.mark.parametrize("public", [False, True])
def test_all_files_arrive_in_a_new_repository(hub: Server, folder: Path, public: bool) -> None:
    assert push(folder, REPO, public) == f"{hub.address}/{REPO}"
    path, _, body = hub.requests[0]
    assert path == "/api/repos/create"
    expected = {"name": "name", "organization": "owner", "visibility": "private"}
    assert json.loads(body) == expected | ({"visibility": "public"} if public else {})
    assert committed(hub) == FILES
    assert set(hub.stored.values()) == {WEIGHTS}
    assert {token for _, token, _ in hub.requests} == {f"Bearer {TOKEN}"}


def test_the_token_is_the_environments_alone(
    hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "token").write_text("hf_of_the_disk")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder.parent / "token"))
    monkeypatch.delenv("HF_TOKEN")
    line = failure(push, folder, REPO, False)
    assert line == (
        f"--push {REPO}: HF_TOKEN is not set; set it to a write token of "
        f"{hub.address}/settings/tokens"
    )
    assert hub.requests == []


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/na me", "owner/name.git", ""])
def test_a_name_that_the_hub_cannot_have(hub: Server, name: str) -> None:
    line = failure(require_token, name)
    assert line.startswith(f"--push {name}: ")
    assert line.endswith("expected owner/name")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "HTTP 401: HF_TOKEN is not valid; make one at {hub}/settings/tokens"),
        (403, "HTTP 403: HF_TOKEN may not write there; check the owner and the token's permissi"),
        (409, "exists and was not changed; choose another name, or `hf upload owner/name {out}`"),
        (400, "HTTP 400: the server refused the request"),
        (500, "HTTP 500: the server is overloaded or failing; rerun later"),
    ],
)
def test_a_repository_that_cannot_be_created(
    hub: Server, folder: Path, status: int, text: str
) -> None:
    hub.statuses = [(status, {})] * 9
    line = failure(push, folder, REPO, False)
    assert line.startswith(f"{hub.address}/{REPO}: {text.format(hub=hub.address, out=folder)}")
    assert line.endswith(f"{folder} is complete")
    assert [path for path, *_ in hub.requests] == ["/api/repos/create"]
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_an_upload_that_fails_names_the_command_that_goes_on(
    hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Created(module.HfApi):
        def upload_folder(self, **arguments: Any) -> None:
            hub.statuses = [(403, {})] * 9
            super().upload_folder(**arguments)

    monkeypatch.setattr(module, "HfApi", Created)
    line = failure(push, folder, REPO, False)
    assert "HTTP 403: HF_TOKEN may not write there" in line
    assert line.endswith(f"the repository was created; `hf upload {REPO} {folder}` uploads into it")
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_no_network(hub: Server, folder: Path) -> None:
    stop(hub)
    line = failure(push, folder, REPO, False)
    assert "Connection refused; check the network and the proxy" in line
    assert line.endswith(f"{folder} is complete")
