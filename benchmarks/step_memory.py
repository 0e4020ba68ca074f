"""Memory of a training step as the planner counts it, and as torch's allocator reports it.

    python benchmarks/step_memory.py [--batch 16]

For params.yaml's model, and Sapiens2 blocks of the same sizes, with each setting that the planner
takes into account: what is trained, 16 bits, grad_checkpointing, 8-bit moments. A step of training
runs on the CPU under torch's profiler, which records each allocation and release, those inside
kernels among them. The table is written to benchmarks/step_memory.md. A minute on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import pose  # noqa: F401  # before torch, which reads OpenMP's variables

# isort: split
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pose.codecs.udp import build_codec
from pose.common.files import write_atomic
from pose.common.params import Params, load_params
from pose.common.script import exit_codes
from pose.common.skeleton import COCO_17
from pose.engine.finetune import freeze_for_phase2_
from pose.engine.fit import ONE_BATCH, supervised_loss
from pose.engine.optim import build_optimizer
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import model_spec
from pose.planner.count import count_step_bytes
from pose.planner.plan import state_bytes

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("family", "trained", "amp", "checkpointing", "optimizer")
COLUMNS += ("state, MB", "measured", "step, MB", "measured", "step / measured")


@dataclass(frozen=True)
class Setting:
    """The settings that change a step's memory, as in params.yaml."""

    family: str
    finetune: str
    amp: str
    checkpointing: bool
    optimizer: str = "adamw"

    def params(self) -> Params:
        """params.yaml with these settings, without stage 2; frozen weights in amp's type."""
        params = load_params(ROOT / "params.yaml")
        model = {"family": self.family, "grad_checkpointing": self.checkpointing}
        frozen = "bf16" if self.amp == "bf16" and self.finetune != "full" else "float32"
        train = {"finetune": self.finetune, "amp": self.amp, "optimizer": self.optimizer}
        return params.model_copy(
            update={
                "model": params.model.model_copy(update=model | {"frozen_dtype": frozen}),
                "train": params.train.model_copy(update=train),
                "ssl": params.ssl.model_copy(update={"epochs": 0}),
            }
        )


@dataclass(frozen=True)
class Bytes:
    """Of weights and optimiser, and what a step adds to them."""

    state: int
    step: int


def settings() -> list[Setting]:
    """All combinations, and 8-bit moments."""
    families, trained = ("vit", "sapiens2"), ("full", "lora", "head")
    found = [Setting(*one) for one in product(families, trained, ("none", "bf16"), (False, True))]
    eight = [Setting(*one, False, "adamw8bit") for one in product(families, ("full",), ("none",))]
    return [*found, *eight]


def counted(setting: Setting, batch: int) -> Bytes:
    """By the planner, for one process."""
    params = setting.params()
    spec = model_spec(params, COCO_17.num_keypoints)
    model = build_on_meta(spec)
    freeze_for_phase2_(model, params)
    step = count_step_bytes(spec, setting.amp, lambda m: freeze_for_phase2_(m, params))
    return Bytes(sum(state_bytes(params, model, held=False).values()), step.at(batch))


def measured(setting: Setting, batch: int) -> Bytes:
    """The tensors of the weights and of the optimiser, and the peak of the second real step."""
    params = setting.params()
    model = PoseModel(model_spec(params, COCO_17.num_keypoints))
    freeze_for_phase2_(model, params)
    optimizer = build_optimizer(model, params.train)
    step = training_step(params, model, optimizer, batch)
    step()
    optimizer.zero_grad(set_to_none=True)
    peak = peak_bytes(step)
    return Bytes(storage_bytes(model.parameters()) + storage_bytes(tensors(optimizer.state)), peak)


def training_step(
    params: Params, model: PoseModel, optimizer: torch.optim.Optimizer, batch: int
) -> Callable[[], None]:
    """A step as engine.fit runs it, from uint8 images and keypoints to the optimiser's update."""
    codec = build_codec(params.codec, COCO_17.flip_indices)
    width, height = params.codec.input_size
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step() -> None:
        images = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
        targets = torch.ones(batch, COCO_17.num_keypoints, 3)
        supervised_loss(model, codec, params.train.amp, ONE_BATCH, images, targets, last=True)
        nn.utils.clip_grad_norm_(trained, params.train.clip_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peak_bytes(function: Callable[[], None]) -> int:
    """Most bytes that torch's allocator held at once during the call, less those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted(allocations(results.experimental_event_tree()))
    held = peak = 0
    for _, size in events:
        held += size
        peak = max(peak, held)
    return peak


def allocations(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Time in ns and bytes of each allocation, negative for a release."""
    for event in events:
        if hasattr(event.typed[1], "alloc_size"):
            yield event.start_time_ns, event.typed[1].alloc_size
        yield from allocations(event.children)


def tensors(state: dict[Any, dict[str, Any]]) -> list[torch.Tensor]:
    """Of an optimiser's state, without its step counts."""
    values = [value for one in state.values() for name, value in one.items() if name != "step"]
    return [value for value in values if isinstance(value, torch.Tensor)]


def storage_bytes(values: Iterable[torch.Tensor]) -> int:
    """Each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in values}
    return sum(storages.values())


def row(setting: Setting, batch: int) -> str:
    """The setting's row of the table."""
    by_count, by_torch = counted(setting, batch), measured(setting, batch)
    names = (setting.family, setting.finetune, setting.amp)
    cells = (*names, "yes" if setting.checkpointing else "no", setting.optimizer)
    sizes = (by_count.state, by_torch.state, by_count.step, by_torch.step)
    numbers = [f"{size / 1e6:.2f}" for size in sizes]
    return f"| {' | '.join([*cells, *numbers])} | {by_count.step / by_torch.step:.3f} |"


def main() -> None:
    """Measure all settings and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    batch = parser.parse_args().batch
    torch.set_num_threads(1)
    lines = [
        "# Memory of a training step: counted and measured",
        "",
        f"`python benchmarks/step_memory.py --batch {batch}`, torch "
        f"{torch.__version__.split('+')[0]}, CPU",
        "",
        *TEXT,
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for setting in settings():
        lines.append(row(setting, batch))
        print(lines[-1], flush=True)
    write_atomic(ROOT / "benchmarks" / "step_memory.md", ("\n".join(lines) + "\n").encode())


TEXT = (
    "The model of `params.yaml`, and Sapiens2 blocks of the same sizes. State is weights and",
    "moments. Step is what a step of training adds to them at most: activations, gradients,",
    "temporary tensors. With bf16, weights that are not trained have 16 bits. Counted by",
    "`pose/planner/count.py`; measured from the allocations and releases that torch's profiler",
    "records, inside kernels too, and with the clipping of gradients and the optimiser's step.",
)

if __name__ == "__main__":
    with exit_codes("step_memory"):
        main()
