"""AP, memory, time and disk of fine-tuning all weights, adapters (LoRA) or the head alone.

    python benchmarks/finetune.py [--seeds 1 2 3] [--epochs 25] [--lr 0.004 0.001]
        [--work FOLDER]

The starting weights are the backbone of models/phase2.safetensors, of a finished default run. The
new task are people of another seed of the renderer, of whom 200 have keypoints. Each arm trains a
fresh head on the frozen backbone (phase 1, 2 epochs) and then phase 2 as its settings say, with
each lr, since one that suits all weights need not suit adapters. A finished arm is a row of
WORK/rows.csv and is not run again; the table of these rows is written to benchmarks/finetune.md.
About 3 minutes of one core per arm and seed with 25 epochs, if nothing else runs; Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import build_cache
import download_coco
import evaluate
import train_phase1
import train_phase2
from pose.common import stage
from pose.common.files import read_json, write_atomic
from pose.common.log import BarSafeHandler, logger
from pose.common.params import load_params
from pose.common.script import exit_codes
from pose.models.checkpoint import read_own, save_weights

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "models" / "phase2.safetensors"
LABELLED = 200
COMMON: dict[str, Any] = {
    "run.threads": 1,
    "data.labelled_persons": LABELLED,
    "synthetic.train_images": 300,
    "phase1.epochs": 2,
    "train.warmup_iters": 20,
    "train.val_epochs": 0,
    "train.picture_epochs": 0,
    "evaluate.models": ["phase2"],
    "evaluate.ablation": "headline",
}
ARMS: dict[str, dict[str, Any]] = {  # in the order of the table
    "full": {},
    "full, adamw8bit": {"train.optimizer": "adamw8bit"},
    "lora, rank 4": {"train.finetune": "lora", "lora.rank": 4, "lora.alpha": 8.0},
    "lora, rank 16": {"train.finetune": "lora", "lora.rank": 16, "lora.alpha": 32.0},
    "lora, rank 64": {"train.finetune": "lora", "lora.rank": 64, "lora.alpha": 128.0},
    "lora, rank 16, adamw8bit": {"train.finetune": "lora", "train.optimizer": "adamw8bit"},
    "head": {"train.finetune": "head"},
}
COLUMNS = ("arm", "lr", "AP", "spread", "trained", "peak MB", "s / step", "MB in DVC")


def main() -> None:
    """Render each seed's people, run the missing arms, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.004, 0.001])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "benchmark_finetune")
    options = parser.parse_args()
    work, rows = options.work.resolve(), options.work.resolve() / "rows.csv"
    for seed in options.seeds:
        folder = work / f"seed-{seed}"
        people = {**COMMON, "run.seed": seed, "synthetic.seed": seed}
        people["phase2.epochs"] = options.epochs
        if not (folder / "data/cache/summary.json").exists():
            in_child(prepare, folder, people)
        for arm, lr in product(options.arms, options.lr):
            key = {"arm": arm, "seed": seed, "epochs": options.epochs, "lr": lr}
            if not is_done(rows, key):
                found = in_child(run_arm, folder, people | ARMS[arm] | {"train.lr": lr})
                append(rows, key | found)
                write_table(rows, options.epochs)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a forked process, whose memory is its own."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def prepare(folder: Path, changes: dict[str, Any]) -> None:
    """Render and cache this seed's people, beside the starting weights and the code."""
    shutil.copytree(ROOT / "stages", folder / "stages")
    shutil.copy(ROOT / "dvc.yaml", folder)
    start(folder, changes)
    download_coco.main(load_params(Path("params.yaml")))
    build_cache.main(load_params(Path("params.yaml")))


def start(folder: Path, changes: dict[str, Any]) -> None:
    """Work in the folder, with params.yaml changed, and with the starting weights."""
    if not logger.handlers:
        logger.addHandler(BarSafeHandler())
    logger.setLevel(logging.INFO)
    os.chdir(folder)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for key, value in changes.items():
        section, name = key.split(".")
        params[section][name] = value
    yaml.dump(params, Path("params.yaml"))
    backbone = {n: t for n, t in read_own(START).items() if n.startswith("backbone.")}
    save_weights(stage.WEIGHTS, backbone, {"source": "phase 2 of the default run"})


def run_arm(folder: Path, changes: dict[str, Any]) -> dict[str, float]:
    """A row's numbers: AP with flip test, trained parameters, and what phase 2 took."""
    start(folder, changes)
    params = load_params(Path("params.yaml"))
    train_phase1.main(params)
    if params.train.finetune == "lora":
        import peft  # noqa: F401  # its import is no part of the training
    if params.train.optimizer == "adamw8bit":
        import bitsandbytes  # noqa: F401
    before, began = resident("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    train_phase2.main(params)
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    steps = read_json(Path("metrics/train_phase2/metrics.json"))["step"]
    path = Path("models/phase2.safetensors")
    for name in ("ssl", "ssl_second"):  # evaluate asks for its dependencies
        shutil.copyfile(path, path.with_stem(name))
    evaluate.main(params)
    return {
        "AP": read_json(Path("metrics/evaluate/metrics.json"))["AP"],
        "trained": sum(t.numel() for t in read_own(path).values()),
        "peak": peak / 1e6,
        "seconds": seconds / steps,
        "disk": path.stat().st_size / 1e6,
    }


def resident(key: str) -> int:
    """Bytes of this process's memory, by a key of Linux' /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def is_done(rows: Path, key: dict[str, Any]) -> bool:
    found = pd.read_csv(rows) if rows.exists() else pd.DataFrame(columns=list(key))
    return bool((found[list(key)] == pd.Series(key)).all(axis=1).any())


def append(rows: Path, row: dict[str, Any]) -> None:
    found = [pd.read_csv(rows)] if rows.exists() else []
    table = pd.concat([*found, pd.DataFrame([row])])
    write_atomic(rows, table.to_csv(index=False).encode())
    print(json.dumps(row), flush=True)


def write_table(rows: Path, epochs: int) -> None:
    """benchmarks/finetune.md: a row per arm and lr, mean and standard deviation over seeds."""
    found = pd.read_csv(rows)
    found = found[found["epochs"] == epochs]
    lrs = sorted({*found["lr"]}, reverse=True)
    seeds = " ".join(map(str, sorted({*found["seed"]})))
    lines = [
        "# Fine-tuning all weights, adapters or the head",
        "",
        f"`python benchmarks/finetune.py --seeds {seeds} --epochs {epochs} "
        f"--lr {' '.join(f'{lr:g}' for lr in lrs)}`",
        "",
        *TEXT,
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for arm, lr in product(ARMS, lrs):
        if len(part := found[(found["arm"] == arm) & (found["lr"] == lr)]):
            spread = f"{part['AP'].std():.3f}" if len(part) > 1 else "one seed"
            mean = part.mean(numeric_only=True)
            cells = (arm, f"{lr:g}", f"{mean['AP']:.3f}", spread, f"{mean['trained']:,.0f}")
            cells += (f"{mean['peak']:.0f}", f"{mean['seconds']:.2f}", f"{mean['disk']:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    path = ROOT / "benchmarks" / "finetune.md"
    write_atomic(path, ("\n".join(lines) + "\n").encode())


TEXT = (
    "Rendered people at 72 x 96 pixels of another seed than the backbone was trained on, 200 of",
    "them with keypoints; AP on held-out people with flip test, mean over seeds, and its standard",
    "deviation. Every row has the same number of steps. Trained are parameters of phase 2;",
    "peak is the memory that phase 2 added to its process; MB in DVC is models/phase2.safetensors.",
    "Seconds depend on what else the machine did.",
)

if __name__ == "__main__":
    with exit_codes("finetune"):
        main()
