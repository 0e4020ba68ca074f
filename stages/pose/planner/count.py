"""Parameters, FLOPs and memory of a training step from shapes alone.

Nothing is allocated, so that 2B parameters take seconds on a laptop: FLOPs are counted on the meta
device, bytes on fake CPU tensors, which have autocast's dtypes, through the forward, the loss and
the backward that training runs. Operations are those of a CPU: attention is fused, so that it
stores no tokens x tokens matrix; RMSNorm is not, and takes less on CUDA. The workspace of kernels
and unused memory of the allocator are not counted. Of equal blocks in a row three at most are run
(depth.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from pose.engine.losses import LOSSES
from pose.models.build import autocast
from pose.models.pose_model import PoseModel, build_on_meta, normalise
from pose.models.spec import ModelSpec
from pose.planner.depth import count_by_depth
from pose.planner.live import LiveBytes

Freeze = Callable[[PoseModel], None]  # adds adapters and freezes, as a phase does before training
PRIME = 10_007  # samples of a counted step: no tensor without samples has a size that it divides
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
    model = model_of(spec)
    count = partial(_flops_of_parts, spec=spec, freeze=freeze)
    (counts,) = count_by_depth(model, count, additive=True)
    return Flops(*map(int, counts))


def model_of(spec: ModelSpec) -> PoseModel:
    """The model on the meta device, without grad_checkpointing; copy it before you change it.

    Building takes a second, so that the last one is kept.
    """
    return _built(replace(spec, grad_checkpointing=False))


@lru_cache(maxsize=1)
def _built(spec: ModelSpec) -> PoseModel:
    return build_on_meta(spec)


def _flops_of_parts(
    model: PoseModel, spec: ModelSpec, freeze: Freeze
) -> tuple[np.ndarray, np.ndarray]:
    """One row with the values of Flops; it belongs to no block."""
    width, height = spec.input_wh
    image = torch.empty(1, 3, height, width, device="meta")
    inputs, grid = model.backbone.embed(image)
    features = torch.empty(1, spec.embed_dim, *grid, device="meta")
    trained = deepcopy(model)
    freeze(trained)
    blocks = _flops(lambda: model.run_blocks(*inputs))
    backbone = _flops(lambda: model.backbone.embed(image)) + blocks
    counts = (
        backbone + _flops(lambda: model.head(features)),
        _flops(lambda: trained(image).sum().backward()),
        backbone + _flops(lambda: model.head(features).sum().backward()),
        blocks,
    )
    return np.array([counts]), np.array([-1])


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
    count = partial(_trace, spec=spec, amp=amp, freeze=freeze, held=held)
    moments = count_by_depth(model_of(spec), count)
    return StepBytes(_highest(set(map(tuple, moments.tolist()))))


def _highest(lines: set[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those of lines (fixed, slope) that no other exceeds in both."""
    found: list[tuple[int, int]] = []
    for fixed, slope in sorted(lines, key=lambda line: (-line[1], -line[0])):
        if not found or fixed > found[-1][0]:
            found.append((fixed, slope))
    return tuple(found)


def _trace(
    model: PoseModel, spec: ModelSpec, amp: str, freeze: Freeze, held: bool
) -> tuple[np.ndarray, np.ndarray]:
    """After each operation of a step bytes (independent of the batch, per sample); its block."""
    freeze(model)
    model.grad_checkpointing = spec.grad_checkpointing
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # fake tensors: no memory is allocated
        known = [*model.parameters(), *model.buffers()]
        for parameter in model.parameters():
            if held and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                known.append(parameter.grad)
        live = LiveBytes(PRIME, known)
        _set_block(live, model)
        with live:
            _step(model, spec, amp, PRIME)
    trace = np.array(live.trace)
    return trace[:, :2], trace[:, 2]


def _set_block(live: LiveBytes, model: PoseModel) -> None:
    """From now on live.block is the block whose forward, or whose backward, was entered last."""

    def enter(index: int, *_: Any) -> None:
        live.block = index

    def leave(index: int, block: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(enter, index))  # called when its gradient is there

    for index, block in enumerate(model.backbone.blocks):
        block.register_forward_pre_hook(partial(enter, index))
        block.register_forward_hook(partial(leave, index))


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
