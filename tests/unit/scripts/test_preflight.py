"""What is checked before a run: a line each, and an error that names what failed."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import preflight
from loopback import Handler, Server, serve
from own_keypoints_data import write_mice
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest
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
    assert len(lines) == 10
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
    with pytest.raises(PoseError, match="these checks failed: weights, boxes, warm-up"):
        preflight.main(None)
    out = capsys.readouterr().out
    assert "problem  weights: params.yaml: weights.file = '/absent.pth': no such file" in out
    assert "make 5,000 steps, phase1 has 244; lower them or raise its epochs" in out
    assert out.count("problem") == 3


def test_servers_are_asked_without_a_download(
    bent: Bent, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.files = {"/x/zips/train2017.zip": b"z" * 1234, "/w.pth": b"w" * 5}
    monkeypatch.setattr(stage, "DOWNLOADS", tmp_path)
    coco = bent({"data.source": "coco", "data.base_url": f"{server.address}/x"})
    assert preflight.check_data(coco).endswith("train2017.zip, 1,234 bytes")
    changes = {"weights.source": "url", "weights.sha256": "'" + "a" * 64 + "'"}
    url = bent({**changes, "weights.url": f"{server.address}/w.pth"})
    assert preflight.check_weights(url).endswith("/w.pth, 5 bytes")
    server.statuses = [(404, {})]
    with pytest.raises(PoseError, match=r"weights.url = .*w.pth.*404"):
        preflight.check_weights(url)


def test_a_download_counts_by_its_sha256(
    bent: Bent, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A new weights.url may end in the name of the old one."""
    server.files = {"/new/w.pth": b"w" * 5}
    monkeypatch.setattr(stage, "RESUME", tmp_path)
    old = tmp_path / "fetch_weights/w.pth"
    old.parent.mkdir()
    old.write_bytes(b"old")
    url = f"{server.address}/new/w.pth"
    changes = {"weights.source": "url", "weights.url": url, "weights.sha256": "'" + "a" * 64 + "'"}
    expected = f"{url}, 5 bytes; {old} has another sha256"
    assert preflight.check_weights(bent(changes)) == expected
    changes["weights.sha256"] = f"'{digest(old)}'"
    asked = len(server.asked)
    assert preflight.check_weights(bent(changes)) == f"{old}, downloaded, its sha256 is right"
    assert len(server.asked) == asked
    assert preflight.found_at(url, "x", old.parent).endswith(
        f"5 bytes; {old} was not checked: there is no sha256"
    )


@pytest.fixture
def coco(bent: Bent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Params:
    """The default on COCO, of which nothing is downloaded."""
    monkeypatch.setattr(stage, "DOWNLOADS", tmp_path)
    return bent({"data.source": "coco"})


@pytest.mark.parametrize(
    ("setting", "needed", "advice"),
    [("hardlink,symlink", 42, "free some disk space"), ("", 105, "cache.type hardlink,symlink")],
)
def test_a_disk_that_is_too_small(
    coco: Params, monkeypatch: pytest.MonkeyPatch, setting: str, needed: int, advice: str
) -> None:
    """Copies of DVC count: three of a zip, two of the crops."""
    plan = preflight.make_plan(coco, None)
    usage = type("Usage", (), {"free": (needed - 1) * 10**9})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(preflight, "cache_type", lambda: setting)
    with pytest.raises(PoseError, match=rf"20\.\d GB of downloads, 22\.\d of .*{advice}"):
        preflight.check_disk(coco, plan)
    usage.free = (needed + 2) * 10**9
    assert f"{needed + 2}.0 are free" in preflight.check_disk(coco, plan)


def test_zips_that_are_there_are_not_asked_for(
    coco: Params, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**12})  # of a machine whose disk is not nearly full
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    for name in preflight.missing_zips(coco):
        (stage.DOWNLOADS / Path(name).name).touch()
    assert preflight.check_data(coco) == "all of COCO's zips are downloaded"
    assert preflight.check_disk(coco, preflight.make_plan(coco, None)).startswith("0.0 GB")
    assert not server.asked


def test_a_recipe_after_the_default_run_has_its_own_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rendered people of data/cache are not those of COCO."""
    monkeypatch.setattr(preflight, "CHECKS", {})
    monkeypatch.setattr(preflight, "PLANNED", {"warm-up": preflight.check_warmup})
    preflight.main("vitpose_b_coco_256x192")
    out = capsys.readouterr().out
    assert "ok       people: 149,813 labelled" in out
    assert "phase2 500 of 491,400 steps" in out


def test_own_people_are_counted_before_a_first_run(
    bent_params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_mice(tmp_path, "train", 12, unlabelled=4)
    write_mice(tmp_path, "val", 5)
    own = {"source": "local", "root": str(tmp_path), "category": "mouse"}
    own |= {"train_split": "train", "val_split": "val"}
    few = {f"data.{key}": value for key, value in own.items()}
    few |= {"train.batch_size": "4", "train.warmup_iters": "0", "ssl.batch_size": "4"}
    monkeypatch.setattr(preflight.apply, "PARAMS", bent_params(few))
    preflight.main(None)
    out = capsys.readouterr().out
    assert "people: 8 labelled, 4 without keypoints, 5 in val (the annotation files)" in out
    assert "problem" not in out
    (tmp_path / "annotations/person_keypoints_val.json").write_text("{")
    with pytest.raises(PoseError, match=r"these checks failed: people$"):
        preflight.main(None)
    assert capsys.readouterr().out.count("person_keypoints_val.json: ") == 1


def test_further_sets_are_read(
    bent_params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_mice(tmp_path, "train", 3)
    entry = {"name": "mice", "root": str(tmp_path), "category": "mouse"}
    monkeypatch.setattr(preflight.apply, "PARAMS", bent_params({"data.also": json.dumps([entry])}))
    preflight.main(None)
    line = "further sets: mice: has 3 of the 17 keypoints; unlabelled: left_eye, "
    assert line in capsys.readouterr().out
    bad = entry | {"map": {"snout": "nose"}}
    monkeypatch.setattr(preflight.apply, "PARAMS", bent_params({"data.also": json.dumps([bad])}))
    with pytest.raises(PoseError, match="further sets"):
        preflight.main(None)
    assert "data.also.0.map: 'snout' is no keypoint of the set" in capsys.readouterr().out


def test_a_step_that_does_not_fit(bent: Bent, monkeypatch: pytest.MonkeyPatch) -> None:
    """NPROC processes share a batch."""
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(preflight.torch.cuda, "get_device_name", lambda: "a card")
    params, free = bent({"train.batch_size": "16"}), [10**7, 2 * 10**7]
    monkeypatch.setattr(preflight.torch.cuda, "mem_get_info", lambda: tuple(free))
    plan = preflight.make_plan(params, None)
    with pytest.raises(PoseError, match=r"a step of 16 by .* \(a card\); `python stages/plan.py`"):
        preflight.check_memory(params, plan)
    free[0] = preflight.step_bytes(plan, "none", False, 4) + 1
    with pytest.raises(PoseError, match="a step of 16"):
        preflight.check_memory(params, plan)
    monkeypatch.setenv("NPROC", "4")
    assert "a step of 4" in preflight.check_memory(params, plan)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_without_a_gpu_the_hours_on_a_cpu_are_stated(
    bent: Bent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parallel: str
) -> None:
    """FLOPs of all phases at the planner's speed; without such a number just that it is the CPU."""
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("NPROC", "2")
    params = bent({"data.source": "coco", "train.parallel": parallel})
    plan = preflight.make_plan(params, None)
    table = tmp_path / "achieved.csv"
    header = "device,memory_gb,amp,tflops,basis\n"
    table.write_text(f"{header}A card,24,bf16,50,assumed\nCPU x,,none,0.1,measured: y\n")
    monkeypatch.setattr(preflight, "ACHIEVED", table)
    hours = sum(phase.flops for phase in plan.phases) / 0.1e12 / 3600
    assert hours > 1
    assert preflight.check_memory(params, plan).endswith(
        "; no GPU is visible to torch: all stages will run on the CPU; training takes "
        f"{hours:,.1f} h at 0.1 TFLOP/s (CPU x, measured: y)"
    )
    table.write_text(header)
    assert preflight.check_memory(params, plan).endswith("all stages will run on the CPU")
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(preflight.torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(preflight.torch.cuda, "mem_get_info", lambda: (10**12,))
    assert "CPU" not in preflight.check_memory(params, plan)


def test_relative_paths_are_those_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["preflight.py", "no-such-recipe"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit):
        runpy.run_path(preflight.__file__, run_name="__main__")
    assert Path.cwd() == stage.ROOT


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
