"""Alternating measurements: seconds, matrix products' peak, memory of a step, and its profile."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sides import Case, Side, Work

MATMUL = {"cpu": [1024, 2048], "cuda": [4096, 8192]}  # square products for the peak
KINDS = {  # parts of operators' names; what is left is element by element
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "convolutions": ("convolution", "cudnn"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
}


@dataclass(frozen=True)
class Seconds:
    """Alternating measurements, a list entry a pair; no second entry without a peer."""

    ours: list[float]
    theirs: list[float]


@dataclass(frozen=True)
class Result:
    """What a case gave."""

    case: Case
    train: Seconds
    wall: Seconds  # of the same steps, by the clock on the wall
    predict: Seconds
    peak: list[float]  # FLOP/s of matrix products, one a pair
    memory: dict[str, int | None]  # bytes that a step takes on top of weights and optimiser
    profiles: dict[str, dict[str, float]]  # share of the step by kind


def clock(device: torch.device) -> float:
    """Seconds: on a GPU the wall's after its work, else the process's own on all threads."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def timed(work: Work, device: torch.device) -> tuple[float, float]:
    """Seconds by clock() and by the wall."""
    start, wall = clock(device), time.perf_counter()
    work()
    return clock(device) - start, time.perf_counter() - wall


def matmul_rate(device: torch.device, amp: str) -> float:
    """Best FLOP/s of square matrix products of the step's type."""
    dtype = torch.float32 if amp == "none" else torch.bfloat16
    best = 0.0
    for size in MATMUL[device.type]:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            best = max(best, 2 * size**3 / timed(lambda a=left, b=right: a @ b, device)[0])
    return best


def measure(case: Case, sides: dict[str, Side]) -> Result:
    """Alternate the sides, which of them goes first too; first each works once unmeasured."""
    device = case.setting.device
    memory = {name: memory_of(side.step, device) for name, side in sides.items()}
    for side in sides.values():
        side.predict()
    train, wall, predict = ({name: [] for name in ("ours", "theirs")} for _ in range(3))
    peak = []
    for pair in range(case.setting.pairs):
        peak.append(matmul_rate(device, case.setting.amp))
        for name in sorted(sides, reverse=pair % 2 == 1):
            seconds, on_the_wall = timed(sides[name].step, device)
            train[name].append(seconds)
            wall[name].append(on_the_wall)
            predict[name].append(timed(sides[name].predict, device)[0])
        print(f"{case.name}: pair {pair + 1} of {case.setting.pairs}", file=sys.stderr)
    profiles = {name: profiled(side.step, device) for name, side in sides.items()}
    times = (Seconds(**one) for one in (train, wall, predict))
    return Result(case, *times, peak, memory, profiles)


def memory_of(step: Work, device: torch.device) -> int | None:
    """Bytes by which a step rises over what lies there already: the second step, measured.

    On the CPU the peak of the process, which Linux alone lets us reset; None elsewhere.
    """
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = process_bytes("VmRSS")
        step()
        return process_bytes("VmHWM") - before
    return None


def process_bytes(key: str) -> int:
    """VmRSS: now; VmHWM: the most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def profiled(step: Work, device: torch.device) -> dict[str, float]:
    """Share of a step's operator time by kind, the optimiser's apart."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as found:
        step()
    rows = found.key_averages()
    own, whole = (
        ("self_device_time_total", "device_time_total")
        if cuda
        else ("self_cpu_time_total", "cpu_time_total")
    )
    spent = {row.key: getattr(row, own) for row in rows if not row.key.startswith("cuda")}
    shares = {
        kind: sum(time for key, time in spent.items() if any(part in key for part in parts))
        for kind, parts in KINDS.items()
    }
    shares["AdamW"] = sum(getattr(r, whole) for r in rows if r.key.startswith("Optimizer.step"))
    total = sum(spent.values()) or 1
    shares["the rest"] = total - sum(shares.values())
    return {kind: value / total for kind, value in shares.items()}
