"""Check before a run what its later stages will need: one line per check.

    python stages/preflight.py [NAME]       # NAME: a recipe; default: params.yaml as it is
    make preflight

Not a stage. Params against each other, the starting weights (a file is read and compared with the
model; a URL or the Hub is asked for it), data and boxes, free disk space, warm-up and steps, and
memory by the planner. Downloads no images and changes no result; with `weights.source: experiment`
the model is copied to data/resume/fetch_weights, where that stage takes it. Exits with 1 if a check
fails. Takes seconds, more for a large checkpoint or annotation file.
"""

from __future__ import annotations

import argparse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil
import requests

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch

import fetch_weights
from pose.coco.files import Kind, local_root, split_files
from pose.coco.further import describe_map, read_further
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest, existing_path
from pose.common.params import Params, load_params
from pose.common.script import exit_codes
from pose.fetch.checksums import COCO_2017, COCO_2017_UNLABELLED
from pose.fetch.errors import one_line
from pose.fetch.url import file_name
from pose.planner.plan import (
    ACHIEVED,
    Plan,
    built_cache,
    make_plan,
    model_names,
    read_throughputs,
    step_bytes,
)
from pose.pretrained.hub import find_on_hub

sys.path.insert(0, str(stage.ROOT / "recipes"))

import apply

CROP_BYTES = 83_000  # per person, measured (docs/coco.md)
MODEL_FILES = 8  # start, two of each phase, the second network
NO_GPU = "no GPU is visible to torch: all stages will run on the CPU"
WEB = ("http://", "https://")
TIMEOUT = 20  # seconds


def main(recipe: str | None) -> None:
    params = apply.resolve(recipe) if recipe else load_params(apply.PARAMS)
    print(f"ok       params: {recipe or apply.PARAMS.name} is valid")
    failed = [name for name, check in CHECKS.items() if not passes(name, check, params)]
    try:
        plan = make_plan(params, built_cache(params, stage.ROOT), process_count())
    except PoseError as error:
        print(f"problem  people: {error}; disk, warm-up and memory are not checked")
        failed.append("people")
    else:
        print(f"ok       people: {people_line(plan)}")
        failed += [name for name, check in PLANNED.items() if not passes(name, check, params, plan)]
    if failed:
        raise PoseError(f"these checks failed: {', '.join(failed)}")


def passes(name: str, check: Callable[..., str], *arguments: Any) -> bool:
    """Run a check and print its line."""
    try:
        print(f"ok       {name}: {check(*arguments)}", flush=True)
    except PoseError as error:
        print(f"problem  {name}: {error}", flush=True)
        return False
    return True


def check_weights(params: Params) -> str:
    """Read a checkpoint on disk as fetch_weights does; ask for one that would be downloaded."""
    weights = params.weights
    if weights.source == "embedded":
        return "random, none are needed"
    if weights.source == "url":
        folder = stage.RESUME / fetch_weights.NAME
        return found_at(str(weights.url), "weights.url", folder, weights.sha256)
    if weights.source == "huggingface":
        revision = weights.revision or fetch_weights.BRANCH
        return find_on_hub(str(weights.repo), str(weights.file), revision)
    state, provenance = fetch_weights.converted(params)
    return f"{provenance['source']}, {len(state)} tensors fit the model"


def check_data(params: Params) -> str:
    """The images and annotations, or the server that has them."""
    data = params.data
    if data.source == "synthetic":
        return "rendered, none are needed"
    if data.source == "coco":
        missing = missing_zips(params)
        if not missing:
            return "all of COCO's zips are downloaded"
        return found_at(f"{data.base_url.rstrip('/')}/{missing[0]}", "data.base_url")
    root = local_root(data)
    kinds: tuple[Kind, ...] = ("train", "val") if data.val_fraction is None else ("train",)
    files = [split_files(root, data, kind).annotations for kind in kinds]
    return ", ".join(str(path) for path in files)


def check_further(params: Params) -> str:
    """The sets of data.also and data.also_val, which download_coco reads in the same way."""
    data = params.data
    if not data.also and not data.also_val:
        return "none"
    names, kinds = model_names(params), cast("tuple[Kind, ...]", ("train", "val"))
    sets = [one for kind in kinds for one in read_further(kind, data, names)]
    return "; ".join(f"{one.entry.name}: {describe_map(one, names)}" for one in sets)


def check_boxes(params: Params) -> str:
    """Files of detected boxes."""
    data, found = params.data, []
    for key in ("detections", "unlabelled_detections"):
        if value := getattr(data, key):
            if value.startswith(WEB):
                sha256 = data.detections_sha256 if key == "detections" else None
                found.append(found_at(value, f"data.{key}", stage.DOWNLOADS, sha256))
            else:
                found.append(str(existing_path(f"data.{key}", value)))
    return ", ".join(found) or "ground truth, none are needed"


def check_ensemble(params: Params) -> str:
    """Checkpoints of evaluate.ensemble that the chain does not make."""
    own = {"phase1", "phase2", "ssl"}
    paths = [
        str(existing_path("evaluate.ensemble", member))
        for member in params.evaluate.ensemble
        if member not in own
    ]
    return ", ".join(paths) or "no other checkpoints"


def people_line(plan: Plan) -> str:
    """The people that disk, warm-up and memory are estimated for."""
    people = plan.people
    counts = f"{people.labelled:,} labelled, {people.unlabelled:,} without keypoints"
    return f"{counts}, {people.val:,} in val ({people.source})"


def check_disk(params: Params, plan: Plan) -> str:
    """Free bytes against downloads, crops and models, in as many copies as DVC keeps."""
    pins = COCO_2017 | COCO_2017_UNLABELLED
    downloads = sum(pins[name].expected_bytes for name in missing_zips(params))
    people = plan.people.labelled + plan.people.unlabelled + plan.people.val
    whole = 4 * (plan.backbone + plan.head)
    trained = whole if params.train.finetune == "full" else 4 * plan.trained
    outs = people * CROP_BYTES + whole + (MODEL_FILES - 1) * trained
    links = bool(re.search("hardlink|symlink", cache_type()))
    needed = downloads + outs if links else 3 * downloads + 2 * outs
    copies = "linked with" if links else "copied to (unless the file system has reflinks)"
    free = shutil.disk_usage(stage.ROOT).free
    line = f"{downloads / 1e9:.1f} GB of downloads, {outs / 1e9:.1f} of crops and models; {copies} "
    line += f"DVC's cache they take {needed / 1e9:.1f}; {free / 1e9:.1f} are free"
    if needed > free:
        advice = "" if links else "; `dvc config --local cache.type hardlink,symlink` links them"
        raise PoseError(f"{line}{advice}; free some disk space (docs/coco.md)")
    return line


def missing_zips(params: Params) -> list[str]:
    """COCO's files that download_coco would download, by their path below data.base_url."""
    if params.data.source != "coco":
        return []
    pins = COCO_2017 | (COCO_2017_UNLABELLED if params.data.unlabelled_images else {})
    return [name for name in pins if not (stage.DOWNLOADS / Path(name).name).exists()]


def cache_type() -> str:
    """DVC's setting cache.type; "" if it is not set."""
    command = [sys.executable, "-m", "dvc", "config", "cache.type"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def check_warmup(params: Params, plan: Plan) -> str:
    """Steps of each phase against the warm-up, as training refuses them."""
    train, lines = params.train, []
    counts = params.phase1.epochs, params.phase2.epochs, params.ssl.epochs
    epochs = dict(zip(("phase1", "phase2", "ssl"), counts, strict=True))
    for phase in plan.phases:
        if phase.steps and epochs.get(phase.name):
            per_epoch = phase.steps // epochs[phase.name]
            warmup = train.warmup_iters + round(train.warmup_epochs * per_epoch)
            if warmup > phase.steps:
                raise PoseError(
                    f"train.warmup_iters and train.warmup_epochs make {warmup:,} steps, "
                    f"{phase.name} has {phase.steps:,}; lower them or raise its epochs"
                )
            lines.append(f"{phase.name} {warmup:,} of {phase.steps:,} steps")
    return ", ".join(lines) or "no phase trains"


def check_memory(params: Params, plan: Plan) -> str:
    """A training step by the planner against the memory of a GPU, or else of this machine.

    Without a GPU the line also has the hours that training takes at the planner's speed of a CPU.
    """
    train, processes = params.train, process_count()
    if train.parallel == "fsdp" and processes > 1:
        note = "" if torch.cuda.is_available() else f"; {cpu_line(plan)}"
        return f"not estimated for train.parallel = fsdp{note}"
    amp = "none" if train.amp == "none" else "bf16"
    batch = max(1, train.batch_size // (train.accumulate * processes))
    needed = step_bytes(plan, amp, params.model.grad_checkpointing, batch)
    if torch.cuda.is_available():
        device, free, note = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0], ""
    else:
        device, free = "this machine", psutil.virtual_memory().available
        note = f"; {cpu_line(plan)}"
    line = f"{needed / 1e9:.1f} GB a step of {batch} by estimate, {free / 1e9:.1f} free ({device})"
    if needed > free:
        raise PoseError(f"{line}; `python stages/plan.py` lists settings that need less{note}")
    return line + note


def cpu_line(plan: Plan) -> str:
    """That everything runs on the CPU, and the hours of training at the planner's speed of one."""
    flops, line = sum(phase.flops for phase in plan.phases), NO_GPU
    for device in read_throughputs(ACHIEVED):
        if device.device.startswith("CPU"):
            hours = flops / (device.tflops * 1e12) / 3600
            line += f"; training takes {hours:,.1f} h at {device.tflops:g} TFLOP/s "
            line += f"({device.device}, {device.basis})"
    return line


def process_count() -> int:
    """NPROC of the environment: processes that train."""
    text = os.environ.get("NPROC", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def found_at(url: str, key: str, folder: Path | None = None, sha256: str | None = None) -> str:
    """Where the file of a URL is: downloaded to `folder`, or at its server, which a HEAD asks.

    A file of its name in `folder` counts if it has the sha256: the URL may be a new one.
    """
    there, note = folder and folder / file_name(url), ""
    if there and there.is_file():
        if sha256 and digest(there) == sha256:
            return f"{there}, downloaded, its sha256 is right"
        state = "has another sha256" if sha256 else "was not checked: there is no sha256"
        note = f"; {there} {state}"
    with one_line(f"{key} = {url!r}"):
        answer = requests.head(url, allow_redirects=True, timeout=TIMEOUT)
        answer.raise_for_status()
    size = answer.headers.get("Content-Length")
    return (f"{url}, {int(size):,} bytes" if size else f"{url}, of unknown size") + note


CHECKS: dict[str, Callable[[Params], str]] = {
    "weights": check_weights,
    "data": check_data,
    "further sets": check_further,
    "boxes": check_boxes,
    "ensemble": check_ensemble,
}
PLANNED: dict[str, Callable[[Params, Plan], str]] = {
    "disk": check_disk,
    "warm-up": check_warmup,
    "memory": check_memory,
}


if __name__ == "__main__":
    os.chdir(stage.ROOT)
    with exit_codes("preflight"):
        main(arguments.name)
