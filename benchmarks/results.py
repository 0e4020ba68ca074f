"""Results as a section of benchmarks/train.md and as rows of benchmarks/achieved.csv."""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from contenders import Setting
from pose.common.files import write_atomic
from pose.models.spec import ModelSpec, model_spec
from pose.planner import plan
from pose.planner.count import Flops, count_flops, count_step_bytes
from timing import Result, Seconds

HEAD = """# Training speed

Our training step compared with Hugging Face's ViTPose in a plain loop, and with the peak rate of
matrix products. Ratios above 1: ours is faster. benchmarks/train.py writes one section per device.
"""


def ratios(seconds: Seconds) -> list[float]:
    """Theirs over ours, one per pair; above 1 ours is faster."""
    return [theirs / ours for ours, theirs in zip(seconds.ours, seconds.theirs, strict=True)]


def median_range(values: list[float], digits: int = 2) -> str:
    """Median, minimum and maximum, as `1.10 (1.05 to 1.13)`."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


@cache
def counted_flops(spec: ModelSpec) -> Flops:
    """FLOPs per image, which several lines need; of a large model they take seconds to count."""
    return count_flops(spec)


def achieved(result: Result) -> list[float]:
    """FLOP/s of our step, one per pair. Excludes what gradient checkpointing recomputes."""
    flops = counted_flops(model_spec(result.case.params, 17)).training * result.case.batch
    return [flops / seconds for seconds in result.train.ours]


def case_lines(result: Result) -> Iterator[str]:
    """The lines of one case."""
    case = result.case
    width, height = case.params.codec.input_size
    checkpointed = ", grad_checkpointing" * case.params.model.grad_checkpointing
    yield f"### {case.name}: {height} x {width} (h x w), batch {case.batch}{checkpointed}\n"
    yield f"| {case.setting.pairs} pairs: median (minimum to maximum) | |\n|---|---|"
    if result.train.theirs:
        parts = {
            "training step": result.train,
            "training step by wall clock": result.wall,
            "flip test": result.predict,
        }
        for label, seconds in parts.items():
            yield f"| {label}, theirs over ours | {median_range(ratios(seconds))} |"
    for label, seconds in (("training", result.train), ("flip test", result.predict)):
        yield f"| {label}, img/s | {median_range([case.batch / s for s in seconds.ours])} |"
    rates, peaks = achieved(result), result.peak
    yield f"| achieved TFLOP/s | {median_range([rate / 1e12 for rate in rates], 3)} |"
    yield f"| matrix-product peak, TFLOP/s | {median_range([peak / 1e12 for peak in peaks], 3)} |"
    yield f"| roofline share | {median_range([r / max(peaks) for r in rates])} |"
    yield f"| memory that a step adds, GB | {_memory(result)} |\n"
    names = list(result.profiles)
    yield f"| share of the profiled step | {' | '.join(names)} |\n|---{'|---' * len(names)}|"
    for kind in result.profiles["ours"]:
        cells = [f"{100 * result.profiles[name][kind]:.0f} %" for name in names]
        yield f"| {kind} | {' | '.join(cells)} |"


def _memory(result: Result) -> str:
    """Measured bytes of each contender, and the activations that plan.py estimates.

    A step starts with the gradients of the step before in memory, so they are not included.
    """
    case = result.case
    spec = model_spec(case.params, 17)
    counted = count_step_bytes(spec, case.setting.amp, held=True).at(case.batch) / 1e9
    measured = [
        f"{name} {size / 1e9:.2f}" for name, size in result.memory.items() if size is not None
    ]
    return ", ".join([*measured, f"our activations as estimated {counted:.2f}"])


def section(command: str, setting: Setting, results: list[Result]) -> str:
    """This device's section of the page, its title first."""
    parts = [
        f"## {title(setting)}\n",
        f"`{command}`, torch {torch.__version__.split('+')[0]}, a machine with "
        f"{os.cpu_count()} cores.{' Seconds are CPU time.' * (setting.device.type == 'cpu')}\n",
    ]
    return "\n".join([*parts, *(line for result in results for line in case_lines(result))]) + "\n"


def title(setting: Setting) -> str:
    return f"{device_name(setting.device)}, {plan.DTYPES[setting.amp]}"


def device_name(device: torch.device) -> str:
    """Name in achieved.csv: the GPU's own name, or the CPU's with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    name = models[0] if models else platform.machine()
    return f"CPU {name} ({threads} thread{'s' * (threads > 1)})"


def with_section(page: str, new: str) -> str:
    """The page with the section of the same title replaced, or with a new section at its end."""
    head, *parts = page.split("\n## ")
    title_line = new.splitlines()[0].removeprefix("## ")
    others = [part for part in parts if part.splitlines()[0] != title_line]
    return "\n## ".join([head.rstrip("\n") + "\n", *others, new.removeprefix("## ")])


def with_rate(rates: list[plan.Throughput], new: plan.Throughput) -> list[plan.Throughput]:
    """The table with the row of the same device and type replaced, or with a new last row."""
    same = [(rate.device, rate.amp) == (new.device, new.amp) for rate in rates]
    if not any(same):
        return [*rates, new]
    return [new if found else rate for rate, found in zip(rates, same, strict=True)]


def rate_of(result: Result) -> plan.Throughput:
    """A result as a row of achieved.csv."""
    case, device = result.case, result.case.setting.device
    memory = None
    if device.type == "cuda":
        memory = round(torch.cuda.get_device_properties(device).total_memory / 1e9)
    tflops = float(f"{statistics.median(achieved(result)) / 1e12:.3g}")
    basis = f"measured: {case.name}, batch {case.batch}"
    return plan.Throughput(device_name(device), memory, case.setting.amp, tflops, basis)


def write_rates(path: Path, rates: list[plan.Throughput]) -> None:
    """achieved.csv as plan.read_throughputs reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(asdict(rates[0]))
    for rate in rates:
        values = asdict(rate).values()
        writer.writerow(f"{v:g}" if isinstance(v, float) else v for v in values)
    write_atomic(path, text.getvalue().encode())
