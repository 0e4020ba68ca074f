"""Results as a part of benchmarks/train.md and as rows of benchmarks/achieved.csv."""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from pose.common.files import write_atomic
from pose.models import build
from pose.planner import plan
from pose.planner.count import count_flops, count_held
from sides import Setting
from timing import Result, Seconds

HEAD = """# Training speed

Ours beside Hugging Face's ViTPose in a plain loop, and beside the matrix products' peak. Ratios
above 1: ours is faster. benchmarks/train.py writes a part for each device it ran on.
"""


def ratios(seconds: Seconds) -> list[float]:
    """Theirs over ours, a pair each: above 1 ours is faster."""
    return [theirs / ours for ours, theirs in zip(seconds.ours, seconds.theirs, strict=True)]


def spread(values: list[float], digits: int = 2) -> str:
    """`1.10 (1.05 to 1.13)`: median, least and most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def achieved(result: Result) -> list[float]:
    """FLOP/s of our step, a pair each; what checkpointing computes again is not counted."""
    flops = count_flops(build.model_spec(result.case.params, 17)).training * result.case.batch
    return [flops / seconds for seconds in result.train.ours]


def case_lines(result: Result) -> Iterator[str]:
    """A case's part of the page."""
    case, law = result.case, result.case.params.codec
    width, height = law.input_size
    peer = bool(result.train.theirs)
    checkpointed = ", grad_checkpointing" * case.params.model.grad_checkpointing
    yield f"### {case.name}: {height} x {width} (h x w), batch {case.batch}{checkpointed}\n"
    yield f"| {case.setting.pairs} pairs: median (least to most) | |\n|---|---|"
    if peer:
        yield f"| training step, theirs over ours | {spread(ratios(result.train))} |"
        yield f"| the same by the wall's clock | {spread(ratios(result.wall))} |"
        yield f"| flip test, theirs over ours | {spread(ratios(result.predict))} |"
    for label, seconds in (("training", result.train), ("flip test", result.predict)):
        yield f"| {label}, img/s | {spread([case.batch / s for s in seconds.ours])} |"
    rates, peaks = achieved(result), result.peak
    yield f"| achieved TFLOP/s | {spread([rate / 1e12 for rate in rates], 3)} |"
    yield f"| matrix products' peak, TFLOP/s | {spread([peak / 1e12 for peak in peaks], 3)} |"
    yield f"| roofline share | {spread([r / max(peaks) for r in rates])} |"
    yield f"| rise of memory in a step, GB | {_memory(result)} |\n"
    sides = list(result.profiles)
    yield f"| share of the profiled step | {' | '.join(sides)} |\n|---{'|---' * len(sides)}|"
    for kind in result.profiles["ours"]:
        cells = [f"{100 * result.profiles[side][kind]:.0f} %" for side in sides]
        yield f"| {kind} | {' | '.join(cells)} |"


def _memory(result: Result) -> str:
    """Measured of each side, and the activations that plan.py counts.

    What a step starts from holds the gradients of the step before: they are not in the rise.
    """
    case = result.case
    spec = build.model_spec(case.params, 17)
    held = count_held(spec, case.setting.amp)
    counted = (held.fixed + held.sample * case.batch) / 1e9
    told = [f"{name} {size / 1e9:.2f}" for name, size in result.memory.items() if size is not None]
    return ", ".join([*told, f"activations of ours by count {counted:.2f}"])


def section(command: str, setting: Setting, results: list[Result]) -> str:
    """This device's part of the page, title first."""
    parts = [
        f"## {title(setting)}\n",
        f"`{command}`, torch {torch.__version__.split('+')[0]}, a machine of "
        f"{os.cpu_count()} cores.{' Seconds of CPU time.' * (setting.device.type == 'cpu')}\n",
    ]
    return "\n".join([*parts, *(line for result in results for line in case_lines(result))]) + "\n"


def title(setting: Setting) -> str:
    return f"{device_name(setting.device)}, {plan.TYPES[setting.amp]}"


def device_name(device: torch.device) -> str:
    """As achieved.csv has it: the GPU's own name, or the CPU's and how many threads worked."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = models[0] if models else platform.machine()
    return f"CPU {name} ({threads} thread{'s' * (threads > 1)})"


def with_section(page: str, new: str) -> str:
    """The page with the part of the same title replaced, or put at its end."""
    head, *parts = page.split("\n## ")
    title_line = new.splitlines()[0].removeprefix("## ")
    kept = [part for part in parts if part.splitlines()[0] != title_line]
    return "\n## ".join([head.rstrip("\n") + "\n", *kept, new.removeprefix("## ")])


def with_rate(rates: list[plan.Rate], new: plan.Rate) -> list[plan.Rate]:
    """The table with the row of the same device and type replaced in its place, or put last."""
    same = [(rate.device, rate.amp) == (new.device, new.amp) for rate in rates]
    if not any(same):
        return [*rates, new]
    return [new if found else rate for rate, found in zip(rates, same, strict=True)]


def rate_of(result: Result) -> plan.Rate:
    """A result as a row of achieved.csv."""
    case, device = result.case, result.case.setting.device
    memory = None
    if device.type == "cuda":
        memory = round(torch.cuda.get_device_properties(device).total_memory / 1e9)
    tflops = float(f"{statistics.median(achieved(result)) / 1e12:.3g}")
    basis = f"measured: {case.name}, batch {case.batch}"
    return plan.Rate(device_name(device), memory, case.setting.amp, tflops, basis)


def write_rates(path: Path, rates: list[plan.Rate]) -> None:
    """achieved.csv as plan.read_rates reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(asdict(rates[0]))
    for rate in rates:
        values = asdict(rate).values()
        writer.writerow(f"{v:g}" if isinstance(v, float) else v for v in values)
    write_atomic(path, text.getvalue().encode())
