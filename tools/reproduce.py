"""Run the whole chain twice, in two clones at different paths, and compare the results.

    python tools/reproduce.py

The second run has more worker processes and is killed once in the middle of phase 2. Afterwards
data and cache are written again with another number of workers. Compares dvc.lock and every out,
metric and plot of dvc.yaml byte by byte, prints a line for each, and exits with 1 if one differs.
Uncommitted changes are not included. Takes twice the time of `dvc repro`: 10 minutes on two cores
with the embedded default, and four times the disk of its data.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.files import digest
from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
CACHE = ["data/coco", "data/cache"]  # written by worker processes
KINDS = ("outs", "metrics", "plots")
Digests = dict[str, str]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        first = clone(Path(folder) / "one")
        second = clone(Path(folder) / "another, longer path" / "two")
        repro(first, workers=1)
        before = digests(first)
        repro(second, workers=4, kill_at="data/resume/train_phase2-*/state.pt")
        rows = [(name, before[name], after) for name, after in digests(second).items()]
        for name in ("download_coco", "build_cache"):
            if start(first, 2, "python", f"stages/{name}.py").wait():
                raise PoseError(f"{name} failed in {first}; see above")
        again = digests(first)
        rows += [(f"{name}, 2 workers", before[name], again[name]) for name in CACHE]
    print(table(rows))
    if bad := [name for name, first, second in rows if first != second]:
        raise PoseError(f"{len(bad)} of {len(rows)} differ: {', '.join(bad)}")
    print(f"all {len(rows)} are the same")


def clone(folder: Path) -> Path:
    """A clone of the last commit."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def repro(project: Path, workers: int, kill_at: str | None = None) -> None:
    """Run the whole chain; once a file matches kill_at, kill it by SIGKILL and resume."""
    print(f"dvc repro --force in {project}, POSE_WORKERS={workers}", flush=True)
    process = start(project, workers, "dvc", "repro", "--force")
    while kill_at and process.poll() is None:
        time.sleep(0.05)
        if any(project.glob(kill_at)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print("killed; dvc repro resumes", flush=True)
            process, kill_at = start(project, workers, "dvc", "repro"), None
    if process.wait():
        raise PoseError(f"`dvc repro` exited with {process.returncode} in {project}; see above")
    if kill_at:
        raise PoseError(f"{kill_at} never appeared, so nothing was killed; see above")


def start(project: Path, workers: int, *command: str) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, with this Python's environment first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "POSE_WORKERS": str(workers)}
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)


def digests(project: Path) -> Digests:
    """sha256 of dvc.lock and of each out, metric and plot; of a folder, over all its files."""
    stages = YAML(typ="safe", pure=True).load(project / "dvc.yaml")["stages"].values()
    outs = [out for stage in stages for kind in KINDS for out in stage.get(kind, [])]
    names = ["dvc.lock", *(out if isinstance(out, str) else next(iter(out)) for out in outs)]
    return {name: digest(project / name) for name in names}


def table(rows: list[tuple[str, str, str]]) -> str:
    """Markdown table: name, the first digits of both digests, and whether they are equal."""
    lines = ["| what | first | second | |", "|---|---|---|---|"]
    for name, first, second in rows:
        verdict = "same" if first == second else "DIFFERENT"
        lines.append(f"| {name} | {first[:12]} | {second[:12]} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with exit_codes("reproduce"):
        main()
