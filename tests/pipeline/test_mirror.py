"""The chain on COCO of a mirror: killed in the download, it ends as an undisturbed run does."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loopback import Handler, Server, serve
from pipeline.project import SMALL, Project, new_project, ran, wait_for
from pose.fetch.checksums import COCO_2017
from pose.synthetic.dataset import write_coco_zips
from sections import DEFAULT, changed

FETCHED = ["download_coco", "build_cache"]


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Rendered zips in COCO's layout, by their place on the mirror."""
    folder = tmp_path_factory.mktemp("zips")
    images = (SMALL["synthetic.train_images"], SMALL["synthetic.val_images"])
    train, val = images
    settings = changed(
        DEFAULT.synthetic, train_images=train, val_images=val, unlabelled_fraction=0.5
    )
    write_coco_zips(folder, settings, 1)
    return {f"/{place}": (folder / Path(place).name).read_bytes() for place in COCO_2017}


@pytest.fixture
def mirror(zips: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for server in serve(Handler):
        server.files = zips
        yield server


def new_user(folder: Path, mirror: Server) -> Project:
    """A fresh clone that takes the mirror's files for COCO's."""
    project = new_project(folder)
    project.set(**{"data.source": "coco", "data.base_url": mirror.address})
    checksums = {
        path[1:]: f'Checksum("{hashlib.md5(content).hexdigest()}", SOURCE, "md5", {len(content)})'
        for path, content in mirror.files.items()
    }
    table = ", ".join(f'"{place}": {code}' for place, code in checksums.items())
    module = project.root / "stages/pose/fetch/checksums.py"
    head, _, tail = module.read_text().partition("COCO_2017 = {")
    _, name, rest = tail.partition("COCO_2017_UNLABELLED")
    module.write_text(f"{head}COCO_2017 = {{{table}}}\n{name}{rest}")
    return project


def came(project: Project) -> int:
    """Bytes of the largest file, whole or not, so far."""
    paths = project.root.glob("data/resume/downloads/train2017.zip*")
    return max((path.stat().st_size for path in paths), default=0)


def kill_at(project: Project, goal: int, *, whole: bool) -> None:
    """SIGKILL dvc, or the stage under it, once so many bytes came; wait until nobody is left."""
    dvc = project.start("dvc", "repro", "build_cache")
    wait_for(lambda: came(project) >= goal or dvc.poll() is not None)
    stages = psutil.Process(dvc.pid).children(recursive=True)
    (stage,) = (one for one in stages if "stages/download_coco.py" in one.cmdline())
    victim = dvc if whole else stage
    victim.send_signal(signal.SIGKILL)
    dvc.wait()  # not communicate: a zombie, it would seem alive to the stage that holds the pipes
    assert dvc.returncode != 0
    assert psutil.wait_procs(stages, timeout=20)[1] == []
    assert not (project.root / "data/coco").exists()


def test_killed_twice_it_ends_with_the_same_lock(tmp_path: Path, mirror: Server) -> None:
    calm, killed = new_user(tmp_path / "calm", mirror), new_user(tmp_path / "killed", mirror)
    assert ran(calm.must("dvc", "repro", "build_cache")) == FETCHED
    mirror.asked.clear()

    size = len(mirror.files["/zips/train2017.zip"])
    mirror.rate = size / 4  # bytes a second
    for goal, whole in ((size // 4, False), (size // 2, True)):
        kill_at(killed, goal, whole=whole)
        assert goal <= came(killed) < size
    mirror.rate = None
    assert ran(killed.must("dvc", "repro", "build_cache")) == FETCHED

    names = ("dvc.lock", "data/coco", "data/cache", "metrics")
    assert killed.content(*names) == calm.content(*names)
    assert {"data/coco/train2017.zip", "data/cache/val/00000.arrow"} <= calm.content(*names).keys()
    starts = [int(one[6:-1]) for one in mirror.ranges_asked if one]
    assert len(starts) >= 2  # train's, each time; the small ones may have been whole
    assert max(starts) >= size // 2


def test_a_later_wish_fetches_nothing_again(tmp_path: Path, mirror: Server) -> None:
    """DVC removes data/coco before the stage runs again; its cache serves."""
    project = new_user(tmp_path, mirror)
    for seed, kind in enumerate(("hardlink", "symlink")):
        project.must("dvc", "config", "cache.type", kind)
        shutil.rmtree(project.root / "data/resume", ignore_errors=True)
        project.set(**{"synthetic.seed": seed + 1})  # declared for the stage, of no effect here
        assert ran(project.must("dvc", "repro", "download_coco")) == ["download_coco"]
        found = {Path(name).name: content for name, content in project.content("data/coco").items()}
        assert found == {Path(path).name: content for path, content in mirror.files.items()}
    assert len(mirror.asked) == 3
