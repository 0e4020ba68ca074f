"""Mend what a kill left of DVC's own files, which it writes in place; `make repro` begins with it.

    python tools/mend.py

- dvc.lock, cut off: `dvc repro` ends with "'./dvc.lock' validation failed". The committed one is
  put back. Finished stages are not lost: `dvc repro` takes them from DVC's run cache.
- .dvc/tmp/rwlock, cut off: "Unable to read RWLock-file". It is removed: it names running processes,
  and the one that wrote it is dead.

What is whole stays as it is. A second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dvc.exceptions import PrettyDvcException
from dvc.lock import LockError, make_lock
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml

LOCK, PART = Path("dvc.lock"), Path("dvc.lock.part")
TMP = Path(".dvc/tmp")


def main() -> None:
    if LOCK.exists() and not is_whole():
        put_back()
    if (TMP / RWLOCK_FILE).exists():
        drop_if_cut(TMP / RWLOCK_FILE)


def is_whole() -> bool:
    """Whether DVC can read its lock."""
    try:
        strictyaml.load(str(LOCK), COMPILED_LOCKFILE_SCHEMA)
    except PrettyDvcException:
        return False
    return True


def put_back() -> None:
    """The committed lock; SystemExit if there is none."""
    found = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False)
    if found.returncode:
        sys.exit(f"{LOCK}: cut off, and git has none; remove it: `dvc repro` writes it anew")
    PART.write_bytes(found.stdout)
    os.replace(PART, LOCK)
    print(f"{LOCK}: cut off by a kill; the committed one is back, `dvc repro` goes on from there")


def drop_if_cut(rwlock: Path) -> None:
    """Under DVC's own guard of that file; another DVC that holds it is writing: nothing to mend."""
    try:
        with make_lock(str(TMP / RWLOCK_LOCK), tmp_dir=str(TMP)):
            if not is_json(rwlock.read_bytes()):
                rwlock.unlink()
                print(f"{rwlock}: cut off by a kill; removed")
    except LockError:
        return


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main()
