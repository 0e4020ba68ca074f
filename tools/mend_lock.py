"""Put the committed dvc.lock in the place of one that a kill cut off; `make repro` begins with it.

    python tools/mend_lock.py

DVC writes dvc.lock in place. Killed meanwhile it leaves a part, and the next `dvc repro` ends with
"'./dvc.lock' validation failed". Finished stages are not lost: DVC's run cache has them, and
`dvc repro` takes them from there. A whole lock, or none, stays as it is. A second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dvc.exceptions import PrettyDvcException
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils import strictyaml

LOCK, CUT = Path("dvc.lock"), Path("dvc.lock.cut")


def main() -> None:
    if not LOCK.exists() or is_whole():
        return
    found = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, check=False)
    if found.returncode:
        sys.exit(f"{LOCK}: cut off, and git has none; remove it: `dvc repro` writes it anew")
    CUT.write_bytes(found.stdout)
    os.replace(CUT, LOCK)
    print(f"{LOCK}: cut off by a kill; the committed one is back, `dvc repro` goes on from there")


def is_whole() -> bool:
    """Whether DVC can read it."""
    try:
        strictyaml.load(str(LOCK), COMPILED_LOCKFILE_SCHEMA)
    except PrettyDvcException:
        return False
    return True


if __name__ == "__main__":
    main()
