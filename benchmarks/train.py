"""Step time and memory against Hugging Face's ViTPose in a plain loop, and against the roofline.

    python benchmarks/train.py [--device cpu|cuda] [--amp none|bf16] [--recipes NAME ...]

Ours is the engine's training step on uint8 crops: normalisation, rendering of targets, loss,
backward, clipping and fused AdamW over layer groups. Theirs is transformers'
VitPoseForPoseEstimation of the same sizes with torch's default AdamW; it gets normalised images and
rendered heatmaps. Drop path is off in both. Their steps alternate, so that a busy machine slows
both, and the result is the median ratio of the pairs. On a CPU one thread is used, and seconds are
the CPU time of the process, which excludes other jobs; wall-clock time is also reported. The
roofline share is the step's estimated FLOPs over the best rate of plain matrix products, measured
between the steps.

transformers is not a dependency. Without it only ours is measured. To add it without changing the
environment:

    pip install --target DIR --no-deps transformers==5.23.0 tokenizers regex
    PYTHONPATH=DIR python benchmarks/train.py

Rewrites this device's section of benchmarks/train.md and its row in achieved.csv, which
stages/plan.py uses to estimate hours. About 8 minutes on one CPU thread; not yet run on CUDA.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch

import apply
import results
from contenders import Case, Setting, ours, theirs
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.models.pose_model import build_on_meta
from pose.models.spec import model_spec
from pose.planner import plan
from pose.planner.count import count_parameters, count_step_bytes
from timing import Result, measure

PAGE, RATES = Path(__file__).with_suffix(".md"), plan.ACHIEVED
DEFAULTS = {
    "cpu": ["vitpose_b_coco_256x192"],
    "cuda": ["vitpose_b_coco_256x192", "sapiens_0.3b_coco_1024x768", "sapiens_1b_coco_1024x768"],
}
STATE_BYTES = 16  # per parameter: weight, gradient, two moments
MAX_BATCH = 256  # when it is chosen from free memory
MEMORY_SHARE = 0.8  # of the GPU's free memory, for weights, optimiser and batch


def chosen_batch(params: Params, setting: Setting) -> int:
    """setting.batch if set; else 8 on a CPU, and on a GPU what is estimated to fit with a margin.

    Raises PoseError if not one sample fits.
    """
    if setting.batch:
        return setting.batch
    if setting.device.type == "cpu":
        return 8
    spec = model_spec(params, 17)
    state = STATE_BYTES * count_parameters(build_on_meta(spec))
    free = MEMORY_SHARE * torch.cuda.mem_get_info(setting.device)[0] - state
    batch = count_step_bytes(spec, setting.amp, held=True).largest_batch(free)
    if not batch:
        raise PoseError("this GPU's free memory does not fit one sample and the training state")
    return min(MAX_BATCH, batch)


def run_case(name: str, setting: Setting) -> Result:
    """The result of one recipe. Drop path is off because transformers' ViTPose has none."""
    params = apply.resolve(name)
    params = params.model_copy(update={"model": params.model.model_copy(update={"drop_path": 0.0})})
    case = Case(name, params, chosen_batch(params, setting), setting)
    peer = theirs(case)
    return measure(case, {"ours": ours(case)} | ({"theirs": peer} if peer else {}))


def flops_of(result: Result) -> int:
    """Of the forward pass of one image."""
    return results.counted_flops(model_spec(result.case.params, 17)).forward


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument("--amp", choices=list(plan.DTYPES), help="default: none, on cuda bf16")
    parser.add_argument("--recipes", nargs="+", metavar="NAME")
    parser.add_argument("--batch", type=int, help="default: 8, on cuda what fits")
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Measure each recipe, then write the page and the rate of the largest."""
    asked = options()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise PoseError("--device cuda: torch finds no GPU")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    amp = asked.amp or ("bf16" if asked.device == "cuda" else "none")
    setting = Setting(torch.device(asked.device), amp, asked.pairs, asked.batch)
    measured = [run_case(name, setting) for name in asked.recipes or DEFAULTS[asked.device]]
    command = " ".join(["python benchmarks/train.py", *map(shlex.quote, sys.argv[1:])])
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else results.HEAD
    section = results.section(command, setting, measured)
    write_atomic(PAGE, results.with_section(page, section).encode())
    largest = max(measured, key=flops_of)
    rates = results.with_rate(plan.read_throughputs(RATES), results.rate_of(largest))
    results.write_rates(RATES, rates)


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
