"""What every stage script shares: params of the stage, paths, dvclive, the resume folder.

Exit codes are those of script.exit_codes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from pose.common.errors import PoseError
from pose.common.files import digest, locked, read_json
from pose.common.params import Params, load_params
from pose.common.processes import die_with
from pose.common.script import exit_codes
from pose.common.skeleton import Skeleton

if TYPE_CHECKING:
    from dvclive import Live

ROOT = Path(__file__).resolve().parents[3]
COCO = Path("data/coco")
DETECTIONS = COCO / "detections.json"
LOCAL = COCO / "local.json"
FURTHER = COCO / "further.json"
UNLABELLED_DETECTIONS = COCO / "unlabelled_detections.json"
WEIGHTS = Path("data/weights/start.safetensors")
CACHE = Path("data/cache")
SKELETON = CACHE / "skeleton.json"
CATEGORY_IDS = CACHE / "category_ids.json"  # if data.category is several categories
IMAGES = CACHE / "images.json"  # file names of val by image id
RESUME = Path("data/resume")
DOWNLOADS = RESUME / "downloads"
MODELS = Path("models")
PREDICTIONS = Path("data/predictions")
METRICS = Path("metrics")
REPORT = Path("report")
GRACE = 30.0  # seconds a trainer has to end its step and save once dvc is gone; torchrun's too


def parse_arguments(description: str | None) -> None:
    """Answer --help and refuse any other argument: a stage takes its numbers from params.yaml."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()


def run(name: str, main: Callable[[Params], None]) -> None:
    """Run stage `name` as DVC would: from the project's root, on what dvc.yaml declares for it."""
    sys.argv[0] = os.path.abspath(sys.argv[0])  # torchrun starts it again from the root
    os.chdir(ROOT)
    _die_with_dvc()
    with exit_codes(name):
        main(load_params(Path("params.yaml"), definition(name).get("params", [])))


def definition(name: str) -> dict[str, Any]:
    """The stage's entry in dvc.yaml."""
    return definitions(Path())[name]


def definitions(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages of the dvc.yaml in a folder."""
    stages: dict[str, dict[str, Any]]
    stages = YAML(typ="safe", pure=True).load((folder / "dvc.yaml").read_text())["stages"]
    return stages


def live(name: str) -> Live:
    """A dvclive logger for metrics/<name> that leaves dvc.yaml alone and starts no experiment."""
    from dvclive import Live  # imports pandas

    return Live(dir=str(METRICS / name), dvcyaml=None, save_dvc_exp=False, report=None)


def skeleton() -> Skeleton:
    """The keypoints that build_cache found."""
    try:
        return TypeAdapter(Skeleton).validate_python(read_json(SKELETON))
    except ValidationError:
        raise PoseError(f"{SKELETON}: not as build_cache writes it; rerun that stage") from None


def workers() -> int:
    """Helper processes, from POSE_WORKERS or the machine; never a param, results do not depend."""
    text = os.environ.get("POSE_WORKERS") or str(os.cpu_count() or 1)
    if not text.isdecimal() or int(text) < 1:
        raise PoseError(f"environment: POSE_WORKERS = {text!r}, expected a positive integer")
    return int(text)


@contextlib.contextmanager
def resume_folder(name: str) -> Iterator[Path]:
    """data/resume/<name>-<key>; removed on success, other keys of the stage at once.

    The key hashes declared params, code and dependencies, so a state never serves another run.
    Raises PoseError if another run of the stage works, with these params or with others.
    """
    folder = RESUME / f"{name}-{_key(name)}"
    with only_run(name):
        for stale in RESUME.glob(f"{name}-*"):
            if stale != folder:
                shutil.rmtree(stale)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def only_run(name: str) -> contextlib.AbstractContextManager[None]:
    """A lock of the stage in this project. Raises PoseError if another run of it works."""
    return locked(RESUME / "locks" / name, "run of this stage")


def _key(name: str) -> str:
    entry = definition(name)
    params = load_params(Path("params.yaml"), entry["params"])
    parts = [json.dumps({k: v.model_dump() for k, v in dict(params).items()}, sort_keys=True)]
    for dep in map(Path, entry["deps"]):
        if not dep.exists():
            raise PoseError(f"{dep}: no such file; run the stage that writes it first")
        parts.append(f"{dep} {digest(dep)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _die_with_dvc() -> None:
    """Killing dvc alone leaves no trainer behind, and what it did is saved.

    Between them may stand the shell of the cmd.
    """
    if "DVC_STAGE" in os.environ:
        with contextlib.suppress(StopIteration, psutil.Error):  # DVC_STAGE set by hand
            ancestors = psutil.Process().parents()
            die_with(next(one.pid for one in ancestors if "DVC_STAGE" not in one.environ()), GRACE)
