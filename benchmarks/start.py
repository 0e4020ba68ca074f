"""What the scripts import before they work: --help, and the stages of the chain.

    python benchmarks/start.py --before COMMIT [--repeats 3]

Compares COMMIT with the working tree, alternately, and rewrites benchmarks/start.md: CPU seconds
and peak memory of --help; CPU seconds of importing each stage's script, alone and with what a run
of the embedded default imports later. Takes about 4 minutes for each repeat.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_suffix(".md")
TRAINING = ("dvclive", "albumentations", "torch._dynamo", "torch.distributed.checkpoint.state_dict")
LATER = {  # by stage: what its run imports after the script; torch's optimizers import _dynamo
    "download_coco": ("dvclive",),
    "fetch_weights": ("dvclive",),
    "build_cache": ("dvclive",),
    "train_phase1": TRAINING,
    "train_phase2": TRAINING,
    "train_ssl": TRAINING,
    "evaluate": ("dvclive",),
    "report": ("dvclive",),
}
OTHERS = ("plan", "preflight", "predict", "export", "evaluate_checkpoint")


class Cost(NamedTuple):
    """CPU seconds and peak memory in megabytes of a process."""

    seconds: float
    megabytes: float


def cost(arguments: list[str], folder: Path, repeats: int) -> Cost:
    """Median cost of so many runs of Python in stages/ of a copy of the project."""
    found = []
    for _ in range(repeats):
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder / "stages", stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        found.append(Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return Cost(*(statistics.median(column) for column in zip(*found, strict=True)))


def imports(*modules: str) -> list[str]:
    """Arguments of a Python that imports these modules."""
    return ["-c", f"import {', '.join(modules)}"]


def to_markdown(before: Path, after: Path, repeats: int, command: str) -> str:
    """The page with both tables."""
    helps, starts = [], []
    for name in (*LATER, *OTHERS):
        old, new = (cost([f"{name}.py", "--help"], folder, repeats) for folder in (before, after))
        numbers = f"{old.seconds:.1f} | {new.seconds:.1f} | {old.megabytes:.0f}"
        helps.append(f"| {name} | {numbers} | {new.megabytes:.0f} |")
    sums = [0.0] * 4
    for name, later in LATER.items():
        pairs = [imports(name), imports(name, *later)]
        row = [cost(code, folder, repeats).seconds for code in pairs for folder in (before, after)]
        sums = [total + seconds for total, seconds in zip(sums, row, strict=True)]
        starts.append(f"| {name} | {' | '.join(f'{seconds:.1f}' for seconds in row)} |")
    starts.append(f"| all | {' | '.join(f'{seconds:.1f}' for seconds in sums)} |")
    return f"""# Start

`{command}`: before is that commit, after the working tree, each the median of {repeats} runs.

| --help of | CPU s before | after | MB before | after |
|---|---|---|---|---|
{chr(10).join(helps)}

CPU seconds of importing a stage's script, and of that and all that a run of the embedded default
imports later (dvclive; training also albumentations, and _dynamo with torch's optimizers):

| stage | script before | after | all of a run before | after |
|---|---|---|---|---|
{chr(10).join(starts)}

What is left is torch (1.8 s) and timm (2 s), whose layers import torchvision.ops and with it
torch._dynamo. Six stages build the model, so that these two alone take 23 s of all.
"""


def main(commit: str, repeats: int) -> None:
    command = shlex.join(["python", "benchmarks/start.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        page = to_markdown(Path(folder), ROOT, repeats, command)
    print(page)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", required=True, metavar="COMMIT", help="to compare with")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (3)")
    arguments = parser.parse_args()
    main(arguments.before, arguments.repeats)
