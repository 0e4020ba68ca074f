"""Small trainings for test_parallel, alone or as one of several processes under torchrun.

    torchrun --nproc-per-node 2 two_processes.py FOLDER

No test itself. As a script it writes what the first process has found to FOLDER/found.pt.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pose import distributed
from pose.codecs.udp import UdpCodec
from pose.common.errors import PoseError, Stopped
from pose.common.skeleton import COCO_17
from pose.engine import checkpoint, parallel
from pose.engine.ema import WeightEma
from pose.engine.fit import (
    Gradients,
    TrainState,
    fit,
    freeze_backbone_,
    loss_scaler,
    model_weights,
    supervised_step,
)
from pose.engine.optim import Schedule, build_optimizer
from pose.models.adapter import add_adapters_
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from pose.ssl.consistency import Consistency
from pose.ssl.students import network_teacher
from sections import DEFAULT, changed

CPU = torch.device("cpu")
STEPS, KILL_AT, BATCH = 6, 4, 4
CODEC = UdpCodec("gaussian", (24, 32), (12, 16), 1.0, 0.0546875, COCO_17.flip_indices)
MULTIAUGS = changed(
    DEFAULT.ssl,
    paths=("joco", "jccm"),
    rotate_deg=20.0,
    scale_factor=0.15,
    affine_prob=0.8,
    joint_cutout=2,
    joint_occlude=2,
    cutout=1,
    cutmix=2,
    randaugment_ops=2,
    randaugment_magnitude=20,
    min_peak=-1e9,
    loss="multiaugs",
    teacher_weight=0.5,
    temperature=0.5,
    confidence_thr=0.4,
    kl_weight=0.0,
    kl_temperature=0.1,
)
ENSEMBLE = changed(MULTIAUGS, loss="ensemble", confidence_thr=0.0)
SPEC = ModelSpec((24, 32), 8, 2, 16, 2, 2, 0.0, "sapiens", (8, 8), (8,), False, 1, 17)

EIGHT_BIT: dict[str, Any] = {"optimizer": "adamw8bit", "wide": True}


def persons(seed: int) -> list[torch.Tensor]:
    """This process's share of a step's persons."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (BATCH, 32, 24, 3), dtype=torch.uint8, generator=generator)
    targets = torch.rand(BATCH, 17, 3, generator=generator) * torch.tensor([11, 15, 1.0])
    targets[..., 2] = (targets[..., 2] > 0.3).float()
    share = distributed.batch_per_process(BATCH, "BATCH")
    own = slice(share * distributed.rank(), share * (distributed.rank() + 1))
    return [images[own], targets[own]]


def train(
    kind: str = "ddp",
    accumulate: int = 1,
    amp: str = "none",
    ssl: bool = False,
    pair: bool = False,
    frozen: bool = False,
    lora: bool = False,
    compiled: bool = False,
    drop_path: float = 0.0,
    family: str = "vit",
    optimizer: str = "adamw",
    wide: bool = False,
    bad: str = "stop",
    decay: float = 0.0,
    teacher_decay: float = 0.0,
    asked: int = STEPS + 1,
    saved_steps: list[int] | None = None,
    stop: int = STEPS,
    start: dict[str, Any] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Weights, logged rows and saved states of a run from `start` (if resume) to `stop`."""
    torch.manual_seed(0)
    spec = replace(SPEC, embed_dim=32) if wide else SPEC  # moments of 8 bits: 4,096 values or more
    model = PoseModel(replace(spec, drop_path=drop_path, family=family, rope_dtype="fp32"))
    torch.nn.init.normal_(model.head.final_layer.weight, std=0.1)
    if frozen:
        freeze_backbone_(model)
    if lora:
        add_adapters_(model, changed(DEFAULT.lora, rank=2, norms=True), family)
    for block in model.backbone.blocks if compiled else ():
        block.compile(backend="aot_eager")
    students = [model]
    if pair:
        students.append(PoseModel(SPEC))
        torch.nn.init.normal_(students[1].head.final_layer.weight, std=0.1)
    learning = torch.nn.ModuleList(students) if pair else model
    network, *other = (parallel.wrap_distributed(one, kind, CPU) for one in students)
    torch.manual_seed(distributed.rank())
    scaler = loss_scaler(CPU, amp)
    chosen = {"optimizer": optimizer, "weight_decay": 0.1, "layer_decay": 0.9}
    settings = changed(DEFAULT.train, **chosen, betas=(0.9, 0.999))
    state = TrainState(learning, build_optimizer(learning, settings), scaler)
    state.ema = WeightEma(learning, decay) if decay else None
    teacher_ema = WeightEma(learning, teacher_decay) if teacher_decay else None
    state.teacher_ema = teacher_ema
    if resume:
        state.restore_(start)
    gradients = Gradients(accumulate, scaler)
    if ssl or pair:
        networks = [network, *other]
        teachers = [
            network_teacher(one, CODEC, CPU, amp, gradients, teacher_ema)
            for one in reversed(networks)
        ]
        common = CODEC, CPU, amp, (3, 4), lambda step: 0.5, gradients
        step = Consistency(networks, teachers, ENSEMBLE if pair else MULTIAUGS, *common)
        batches = ((persons(n), persons(50 + n)) for n in range(state.step, stop))
    else:
        step = supervised_step(network, CODEC, CPU, amp, gradients)
        batches = (persons(n) for n in range(state.step, stop))
    if bad == "skip":
        step = jumping(step)
    saved: list[dict[str, Any]] = []

    def save(state: TrainState) -> None:
        saved.append(deepcopy(state.to_dict()))  # they share memory
        if saved_steps is not None:
            saved_steps.append(state.step)

    fit(
        "train_x",
        changed(
            DEFAULT.train,
            clip_grad_norm=1.0,
            log_steps=3,
            checkpoint_steps=KILL_AT,
            batch_size=BATCH,
            on_bad_step=bad,
            max_skipped=20,
        ),
        state,
        batches,
        step,
        Schedule("cosine", 1e-2, STEPS, STEPS, 2, 1e-5, (9,), 0.1),
        on_row=lambda row: None,
        save=save,
        stop=lambda: distributed.any_process(asked_last(state.step == asked)),
    )
    weights = {name: tensor.clone() for name, tensor in model_weights(learning).items()}
    emas = {
        "ema": state.ema.to_dict() if state.ema else {},
        "teacher_ema": teacher_ema.to_dict() if teacher_ema else {},
    }
    return {"weights": weights, "rows": state.history, "saved": saved, **emas}


def asked_last(value: bool) -> bool:
    """The value in the last process, else False: the others have to hear of it."""
    return value and distributed.rank() == distributed.world_size() - 1


def jumping(step_loss: Any) -> Any:
    """The loss of the third step jumps in the last process alone."""

    def run(batch: Any, step: int) -> Any:
        found = step_loss(batch, step)
        return found | {"loss": found["loss"] * (1000 if asked_last(step == 2) else 1)}

    return run


def stopped(kind: str) -> list[int]:
    """Steps at which the state was saved by each process, the last of them asked after step 3."""
    saved: list[int] = []
    try:
        train(kind, asked=3, saved_steps=saved)
    except Stopped:
        saved.append(-1)
    return saved


def refusal() -> str:
    """The error for batch norms on CPU."""
    model = PoseModel(replace(SPEC, head="classic"))
    try:
        parallel.wrap_distributed(model, "ddp", CPU)
    except PoseError as error:
        return str(error)
    return ""


def exchanges() -> dict[str, Any]:
    """What each call of distributed gives of values that tell their process."""
    own = torch.full((1, 2), float(distributed.rank()))
    return {
        "world": distributed.world_size(),
        "from_first": distributed.broadcast(f"of {distributed.rank()}"),
        "gather": distributed.all_gather(distributed.rank()),
        "rows": distributed.all_gather_rows(own).tolist(),
        "mean": distributed.all_mean(own).tolist(),
    }


def resumed(folder: Path, kind: str, name: str, **others: Any) -> dict[str, Any]:
    """Train on from the state of another run; only the first process reads it."""
    path = folder / f"{name}.pt"
    start = checkpoint.read_training_state(path) if distributed.is_main_process() else None
    return train(kind, start=start, resume=True, **others)


def cut(folder: Path, kind: str, name: str, **others: Any) -> None:
    """A run that ends after its checkpoint, as if it were killed."""
    (state,) = train(kind, stop=KILL_AT + 1, **others)["saved"]
    if distributed.is_main_process():
        checkpoint.save_training_state(folder / f"{name}.pt", state)


def main(folder: Path) -> None:
    distributed.init(1)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    cut(folder, "fsdp", "fsdp")
    cut(folder, "ddp", "dropping", drop_path=0.5)
    cut(folder, "fsdp", "sapiens2", family="sapiens2")
    cut(folder, "fsdp", "ema", decay=0.5)
    cut(folder, "fsdp", "lora", lora=True)
    cut(folder, "ddp", "8 bit", **EIGHT_BIT)
    cut(folder, "fsdp", "teacher", pair=True, teacher_decay=0.5)
    found = {
        "ddp": train(),
        "ddp again": train(),
        "fsdp": train("fsdp"),
        "fsdp again": train("fsdp"),
        "ddp accumulate": train(accumulate=2),
        "fsdp accumulate": train("fsdp", accumulate=2),
        "ddp ssl": train(ssl=True),
        "fsdp ssl": train("fsdp", ssl=True),
        "ddp pair": train(pair=True),
        "fsdp pair": train("fsdp", pair=True),
        "ddp frozen": train(frozen=True),
        "fsdp frozen": train("fsdp", frozen=True),
        "ddp lora": train(lora=True),
        "fsdp lora": train("fsdp", lora=True),
        "fsdp lora, resumed": resumed(folder, "fsdp", "lora", lora=True),
        "ddp 8 bit": train(**EIGHT_BIT),
        "ddp 8 bit, resumed": resumed(folder, "ddp", "8 bit", **EIGHT_BIT),
        "fsdp fp16": train("fsdp", amp="fp16"),
        "ddp compiled": train(compiled=True),
        "fsdp compiled": train("fsdp", compiled=True),
        "ddp sapiens2": train(family="sapiens2"),
        "fsdp sapiens2": train("fsdp", family="sapiens2"),
        "fsdp sapiens2, resumed": resumed(folder, "fsdp", "sapiens2", family="sapiens2"),
        "fsdp, then ddp": resumed(folder, "ddp", "fsdp"),
        "fsdp, then fsdp": resumed(folder, "fsdp", "fsdp"),
        "dropping": train(drop_path=0.5),
        "dropping, resumed": resumed(folder, "ddp", "dropping", drop_path=0.5),
        "ddp skip": train(bad="skip"),
        "fsdp skip": train("fsdp", bad="skip"),
        "ddp ema": train(decay=0.5),
        "fsdp ema": train("fsdp", decay=0.5),
        "fsdp ema, resumed": resumed(folder, "fsdp", "ema", decay=0.5),
        "ddp teacher": train(ssl=True, teacher_decay=0.5),
        "fsdp teacher": train("fsdp", ssl=True, teacher_decay=0.5),
        "ddp pair of teachers": train(pair=True, teacher_decay=0.5),
        "fsdp pair of teachers": train("fsdp", pair=True, teacher_decay=0.5),
        "fsdp pair of teachers, resumed": resumed(
            folder, "fsdp", "teacher", pair=True, teacher_decay=0.5
        ),
        "stopped": distributed.all_gather(stopped("ddp")),
        "refusal": refusal(),
        "exchanges": exchanges(),
    }
    if distributed.is_main_process():
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
