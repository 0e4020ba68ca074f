"""A project of its own for each pipeline test: a git clone of the working tree, shrunk, real dvc.

No test itself. Every clone lies in a folder with a space in its name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

from ruamel.yaml import YAML

from pipeline.preloaded_python import python_folder

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "tests" / "recording"
STAGES = (
    "download_coco",
    "fetch_weights",
    "build_cache",
    "train_phase1",
    "train_phase2",
    "train_ssl",
    "evaluate",
    "report",
)
SMALL = {
    "run.threads": 1,
    "synthetic.train_images": 12,
    "synthetic.val_images": 4,
    "synthetic.unlabelled_fraction": 0.6,
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.deconv_channels": [8, 8],
    "model.conv_channels": [8],
    "train.batch_size": 2,
    "train.warmup_iters": 1,
    "train.log_steps": 2,
    "train.checkpoint_steps": 2,
    "phase1.epochs": 1,
    "phase2.epochs": 1,
    "ssl.epochs": 1,
    "ssl.batch_size": 2,
    "evaluate.batch_size": 8,
    "report.examples": 4,
    "report.heatmaps": 2,
}
Finished = subprocess.CompletedProcess[str]


@dataclass
class Project:
    """A folder that holds a clone; commands run in it with the tests' own Python first on PATH.

    preloaded: scripts run in a fork of a Python that has torch imported, see preloaded_python.py.
    """

    root: Path
    workers: int = 1
    processes: int = 1
    preloaded: bool = True
    notes: Path | None = None  # a folder for what stages read and write, see tests/recording

    def start(
        self, *command: str, preloaded: bool = False, stdout: Any = PIPE, stderr: Any = PIPE
    ) -> subprocess.Popen[str]:
        """The command, begun; `python` and `dvc` are those of the tests' environment."""
        environment = self._environment()
        if preloaded:
            environment["PATH"] = python_folder() + os.pathsep + environment["PATH"]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(self, *command: str) -> Finished:
        """The command, ended, however it ended.

        It writes to files: the workers of DVC's queue would hold a pipe for 10 idle seconds.
        """
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
            process = self.start(*command, preloaded=self.preloaded, stdout=out, stderr=errors)
            code = process.wait()
            for file in (out, errors):
                file.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), errors.read())

    def must(self, *command: str) -> str:
        """Standard output of a command that has to succeed."""
        return succeeded(self.run(*command)).stdout

    def stage(self, name: str) -> Finished:
        """A stage script run by hand."""
        return self.run("python", f"stages/{name}.py")

    def must_stage(self, name: str) -> str:
        """The log of a stage script that has to succeed."""
        return succeeded(self.stage(name)).stderr

    def _environment(self) -> dict[str, str]:
        """Ours without what would hide a fault or leak settings of this machine."""
        hidden = ("GIT_", "DVC_", "NPROC", "PET_", "POSE_", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        beside = self.root.parent
        if self.notes:
            kept |= {"PYTHONPATH": str(RECORDING), "POSE_TEST_NOTES": str(self.notes)}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "SHELL": "/bin/sh",  # dvc runs cmds through it; dash stays between dvc and the stage
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(beside / "dvc site"),
            "DVC_GLOBAL_CONFIG_DIR": str(beside / "dvc global"),
            "DVC_SYSTEM_CONFIG_DIR": str(beside / "dvc system"),
            "POSE_WORKERS": str(self.workers),
            "NPROC": str(self.processes),
        }

    def set(self, **values: Any) -> None:
        """Change params.yaml, comments kept: set(**{"train.lr": 1e-4}). The keys must exist."""
        yaml = YAML()
        path = self.root / "params.yaml"
        params = yaml.load(path)
        for name, value in values.items():
            section, key = name.split(".")
            assert key in params[section], f"params.yaml has no {name}"
            params[section][key] = value
        yaml.dump(params, path)

    def definition(self) -> dict[str, Any]:
        """The stages of dvc.yaml."""
        return YAML(typ="safe", pure=True).load(self.root / "dvc.yaml")["stages"]

    def params(self) -> dict[str, dict[str, Any]]:
        """params.yaml."""
        return YAML(typ="safe", pure=True).load(self.root / "params.yaml")

    def json(self, name: str) -> Any:
        """Content of a JSON file."""
        return json.loads((self.root / name).read_text())

    def content(self, *names: str) -> dict[str, bytes]:
        """Bytes of files, and of all files in folders, by their path from the root."""
        found = [path for name in names for path in [self.root / name, *self._below(name)]]
        return {str(p.relative_to(self.root)): p.read_bytes() for p in found if p.is_file()}

    def _below(self, name: str) -> list[Path]:
        return sorted(self.root.glob(f"{name}/**/*"))

    def changed(self, *options: str) -> set[str]:
        """Paths that git status lists."""
        listed = self.must("git", "status", "--porcelain", "-z", "-uall", *options)
        return {entry[3:] for entry in listed.split("\0") if entry}

    def commit(self, message: str) -> None:
        """Everything that git does not ignore."""
        self.must("git", "add", "--all")
        self.must("git", "commit", "--quiet", "--message", message)

    def copy(self, folder: Path) -> Project:
        """The same with its data, cache and history, in another folder."""
        root = folder / "a copy" / "pose"
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)

    def clone(self, folder: Path) -> Project:
        """What `git clone` gives: history, no data."""
        root = folder / "a clone" / "pose"
        self.must("git", "clone", "--quiet", str(self.root), str(root))
        return Project(root)


@dataclass(frozen=True)
class FirstRun:
    """The first `dvc repro` of a clone: its project (results committed) and what was seen."""

    project: Project
    output: str
    changed: set[str]
    ignored: set[str]
    notes: Path  # <stage>.txt: what it read and wrote, see tests/recording


def new_project(folder: Path) -> Project:
    """The working tree as one commit on branch main, with params.yaml shrunk to a minute's run."""
    project = Project(folder / "a project" / "pose")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed until it is committed
            target = project.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    project.set(**SMALL)
    project.must("git", "init", "--quiet", "--initial-branch", "main")
    project.must("git", "config", "user.name", "test")
    project.must("git", "config", "user.email", "test@example.org")
    project.commit("start")
    return project


def succeeded(done: Finished) -> Finished:
    """The same, if it ended with 0."""
    assert done.returncode == 0, f"{done.args} ended {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def ran(output: str) -> list[str]:
    """Stages that dvc ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def assert_refused(done: Finished, stage: str, *parts: str, logged: int = 0) -> None:
    """It ended with 1 and one line on standard error, after so many lines of its log."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == logged + 1, done.stderr
    assert lines[-1].startswith(f"{stage}: ")
    for part in parts:
        assert part in lines[-1]
