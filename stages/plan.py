"""What a run would take: parameters, FLOPs, steps, memory, and hours on named devices.

    python stages/plan.py [NAME]            # NAME: a recipe; without it params.yaml as it is

No stage and no run: shapes alone, on any machine, seconds. Reads params.yaml, the counts of
data/cache if it was built, and benchmarks/achieved.csv; writes nothing.

Memory is what the step keeps: weights (their average too, if one is kept), gradients and AdamW in
float32, and the activations that wait for backward; bf16 and fp16 take the same. Kernels' workspace
comes on top. Hours are arithmetic over the rate that benchmarks/train.py measured on a device, or
else over an assumed one, and are marked so: training and val_AP, one device, data never late.
"""

from __future__ import annotations

import argparse
import sys

from pose.common import stage
from pose.common.script import exit_codes
from pose.planner.plan import ACHIEVED, plan, read_rates, report

sys.path.insert(0, str(stage.ROOT / "recipes"))


import apply


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe")
    name = parser.parse_args().name
    params = apply.resolve(name) if name else apply.load_params(apply.PARAMS)
    cache = None if name else stage.ROOT / stage.CACHE
    print(report(name or apply.PARAMS.name, params, plan(params, cache), read_rates(ACHIEVED)))


if __name__ == "__main__":
    with exit_codes("plan"):
        main()
