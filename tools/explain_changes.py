"""Say why files in git changed although nothing was edited; `make repro` ends with it.

    python tools/explain_changes.py

Compares dvc.lock with that of the last commit. If a stage wrote other bytes from the same params,
code and data, one line names it and what to do. After an edit the script prints nothing. It reads
files in git only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
TRACKED = ("dvc.lock", "metrics")
UNWATCHED = "fetch_weights"
Stages = dict[str, dict[str, Any]]


def main() -> None:
    committed = git("show", "HEAD:./dvc.lock")
    changed = git("diff", "--name-only", "--relative", "HEAD", "--", *TRACKED).splitlines()
    if not committed or "dvc.lock" not in changed:
        return
    before, after = read_stages(committed), read_stages(Path("dvc.lock").read_text("utf-8"))
    if name := first_other_bytes(before, after):
        print(
            f"{name} wrote other bytes than at the last commit from equal params, code and data, "
            f"as on another kind of CPU (README.md). {len(changed)} files in git changed. "
            "`make verify-metrics` compares AP; `git checkout metrics dvc.lock` discards them; "
            "commit them to keep them"
        )


def first_other_bytes(before: Stages, after: Stages) -> str | None:
    """A stage that wrote other outs from equal inputs; None if params, code or own data changed.

    Also None if fetch_weights wrote others: it may read a file that DVC does not watch.
    """
    made = {out["path"] for entry in after.values() for out in entry.get("outs", [])}

    def is_made(path: str) -> bool:
        return any(path == out or path.startswith(f"{out}/") for out in made)

    def edited(entry: dict[str, Any]) -> tuple[Any, ...]:
        deps = [dep for dep in entry.get("deps", []) if not is_made(dep["path"])]
        return entry.get("cmd"), entry.get("params"), deps

    if before.keys() != after.keys():
        return None
    pairs = [(name, before[name], entry) for name, entry in after.items()]
    if any(edited(old) != edited(new) for _, old, new in pairs):
        return None
    others = [name for name, old, new in pairs if old.get("outs") != new.get("outs")]
    if UNWATCHED in others:
        return None
    equal = [name for name, old, new in pairs if old.get("deps") == new.get("deps")]
    return next((name for name in others if name in equal), None)


def read_stages(lock: str) -> Stages:
    """The stages of a dvc.lock."""
    stages: Stages = yaml.load(lock, yaml.CSafeLoader)["stages"]
    return stages


def git(*command: str) -> str:
    """What git prints; "" if there is nothing to compare with: no repository, commit or file."""
    done = subprocess.run(["git", *command], capture_output=True, text=True)
    return "" if done.returncode else done.stdout


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    os.chdir(ROOT)
    with exit_codes("explain_changes"):
        main()
