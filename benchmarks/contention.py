"""Training beside busy processes, by GOMP_SPINCOUNT: libgomp's default, others and pose's choice.

    python benchmarks/contention.py [--busy 0 1 2 4] [--rounds 3] [--seconds 4]

Measures steps of the embedded default on run.threads threads with each setting in turn, each in its
own process, beside so many processes that each keep one core busy. Rewrites
benchmarks/contention.md: median, minimum and maximum of the rounds. Takes about 12 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
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
CHOSEN = "pose's choice"  # an environment without the variable
SPIN_COUNTS = ["300000", pose.SPIN_COUNT_IDLE, "3000", pose.SPIN_COUNT_BUSY, CHOSEN]
WARM_UP = 5  # steps


def measured(seconds: float) -> float:
    """Steps a second of this process, within so many seconds."""
    step = stepper(load_params(stage.ROOT / "params.yaml"))
    for _ in range(WARM_UP):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps / (time.perf_counter() - start)


def alone(spin_count: str, seconds: float) -> float:
    """The result of `measured`, in a new process with the setting, or in one that chooses it."""
    environment = os.environ | {"GOMP_SPINCOUNT": spin_count}
    if spin_count == CHOSEN:
        del environment["GOMP_SPINCOUNT"]
    command = [sys.executable, __file__, "--measure", str(seconds)]
    return float(subprocess.check_output(command, env=environment))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute until the end of the block, or of this process."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure_rounds(count: int, rounds: int, seconds: float) -> list[list[float]]:
    """Steps a second beside `count` busy processes: a list for each of SPIN_COUNTS."""
    found: list[list[float]] = [[] for _ in SPIN_COUNTS]
    with busy(count):
        for done in range(rounds):
            for speeds, spin_count in zip(found, SPIN_COUNTS, strict=True):
                speeds.append(alone(spin_count, seconds))
            print(f"{count} busy: round {done + 1} of {rounds}", file=sys.stderr)
    return found


def fair_share(count: int, threads: int, cores: int) -> float:
    """Part of the speed alone that is left if each busy thread gets an equal part of the cores."""
    return min(1.0, cores / (threads + count)) / min(1.0, cores / threads)


def to_markdown(
    results: dict[int, list[list[float]]], threads: int, cores: int, command: str
) -> str:
    """The page. results: number of busy processes, 0 among them -> what measure_rounds found."""
    fastest = max(statistics.median(speeds) for speeds in results[0])

    def row(count: int, found: list[list[float]]) -> str:
        share = fair_share(count, threads, cores) * fastest
        cells = (spread([speed / share for speed in speeds]) for speeds in found)
        return f"| {count} | {' | '.join(cells)} |\n"

    head = HEAD.format(
        command=command,
        threads=threads,
        cores=cores,
        fastest=f"{fastest:.1f}",
        busy=pose.SPIN_COUNT_BUSY,
        idle=pose.SPIN_COUNT_IDLE,
    )
    columns = (
        f"| busy processes | {' | '.join(SPIN_COUNTS)} |\n|{'---|' * (1 + len(SPIN_COUNTS))}\n"
    )
    return head + columns + "".join(row(*result) for result in sorted(results.items()))


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


HEAD = """# Training beside other processes

OpenMP's threads wait for each other in a loop before they sleep. On an idle machine threads that
sleep early are slow to come back; beside other processes a thread in the loop takes the core from
the one that is waited for. GOMP_SPINCOUNT is the number of rounds of the loop, by libgomp's default
300000. If you set neither it nor OMP_WAIT_POLICY, stages/pose/__init__.py sets it when a script
starts: to {busy} if others keep half of the cores or more in use then, else to {idle}.

`{command}` measures steps of the embedded
default on {threads} threads of {cores} cores, beside processes that each keep a core busy. A cell
is the speed over the fair share: what is left of the fastest speed beside none, {fastest} steps a
second, if each thread gets an equal part of the cores. How long a round takes depends on the CPU.

A fair share of 1 is more than some rows can reach. Each thread does its part of every operation, so
that an operation takes as long as its slowest thread: on two cores with one busy process one thread
shares its core and takes twice as long. Half of the speed is 0.75 of the fair share.

"""


def main() -> None:
    """Measure and write the page; with --measure only print this process's speed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measured(options.measure))
        return
    counts = sorted({0, *options.busy})
    results = {count: measure_rounds(count, options.rounds, options.seconds) for count in counts}
    command = shlex.join(["python", "benchmarks/contention.py", *sys.argv[1:]])
    threads = load_params(stage.ROOT / "params.yaml").run.threads
    cores = len(os.sched_getaffinity(0))
    write_atomic(PAGE, to_markdown(results, threads, cores, command).encode())


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
