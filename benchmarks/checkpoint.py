"""What a checkpoint costs: bytes, and milliseconds to write and to read it.

    python benchmarks/checkpoint.py [--recipes NAME ...] [--folder FOLDER]

Writes the state of the embedded default and of each recipe (weights and AdamW's moments; the best
weights and an average add a third each) as training does, fsync included, and reads it back with
its checksums. The disk is that of --folder, by default data/resume, where training writes. Medians
of three. Rewrites benchmarks/checkpoint.md. 0.3B parameters take 6 GB of memory, 8 GB of disk and
minutes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import torch

import apply
from pose.common import stage
from pose.common.files import write_atomic
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.common.skeleton import COCO_17
from pose.engine import train
from pose.engine.checkpoint import newest_training_state, save_training_state
from pose.engine.fit import TrainState
from pose.engine.optim import build_adamw
from pose.models import build

PAGE = Path(__file__).with_suffix(".md")
TIMES = 3
HEAD = """# Size and time of a checkpoint

`checkpoint_steps` is the number of steps between two checkpoints in params.yaml or the recipe.

| model | parameters | state | write, ms | read, ms | `checkpoint_steps` |
|---|---|---|---|---|---|
"""


def state_of(params: Params) -> TrainState:
    """A state with moments, as after a step of gradients of 0."""
    model, law = build.build_model(params, COCO_17), params.train
    optimizer = build_adamw(model, law.weight_decay, law.layer_decay, law.betas)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainState(model, optimizer)


def milliseconds(work: Callable[[], object]) -> float:
    """Median."""
    found = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - start))
    return statistics.median(found)


def written(params: Params, path: Path) -> tuple[int, float]:
    """Parameters, and milliseconds of a write; the state's memory is free again afterwards."""
    state = state_of(params)
    numbers = sum(parameter.numel() for parameter in state.model.parameters())
    return numbers, milliseconds(lambda: save_training_state(path, state.to_dict()))


def row(name: str, params: Params, folder: Path) -> str:
    """A line of the table."""
    path, (numbers, write) = folder / train.STATE, written(params, folder / train.STATE)
    read = milliseconds(lambda: newest_training_state(path))
    size = path.stat().st_size / 1e6
    every = params.train.checkpoint_steps
    return f"| {name} | {numbers:,} | {size:,.1f} MB | {write:,.0f} | {read:,.0f} | {every:,} |\n"


def main() -> None:
    """Measure the default and the recipes, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="*", metavar="NAME", default=[])
    parser.add_argument("--folder", type=Path, default=stage.ROOT / stage.RESUME)
    asked = parser.parse_args()
    cases = {"embedded default": apply.load_params(apply.PARAMS)}
    cases |= {name: apply.resolve(name) for name in asked.recipes}
    asked.folder.mkdir(parents=True, exist_ok=True)
    page = HEAD
    for name, params in cases.items():
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            page += row(name, params, Path(folder))
    recipes = ["--recipes", *asked.recipes] if asked.recipes else []
    command = " ".join(["python benchmarks/checkpoint.py", *map(shlex.quote, recipes)])
    load = f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    page += (
        f"\nMedians of {TIMES} writes and reads, measured by\n`{command}`.\n"
        f"Load of the machine at the end: {load}. `state.previous.pt` takes the same disk space "
        "again.\n"
    )
    write_atomic(PAGE, page.encode())


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
