"""The data stages on a set of COCO's size: time, memory, disk, and the first training step.

    python benchmarks/coco_scale.py FOLDER [--split val2017] [--share 0.1] [--links] [--work FOLDER]

Repeats the images of a split of FOLDER, which has COCO's layout, under new ids until there are
--share of COCO's 118,287 train and 5,000 val images: in zips, or with --links in folders of hard
links. On them it runs, in a copy of the working tree with the embedded default's other params,
download_coco (data.source: local) and build_cache with one and with two helper processes, stores
the result in DVC's cache, repeats `dvc repro` and `dvc status` with nothing to do, starts
train_phase1 until its first step, and links the crops in each way. Rewrites
benchmarks/coco_scale.md. All files are in a temporary folder in --work (benchmarks/), removed at
the end. Takes about 10 minutes on two cores with --share 0.1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.files import read_json, write_atomic
from pose.common.log import log
from pose.common.script import exit_codes
from pose.fetch.errors import require_disk_space
from repeated_coco import Source, image_counts, read_source, required_bytes, write_set
from usage import Usage, disk_bytes, measure, require_success

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_suffix(".md")
STAGES = ("download_coco", "build_cache")
HELPERS = (1, 2)  # POSE_WORKERS
LINKS = ("copy", "hardlink", "symlink", "reflink")
CROP_BYTES = 100_000  # per person; 83,000 with the official augmentation (benchmarks/data_coco.md)
PARAMS = {("data", "source"): "local", ("data", "root"): "data/own", ("train", "log_steps"): 1}
PERSONS = ("train", "unlabelled", "val")


@dataclass(frozen=True)
class Results:
    """All measurements.

    set: what was read, in words. persons: crops. runs: by helper processes and stage. seconds: wall
    seconds by command. disk: bytes of crops and DVC's cache by link type, None if not possible.
    """

    set: str
    persons: int
    runs: dict[tuple[int, str], Usage]
    seconds: dict[str, float]
    disk: dict[str, int | None]


@dataclass(frozen=True)
class Project:
    """A copy of the working tree with its own DVC cache."""

    root: Path

    def environment(self, helpers: int) -> dict[str, str]:
        """Ours, with DVC's files of this machine inside the temporary folder."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        places = {
            f"DVC_{place}_DIR": str(self.root.parent / f"dvc_{place.lower()}")
            for place in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")
        }
        return {**os.environ, **places, "PATH": path, "POSE_WORKERS": str(helpers)}

    def stage(self, name: str, helpers: int) -> Usage:
        """Usage of a stage script."""
        log(f"{name} with POSE_WORKERS={helpers}")
        command = [sys.executable, f"stages/{name}.py"]
        return measure(command, self.root, self.environment(helpers))

    def dvc(self, *arguments: str) -> tuple[float, str]:
        """Wall seconds and output of a dvc command. Raises PoseError if it fails."""
        start, command = time.perf_counter(), [sys.executable, "-m", "dvc", *arguments]
        log(f"dvc {' '.join(arguments)}")
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(1), capture_output=True, text=True
        )
        require_success(command, done.returncode, done.stdout + done.stderr)
        return time.perf_counter() - start, done.stdout

    def nothing_to_do(self, *arguments: str) -> float:
        """Wall seconds of a dvc command that must find everything up to date."""
        seconds, output = self.dvc(*arguments)
        if "up to date" not in output:
            raise PoseError(f"`dvc {' '.join(arguments)}` found work to do: {output.strip()}")
        return seconds

    def first_step(self) -> float:
        """Wall seconds from the start of train_phase1 to its first log line; then it is killed."""
        log("train_phase1 until its first step")
        start, command = time.perf_counter(), [sys.executable, "stages/train_phase1.py"]
        with subprocess.Popen(
            command, cwd=self.root, env=self.environment(1), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            line = ""
            for line in process.stderr:
                if line.startswith("train_phase1 step "):
                    process.kill()
                    return time.perf_counter() - start
        raise PoseError(f"train_phase1 ended before its first step: {line.strip()}")

    def disk_by_link(self) -> dict[str, int | None]:
        """Bytes of data/cache and DVC's cache after linking them in each way."""
        possible = link_types(self.dvc("version")[1])
        return {kind: self._linked(kind) if kind in possible else None for kind in LINKS}

    def _linked(self, kind: str) -> int:
        self.dvc("config", "--local", "cache.type", kind)
        self.dvc("checkout", "--relink", "data/cache")
        return disk_bytes(self.root / "data" / "cache", self.root / ".dvc" / "cache")


def new_project(folder: Path) -> Project:
    """The tracked files of the working tree, as a commit of a new repository, with PARAMS set."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    yaml, path = YAML(), folder / "params.yaml"
    params = yaml.load(path)
    for (section, key), value in PARAMS.items():
        params[section][key] = value
    yaml.dump(params, path)
    identity = ["-c", "user.name=scale", "-c", "user.email=scale@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return Project(folder)


def link_types(version: str) -> set[str]:
    """Link types between cache and working tree that `dvc version` lists, and copy."""
    lines = [line for line in version.splitlines() if line.startswith("Cache types:")]
    return {"copy", *re.findall("[a-z]+link", " ".join(lines))}


def persons_in(raw: dict[str, Any], counts: dict[str, int]) -> float:
    """About how many people the set will have."""
    return len(raw["annotations"]) / len(raw["images"]) * sum(counts.values())


def needed_bytes(source: Source, counts: dict[str, int]) -> int:
    """Disk space at the peak: the set, and the crops twice (also in DVC's cache)."""
    crops = round(persons_in(source.raw, counts) * CROP_BYTES)
    return required_bytes(source, counts) + 2 * crops


def measure_all(source: Source, counts: dict[str, int], links: bool, folder: Path) -> Results:
    """Write the set to an empty folder and measure everything."""
    project = new_project(folder / "project")
    own = project.root / "data" / "own"
    write_set(source, own, counts, links)
    size = disk_bytes(own) / 1e9
    runs = {(count, name): project.stage(name, count) for count in HELPERS for name in STAGES}
    summary = read_json(project.root / "data" / "cache" / "summary.json")
    seconds = {"`dvc commit` (hashes the set and the crops, copies the crops)": project.dvc(
        "commit", "--force", *STAGES)[0]}  # fmt: skip
    for command in (("repro", "build_cache"), ("status", "--with-deps", "build_cache")):
        name = f"`dvc {' '.join(command)}`, nothing to do"
        seconds[name] = project.nothing_to_do(*command)
    project.stage("fetch_weights", 1)
    seconds["`train_phase1` to its first step"] = project.first_step()
    described = f"{counts['train2017']:,} train and {counts['val2017']:,} val images "
    described += f"({len(source.raw['images']):,} different ones) in "
    described += f"{'folders of hard links' if links else 'zips'}, {size:.1f} GB"
    persons = sum(summary.get(kind, 0) for kind in PERSONS)
    return Results(described, persons, runs, seconds, project.disk_by_link())


def to_markdown(results: Results, command: str, machine: str) -> str:
    """The page."""
    runs = [run_row(*key, usage, results.persons) for key, usage in results.runs.items()]
    seconds = [f"| {name} | {value:.1f} |" for name, value in results.seconds.items()]
    disk = [f"| {kind} | {gigabytes(size)} |" for kind, size in results.disk.items()]
    return HEAD.format(
        command=command,
        machine=machine,
        set=results.set,
        persons=results.persons,
        runs="\n".join(runs),
        seconds="\n".join(seconds),
        disk="\n".join(disk),
    )


def run_row(helpers: int, name: str, usage: Usage, persons: int) -> str:
    """A stage's row."""
    sizes = sorted(usage.helpers, reverse=True)
    each = ", ".join(f"{size / 1e9:.2f}" for size in sizes) or "none"
    cells = (
        f"{name} | {helpers} | {usage.wall:.0f} | {usage.cpu:.0f} | {persons / usage.cpu:.0f}",
        f"{usage.first / 1e9:.2f} | {each}",
    )
    return f"| {' | '.join(cells)} |"


def gigabytes(size: int | None) -> str:
    return "not possible on this file system" if size is None else f"{size / 1e9:.2f}"


def machine() -> str:
    """Cores, memory, and what else may slow the machine down."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 1e9
    return (
        f"{cores} cores, {memory:.0f} GB of memory; at the start the load average was "
        f"{os.getloadavg()[0]:.1f}, the niceness {os.nice(0)}"
    )


HEAD = """# The data stages at COCO's size

`{command}` on {machine}.
What else runs on these cores makes wall seconds longer, and CPU seconds a little.

The set: {set}; {persons:,} people.
The params are the embedded default's, with `data.source: local`.

| stage | POSE_WORKERS | wall s | CPU s | people/s and core | first process, GB | each helper, GB |
|---|---|---|---|---|---|---|
{runs}

People per second and core: people by CPU seconds of all processes. GB: peaks of a process's own
memory (USS, sampled every 0.2 s). With POSE_WORKERS 1 the helper is a thread of the first process;
with 2, train and val each start two. `download_coco` has no helpers where it renders nothing.

| | wall s |
|---|---|
{seconds}

Disk space of the crops in `data/cache` and in DVC's cache together:

| cache.type | GB |
|---|---|
{disk}
"""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder in COCO's layout")
    parser.add_argument("--split", default="val2017", help="its split to repeat (val2017)")
    parser.add_argument("--share", type=float, default=0.1, help="of COCO's size (0.1)")
    parser.add_argument("--links", action="store_true", help="hard links instead of zips")
    parser.add_argument("--work", type=Path, default=PAGE.parent, help="for temporary files")
    chosen = parser.parse_args()
    if not chosen.share > 0:
        parser.error(f"--share = {chosen.share}, expected a number above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # remove the files
    source, counts = read_source(chosen.folder, chosen.split), image_counts(chosen.share)
    needed, command = needed_bytes(source, counts), command_line(chosen)
    log(f"needs at most {needed / 1e9:.1f} GB in {chosen.work} until the end")
    require_disk_space(str(chosen.work), needed, chosen.work)
    found = machine()
    with tempfile.TemporaryDirectory(prefix="coco_scale-", dir=chosen.work) as folder:
        results = measure_all(source, counts, chosen.links, Path(folder))
    write_atomic(PAGE, to_markdown(results, command, found).encode())


def command_line(chosen: argparse.Namespace) -> str:
    """The command without paths of this machine."""
    links = " --links" * chosen.links
    return (
        f"python benchmarks/coco_scale.py FOLDER --split {chosen.split} "
        f"--share {chosen.share:g}{links}"
    )


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
