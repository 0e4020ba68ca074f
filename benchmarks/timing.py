"""Alternating measurements: seconds, peak of matrix products, memory and profile of a step."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from contenders import Case, Contender, Work

MATMUL = {"cpu": [1024, 2048], "cuda": [4096, 8192]}  # square products for the peak
KINDS = {  # parts of operator names; the rest is elementwise
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "convolutions": ("convolution", "cudnn"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
}


@dataclass(frozen=True)
class Seconds:
    """Alternating measurements, one entry per pair; theirs is empty without transformers."""

    ours: list[float]
    theirs: list[float]


@dataclass(frozen=True)
class Result:
    """All measurements of one case."""

    case: Case
    train: Seconds
    wall: Seconds  # wall-clock time of the same steps
    predict: Seconds
    peak: list[float]  # FLOP/s of matrix products, one per pair
    memory: dict[str, int | None]  # bytes that a step adds to weights and optimiser
    profiles: dict[str, dict[str, float]]  # share of the step by kind


def clock(device: torch.device) -> float:
    """Seconds: on a GPU wall-clock time after synchronisation, else CPU time of all threads."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def timed(work: Work, device: torch.device) -> tuple[float, float]:
    """Seconds by clock() and wall-clock seconds."""
    start, wall = clock(device), time.perf_counter()
    work()
    return clock(device) - start, time.perf_counter() - wall


def matmul_rate(device: torch.device, amp: str) -> float:
    """Best FLOP/s of square matrix products in the data type of the step."""
    dtype = torch.float32 if amp == "none" else torch.bfloat16
    best = 0.0
    for size in MATMUL[device.type]:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(3):
            best = max(best, 2 * size**3 / timed(lambda a=left, b=right: a @ b, device)[0])
    return best


def measure(case: Case, contenders: dict[str, Contender]) -> Result:
    """Alternate the contenders and who goes first, after one unmeasured run of each."""
    device = case.setting.device
    memory = {name: memory_of(contender.step, device) for name, contender in contenders.items()}
    for contender in contenders.values():
        contender.predict()
    train, wall, predict = ({name: [] for name in ("ours", "theirs")} for _ in range(3))
    peak = []
    for pair in range(case.setting.pairs):
        peak.append(matmul_rate(device, case.setting.amp))
        for name in sorted(contenders, reverse=pair % 2 == 1):
            seconds, wall_seconds = timed(contenders[name].step, device)
            train[name].append(seconds)
            wall[name].append(wall_seconds)
            predict[name].append(timed(contenders[name].predict, device)[0])
        print(f"{case.name}: pair {pair + 1} of {case.setting.pairs}", file=sys.stderr)
    profiles = {name: profiled(contender.step, device) for name, contender in contenders.items()}
    times = (Seconds(**one) for one in (train, wall, predict))
    return Result(case, *times, peak, memory, profiles)


def memory_of(step: Work, device: torch.device) -> int | None:
    """Bytes that a step adds at its peak to what was allocated before; measures the second step.

    On a CPU the peak of the process, which only Linux can reset; None on other systems.
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
    """VmRSS: resident bytes now; VmHWM: their peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def profiled(step: Work, device: torch.device) -> dict[str, float]:
    """Share of a step's operator time per kind of operator, with the optimiser separate."""
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
