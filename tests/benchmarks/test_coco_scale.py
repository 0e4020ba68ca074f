"""The page, the disk estimate and the arguments of benchmarks/coco_scale.py."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

import coco_scale
from coco_scale import Project, Results, link_types, needed_bytes, to_markdown
from pose.common.errors import PoseError
from repeated_coco import read_source
from tiny_coco import SPLIT, TinyCoco
from usage import Usage

RESULTS = Results(
    set="30 train and 2 val images (4 different ones) in zips, 1.5 GB",
    persons=41_000,
    runs={
        (1, "download_coco"): Usage(20.4, 10.0, 250_000_000, []),
        (2, "build_cache"): Usage(90.0, 164.0, 1_236_000_000, [400_000_000, 543_000_000]),
    },
    seconds={"`dvc repro`": 1.25},
    disk={"copy": 3_456_000_000, "reflink": None},
)


def test_the_page_has_a_row_for_each_measurement() -> None:
    lines = to_markdown(RESULTS, "python x --share 0.1", "2 cores").splitlines()
    assert "`python x --share 0.1` on 2 cores." in lines
    assert "The set: 30 train and 2 val images (4 different ones) in zips, 1.5 GB; 41,000 people." \
        in lines  # fmt: skip
    rows = [line for line in lines if line.startswith("| ")]
    assert "| download_coco | 1 | 20 | 10 | 4100 | 0.25 | none |" in rows
    assert "| build_cache | 2 | 90 | 164 | 250 | 1.24 | 0.54, 0.40 |" in rows
    assert "| `dvc repro` | 1.2 |" in rows
    assert rows[-2:] == ["| copy | 3.46 |", "| reflink | not possible on this file system |"]


def test_link_types_are_those_that_dvc_lists() -> None:
    version = "Platform: reflinks\nCache types: hardlink, symlink\nCaches: local\n"
    assert link_types(version) == {"copy", "hardlink", "symlink"}
    assert link_types("Cache types: <no local cache>") == {"copy"}


def test_the_needed_bytes_have_the_crops_twice(tiny_coco: TinyCoco) -> None:
    source, counts = read_source(tiny_coco.root, SPLIT), {"train2017": 3000}
    images = [tiny_coco.image_path(number).stat().st_size for number in (1, 2, 3)]
    per_round = sum(images) + tiny_coco.json_path.stat().st_size
    crops = len(tiny_coco.raw["annotations"]) * coco_scale.CROP_BYTES
    assert needed_bytes(source, counts) == 1000 * (per_round + 2 * crops)


def project(folder: Path, train_phase1: str) -> Project:
    (folder / "stages").mkdir()
    (folder / "stages" / "train_phase1.py").write_text(train_phase1)
    return Project(folder)


def test_the_first_step_ends_the_training(tmp_path: Path) -> None:
    code = "import sys, time\ntime.sleep(1)\n"
    for line in ("loaded weights", "train_phase1 step 1/99 | loss 1"):
        code += f"print({line!r}, file=sys.stderr, flush=True)\n"
    others = set(psutil.Process().children())
    assert 1 < project(tmp_path, f"{code}time.sleep(60)").first_step() < 30
    assert set(psutil.Process().children()) <= others


def test_a_training_without_a_step_is_an_error(tmp_path: Path) -> None:
    failing = project(tmp_path, "import sys\nsys.exit('reason')")
    with pytest.raises(PoseError, match=r"^train_phase1 ended before its first step: reason$"):
        failing.first_step()


def test_work_where_there_should_be_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = iter([(1.5, "Data and pipelines are up to date.\n"), (9.0, "Running stage 'x'\n")])
    monkeypatch.setattr(Project, "dvc", lambda *_: next(outputs))
    assert Project(Path()).nothing_to_do("status") == 1.5
    with pytest.raises(PoseError, match="`dvc repro x` found work to do: Running stage 'x'"):
        Project(Path()).nothing_to_do("repro", "x")


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["coco_scale.py", *map(str, arguments)])
    monkeypatch.setattr(coco_scale.signal, "signal", lambda *_: None)
    coco_scale.main()


def test_too_little_disk_is_refused_before_anything_is_written(
    tiny_coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PoseError, match=r"work: needs [\d,]+ bytes, 1,000 are free in .*work; f"):
        start(monkeypatch, tiny_coco.root, "--work", work)
    assert not list(work.iterdir())


def test_nothing_is_left_after_an_error(
    tiny_coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    written = []

    def fail(_: object, counts: object, __: bool, folder: Path) -> Results:
        (folder / "file").write_text("x")
        written.append(folder.parent)
        raise PoseError("failed")

    monkeypatch.setattr(coco_scale, "measure_all", fail)
    with pytest.raises(PoseError, match="failed"):
        start(monkeypatch, tiny_coco.root, "--work", work, "--share", "0.0001")
    assert written == [work]
    assert not list(work.iterdir())


@pytest.mark.parametrize("share", ["0", "-1", "nan"])
def test_a_share_is_above_0(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, "FOLDER", "--share", share)


def test_the_command_has_no_paths_of_this_machine(
    tiny_coco: TinyCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_scale, "measure_all", lambda *_: RESULTS)
    monkeypatch.setattr(coco_scale, "PAGE", tmp_path / "page.md")
    start(monkeypatch, tiny_coco.root, "--work", tmp_path, "--share", "0.001", "--links")
    page = (tmp_path / "page.md").read_text()
    command = "python benchmarks/coco_scale.py FOLDER --split val2017 --share 0.001 --links"
    assert f"`{command}` on " in page
    assert str(tmp_path) not in page
