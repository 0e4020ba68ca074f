"""Parameters, FLOPs and memory of a training step from shapes alone.

Nothing is allocated, so that 2B parameters take seconds on a laptop: FLOPs are counted on the meta
device, bytes on fake CPU tensors, which have autocast's dtypes, through the forward, the loss and
the backward that training runs. Operations are those of a CPU: attention is fused, so that it
stores no tokens x tokens matrix; RMSNorm is not, and takes less on CUDA. The workspace of kernels
and unused memory of the allocator are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pose.engine.losses import LOSSES
from pose.models.build import autocast
from pose.models.pose_model import PoseModel, build_on_meta, normalise
from pose.models.spec import ModelSpec
from pose.planner.live import LiveBytes

Freeze = Callable[[PoseModel], None]  # adds adapters and freezes, as a phase does before training
BLOCK_8BIT, MIN_8BIT = 256, 4096  # bitsandbytes: values per scale; smaller tensors stay float32


@dataclass(frozen=True)
class Flops:
    """FLOPs per image; a multiply-add counts as two."""

    forward: int
    training: int  # forward and backward
    head_only: int  # forward, and backward of the head: the backbone is frozen
    recomputed: int  # what grad_checkpointing adds to training: a second forward of the blocks


@dataclass(frozen=True)
class StepBytes:
    """Bytes that a training step adds to weights and optimiser: the largest of its moments.

    Which moment that is depends on the batch: with a small one the end of the backward, which has
    all gradients; with a large one the loss or the backward of the head, which has all activations.
    """

    moments: tuple[tuple[int, int], ...]  # (independent of the batch, per sample)

    def at(self, batch: int) -> int:
        """Bytes of a step of `batch` samples."""
        return max(fixed + per_sample * batch for fixed, per_sample in self.moments)

    def largest_batch(self, free: float) -> int:
        """Samples of a step that fits into `free` bytes; 0 if none does."""
        fits = (
            (free - fixed) // per_sample if per_sample else float("inf") if fixed <= free else 0
            for fixed, per_sample in self.moments
        )
        return max(0, int(min(fits)))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def train_all(model: PoseModel) -> None:
    """The Freeze of a phase that trains all weights."""


def count_flops(spec: ModelSpec, freeze: Freeze = train_all) -> Flops:
    """FLOPs at the model's input size; norms, activation functions and the loss are not counted.

    freeze applies to `training` alone; it must leave the weights float32.
    """
    model = build_on_meta(replace(spec, grad_checkpointing=False))
    trained = build_on_meta(replace(spec, grad_checkpointing=False))
    freeze(trained)
    width, height = spec.input_wh
    image = torch.empty(1, 3, height, width, device="meta")
    inputs, _ = model.backbone.embed(image)
    return Flops(
        forward=_flops(lambda: model(image)),
        training=_flops(lambda: trained(image).sum().backward()),
        head_only=_flops(lambda: model.head(_detached_features(model, image)).sum().backward()),
        recomputed=_flops(lambda: model.run_blocks(*inputs)),
    )


def _detached_features(model: PoseModel, image: Tensor) -> Tensor:
    with torch.no_grad():
        return model.features(image)


def _flops(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def moment_bytes(parameters: Iterable[nn.Parameter], optimizer: str) -> int:
    """Bytes of AdamW's two moments of these parameters; optimizer is train.optimizer."""
    return sum(
        8 * p.numel()
        if optimizer == "adamw" or p.numel() < MIN_8BIT
        else 2 * p.numel() + 2 * 4 * -(-p.numel() // BLOCK_8BIT)
        for p in parameters
    )


def count_step_bytes(
    spec: ModelSpec, amp: str, freeze: Freeze = train_all, held: bool = False
) -> StepBytes:
    """Activations, gradients and temporary tensors of a step; amp is train.amp of params.yaml.

    What a block stores per sample is B N D bytes of each stored tensor, N tokens of D channels in
    B bytes; for `vit` in float32 16 tensors: norm 1, qkv 1 + 3, attention 1, norm 1, MLP 1 + 4 + 4.
    With grad_checkpointing it is the block's input, and in the backward all of one block. held: the
    gradients of all trained parameters are there from the start, and not counted here.
    """
    one, two = (_trace(spec, amp, batch, freeze, held) for batch in (2, 3))
    assert len(one) == len(two)  # the same operations
    lines = {(3 * a - 2 * b, b - a) for a, b in zip(one, two, strict=True)}
    return StepBytes(_highest(lines))


def _highest(lines: set[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those of lines (fixed, slope) that no other exceeds in both."""
    found: list[tuple[int, int]] = []
    for fixed, slope in sorted(lines, key=lambda line: (-line[1], -line[0])):
        if not found or fixed > found[-1][0]:
            found.append((fixed, slope))
    return tuple(found)


def _trace(spec: ModelSpec, amp: str, batch: int, freeze: Freeze, held: bool) -> list[int]:
    """Bytes after each operation of a step."""
    model = build_on_meta(spec)
    freeze(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # fake tensors: no memory is allocated
        known = [*model.parameters(), *model.buffers()]
        for parameter in model.parameters():
            if held and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                known.append(parameter.grad)
        live = LiveBytes(known)
        with live:
            _step(model, spec, amp, batch)
    return live.trace


def _step(model: PoseModel, spec: ModelSpec, amp: str, batch: int) -> None:
    """Forward, loss and backward of engine.fit; clipping and fused AdamW add no large tensors."""
    width, height = spec.input_wh
    images = torch.zeros(batch, height, width, 3, dtype=torch.uint8)
    with autocast(images.device, amp):
        maps = model(normalise(images))
    loss_of = LOSSES["combined" if spec.maps_per_keypoint == 3 else "gaussian"]
    targets = torch.zeros_like(maps, dtype=torch.float32)
    loss = loss_of(maps, targets, torch.ones(batch, spec.num_keypoints))
    del targets  # as in training, where the backward does not need them
    loss.backward()
