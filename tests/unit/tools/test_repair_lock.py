"""Truncated files of DVC are repaired; conflicted, otherwise invalid and valid ones stay."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.lock import make_lock
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml

import repair_lock

LOCK = """schema: '2.0'
stages:
  train:
    cmd: python stages/train.py
    deps:
    - path: stages/train.py
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 1234
      isexec: true
    - path: data/cache
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 1234
      nfiles: 3
    params:
      params.yaml:
        train.note: "a long text with a colon: it is quoted, and so long that it continues on
          the next line"
        train.limit:
        train.betas:
        - 0.9
        - 0.999
  report:
    cmd: python stages/report.py
    outs:
    - path: é.html
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 99
"""
CUT = LOCK[: LOCK.index("hash") + 2]
CONFLICT = LOCK.replace(
    "      size: 1234\n      isexec: true\n",
    "<<<<<<< HEAD\n      size: 1234\n=======\n      size: 5678\n>>>>>>> other\n",
)


def git(*arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside git that is the current one."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return folder


@pytest.fixture
def lock(folder: Path) -> Path:
    """dvc.lock of a repository, committed with the content LOCK."""
    (folder / "dvc.lock").write_text(LOCK, encoding="utf-8")
    git("init", "-q", "--initial-branch=main")
    git("add", "dvc.lock")
    git("commit", "-qm", "lock")
    return folder / "dvc.lock"


def is_readable_by_dvc(lock: Path) -> bool:
    try:
        strictyaml.load(str(lock), COMPILED_LOCKFILE_SCHEMA)
    except DvcException:
        return False
    return True


def test_every_truncation_becomes_readable_again(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_lock, "git", functools.cache(repair_lock.git))  # says the same
    content, repaired = LOCK.encode(), 0
    for length in range(len(content)):
        lock.write_bytes(content[:length])
        valid = repair_lock.find_problem(content[:length]) is None
        in_md5 = b"      md5:" in content[:length].rpartition(b"\n")[2]
        readable = is_readable_by_dvc(lock)
        assert readable if valid else (in_md5 or not readable)
        repair_lock.main()
        assert lock.read_bytes() == (content[:length] if valid else content)
        assert is_readable_by_dvc(lock)
        repaired += not valid
    assert repaired > len(content) / 4
    assert [path.name for path in lock.parent.iterdir() if path.name != ".git"] == ["dvc.lock"]


def test_a_valid_lock_of_other_results_stays(lock: Path) -> None:
    other = LOCK.replace("size: 1234", "size: 99")
    lock.write_text(other, encoding="utf-8")
    repair_lock.main()
    assert lock.read_text(encoding="utf-8") == other


def test_a_missing_lock_is_no_error(lock: Path) -> None:
    lock.unlink()
    repair_lock.main()
    assert not lock.exists()


def refused(path: Path, content: str | bytes) -> str:
    """The line with which the script exits; the file has to keep its content."""
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        repair_lock.main()
    assert path.read_bytes() == content
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path.relative_to(Path.cwd())}: ")
    return line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LOCK.replace("    cmd: python stages/report.py\n", ""), "stage report has no cmd"),
        (LOCK.replace("size: 1234", "size: many", 1), "stage train: deps has size = 'many'"),
        (LOCK.replace("'2.0'", "'1.0'"), "`schema: '2.0'` is missing"),
        (LOCK.replace("  report:\n", "  train:\n"), "line 24: found duplicate key"),
        (LOCK.replace("    deps:\n", "    deps\n"), "line "),
        (LOCK + "  note\n", "line 32: "),
        (LOCK + "  report2: 5\n", "stage report2 has no cmd"),
        (LOCK.encode().replace("é".encode(), b"\xe9"), "line 27: not UTF-8"),
        ("a note", "`schema: '2.0'` is missing"),
        ("\0" * 40, "special characters are not allowed"),
    ],
)
def test_other_invalid_content_stays(lock: Path, content: str | bytes, expected: str) -> None:
    line = refused(lock, content)
    assert expected in line
    assert "not truncated, so it was left as it is" in line
    assert "`git checkout HEAD -- dvc.lock`" in line


def test_conflict_markers_outside_a_merge_stay(lock: Path) -> None:
    line = refused(lock, CONFLICT)
    assert "has merge conflicts, so it was left as it is (marker in line 9)" in line
    assert "`git checkout COMMIT -- dvc.lock`" in line


def test_a_lock_is_left_alone_in_the_middle_of_a_merge(lock: Path) -> None:
    """With markers, and truncated after one side was taken."""
    git("switch", "-qc", "other")
    lock.write_text(LOCK.replace("1234", "5"), encoding="utf-8")
    git("commit", "-qam", "other")
    git("switch", "-q", "main")
    lock.write_text(LOCK.replace("1234", "6"), encoding="utf-8")
    git("commit", "-qam", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git("merge", "other")
    conflicted = lock.read_text(encoding="utf-8")
    assert "<<<<<<< HEAD" in conflicted
    for content in (conflicted, CUT):
        line = refused(lock, content)
        assert "has merge conflicts, so it was left as it is" in line
        assert "--staged --worktree dvc.lock metrics`, then `dvc repro`" in line
    lock.write_text(LOCK, encoding="utf-8")  # one side, not yet added
    repair_lock.main()


@pytest.mark.parametrize("state", ["no git", "no checkout", "no commit", "not committed"])
def test_a_truncated_lock_that_git_does_not_have(
    folder: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "no git":
        monkeypatch.setenv("PATH", str(folder))
    elif state != "no checkout":
        git("init", "-q")
    if state == "not committed":
        git("commit", "-q", "--allow-empty", "-m", "start")
    line = refused(folder / "dvc.lock", CUT)
    assert "truncated, and git has no committed one; delete it: `dvc repro` writes" in line


def test_an_invalid_committed_lock_is_not_restored(lock: Path) -> None:
    lock.write_text(CONFLICT, encoding="utf-8")
    git("commit", "-qam", "conflict")
    assert "and the committed one is invalid (line 10: " in refused(lock, CUT)


RWLOCK = r'{"read": {"/data/\u00e9": [{"pid": 99999999, "cmd": "dvc \"repro\""}]}, "write": {}}'


@pytest.fixture
def rwlock(folder: Path) -> Path:
    (folder / ".dvc" / "tmp").mkdir(parents=True)
    return folder / ".dvc" / "tmp" / "rwlock"


@pytest.mark.parametrize("guarded", [True, False])
def test_a_truncated_rwlock_is_deleted_and_a_valid_one_stays(rwlock: Path, guarded: bool) -> None:
    if guarded:
        with make_lock(f"{rwlock}.lock", tmp_dir=str(rwlock.parent)):
            pass
        assert Path(f"{rwlock}.lock").exists()
    for length in range(len(RWLOCK)):
        rwlock.write_text(RWLOCK[:length], encoding="utf-8")
        repair_lock.main()
        assert not rwlock.exists()
    rwlock.write_text(RWLOCK, encoding="utf-8")
    repair_lock.main()
    assert rwlock.read_text(encoding="utf-8") == RWLOCK


def test_an_rwlock_that_another_dvc_is_writing_stays(rwlock: Path) -> None:
    rwlock.write_text(RWLOCK[:9], encoding="utf-8")
    with make_lock(f"{rwlock}.lock", tmp_dir=str(rwlock.parent)):
        repair_lock.main()
    assert rwlock.exists()


@pytest.mark.parametrize("content", ["a note", RWLOCK + "}", "{'read': {}}"])
def test_an_otherwise_invalid_rwlock_stays(rwlock: Path, content: str) -> None:
    assert "left as it is; if no DVC command is running, delete it" in refused(rwlock, content)
