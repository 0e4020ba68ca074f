"""Files of DVC that a kill cut off are mended; any other stays as it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dvc.lock import make_lock

import mend

LOCK = """schema: '2.0'
stages:
  report:
    cmd: python stages/report.py
    deps:
    - path: stages/report.py
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 1234
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that has LOCK."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "dvc.lock"), (*who, "commit", "-qm", "lock")):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def test_whatever_a_kill_leaves_dvc_can_read_it_again(folder: Path) -> None:
    lock, mended = folder / "dvc.lock", 0
    for length in range(len(LOCK)):
        lock.write_text(LOCK[:length], encoding="utf-8")
        cut = not mend.is_whole()
        mend.main()
        assert mend.is_whole()
        assert lock.read_text(encoding="utf-8") == (LOCK if cut else LOCK[:length])
        mended += cut
    assert mended > len(LOCK) / 4
    assert [path.name for path in folder.iterdir() if path.name != ".git"] == ["dvc.lock"]


def test_a_lock_of_other_results_stays(folder: Path) -> None:
    other = LOCK.replace("1234", "99")
    (folder / "dvc.lock").write_text(other, encoding="utf-8")
    mend.main()
    assert (folder / "dvc.lock").read_text(encoding="utf-8") == other


def test_without_a_lock_there_is_nothing_to_mend(folder: Path) -> None:
    (folder / "dvc.lock").unlink()
    mend.main()
    assert not (folder / "dvc.lock").exists()


def test_a_lock_that_git_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  report:", encoding="utf-8")
    with pytest.raises(SystemExit, match="git has none"):
        mend.main()
    assert (tmp_path / "dvc.lock").read_text(encoding="utf-8").endswith("report:")


RWLOCK = '{"read": {"/data/kept": [{"pid": 99999999, "cmd": "dvc repro"}]}}'


def test_a_cut_rwlock_is_removed_and_a_whole_one_stays(folder: Path) -> None:
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    for length in range(len(RWLOCK)):
        rwlock.write_text(RWLOCK[:length], encoding="utf-8")
        mend.main()
        assert not rwlock.exists()
    rwlock.write_text(RWLOCK, encoding="utf-8")
    mend.main()
    assert rwlock.read_text(encoding="utf-8") == RWLOCK


def test_an_rwlock_that_another_dvc_is_writing_stays(folder: Path) -> None:
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    rwlock = folder / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(RWLOCK[:9], encoding="utf-8")
    with make_lock(".dvc/tmp/rwlock.lock", tmp_dir=".dvc/tmp"):
        mend.main()
    assert rwlock.exists()
