"""Parameters, FLOPs and activation memory of a model from shapes alone.

Nothing is allocated, so that 2B parameters take seconds on a laptop: FLOPs are counted on the meta
device, bytes on fake CPU tensors, which have autocast's dtypes. Attention is counted as fused, so
that it stores no tokens x tokens matrix. The workspace of kernels, temporary gradients and unused
memory of the allocator are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec

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
class ActivationBytes:
    """Bytes that autograd stores between forward and backward."""

    per_sample: int
    per_step: int  # independent of the batch: autocast's copies of the weights


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


def count_activation_bytes(
    spec: ModelSpec, amp: str, freeze: Freeze = train_all
) -> ActivationBytes:
    """Activations of a training step of the model; amp is train.amp of params.yaml.

    With spec.grad_checkpointing these are the input of every block and all activations of the one
    block that is recomputed. The loss is the squared error of the heatmaps in float32.
    """
    model = build_on_meta(spec)
    freeze(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # fake tensors: no memory is allocated
        one, two = (_batch_bytes(model, spec, amp, batch) for batch in (1, 2))
    return ActivationBytes(per_sample=two - one, per_step=2 * one - two)


def _batch_bytes(model: PoseModel, spec: ModelSpec, amp: str, batch: int) -> int:
    width, height = spec.input_wh
    images = torch.empty(batch, 3, height, width)
    stored = saved_bytes(model, lambda: _loss(model, images, amp))
    learns = any(parameter.requires_grad for parameter in model.backbone.parameters())
    if not (spec.grad_checkpointing and learns):
        return stored
    (tokens, *tables), _ = model.backbone.embed(images)
    inputs = (tokens.detach().requires_grad_(), *tables)
    return stored + saved_bytes(model, lambda: _block(model, inputs, amp))


def _loss(model: PoseModel, images: Tensor, amp: str) -> Tensor:
    with _autocast(amp):
        maps: Tensor = model(images)
    return ((maps.float() - torch.zeros_like(maps, dtype=torch.float32)) ** 2).mean()


def _block(model: PoseModel, inputs: tuple[Tensor, ...], amp: str) -> Tensor:
    with _autocast(amp):
        out: Tensor = model.backbone.blocks[0](*inputs)
    return out


def _autocast(amp: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp != "none")


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd stores during `forward`: each storage once, without parameters."""
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    saved: dict[int, Tensor] = {}  # holds the tensors: the address of a freed storage is reused

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FusedAttention():
        output = forward()
    del output
    return sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in parameters)


class FusedAttention(TorchFunctionMode):
    """Makes scaled_dot_product_attention store what fused kernels store, on any device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _FusedAttentionFunction.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _FusedAttentionFunction(torch.autograd.Function):
    """Shapes only: stores query, key, value, output and one float32 per row (logsumexp)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, rows)
        return output
