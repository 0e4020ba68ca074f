"""What a run would take: people, steps, FLOPs, memory and hours, estimated without a GPU."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import read_json
from pose.common.params import Data, Params, Synthetic
from pose.common.skeleton import COCO_17
from pose.crops.splits import labelled_count
from pose.data.samples import steps_per_epoch
from pose.models.build import model_spec
from pose.models.vit import ModelSpec, build_on_meta
from pose.planner.count import Flops, Held, count_flops, count_held, count_parameters

ACHIEVED = stage.ROOT / "benchmarks" / "achieved.csv"
COCO_LABELLED = 149_813  # persons of train2017 with keypoints
COCO_UNLABELLED = 113_000  # about: 43 % of its persons have a box only
UNLABELLED_2017 = 274_000  # about: 123,403 images with as many persons each as train2017's
COCO_VAL = 6_352  # persons of val2017 with keypoints
DEFAULT_IMAGES, DEFAULT_LABELLED, DEFAULT_UNLABELLED = 1900, 2171, 701  # what the default renders
DEFAULT_FRACTION = 0.25  # synthetic.unlabelled_fraction of these
DEFAULT_VAL_IMAGES, DEFAULT_VAL = 240, 361  # of val, none unlabelled
STATE_BYTES = {"weights": 4, "gradients": 4, "AdamW": 8}  # a parameter, float32
AVERAGE_BYTES = 4  # a parameter: train.ema_decay
TYPES = {"none": "float32", "bf16": "bf16"}  # by count fp16 is as bf16


@dataclass(frozen=True)
class Persons:
    """Training persons, and how we know."""

    labelled: int
    unlabelled: int
    val: int
    source: str


@dataclass(frozen=True)
class Phase:
    """Steps and FLOPs of a training stage."""

    name: str
    steps: int
    flops: float


@dataclass(frozen=True)
class Rate:
    """What a device achieves in training: a row of achieved.csv."""

    device: str
    memory_gb: float | None
    amp: str
    tflops: float
    basis: str  # measured: on what; or assumed: from what


@dataclass(frozen=True)
class Plan:
    """All that is told of a run."""

    backbone: int  # parameters
    head: int
    flops: Flops  # of an image
    persons: Persons
    phases: list[Phase]
    held: dict[tuple[str, bool], Held]  # by amp and grad_checkpointing
    state: int = sum(STATE_BYTES.values())  # bytes a parameter


def plan(params: Params, cache: Path | None) -> Plan:
    """Of params; persons are counted in `cache` if it is there."""
    names = params.keypoints.names or COCO_17.names  # of a file that is not at hand
    spec = model_spec(params, len(names))
    model, flops = build_on_meta(spec), count_flops(spec)
    found = persons(params, cache)
    return Plan(
        backbone=count_parameters(model.backbone),
        head=count_parameters(model.head),
        flops=flops,
        persons=found,
        phases=phases(params, found, flops),
        held={(amp, on): _held(spec, amp, on) for amp in TYPES for on in (False, True)},
        state=sum(state_bytes(params).values()),
    )


def _held(spec: ModelSpec, amp: str, checkpointing: bool) -> Held:
    return count_held(replace(spec, grad_checkpointing=checkpointing), amp)


def persons(params: Params, cache: Path | None) -> Persons:
    """Of data/cache, of COCO, or as many as the embedded default renders.

    Raises PoseError where nobody knows.
    """
    summary = cache and cache / "summary.json"
    if summary and summary.is_file():
        counts = read_json(summary)
        val = counts["val_labelled"]
        return Persons(counts["train"], counts["unlabelled"], val, "data/cache")
    if params.data.source == "coco":
        every = Persons(COCO_LABELLED, COCO_UNLABELLED, COCO_VAL, "COCO 2017, the second about")
        return _split(every, params.data)
    if params.data.source == "synthetic":
        return _split(_rendered(params.synthetic), params.data)
    raise PoseError(
        f"params.yaml: data.source = {params.data.source!r}, whose persons are not counted yet; "
        "`dvc repro build_cache` counts them"
    )


def _split(found: Persons, law: Data) -> Persons:
    """Whom the params of data give to phases 1 and 2, and whom to stage 2 (crops/splits.py)."""
    labelled = labelled_count(law, found.labelled, "train")
    others = found.unlabelled if "boxes" in law.unlabelled else 0
    others += found.labelled - labelled if "rest" in law.unlabelled else 0
    others += UNLABELLED_2017 if law.unlabelled_images else 0
    return replace(found, labelled=labelled, unlabelled=others)


def _rendered(law: Synthetic) -> Persons:
    """In proportion to the default's; seeds and sizes move the counts by a few."""
    share, fraction = law.train_images / DEFAULT_IMAGES, law.unlabelled_fraction
    return Persons(
        round(DEFAULT_LABELLED * share * (1 - fraction) / (1 - DEFAULT_FRACTION)),
        round(DEFAULT_UNLABELLED * share * fraction / DEFAULT_FRACTION),
        round(DEFAULT_VAL * law.val_images / DEFAULT_VAL_IMAGES),
        "rendered, in proportion to the default's",
    )


def phases(params: Params, found: Persons, flops: Flops) -> list[Phase]:
    """Steps by the stages' own rule. An unlabelled person costs the teacher's two views forward
    and each path's training, an ensemble each path's forward besides (consistency.py). The last row
    is val_AP of all phases, its steps the forward passes of a person."""
    rows = _training(params, found, flops)
    validated = sum(_validations(params, n) for n in _epochs(params))
    images = validated * min(found.val, params.train.val_persons)
    return [*rows, Phase("val_AP", images, images * flops.forward)]


def _epochs(params: Params) -> tuple[int, int, int]:
    return params.phase1.epochs, params.phase2.epochs, params.ssl.epochs


def _validations(params: Params, epochs: int) -> int:
    """Every val_epochs epochs, and after the last."""
    every = params.train.val_epochs
    return ceil(epochs / every) if every else 0


def _training(params: Params, found: Persons, flops: Flops) -> list[Phase]:
    train, ssl = params.train, params.ssl
    per_epoch = steps_per_epoch(found.labelled, train.batch_size)
    image = flops.training + flops.recomputed * params.model.grad_checkpointing
    head_steps, steps = params.phase1.epochs * per_epoch, params.phase2.epochs * per_epoch
    rows = [
        Phase("phase1", head_steps, head_steps * train.batch_size * flops.frozen),
        Phase("phase2", steps, steps * train.batch_size * image),
    ]
    if not ssl.epochs:
        return [*rows, Phase("ssl", 0, 0)]
    others = steps_per_epoch(found.unlabelled, ssl.batch_size, "ssl.batch_size")
    steps = ssl.epochs * max(per_epoch, others)
    views = 2 + len(ssl.paths) * (ssl.loss == "ensemble")
    unlabelled = views * flops.forward + len(ssl.paths) * image
    step = ssl.networks * (train.batch_size * image + ssl.batch_size * unlabelled)
    return [*rows, Phase("ssl", steps, steps * step)]


def state_bytes(params: Params) -> dict[str, int]:
    """What is kept of each parameter between two steps, and its gradient; where stage 2 keeps more
    (two networks, averaged teachers), its."""
    ssl = params.ssl
    averaged = params.train.ema_decay or (ssl.epochs and ssl.ema_decay)
    networks = ssl.networks if ssl.epochs else 1
    one = STATE_BYTES | ({"average": AVERAGE_BYTES} if averaged else {})
    return {part: size * networks for part, size in one.items()}


def total_bytes(found: Plan, amp: str, checkpointing: bool, batch: int) -> int:
    """Of a training step of the whole model."""
    held = found.held[amp, checkpointing]
    state = found.state * (found.backbone + found.head)
    return state + held.fixed + held.sample * batch


def largest_batch(found: Plan, amp: str, checkpointing: bool, memory_gb: float) -> int:
    """How many samples fit by count, 0 if not even the weights do."""
    left = memory_gb * 1e9 - total_bytes(found, amp, checkpointing, 0)
    return max(0, int(left // found.held[amp, checkpointing].sample))


def report(name: str, params: Params, found: Plan, rates: list[Rate]) -> str:
    """Lines for eyes."""
    parts = [_size(name, params, found), _steps(found), _memory(params, found)]
    return "\n\n".join([*parts, _hours(params, found, rates)])


def _size(name: str, params: Params, found: Plan) -> str:
    (width, height), flops = params.codec.input_size, found.flops
    return "\n".join(
        [
            f"{name}: input {width} x {height} (w x h)",
            f"parameters   backbone {found.backbone:,}  head {found.head:,}",
            f"an image     forward {flops.forward / 1e9:,.1f} GFLOP, training "
            f"{flops.training / 1e9:,.1f}, head on a frozen backbone {flops.frozen / 1e9:,.1f}, "
            f"grad_checkpointing + {flops.recomputed / 1e9:,.1f}",
        ]
    )


def _steps(found: Plan) -> str:
    people = found.persons
    lines = [
        f"persons      {people.labelled:,} labelled, {people.unlabelled:,} without keypoints, "
        f"{people.val:,} of val ({people.source})"
    ]
    *trained, validated = found.phases
    for phase in trained:
        lines.append(f"{phase.name:12} {phase.steps:,} steps, {phase.flops / 1e12:,.1f} TFLOP")
    seen, work = validated.steps, validated.flops / 1e12
    lines.append(f"{validated.name:12} {seen:,} persons forward, {work:,.1f} TFLOP")
    return "\n".join(lines)


def _memory(params: Params, found: Plan) -> str:
    """This run's parts, then what the dials give."""
    batch, own = params.train.batch_size // params.train.accumulate, _own(params)
    numbers, held = found.backbone + found.head, found.held[own]
    parts = [f"{part} {size * numbers / 1e9:.2f}" for part, size in state_bytes(params).items()]
    parts += [f"activations {(held.fixed + held.sample * batch) / 1e9:.2f}"]
    label = TYPES.get(params.train.amp, params.train.amp)
    lines = [
        f"memory, GB   {' + '.join(parts)} = {total_bytes(found, *own, batch) / 1e9:.2f}"
        f"  (batch {batch}, {label}{', grad_checkpointing' * own[1]})",
        f"the dials    {'':34}" + "".join(f"{label:>10}" for label in ("float32", "16 bit")),
    ]
    for checkpointing in (False, True):
        for size in (batch, max(1, batch // 2)):
            cells = [f"{total_bytes(found, amp, checkpointing, size) / 1e9:10.2f}" for amp in TYPES]
            label = f"batch {size}" + (", grad_checkpointing" if checkpointing else "")
            lines.append(f"             {label:34}{''.join(cells)}")
    return "\n".join(lines)


def _own(params: Params) -> tuple[str, bool]:
    """Key of `held` for the run itself; every 16 bit type counts as bf16."""
    return "none" if params.train.amp == "none" else "bf16", params.model.grad_checkpointing


def _hours(params: Params, found: Plan, rates: list[Rate]) -> str:
    """A row a device and type: hours, the batch that fits, and where the rate is from."""
    flops = sum(phase.flops for phase in found.phases)
    lines = [f"hours of training on one device {'type':>9}{'hours':>11}{'batch fits':>12}  rate"]
    for rate in rates:
        hours = _rounded(flops / rate.tflops / 3.6e15)
        cells = f"{TYPES[rate.amp]:>9}{hours:>11}{_fits(found, params, rate):>12}"
        lines.append(f"  {rate.device:30}{cells}  {rate.tflops:g} TFLOP/s, {rate.basis}")
    return "\n".join(lines)


def _rounded(hours: float) -> str:
    if hours >= 10:
        return f"{hours:,.0f}"
    return f"{hours:.1f}" if hours >= 0.1 else "< 0.1"


def _fits(found: Plan, params: Params, rate: Rate) -> str:
    if rate.memory_gb is None:
        return ""
    return f"{largest_batch(found, rate.amp, params.model.grad_checkpointing, rate.memory_gb):,}"


def read_rates(path: Path) -> list[Rate]:
    """Rows of achieved.csv."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            Rate(
                device=row["device"],
                memory_gb=float(row["memory_gb"]) if row["memory_gb"] else None,
                amp=row["amp"],
                tflops=float(row["tflops"]),
                basis=row["basis"],
            )
            for row in csv.DictReader(stream)
        ]
