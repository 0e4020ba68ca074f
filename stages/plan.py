"""Print what a run takes: parameters, FLOPs, steps, memory, and hours on named devices.

    python stages/plan.py [NAME]            # NAME: a recipe; default: params.yaml as it is

Not a stage. Works from shapes alone, on any machine, in seconds, for a large model in a minute.
Reads params.yaml, the counts of data/cache if it was built with these params, else own annotation
files, and benchmarks/achieved.csv; writes nothing.

Memory is the estimated peak of a training step: weights (and their EMA, if enabled), AdamW's
moments of 32 or 8 bits, gradients, activations and temporary tensors. fp16 takes as much as bf16.
The workspace of kernels is not included. Hours are the FLOPs of training and val_AP over the
throughput that benchmarks/train.py measured on a device, or else over an assumed one, marked so;
they hold for one device that never waits for data.
"""

from __future__ import annotations

import argparse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import sys

from pose.common import stage
from pose.common.params import load_params
from pose.common.script import exit_codes
from pose.planner.plan import ACHIEVED, built_cache, format_plan, make_plan, read_throughputs

sys.path.insert(0, str(stage.ROOT / "recipes"))

import apply


def main(recipe: str | None) -> None:
    params = apply.resolve(recipe) if recipe else load_params(apply.PARAMS)
    cache = built_cache(params, stage.ROOT)
    throughputs = read_throughputs(ACHIEVED)
    print(format_plan(recipe or apply.PARAMS.name, params, make_plan(params, cache), throughputs))


if __name__ == "__main__":
    with exit_codes("plan"):
        main(arguments.name)
