"""Size of a checkpoint, and the time to write and to read it.

    python benchmarks/checkpoint.py [--recipes NAME ...] [--folder FOLDER]

Writes the training state of the embedded default and of each recipe as training does, with fsync,
and reads it back with a check of its checksums. The state has the weights and AdamW's moments;
`keep: best` and `ema_decay` add a third each. The files are written to --folder, by default
data/resume, where training writes. Medians of three. Rewrites benchmarks/checkpoint.md. A model of
0.3B parameters takes 6 GB of memory, 8 GB of disk and some minutes.
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

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
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
    """The training state after one step with zero gradients, so that it has moments."""
    model, settings = build.build_model(params, COCO_17), params.train
    optimizer = build_adamw(model, settings.weight_decay, settings.layer_decay, settings.betas)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainState(model, optimizer)


def milliseconds(work: Callable[[], object]) -> float:
    """Median duration of TIMES calls."""
    durations = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        durations.append(1e3 * (time.perf_counter() - start))
    return statistics.median(durations)


def written(params: Params, path: Path) -> tuple[int, float]:
    """Number of parameters, and milliseconds of a write. The state is freed on return."""
    state = state_of(params)
    count = sum(parameter.numel() for parameter in state.model.parameters())
    return count, milliseconds(lambda: save_training_state(path, state.to_dict()))


def row(name: str, params: Params, folder: Path) -> str:
    """One line of the table."""
    path, (count, write) = folder / train.STATE, written(params, folder / train.STATE)
    read = milliseconds(lambda: newest_training_state(path))
    size = path.stat().st_size / 1e6
    every = params.train.checkpoint_steps
    return f"| {name} | {count:,} | {size:,.1f} MB | {write:,.0f} | {read:,.0f} | {every:,} |\n"


def main() -> None:
    """Measure the default and the recipes, then write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="*", metavar="NAME", default=[])
    parser.add_argument("--folder", type=Path, default=stage.ROOT / stage.RESUME)
    options = parser.parse_args()
    cases = {"embedded default": apply.load_params(apply.PARAMS)}
    cases |= {name: apply.resolve(name) for name in options.recipes}
    options.folder.mkdir(parents=True, exist_ok=True)
    page = HEAD
    for name, params in cases.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            page += row(name, params, Path(folder))
    recipes = ["--recipes", *options.recipes] if options.recipes else []
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
