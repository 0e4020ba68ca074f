"""Check before a run what its later stages will need: one line per check.

    python stages/preflight.py [NAME]       # NAME: a recipe; default: params.yaml as it is
    make preflight

Not a stage. Params against each other, the starting weights (a file is read and compared with the
model; a URL or the Hub is asked for it), data and boxes, free disk space, warm-up and steps, and
memory by the planner. Downloads no data and changes nothing. Exits with 1 if a check fails. Takes
seconds, more for a large checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable

import psutil
import requests

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch

import fetch_weights
from pose.coco.files import Kind, local_root, split_files
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import existing_path
from pose.common.params import Params, load_params
from pose.common.script import exit_codes
from pose.fetch.checksums import COCO_2017, COCO_2017_UNLABELLED
from pose.fetch.errors import one_line
from pose.planner.plan import Plan, make_plan, step_bytes
from pose.pretrained.hub import find_on_hub

sys.path.insert(0, str(stage.ROOT / "recipes"))

import apply

CROP_BYTES = 83_000  # per person, measured (docs/coco.md)
MODEL_FILES = 8  # start, two of each phase, the second network
WEB = ("http://", "https://")
TIMEOUT = 20  # seconds
Check = Callable[[Params], str]


def main(recipe: str | None) -> None:
    params = apply.resolve(recipe) if recipe else load_params(apply.PARAMS)
    print(f"ok       params: {recipe or apply.PARAMS.name} is valid")
    checks: dict[str, Check] = {
        "weights": check_weights,
        "data": check_data,
        "boxes": check_boxes,
        "ensemble": check_ensemble,
        "disk": check_disk,
        "warm-up": check_warmup,
        "memory": check_memory,
    }
    failed = [name for name, check in checks.items() if not passes(name, check, params)]
    if failed:
        raise PoseError(f"{len(failed)} of {len(checks) + 1} checks failed: {', '.join(failed)}")


def passes(name: str, check: Check, params: Params) -> bool:
    """Run a check and print its line."""
    try:
        print(f"ok       {name}: {check(params)}", flush=True)
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
        return f"{weights.url}, {size_at(str(weights.url), 'weights.url')}"
    if weights.source == "huggingface":
        revision = weights.revision or fetch_weights.BRANCH
        found = find_on_hub(str(weights.repo), str(weights.file), revision)
        return f"{weights.repo}/{weights.file} at {found.commit_hash}, {found.file_size:,} bytes"
    state, provenance = fetch_weights.converted(params)
    return f"{provenance['source']}, {len(state)} tensors fit the model"


def check_data(params: Params) -> str:
    """The images and annotations, or the server that has them."""
    data = params.data
    if data.source == "synthetic":
        return "rendered, none are needed"
    if data.source == "coco":
        url = f"{data.base_url.rstrip('/')}/{next(iter(COCO_2017))}"
        return f"{url}, {size_at(url, 'data.base_url')}"
    root = local_root(data)
    kinds: tuple[Kind, ...] = ("train", "val") if data.val_fraction is None else ("train",)
    files = [split_files(root, data, kind).annotations for kind in kinds]
    return ", ".join(str(path) for path in files)


def check_boxes(params: Params) -> str:
    """Files of detected boxes."""
    data, found = params.data, []
    for key in ("detections", "unlabelled_detections"):
        if value := getattr(data, key):
            if value.startswith(WEB):
                found.append(f"{value}, {size_at(value, f'data.{key}')}")
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


def check_disk(params: Params) -> str:
    """Free bytes against downloads, crops and models; links to DVC's cache need no second copy."""
    plan = planned(params)
    pins = COCO_2017 | (COCO_2017_UNLABELLED if params.data.unlabelled_images else {})
    missing = [
        pin for name, pin in pins.items() if not (stage.ROOT / stage.DOWNLOADS / name).exists()
    ]
    downloads = sum(pin.expected_bytes for pin in missing) * (params.data.source == "coco")
    people = plan.people.labelled + plan.people.unlabelled + plan.people.val
    models = MODEL_FILES * 4 * (plan.backbone + plan.head)
    needed = downloads + people * CROP_BYTES + models
    parts = f"{downloads / 1e9:.1f} GB of downloads, {people * CROP_BYTES / 1e9:.1f} of crops, "
    parts += f"{models / 1e9:.1f} of models, {shutil.disk_usage(stage.ROOT).free / 1e9:.1f} free"
    if needed > shutil.disk_usage(stage.ROOT).free:
        raise PoseError(f"{parts}; free some disk space, or see docs/coco.md on links")
    return parts


def check_warmup(params: Params) -> str:
    """Steps of each phase against the warm-up, as training refuses them."""
    plan, train = planned(params), params.train
    counts = params.phase1.epochs, params.phase2.epochs, params.ssl.epochs
    epochs = dict(zip(("phase1", "phase2", "ssl"), counts, strict=True))
    lines = []
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


def check_memory(params: Params) -> str:
    """A training step by the planner against the GPU's memory, or else this machine's."""
    train, plan = params.train, planned(params)
    amp = "none" if train.amp == "none" else "bf16"
    batch = max(1, train.batch_size // train.accumulate)
    needed = step_bytes(plan, amp, params.model.grad_checkpointing, batch)
    if torch.cuda.is_available():
        device, free = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    else:
        device, free = "no GPU; this machine", psutil.virtual_memory().available
    line = f"{needed / 1e9:.1f} GB a step by estimate, {free / 1e9:.1f} free ({device})"
    if needed > free:
        raise PoseError(f"{line}; `python stages/plan.py` lists settings that need less")
    return line


def planned(params: Params) -> Plan:
    """The plan; for own data it needs counts of people, which build_cache makes."""
    return make_plan(params, stage.ROOT / stage.CACHE)


def size_at(url: str, key: str) -> str:
    """The size of a file at a URL, by a HEAD request."""
    with one_line(f"{key} = {url!r}"):
        answer = requests.head(url, allow_redirects=True, timeout=TIMEOUT)
        answer.raise_for_status()
    return f"{int(answer.headers.get('Content-Length', 0)):,} bytes"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe")
    recipe = parser.parse_args().name
    with exit_codes("preflight"):
        main(recipe)
