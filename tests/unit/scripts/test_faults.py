"""Faults of the machine: full disks, killed helpers, cut files. One line, nothing made is lost."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
import torch

import build_cache
from loopback import failure as one_line_of
from mounts import mounted
from pose.coco.annotations import read_annotations
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.common import files, stage
from pose.common.errors import PoseError
from pose.common.params import Params
from pose.common.processes import worker_pool
from pose.crop_table import CropTable
from pose.crops import shards
from pose.crops.shards import CropSettings
from pose.engine import checkpoint as engine_checkpoint
from pose.models import checkpoint
from pose.report import tables
from sections import DEFAULT
from tiny_coco import SPLIT, TinyCoco


def stage_ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> str:
    """What stage.run says when the stage fails with this."""

    def main(_: Params) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["report.py"])
    monkeypatch.setattr(stage, "_die_with_dvc", lambda: None)
    with pytest.raises(SystemExit) as caught:
        stage.run("report", main)
    assert "\n" not in str(caught.value.code)
    return str(caught.value.code)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "report: the disk is full"),
        (OSError("I/O error: No space left on device (os error 28)"), "report: the disk is full"),
        (OSError(errno.EFBIG, "File too large", "x"), "report: the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "report: the disk is full"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "room and rights"),
        (PermissionError(errno.EACCES, "Permission denied", "models/x"), "'models/x'; check that"),
        (OSError(errno.EROFS, "Read-only file system", "report"), "check that path and its rights"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "set evaluate.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "batch_size"),
        (MemoryError(), "report: out of memory; set POSE_WORKERS lower"),
        (BrokenProcessPool("A process in the pool"), "report: a helper process was killed"),
        (RuntimeError("DataLoader worker (pid 3) is killed"), "a helper process was killed"),
        (KeyboardInterrupt(), "report: interrupted; rerun to continue"),
        (PoseError("what"), "report: what"),
    ],
)
def test_a_fault_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: str
) -> None:
    assert expected in stage_ended(monkeypatch, error)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="ours"):
        stage_ended(monkeypatch, RuntimeError("ours"))


# ---------------------------------------------------------------------------------- full disks


@pytest.fixture
def little_room() -> object:
    """Files of this process may have 4,000 bytes: what a quota does, without a file system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_bytes(path: Path, size: int) -> None:
    files.write_atomic(path, bytes(size))


def write_weights(path: Path, size: int) -> None:
    checkpoint.save_weights(path, {"a": torch.zeros(size // 4)}, {})


def write_state(path: Path, size: int) -> None:
    engine_checkpoint.save_training_state(path, {"a": torch.zeros(size // 4)})


@pytest.mark.parametrize("write", [write_bytes, write_weights, write_state])
def test_no_room_leaves_the_old_file_and_nothing_beside(
    tmp_path: Path, little_room: object, write: object
) -> None:
    path = tmp_path / "x.bin"
    write(path, 400)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises((OSError, RuntimeError)):
        write(path, 40_000)  # type: ignore[operator]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with mounted(tmp_path / "disk", "64k") as folder:
        yield folder


@pytest.mark.parametrize("write", [write_bytes, write_weights])
def test_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch, write: object) -> None:
    path = small_disk / "x.bin"
    write(path, 4000)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(OSError, match="space") as caught:
        write(path, 400_000)  # type: ignore[operator]
    assert "the disk is full" in stage_ended(monkeypatch, caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["x.bin"]


def test_a_folder_that_takes_no_writing(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(small_disk / "x", 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_bytes(small_disk / "x", 20)
    assert "check that path" in stage_ended(monkeypatch, caught.value)
    assert (small_disk / "x").stat().st_size == 10


# ---------------------------------------------------------------------------------- helpers


def test_a_killed_helper_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_pool(2) as pool, pytest.raises(BrokenProcessPool) as caught:
        pool.submit(os._exit, 9).result()  # a helper need not import this file
    assert "a helper process was killed" in stage_ended(monkeypatch, caught.value)


class Dying(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_loader_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = torch.utils.data.DataLoader(Dying(), num_workers=1)
    with pytest.raises(RuntimeError) as caught:
        next(iter(loader))
    assert "a helper process was killed" in stage_ended(monkeypatch, caught.value)


def test_helpers_leave_ctrl_c_to_the_first_process() -> None:
    with worker_pool(2) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


# ---------------------------------------------------------------------------------- cut files


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_cut_shard_is_named(crop_table: CropTable, share: float) -> None:
    path = sorted(crop_table.folder.glob("*.arrow"))[-1]
    cut(path, share)
    assert not shards.is_complete(path)
    assert str(path) in one_line_of(CropTable, crop_table.folder)


@pytest.mark.parametrize("suffix", [".arrow", ".json"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_cut_shard_of_a_killed_build_is_made_again(
    tmp_path: Path, tiny_coco: TinyCoco, crop_settings: CropSettings, suffix: str, share: float
) -> None:
    files = coco_files(tiny_coco.root, SPLIT)
    persons = read_annotations(files, DEFAULT.data, None).persons
    path = tmp_path / "val" / "00000.arrow"

    def build() -> bytes:
        build_cache._shard_job(path, files, persons, crop_settings, None)
        return path.read_bytes() + path.with_suffix(".json").read_bytes()

    expected = build()
    cut(path.with_suffix(suffix), share)
    assert build() == expected


@pytest.mark.parametrize("share", [0, 0.02, 0.9])
def test_a_cut_model_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "ssl.safetensors"
    checkpoint.save_weights(path, {"a": torch.ones(100)}, {"source": "x" * 300})
    cut(path, share)
    assert str(path) in one_line_of(checkpoint.read_provenance, path)


def test_a_cut_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ablation.csv"
    assert "run the stage that writes it first" in one_line_of(tables.read_table, path)
    path.write_bytes(b"")
    assert "rerun the stage that writes it" in one_line_of(tables.read_table, path)


def test_a_cut_skeleton_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "skeleton.json"
    monkeypatch.setattr(stage, "SKELETON", path)
    for content in (b"", b"{", b"{}", b"[]"):
        path.write_bytes(content)
        assert str(path) in one_line_of(stage.skeleton)


def test_the_clock_may_go_backwards(
    tmp_path: Path,
    tiny_coco: TinyCoco,
    crop_settings: CropSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing that is written knows the time."""
    persons = read_annotations(coco_files(tiny_coco.root, SPLIT), DEFAULT.data, None).persons
    written = []
    for name in ("a", "b"):
        shards.write_shard(
            tmp_path / name, Images(coco_files(tiny_coco.root, SPLIT)), persons, crop_settings
        )
        checkpoint.save_weights(tmp_path / f"{name}.st", {"a": torch.ones(2)}, {})
        written.append([(tmp_path / name).read_bytes(), (tmp_path / f"{name}.st").read_bytes()])
        hours = iter(range(10**9, 0, -3600))
        monkeypatch.setattr(time, "time", lambda hours=hours: float(next(hours)))
    assert written[0] == written[1]


def test_helpers_end_with_one_that_nobody_reaps() -> None:
    code = (
        "import os, time\nfrom pose.common.processes import die_with\nparent = os.getpid()\n"
        "child = os.fork()\nif child:\n    print(child, flush=True)\n    os._exit(0)\n"
        "die_with(parent)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=stage.ROOT / "stages", stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    helper = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 30
    while helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it goes on for nobody"
        time.sleep(0.05)
    parent.wait()
