"""AP gained from unlabelled people, compared with supervised training of as many steps.

    python benchmarks/unlabelled.py [--seeds 0 1 2] [--jobs 2] [--steps 500] [--work FOLDER]

Each seed renders its own people, labels 0.5 % of them (the papers' 1,000 of COCO's 150,000 are 0.7)
and trains phases 1 and 2 once; every arm continues from there. "all labels" continues with
everyone's keypoints: what could be gained. One thread per process; --jobs arms run in parallel.
A finished arm is a row of WORK/rows.csv and is not run again; the table of these rows is written to
benchmarks/unlabelled.md. About 3 minutes of one core per arm if nothing else runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch
from torch import nn

import train_ssl
from pose.codecs.gaussian import Blur
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import read_json, write_atomic
from pose.common.log import BarSafeHandler, logger
from pose.common.params import Params, load_params
from pose.common.script import exit_codes
from pose.common.skeleton import Skeleton, oks_sigmas
from pose.crop_table import CropTable
from pose.data import build as data_build
from pose.data.samples import TestSamples, TrainingSamples, batch_loader, test_batches
from pose.engine import train as engine_train
from pose.engine.ema import WeightEma
from pose.engine.fit import ONE_BATCH, StepLoss, TrainState, fit, supervised_step
from pose.engine.optim import build_adamw
from pose.evaluation.coco_metrics import coco_eval, to_results
from pose.evaluation.predict import (
    Ensemble,
    codec_decoders,
    concat_predictions,
    predict_batches,
)
from pose.models import build as models_build
from pose.models.checkpoint import load_model
from pose.models.pose_model import PoseModel

ROOT = Path(__file__).resolve().parents[1]
PEOPLE = {  # what differs from params.yaml, for all arms
    "run.threads": 1,
    "data.labelled_fraction": 0.005,
    "data.unlabelled": ["boxes", "rest"],
    "synthetic.train_images": 1900,
    "model.embed_dim": 96,
    "model.mlp_dim": None,
    "model.depth": 3,
    "model.num_heads": 3,
    "model.deconv_channels": [48, 32],
    "augment.photometric_prob": 1.0,
    "augment.dropout_prob": 0.1,
    "train.lr": 4.0e-3,
    "train.betas": [0.9, 0.999],
    "train.batch_size": 8,
    "train.val_epochs": 0,
    "train.picture_epochs": 0,
    "phase1.epochs": 60,  # one step each; the warm-up takes 60
    "phase2.epochs": 1000,
    "ssl.lr": 4.0e-3,
    "ssl.ema_decay": 0.99,
    "ssl.min_peak": 0.5,
    "ssl.unlabelled_weight": 1.0,
}
PHASE2 = Path("models/phase2.safetensors")
CHAIN = ("download_coco", "fetch_weights", "build_cache", "train_phase1", "train_phase2")
LABELLED, OTHERS = 8, 8  # people per step; for the light control all are labelled
SUPERVISED, LIGHT, HARD = "supervised", "control", "control, hard views"
ALL = "all labels"
ARMS: dict[str, dict[str, Any]] = {  # changes of ssl, in the order of the table
    SUPERVISED: {},
    LIGHT: {},
    HARD: {"paths": ("joco", "jccm")},
    ALL: {},
    "multiaugs, K = 2": {"paths": ("joco", "jccm")},
    "ensemble, K = 2": {"paths": ("joco", "jccm"), "loss": "ensemble"},
    "multiaugs, K = 1": {"paths": ("joco",)},
    "multiaugs, K = 4": {"paths": ("jc", "jo", "joco", "jccm")},
    "multiaugs, K = 2, occlusion off by 14": {"paths": ("joco", "jccm"), "occlude_jitter": 14.0},
    "multiaugs, K = 2, two networks": {"paths": ("joco", "jccm"), "networks": 2},
    "multiaugs, K = 2, own weights teach": {"paths": ("joco", "jccm"), "ema_decay": 0.0},
}
TEXT = {
    SUPERVISED: "phases 1 and 2 on the labelled people",
    LIGHT: f"continues with {LABELLED + OTHERS} labelled people per step",
    HARD: f"continues with {LABELLED}, and {OTHERS} in both hard views with their labels as target",
    ALL: "the control with everyone's keypoints: not a method; it shows what could be gained",
}
EXPLAINED = (
    "Rendered people at 72 x 96 pixels. 0.5 % of them are labelled (about 11); the rest, and "
    "people with boxes only, are unlabelled (about 2,860). The numbers are AP on held-out rendered "
    "people with flip test and DARK. Each seed renders its own people.",
    "All arms but `supervised` continue from the same phase 2, for the same number of steps at the "
    f"same lr. A step has {LABELLED} labelled and {OTHERS} other people. The teacher is an average "
    "of past weights (the newest has a share of 0.01) in all arms but the last.",
    "Gain is the difference to the better control of the same seed, as mean over seeds; spread is "
    "its standard deviation. CPU seconds depend on what else the machine did.",
)


def main() -> None:
    """Prepare each seed, run the missing arms, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "benchmark_unlabelled")
    options = parser.parse_args()
    work = options.work.resolve()
    rows = work / "rows.csv"
    for seed in options.seeds:
        prepare(work / f"seed-{seed}", seed)
    todo = [(arm, seed) for arm in options.arms for seed in options.seeds]
    todo = [pair for pair in todo if not _is_done(rows, *pair, options.steps)]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        started = {
            pool.submit(run_arm, work / f"seed-{seed}", arm, options.steps): (arm, seed)
            for arm, seed in todo
        }
        for done in as_completed(started):
            arm, seed = started[done]
            _append(rows, {"arm": arm, "seed": seed, "steps": options.steps, **done.result()})
            write_table(rows)
    write_table(rows)


def prepare(folder: Path, seed: int) -> None:
    """Make two copies of the checkout with this seed's people: with few labels, and with all.

    Both have the weights that were trained with few labels.
    """
    if (everyone(folder) / PHASE2).exists():
        return
    people = {**PEOPLE, "run.seed": seed, "synthetic.seed": seed}
    run_chain(folder, people, CHAIN)
    all_labels = people | {"data.labelled_fraction": None}
    run_chain(everyone(folder), all_labels, ("download_coco", "build_cache"))
    (everyone(folder) / PHASE2).parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / PHASE2, everyone(folder) / PHASE2)


def everyone(folder: Path) -> Path:
    """The folder of the copy in which all people keep their keypoints."""
    return folder.with_name(f"{folder.name}-all")


def run_chain(folder: Path, changes: dict[str, Any], chain: tuple[str, ...]) -> None:
    """Run the stages of `chain` in a copy of the checkout with changed params."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    for key, value in changes.items():
        section, name = key.split(".")
        params[section][name] = value
    yaml.dump(params, folder / "params.yaml")
    for name in chain:
        subprocess.run([sys.executable, f"stages/{name}.py"], cwd=folder, check=True)


def run_arm(folder: Path, arm: str, steps: int) -> dict[str, float]:
    """AP and AP50 on val with flip test and DARK, and the CPU seconds of training."""
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(BarSafeHandler())
    os.chdir(everyone(folder) if arm == ALL else folder)
    params = load_params(Path("params.yaml"))
    ssl = params.ssl.model_copy(update={**ARMS[arm], "batch_size": OTHERS})
    train = params.train.model_copy(update={"batch_size": LABELLED, "log_steps": 50})
    params = params.model_copy(update={"ssl": ssl, "train": train})
    device = models_build.setup_torch(params)
    skeleton = stage.skeleton()
    first = models_build.build_model(params, skeleton).to(device)
    load_model(first, PHASE2)
    students = [first, *train_ssl.second_networks(params, skeleton, first)]
    started = time.process_time()
    if arm != SUPERVISED:
        train_arm(params, skeleton, arm, students, steps)
    seconds = time.process_time() - started
    result = {"cpu_s": round(seconds), **evaluate(params, skeleton, first, device)}
    if len(students) == 2:
        both = evaluate(params, skeleton, Ensemble(students), device)
        result |= {f"both_{name}": value for name, value in both.items()}
    return result


def train_arm(
    params: Params, skeleton: Skeleton, arm: str, students: list[PoseModel], steps: int
) -> None:
    """Train an arm for `steps` steps; the schedule is the same for all arms."""
    device = next(students[0].parameters()).device
    learning = nn.ModuleList(students)
    ema = WeightEma(learning, params.ssl.ema_decay) if params.ssl.ema_decay else None
    step, batches = build_arm(params, skeleton, arm, students, ema, device, steps)
    settings = params.train
    optimizer = build_adamw(learning, settings.weight_decay, settings.layer_decay, settings.betas)
    fit(
        f"{Path.cwd().name}, {arm}",
        settings.model_copy(update={"checkpoint_steps": 10**9}),
        TrainState(learning, optimizer, teacher_ema=ema),
        batches,
        step,
        engine_train.build_schedule(params, 1, steps, params.ssl.lr),
        on_row=lambda row: None,
        save=lambda state: None,
    )


def build_arm(
    params: Params,
    skeleton: Skeleton,
    arm: str,
    students: list[PoseModel],
    ema: WeightEma | None,
    device: torch.device,
    steps: int,
) -> tuple[StepLoss, Iterable[Any]]:
    """The step loss of an arm and its batches."""
    labelled, others = train_ssl.samples(params, skeleton)
    codec = data_build.codec(params, skeleton)
    if arm in (LIGHT, HARD, ALL):
        others = drawn_again(params, skeleton, labelled)
    parts = ((labelled, LABELLED), (others, OTHERS))
    batches = zip(*(data_build.loader(one, size, 0, steps) for one, size in parts), strict=True)
    if arm in (LIGHT, ALL):
        together = ([torch.cat(both) for both in zip(*pair, strict=True)] for pair in batches)
        return supervised_step(students[0], codec, device, params.train.amp), together
    build = train_ssl.build_consistency
    step = build(params, skeleton, list(students), ema, device, steps, ONE_BATCH)
    if arm == HARD:  # hard views of labelled people, trained to match the labels' heatmaps
        teacher = lambda images, targets: codec.heatmaps(codec.render(targets))  # noqa: E731
        step = replace(step, teachers=[teacher])
    return step, batches


def drawn_again(params: Params, skeleton: Skeleton, labelled: TrainingSamples) -> TrainingSamples:
    """The labelled people with other random augmentations."""
    few, seed = params.augment.min_keypoints, (params.run.seed, 5)
    return data_build.training_samples(params, skeleton, labelled.table, labelled.rows, few, seed)


def evaluate(
    params: Params, skeleton: Skeleton, network: nn.Module, device: torch.device
) -> dict[str, float]:
    """AP and AP50 on val, with ground-truth boxes."""
    network.eval()
    codec, table = data_build.codec(params, skeleton), CropTable(stage.CACHE / "val")
    samples = TestSamples(table, table.labelled(), params.augment.bbox_padding, codec)
    loader = batch_loader(samples, test_batches(len(samples), params.evaluate.batch_size, 0, 1), 0)
    blur = Blur(params.codec.blur_kernel_size, params.codec.blur_border)
    decoders = {codec.refinement: codec_decoders(codec, blur)[codec.refinement]}
    parts = predict_batches(network, codec, loader, device, "none", decoders, ["flip"])
    predictions = concat_predictions([part["flip", codec.refinement] for part in parts])
    sigmas = oks_sigmas(skeleton.names, params.keypoints.oks_sigmas)
    areas = samples.padded_areas(predictions.rows)
    truth, settings = read_json(stage.CACHE / "ground_truth.json"), params.evaluate
    thresholds = settings.keypoint_score_thr, settings.oks_nms_thr
    category = truth["categories"][0]["id"]
    stats = coco_eval(
        truth, to_results(table, predictions, areas, *thresholds, sigmas, category), sigmas
    )
    return {name: round(stats[name], 4) for name in ("AP", "AP50")}


def _is_done(rows: Path, arm: str, seed: int, steps: int) -> bool:
    """Raises PoseError if the rows are of another number of steps; one table cannot have both."""
    if not rows.exists():
        return False
    table = pd.read_csv(rows)
    if (table["steps"] != steps).any():
        raise PoseError(f"{rows}: has arms with other steps than {steps}; set another --work")
    return not table.query("arm == @arm and seed == @seed").empty


def _append(rows: Path, row: dict[str, Any]) -> None:
    old = pd.read_csv(rows) if rows.exists() else pd.DataFrame()
    table = pd.concat([old, pd.DataFrame([row])])
    write_atomic(rows, table.to_csv(index=False).encode())


def write_table(rows: Path) -> None:
    """Write benchmarks/unlabelled.md from the finished rows."""
    if rows.exists():
        text = to_markdown(pd.read_csv(rows))
        write_atomic(ROOT / "benchmarks" / "unlabelled.md", text.encode())


def to_markdown(rows: pd.DataFrame) -> str:
    """One row per arm, one column per seed, and the gain over the better control of each seed."""
    ap = rows.pivot_table(index="arm", columns="seed", values="AP")
    cpu = rows.groupby("arm")["cpu_s"].mean()
    controls = [arm for arm in (LIGHT, HARD) if arm in ap.index]
    better = ap.loc[controls].max() if controls else ap.max() * np.nan
    seeds = list(ap.columns)
    lines = [
        "# What unlabelled people gain",
        "",
        f"`python benchmarks/unlabelled.py --steps {int(rows['steps'].iloc[0])}`",
        "",
        *(
            line
            for paragraph in EXPLAINED
            for line in [*wrap(paragraph, 100, break_on_hyphens=False), ""]
        ),
        "| arm | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | gain | spread | CPU s |",
        "|---" * (len(seeds) + 5) + "|",
    ]
    for arm in (arm for arm in ARMS if arm in ap.index):
        gain = (ap.loc[arm] - better).dropna()
        cells = ["" if np.isnan(v) else f"{v:.3f}" for v in ap.loc[arm]]
        spread = f"{gain.std():.3f}" if len(gain) > 1 else ""
        ended = [f"{ap.loc[arm].mean():.3f}", f"{gain.mean():+.3f}" if len(gain) else "", spread]
        lines.append(f"| {' | '.join([arm, *cells, *ended, f'{cpu[arm]:.0f}'])} |")
    if "both_AP" in rows and len(both := rows.dropna(subset=["both_AP"])):
        lines += [
            "",
            f"Mean heatmaps of both networks: {both['both_AP'].mean():.3f} ({len(both)} seeds).",
        ]
    lines += ["", *(f"- {arm}: {text}" for arm, text in TEXT.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with exit_codes("benchmark"):
        main()
