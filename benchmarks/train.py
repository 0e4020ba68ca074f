"""Step time and memory against Hugging Face's ViTPose in a plain loop, and against the roofline.

    python benchmarks/train.py [--device cpu|cuda] [--amp none|bf16] [--recipes NAME ...]

Ours is the engine's own step on uint8 crops: normalising, rendered targets, loss, backward,
clipping and fused AdamW over layer groups. The peer is transformers' VitPoseForPoseEstimation of
the same sizes, fed normalised images and ready heatmaps, with torch's default AdamW. Drop path is
off in both. Steps alternate, so that a busy machine slows both; what counts is the median of the
pairs' ratios. On the CPU one thread works and seconds are the process's own, so other jobs' time is
left out; the wall's clock is told beside. The roofline is the step's FLOPs by count over the best
rate of plain matrix products, measured between the steps.

transformers is no dependency. Without it the peer is left out; beside, with nothing else touched:

    pip install --target DIR --no-deps transformers==5.23.0 tokenizers regex
    PYTHONPATH=DIR python benchmarks/train.py

Rewrites this device's part of benchmarks/train.md, and its row in achieved.csv, from which
stages/plan.py takes hours. About 8 minutes on one CPU thread; CUDA: not measured yet.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes"))

import torch

import apply
import telling
from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import Params
from pose.common.script import exit_codes
from pose.models import build
from pose.models.vit import build_on_meta
from pose.planner import plan
from pose.planner.count import count_flops, count_held, count_parameters
from sides import Case, Setting, our_side, their_side
from timing import Result, measure

PAGE, RATES = Path(__file__).with_suffix(".md"), plan.ACHIEVED
DEFAULTS = {
    "cpu": ["vitpose_b_coco_256x192"],
    "cuda": ["vitpose_b_coco_256x192", "sapiens_0.3b_coco_1024x768", "sapiens_1b_coco_1024x768"],
}
LARGEST = 256  # of the batches chosen for a GPU
SHARE = 0.8  # of a GPU's free memory that a batch may take by count


def chosen_batch(params: Params, setting: Setting) -> int:
    """setting.batch; else 8 on the CPU, and on a GPU what fits by count with a margin."""
    if setting.batch:
        return setting.batch
    if setting.device.type == "cpu":
        return 8
    spec = build.model_spec(params, 17)
    held = count_held(spec, setting.amp)
    state = sum(plan.STATE_BYTES.values()) * count_parameters(build_on_meta(spec))
    free = SHARE * torch.cuda.mem_get_info(setting.device)[0] - state - held.fixed
    if free < held.sample:
        raise PoseError("the GPU holds no sample of this model beside its weights")
    return min(LARGEST, int(free // held.sample))


def run_case(name: str, setting: Setting) -> Result:
    """Of a recipe; drop path off, as the peer has none."""
    params = apply.resolve(name)
    params = params.model_copy(update={"model": params.model.model_copy(update={"drop_path": 0.0})})
    case = Case(name, params, chosen_batch(params, setting), setting)
    theirs = their_side(case)
    sides = {"ours": our_side(case)} | ({"theirs": theirs} if theirs else {})
    return measure(case, sides)


def flops_of(result: Result) -> int:
    """Forward, of an image."""
    return count_flops(build.model_spec(result.case.params, 17)).forward


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(DEFAULTS), default="cpu")
    parser.add_argument("--amp", choices=list(plan.TYPES), help="default: none, on cuda bf16")
    parser.add_argument("--recipes", nargs="+", metavar="NAME")
    parser.add_argument("--batch", type=int, help="default: 8, on cuda what fits")
    parser.add_argument("--pairs", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    """Measure each recipe, then write the page and the row of the largest."""
    asked = options()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise PoseError("--device cuda: torch sees no GPU here")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    amp = asked.amp or ("bf16" if asked.device == "cuda" else "none")
    setting = Setting(torch.device(asked.device), amp, asked.pairs, asked.batch)
    results = [run_case(name, setting) for name in asked.recipes or DEFAULTS[asked.device]]
    command = " ".join(["python benchmarks/train.py", *map(shlex.quote, sys.argv[1:])])
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else telling.HEAD
    write_atomic(
        PAGE, telling.with_section(page, telling.section(command, setting, results)).encode()
    )
    largest = max(results, key=flops_of)
    rates = telling.with_rate(plan.read_rates(RATES), telling.rate_of(largest))
    telling.write_rates(RATES, rates)


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
