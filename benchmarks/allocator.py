"""The gain of malloc keeping the memory that torch frees (keep_freed_memory), on a CPU.

    python benchmarks/allocator.py [--pairs 5] [--steps 40]

Measures training steps of the embedded default with and without it, alternately, each in its own
process. Rewrites benchmarks/allocator.md: median, minimum and maximum of the pairs. Takes about 2
minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch

from pose.common import stage
from pose.common.files import write_atomic
from pose.common.params import Params, load_params
from pose.common.script import exit_codes
from pose.common.skeleton import COCO_17
from pose.engine.optim import build_adamw
from pose.models import build

PAGE = Path(__file__).with_suffix(".md")
KEPT, FREED = "kept", "freed"
MEGA = 1e6


def measured(side: str, steps: int) -> dict[str, float]:
    """Wall-clock and CPU seconds, page faults per step, and the peak memory of the process."""
    if side == FREED:
        build.keep_freed_memory = lambda: None
    step = stepper(load_params(stage.ROOT / "params.yaml"))
    for _ in range(5):
        step()
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    faults = (after.ru_minflt - before.ru_minflt) / steps
    return {"wall": wall, "cpu": cpu, "faults": faults, "memory": after.ru_maxrss * 1024 / MEGA}


def stepper(params: Params) -> Callable[[], None]:
    """A step of phase 2 on random images."""
    build.setup_torch(params)
    model = build.build_model(params, COCO_17).train()
    settings, (width, height) = params.train, params.codec.input_size
    optimizer = build_adamw(model, settings.weight_decay, settings.layer_decay, settings.betas)
    images = torch.rand(settings.batch_size, 3, height, width)

    def step() -> None:
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def alone(side: str, steps: int) -> dict[str, float]:
    """The result of `measured`, run in a new process."""
    command = [sys.executable, __file__, "--side", side, "--steps", str(steps)]
    result: dict[str, float] = json.loads(subprocess.check_output(command))
    return result


def to_markdown(pairs: list[tuple[dict[str, float], dict[str, float]]], command: str) -> str:
    """The page."""

    def line(title: str, values: list[float], digits: int = 2) -> str:
        middle, *ends = statistics.median(values), min(values), max(values)
        least, most = (f"{end:,.{digits}f}" for end in ends)
        return f"| {title} | {middle:,.{digits}f} ({least} to {most}) |"

    def ratios(name: str) -> list[float]:
        return [freed[name] / kept[name] for kept, freed in pairs]

    rows = [
        line("wall-clock time, default over ours", ratios("wall")),
        line("CPU seconds, default over ours", ratios("cpu")),
        line("page faults per step, default", [freed["faults"] for _, freed in pairs], 0),
        line("page faults per step, ours", [kept["faults"] for kept, _ in pairs], 0),
        line("peak memory, MB, default", [freed["memory"] for _, freed in pairs], 0),
        line("peak memory, MB, ours", [kept["memory"] for kept, _ in pairs], 0),
    ]
    head = f"| {len(pairs)} pairs: median (minimum to maximum) | |\n|---|---|\n"
    return (
        "# Memory that malloc keeps\n\nBy default glibc returns large buffers to the system as "
        "soon as torch frees them, so each step pages\nits heatmaps in again. `keep_freed_memory` "
        "in stages/pose/models/build.py makes glibc keep them.\n\n"
        f"`{command}` takes about 2 minutes.\nIt measures training steps of the embedded default "
        "on a CPU: torch's default (default) and\nwith `keep_freed_memory` (ours), "
        "alternately, each in its own process.\n\n" + head + "\n".join(rows) + "\n"
    )


def main() -> None:
    """Measure all pairs and write the page; with --side measure one side and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--side", choices=[KEPT, FREED], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options.side, options.steps)))
        return
    pairs = [
        (alone(KEPT, options.steps), alone(FREED, options.steps)) for _ in range(options.pairs)
    ]
    command = f"python benchmarks/allocator.py --pairs {options.pairs} --steps {options.steps}"
    write_atomic(PAGE, to_markdown(pairs, command).encode())


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
