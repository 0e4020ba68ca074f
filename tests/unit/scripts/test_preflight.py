"""What is checked before a run: a line each, and an error that names what failed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import preflight
from loopback import Handler, Server, serve
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.params import Params, load_params

Bent = Callable[[dict[str, str]], Params]


class HeadHandler(Handler):
    """Answers HEAD alone: a request for the content itself fails the test."""

    do_HEAD = Handler.do_GET  # noqa: N815

    def do_GET(self) -> None:  # noqa: N802
        self.answer(500, {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield from serve(HeadHandler)


@pytest.fixture
def bent(bent_params) -> Bent:
    return lambda changes: load_params(bent_params(changes))


def test_the_default_passes_every_check(
    bent_params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight.apply, "PARAMS", bent_params({}))
    preflight.main(None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok ") for line in lines)


def test_each_failure_is_printed_and_named_at_the_end(
    bent_params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "weights.source": "file",
        "weights.file": "/absent.pth",
        "train.warmup_iters": "5000",
        "data.detections": "absent.json",
    }
    monkeypatch.setattr(preflight.apply, "PARAMS", bent_params(changes))
    with pytest.raises(PoseError, match="3 of 8 checks failed: weights, boxes, warm-up"):
        preflight.main(None)
    out = capsys.readouterr().out
    assert "problem  weights: params.yaml: weights.file = '/absent.pth': no such file" in out
    assert "make 5,000 steps, phase1 has 270; lower them or raise its epochs" in out
    assert out.count("problem") == 3


def test_servers_are_asked_without_a_download(bent: Bent, server: Server) -> None:
    server.files = {"/x/zips/train2017.zip": b"z" * 1234, "/w.pth": b"w" * 5}
    coco = bent({"data.source": "coco", "data.base_url": f"{server.address}/x"})
    assert preflight.check_data(coco).endswith("train2017.zip, 1,234 bytes")
    changes = {"weights.source": "url", "weights.sha256": "'" + "a" * 64 + "'"}
    url = bent({**changes, "weights.url": f"{server.address}/w.pth"})
    assert preflight.check_weights(url).endswith("/w.pth, 5 bytes")
    server.statuses = [(404, {})]
    with pytest.raises(PoseError, match=r"weights.url = .*w.pth.*404"):
        preflight.check_weights(url)


def test_a_disk_that_is_too_small(bent: Bent, monkeypatch: pytest.MonkeyPatch) -> None:
    coco = bent({"data.source": "coco"})
    monkeypatch.setattr(stage, "CACHE", Path("absent"))
    usage = type("Usage", (), {"free": 40_000_000_000})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PoseError, match=r"20\.\d GB of downloads, 22\.\d of crops, .* 40\.0 free"):
        preflight.check_disk(coco)
    usage.free = 50_000_000_000
    assert "50.0 free" in preflight.check_disk(coco)


def test_a_step_that_does_not_fit(bent: Bent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(preflight.torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(preflight.torch.cuda, "mem_get_info", lambda: (10_000_000, 20_000_000))
    with pytest.raises(PoseError, match=r"0\.0 free \(a card\); `python stages/plan.py` lists"):
        preflight.check_memory(bent({}))


def test_own_files_and_other_checkpoints(bent: Bent, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / f"annotations/person_keypoints_{split}.json").write_text(json.dumps({}))
    local = {"data.source": "local", "data.root": str(tmp_path)}
    assert "person_keypoints_val2017.json" in preflight.check_data(bent(local))
    (tmp_path / "annotations/person_keypoints_val2017.json").unlink()
    with pytest.raises(PoseError, match=r"person_keypoints_val2017\.json"):
        preflight.check_data(bent(local))
    with pytest.raises(PoseError, match=r"evaluate.ensemble = '/absent.safetensors'"):
        preflight.check_ensemble(bent({"evaluate.ensemble": "[ssl, /absent.safetensors]"}))
