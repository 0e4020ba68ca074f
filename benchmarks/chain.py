"""Seconds of each stage of the default run, and its AP, of two commits.

    python benchmarks/chain.py --before COMMIT [--after HEAD]

Clones each commit and runs `dvc repro` there in this environment, one after the other, without
results of earlier runs. Rewrites benchmarks/chain.md. Takes the time of both runs: about ten
minutes on two cores. Stages share the cores with whatever else runs, so let nothing else run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_suffix(".md")
STARTED = re.compile(r"Running stage '(\w+)'")


class Chain(NamedTuple):
    """Seconds by stage, in the order of the run, those of `dvc repro`, and the final AP."""

    stages: dict[str, float]
    seconds: float
    AP: float


def run(commit: str, folder: Path) -> Chain:
    """The default run of a commit, in a clone of it."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run(["git", "checkout", "-q", commit], cwd=folder, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    stages = seconds_by_stage((time.monotonic(), line) for line in process.stdout)
    seconds = time.monotonic() - begin
    assert process.wait() == 0, f"dvc repro of {commit} failed"
    metrics = json.loads((folder / "metrics/evaluate/metrics.json").read_text(encoding="utf-8"))
    return Chain(stages, seconds, metrics["AP"])


def seconds_by_stage(lines: Iterable[tuple[float, str]]) -> dict[str, float]:
    """From lines of `dvc repro` and the seconds at which they came: until the next stage starts."""
    starts: dict[str, float] = {}
    last = 0.0
    for last, line in lines:
        if match := STARTED.search(line):
            starts[match[1]] = last
            print(f"chain: {match[1]}", flush=True)
    ends = [*list(starts.values())[1:], last]
    return {name: end - starts[name] for name, end in zip(starts, ends, strict=True)}


def to_markdown(before: Chain, after: Chain, command: str) -> str:
    """The page: one row per stage."""
    rows = [
        f"| {name} | {before.stages[name]:.0f} | {seconds:.0f} |"
        for name, seconds in after.stages.items()
    ]
    return f"""# The default run

`{command}`: each commit once, on {os.cpu_count()} cores.
A stage's seconds are those until the next one starts, with its process's start and DVC's work.
[seeds.md](seeds.md) has AP of three seeds.

| stage | before, s | after, s |
|---|---|---|
{chr(10).join(rows)}
| `dvc repro` | {before.seconds:.0f} | {after.seconds:.0f} |

AP of the final model with the flip test: {before.AP:.3f} before, {after.AP:.3f} after.
"""


def main(before: str, after: str) -> None:
    """Run both and write the page."""
    command = shlex.join(["python", "benchmarks/chain.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        chains = [run(commit, Path(folder) / str(n)) for n, commit in enumerate((before, after))]
    page = to_markdown(chains[0], chains[1], command)
    print(page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", required=True, metavar="COMMIT", help="to compare with")
    parser.add_argument("--after", default="HEAD", metavar="COMMIT", help="(HEAD)")
    arguments = parser.parse_args()
    main(arguments.before, arguments.after)
