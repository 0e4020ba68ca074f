"""Training steps beside busy processes: as libgomp ships, and with GOMP_SPINCOUNT as pose sets it.

    python benchmarks/contention.py [--busy 0 1 2 4] [--pairs 3] [--seconds 6]

Measures steps of the embedded default on run.threads threads, alternately with each setting, each
in its own process, beside so many processes that each keep one core busy. Rewrites
benchmarks/contention.md: median, minimum and maximum of the pairs. Takes about 8 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # before torch, which reads OpenMP's variables

# isort: split
from allocator import stepper
from pose.common import stage
from pose.common.files import write_atomic
from pose.common.params import load_params
from pose.common.script import exit_codes

PAGE = Path(__file__).with_suffix(".md")
SPIN_COUNTS = {"shipped": "300000", "ours": pose.SPIN_COUNT}
WARM_UP = 5  # steps


@dataclass(frozen=True)
class Speed:
    """Steps of one process."""

    per_second: float
    per_cpu_second: float


@dataclass(frozen=True)
class Pair:
    """Both settings, measured one after the other."""

    shipped: Speed
    ours: Speed


def measured(seconds: float) -> Speed:
    """Speed of this process's steps within so many seconds."""
    step = stepper(load_params(stage.ROOT / "params.yaml"))
    for _ in range(WARM_UP):
        step()
    start, cpu, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return Speed(steps / (time.perf_counter() - start), steps / (time.process_time() - cpu))


def alone(side: str, seconds: float) -> Speed:
    """The result of `measured`, in a new process with the setting."""
    environment = os.environ | {"GOMP_SPINCOUNT": SPIN_COUNTS[side]}
    command = [sys.executable, __file__, "--measure", str(seconds)]
    return Speed(**json.loads(subprocess.check_output(command, env=environment)))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute until the end of the block."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_pairs(count: int, pairs: int, seconds: float) -> list[Pair]:
    """Pairs beside `count` busy processes; who goes first alternates."""
    found = []
    with busy(count):
        for pair in range(pairs):
            order = sorted(SPIN_COUNTS, reverse=pair % 2 == 1)
            found.append(Pair(**{side: alone(side, seconds) for side in order}))
            print(f"{count} busy: pair {pair + 1} of {pairs}", file=sys.stderr)
    return found


def fair_share(count: int, threads: int, cores: int) -> float:
    """Part of the speed alone that is left if each busy thread gets an equal part of the cores."""
    return min(1.0, cores / (threads + count)) / min(1.0, cores / threads)


def to_markdown(results: dict[int, list[Pair]], threads: int, cores: int, command: str) -> str:
    """The page. results: number of busy processes, 0 among them -> pairs."""
    idle = statistics.median(pair.ours.per_second for pair in results[0])

    def row(count: int, pairs: list[Pair]) -> str:
        ratios = [pair.ours.per_second / pair.shipped.per_second for pair in pairs]
        cpu = [pair.ours.per_cpu_second / pair.shipped.per_cpu_second for pair in pairs]
        kept = [statistics.median(getattr(p, side).per_second for p in pairs) / idle
                for side in SPIN_COUNTS]  # fmt: skip
        share = fair_share(count, threads, cores)
        cells = [count, spread(ratios), spread(cpu), *(f"{part / share:.2f}" for part in kept)]
        return f"| {' | '.join(map(str, cells))} |"

    return HEAD.format(command=command, threads=threads, cores=cores, **SPIN_COUNTS) + "".join(
        f"{row(count, pairs)}\n" for count, pairs in sorted(results.items())
    )


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


HEAD = """# Training beside other processes

OpenMP's threads wait for each other in a loop before they sleep. Beside other processes such a loop
takes the core from the thread that is waited for. stages/pose/__init__.py therefore sets
GOMP_SPINCOUNT, if you set neither it nor OMP_WAIT_POLICY.

`{command}` measures steps of the embedded default on
{threads} threads of {cores} cores with libgomp's default of {shipped} rounds (shipped) and with {ours} (ours),
alternately, beside processes that each keep a core busy. The fair share is what is left of our speed
beside none if each thread gets an equal part of the cores; the last two columns are speed over it.
Below 1 a step still waits for the thread that has no core.

| busy processes | steps/s, ours over shipped | steps per CPU second | shipped / fair share | ours / fair share |
|---|---|---|---|---|
"""  # noqa: E501


def main() -> None:
    """Measure all pairs and write the page; with --measure only print this process's speed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(vars(measured(options.measure))))
        return
    counts = sorted({0, *options.busy})
    results = {count: measure_pairs(count, options.pairs, options.seconds) for count in counts}
    command = shlex.join(["python", "benchmarks/contention.py", *sys.argv[1:]])
    threads = load_params(stage.ROOT / "params.yaml").run.threads
    cores = len(os.sched_getaffinity(0))
    write_atomic(PAGE, to_markdown(results, threads, cores, command).encode())


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
