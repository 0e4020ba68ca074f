"""What a run takes: people, steps, FLOPs, memory and hours, estimated without a GPU."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from pose.coco.annotations import read_annotations
from pose.coco.files import local_root, split_files
from pose.coco.further import read_further, weight_of
from pose.coco.splits import read_splits
from pose.common import stage
from pose.common.files import read_json
from pose.common.params import Data, Params, Synthetic
from pose.common.skeleton import COCO_17, asked_names
from pose.crop_table import CropTable
from pose.crops.aspect import advice, median_ratio
from pose.crops.splits import labelled_count
from pose.data.samples import steps_per_epoch
from pose.engine.finetune import freeze_for_phase2_
from pose.models.pose_model import PoseModel
from pose.models.spec import model_spec
from pose.planner.count import (
    Flops,
    Freeze,
    StepBytes,
    count_flops,
    count_parameters,
    count_step_bytes,
    model_of,
    moment_bytes,
)

ACHIEVED = stage.ROOT / "benchmarks" / "achieved.csv"
COCO_LABELLED = 149_813  # people with keypoints in train2017
COCO_BOX_ONLY = 113_000  # approximate: 43 % of the people in train2017 have a box only
COCO_UNLABELED_IMAGES = 274_000  # approximate: 123,403 images, people per image as in train2017
COCO_VAL = 6_352  # people with keypoints in val2017
DEFAULT_IMAGES, DEFAULT_LABELLED, DEFAULT_UNLABELLED = 1700, 1953, 606  # as rendered by default
DEFAULT_FRACTION = 0.25  # synthetic.unlabelled_fraction of that run
DEFAULT_VAL_IMAGES, DEFAULT_VAL = 240, 361  # its val split, all labelled
FLOAT32_BYTES = 4
CARDS_GB = (12, 16, 24, 48, 80)
DTYPES = {"none": "float32", "bf16": "bf16"}  # by train.amp; fp16 takes the same as bf16


@dataclass(frozen=True)
class People:
    """Numbers of people, and where the numbers come from."""

    labelled: int  # for phases 1 and 2
    unlabelled: int  # for stage 2 (SSL)
    val: int
    source: str
    extra: int = 0  # samples of an epoch above `labelled`, by the weights of data.also

    @property
    def per_epoch(self) -> int:
        """Samples of an epoch of the phases 1 and 2."""
        return self.labelled + self.extra


@dataclass(frozen=True)
class Phase:
    """Optimiser steps and FLOPs of a training phase; for val_AP, forward passes and FLOPs."""

    name: str
    steps: int
    flops: float


@dataclass(frozen=True)
class Throughput:
    """What a device achieves in training: a row of achieved.csv."""

    device: str
    memory_gb: float | None
    amp: str
    tflops: float
    basis: str  # "measured: <of what>" or "assumed: <from what>"


@dataclass(frozen=True)
class Plan:
    """The estimates for a run."""

    backbone: int  # parameters
    head: int  # parameters
    flops: Flops  # per image
    people: People
    phases: list[Phase]
    step: Callable[[str, bool], StepBytes]  # of (amp, grad_checkpointing); each is counted once
    state: dict[str, int]  # bytes of weights, AdamW, EMA, and of gradients that are held
    trained: int  # parameters of phase 2, adapters among them
    boxes: str | None = None  # how the boxes of data/cache fit into the input


def make_plan(params: Params, cache: Path | None, processes: int = 1) -> Plan:
    """The plan of these params; people are counted in the folder `cache` if it was built.

    cache: as built_cache gives it. processes: that train by DDP; memory is of one of them. Raises
    PoseError if the people cannot be counted, or are fewer than a batch.
    """
    names = asked_names(params.keypoints.parts, params.keypoints.names)
    spec = model_spec(params, len(names or COCO_17.names))  # the file may not be there yet
    model, flops = model_of(spec), count_flops(spec, freezing(params, "float32"))
    trained = deepcopy(model)
    freezing(params, params.model.frozen_dtype)(trained)
    held = gradients_are_held(params, processes)
    people = count_people(params, cache)

    @lru_cache
    def count_step(amp: str, checkpointing: bool) -> StepBytes:
        frozen_dtype = "float32" if amp == "none" else params.model.frozen_dtype
        of = replace(spec, grad_checkpointing=checkpointing)
        return count_step_bytes(of, amp, freezing(params, frozen_dtype), held)

    return Plan(
        backbone=count_parameters(model.backbone),
        head=count_parameters(model.head),
        flops=flops,
        people=people,
        phases=phases(params, people, flops),
        step=count_step,
        state=state_bytes(params, trained, held),
        trained=sum(p.numel() for p in trained.parameters() if p.requires_grad),
        boxes=_boxes(params, cache),
    )


def _boxes(params: Params, cache: Path | None) -> str | None:
    table = CropTable(cache / "train") if cache and (cache / "train").is_dir() else ()
    return advice(median_ratio(table), params.codec, params.model) if table else None


# --- people


def built_cache(params: Params, root: Path) -> Path | None:
    """The project's data/cache if dvc.lock says that it was built with these params, else None."""
    lock = root / "dvc.lock"
    entries = yaml.load(lock.read_bytes(), yaml.CSafeLoader) if lock.is_file() else {}
    built = entries.get("stages", {}).get("build_cache", {}).get("params", {}).get("params.yaml")
    values = params.model_dump(mode="json", exclude_unset=True)

    def current(key: str) -> Any:
        section, _, name = key.partition(".")
        return values[section][name] if name else values[section]

    same = built and all(current(key) == value for key, value in built.items())
    return root / stage.CACHE if same else None


def count_people(params: Params, cache: Path | None) -> People:
    """People in `cache`, in COCO 2017, in own annotation files, or as many as would be rendered.

    Raises PoseError if own annotation files cannot be read.
    """
    summary = cache and cache / "summary.json"
    if summary and summary.is_file():
        counts = read_json(summary)
        val, weights = counts["val_labelled"], [weight_of(one) for one in params.data.also or ()]
        by_set = [counts[f"train_{one.name}"] for one in params.data.also or ()]
        extra = sum(round(w * n) - n for w, n in zip(weights, by_set, strict=True))
        return People(counts["train"], counts["unlabelled"], val, "data/cache", extra)
    if params.data.source == "coco":
        source = "COCO 2017; the number without keypoints is approximate"
        main = People(COCO_LABELLED, COCO_BOX_ONLY, COCO_VAL, source)
    elif params.data.source == "synthetic":
        main = _synthetic_people(params.synthetic)
    else:
        main = _own_people(params)
    return _with_further(_split(main, params.data), params)


def _with_further(people: People, params: Params) -> People:
    """With the people of data.also, whose annotation files are read as the stages read them."""
    names = model_names(params) if params.data.also else ()
    for one in read_further("train", params.data, names):
        persons = one.split.annotations.persons
        labelled = sum(person.num_keypoints > 0 for person in persons)
        boxes = len(persons) - labelled if "boxes" in params.data.unlabelled else 0
        people = replace(
            people,
            labelled=people.labelled + labelled,
            unlabelled=people.unlabelled + boxes,
            source=f"{people.source}; {one.entry.name}",
            extra=people.extra + round(weight_of(one.entry) * labelled) - labelled,
        )
    return people


def model_names(params: Params) -> Sequence[str]:
    """The model's keypoints: those of the main set, or COCO's if it is not there yet."""
    data, names = params.data, asked_names(params.keypoints.parts, params.keypoints.names)
    if data.source != "local":
        return names or COCO_17.names
    files = split_files(local_root(data), data, "train")
    return read_annotations(files, data, names).category.names


def _own_people(params: Params) -> People:
    """In the annotation files of local data, which are read as the stages read them."""
    data = params.data
    names = asked_names(params.keypoints.parts, params.keypoints.names)
    splits = read_splits(local_root(data), data, names)
    train, val = (splits[kind].annotations for kind in ("train", "val"))
    labelled = sum(person.num_keypoints > 0 for person in train.persons)
    in_val = sum(person.num_keypoints > 0 for person in val.persons)
    source = "the annotation files"
    return People(labelled, len(train.persons) - labelled, in_val, source)


def _synthetic_people(synthetic: Synthetic) -> People:
    """In proportion to the default data set; other seeds and sizes give a few more or less."""
    share = synthetic.train_images / DEFAULT_IMAGES
    fraction = synthetic.unlabelled_fraction
    return People(
        round(DEFAULT_LABELLED * share * (1 - fraction) / (1 - DEFAULT_FRACTION)),
        round(DEFAULT_UNLABELLED * share * fraction / DEFAULT_FRACTION),
        round(DEFAULT_VAL * synthetic.val_images / DEFAULT_VAL_IMAGES),
        "synthetic, in proportion to the default",
    )


def _split(people: People, data: Data) -> People:
    """People for phases 1 and 2 and people for stage 2, as crops/splits.py splits them."""
    labelled = labelled_count(data, people.labelled, "train")
    unlabelled = people.unlabelled if "boxes" in data.unlabelled else 0
    unlabelled += people.labelled - labelled if "rest" in data.unlabelled else 0
    unlabelled += COCO_UNLABELED_IMAGES if data.unlabelled_images else 0
    return replace(people, labelled=labelled, unlabelled=unlabelled)


# --- steps and FLOPs


def phases(params: Params, people: People, flops: Flops) -> list[Phase]:
    """phase1, phase2, ssl, and val_AP: the evaluations during all three.

    In stage 2 an unlabelled person takes two forward passes of the teacher (image and mirror
    image) and a training pass per path; the loss "ensemble" adds a forward pass per path.
    """
    train, ssl = params.train, params.ssl
    per_epoch = steps_per_epoch(people.per_epoch, train.batch_size)
    head_steps, steps = params.phase1.epochs * per_epoch, params.phase2.epochs * per_epoch
    image = flops.training + flops.recomputed * params.model.grad_checkpointing
    ssl_steps, ssl_flops = 0, 0
    if ssl.epochs and people.unlabelled:  # else stage 2 is skipped
        unlabelled = steps_per_epoch(people.unlabelled, ssl.batch_size, "ssl.batch_size")
        ssl_steps = ssl.epochs * max(per_epoch, unlabelled)
        forwards = 2 + len(ssl.paths) * (ssl.loss == "ensemble")
        person = forwards * flops.forward + len(ssl.paths) * image
        step = ssl.networks * (train.batch_size * image + ssl.batch_size * person)
        ssl_flops = ssl_steps * step
    evaluations = 0
    if train.val_epochs:  # every val_epochs epochs, and after the last
        epochs = (params.phase1.epochs, params.phase2.epochs, ssl.epochs * bool(people.unlabelled))
        evaluations = sum(ceil(n / train.val_epochs) for n in epochs)
    forward_passes = evaluations * min(people.val, train.val_persons)
    return [
        Phase("phase1", head_steps, head_steps * train.batch_size * flops.head_only),
        Phase("phase2", steps, steps * train.batch_size * image),
        Phase("ssl", ssl_steps, ssl_flops),
        Phase("val_AP", forward_passes, forward_passes * flops.forward),
    ]


# --- memory


def freezing(params: Params, dtype: str) -> Freeze:
    """What phase 2 does to a model before it trains, with frozen weights of a dtype."""
    model = params.model.model_copy(update={"frozen_dtype": dtype})
    return partial(freeze_for_phase2_, params=params.model_copy(update={"model": model}))


def gradients_are_held(params: Params, processes: int) -> bool:
    """Whether all gradients are in memory during a forward, and not only after the backward.

    DDP keeps them in its buckets; several micro-batches, paths or networks add to them.
    """
    return processes > 1 or params.train.accumulate > 1 or bool(params.ssl.epochs)


def state_bytes(params: Params, model: PoseModel, held: bool) -> dict[str, int]:
    """Bytes of weights, optimiser, EMA and held gradients of a frozen model, in the stage that
    needs most: stage 2 if it trains two networks or averages its teachers."""
    ssl = params.ssl
    with_ema = params.train.ema_decay or (ssl.epochs and ssl.ema_decay)
    networks = ssl.networks if ssl.epochs else 1
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learned = FLOAT32_BYTES * sum(parameter.numel() for parameter in trained)
    sizes = {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        **({"gradients": learned} if held else {}),
        "AdamW": moment_bytes(trained, params.train.optimizer),
        **({"EMA": learned} if with_ema else {}),
    }
    return {part: size * networks for part, size in sizes.items()}


def step_bytes(plan: Plan, amp: str, checkpointing: bool, batch: int) -> int:
    """Memory of a training step of phase 2."""
    return sum(plan.state.values()) + plan.step(amp, checkpointing).at(batch)


def largest_batch(plan: Plan, amp: str, checkpointing: bool, memory_gb: float) -> int:
    """Estimated samples that fit into the memory; 0 if the weights alone do not fit."""
    free = memory_gb * 1e9 - sum(plan.state.values())
    return plan.step(amp, checkpointing).largest_batch(free)


# --- throughput of devices


def read_throughputs(path: Path) -> list[Throughput]:
    """Rows of achieved.csv."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            Throughput(
                device=row["device"],
                memory_gb=float(row["memory_gb"]) if row["memory_gb"] else None,
                amp=row["amp"],
                tflops=float(row["tflops"]),
                basis=row["basis"],
            )
            for row in csv.DictReader(stream)
        ]


# --- the text that plan.py prints


def format_plan(name: str, params: Params, plan: Plan, throughputs: list[Throughput]) -> str:
    """The plan as text; name is the recipe's or params.yaml."""
    (width, height), flops = params.codec.input_size, plan.flops
    size = [
        f"{name}: input {width} x {height} (w x h)",
        f"parameters   backbone {plan.backbone:,}  head {plan.head:,}{_trained(params, plan)}",
        f"per image    forward {flops.forward / 1e9:,.1f} GFLOP, training "
        f"{flops.training / 1e9:,.1f}, head on a frozen backbone {flops.head_only / 1e9:,.1f}, "
        f"grad_checkpointing adds {flops.recomputed / 1e9:,.1f}",
        *([f"boxes        {plan.boxes}"] if plan.boxes else []),
    ]
    people = plan.people
    steps = [
        f"people       {people.labelled:,} labelled, {people.unlabelled:,} without keypoints, "
        f"{people.val:,} in val ({people.source})"
    ]
    *training, val = plan.phases
    for phase in training:
        steps.append(f"{phase.name:12} {phase.steps:,} steps, {_format_flops(phase.flops)}")
    steps.append(f"{val.name:12} {val.steps:,} forward passes, {_format_flops(val.flops)}")
    parts = size, steps, _memory_lines(params, plan), _hours_lines(params, plan, throughputs)
    return "\n\n".join("\n".join(lines) for lines in parts)


def _trained(params: Params, plan: Plan) -> str:
    """What phase 2 trains, unless it is everything."""
    train = params.train.finetune
    return "" if train == "full" else f"  trained {plan.trained:,} ({train})"


def _memory_lines(params: Params, plan: Plan) -> list[str]:
    """Memory of this run by part, then the totals of other memory settings."""
    batch = params.train.batch_size // params.train.accumulate
    checkpointing = params.model.grad_checkpointing
    amp = "none" if params.train.amp == "none" else "bf16"  # fp16 takes the same
    step = plan.step(amp, checkpointing).at(batch)
    parts = [f"{part} {size / 1e9:.2f}" for part, size in plan.state.items()]
    kept = "activations" if "gradients" in plan.state else "gradients and activations"
    parts += [f"{kept} {step / 1e9:.2f}"]
    dtype = DTYPES.get(params.train.amp, params.train.amp)
    lines = [
        f"memory, GB   {' + '.join(parts)} = "
        f"{step_bytes(plan, amp, checkpointing, batch) / 1e9:.2f}"
        f"  (batch {batch}, {dtype}{', grad_checkpointing' * checkpointing})",
        f"{'memory settings':47}" + "".join(f"{label:>10}" for label in ("float32", "16 bit")),
    ]
    for on in (False, True):
        for size in (batch, max(1, batch // 2)):
            cells = [f"{step_bytes(plan, amp, on, size) / 1e9:10.2f}" for amp in DTYPES]
            label = f"batch {size}" + (", grad_checkpointing" if on else "")
            lines.append(f"             {label:34}{''.join(cells)}")
    fits = (f"{gb} GB {largest_batch(plan, amp, checkpointing, gb):,}" for gb in CARDS_GB)
    return [*lines, f"batch fits   {', '.join(fits)}  ({dtype})"]


def _hours_lines(params: Params, plan: Plan, throughputs: list[Throughput]) -> list[str]:
    """One row per device and dtype: hours, the batch that fits, and the basis of the estimate."""
    flops = sum(phase.flops for phase in plan.phases)
    lines = [f"training on one device {'dtype':>18}{'time':>26}{'batch fits':>12}  throughput"]
    for device in throughputs:
        fits = ""
        if device.memory_gb is not None:
            checkpointing = params.model.grad_checkpointing
            fits = f"{largest_batch(plan, device.amp, checkpointing, device.memory_gb):,}"
        hours = _format_hours(flops / device.tflops / 3.6e15)
        cells = f"{DTYPES[device.amp]:>9} {hours:>25}{fits:>12}"
        lines.append(f"  {device.device:30}{cells}  {device.tflops:g} TFLOP/s, {device.basis}")
    return lines


def _format_flops(flops: float) -> str:
    """Three digits with the largest prefix that fits: "391 EFLOP", "0.44 TFLOP"."""
    for factor, prefix in ((1e18, "E"), (1e15, "P")):
        if flops >= factor:
            return f"{flops / factor:,.{_decimals(flops / factor)}f} {prefix}FLOP"
    return f"{flops / 1e12:.{_decimals(flops / 1e12)}f} TFLOP"


def _decimals(value: float) -> int:
    """Those of three digits, at most two."""
    return 0 if value >= 100 or not value else 1 if value >= 10 else 2


def _format_hours(hours: float) -> str:
    """In hours; from two days on also in days: "366 h = 15 days"."""
    if hours >= 48:
        return f"{hours:,.0f} h = {hours / 24:,.{int(hours < 240)}f} days"
    if hours >= 10:
        return f"{hours:.0f} h"
    return f"{hours:.1f} h" if hours >= 0.1 else "< 0.1 h"
