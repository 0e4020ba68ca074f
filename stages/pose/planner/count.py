"""A model's size, arithmetic and memory from shapes alone: 2B parameters in seconds on a laptop.

Nothing is allocated: FLOPs are counted on the meta device, bytes on fake CPU tensors, which have
autocast's types. Attention is taken as fused, which keeps no matrix of tokens x tokens. Kernels'
workspace, temporary gradients and the allocator's slack are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from pose.models.vit import ModelSpec, PoseModel, build_on_meta


@dataclass(frozen=True)
class Flops:
    """Of one image, multiply and add counted apart: forward, and forward with backward."""

    forward: int
    training: int
    frozen: int  # training of the head alone, on features without gradient
    recomputed: int  # what grad_checkpointing adds to training: the blocks' forward once more


@dataclass(frozen=True)
class Held:
    """Bytes that autograd keeps between forward and backward."""

    sample: int  # each
    fixed: int  # once a step: autocast's copies of the weights


def count_parameters(module: nn.Module) -> int:
    """Numbers, not bytes."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(spec: ModelSpec) -> Flops:
    """Of the model at its input size. Norms, activations and the loss are not counted."""
    model = build_on_meta(replace(spec, grad_checkpointing=False))
    width, height = spec.input_wh
    image = torch.empty(1, 3, height, width, device="meta")
    features = model.features(image).detach()
    tokens = features.flatten(2).transpose(1, 2)
    return Flops(
        forward=_flops(lambda: model(image)),
        training=_flops(lambda: model(image).sum().backward()),
        frozen=_flops(lambda: _without_gradient(model, image)),
        recomputed=_flops(lambda: model.backbone.blocks(tokens)),
    )


def _without_gradient(model: PoseModel, image: Tensor) -> None:
    with torch.no_grad():
        features = model.features(image)
    model.head(features).sum().backward()


def _flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def count_held(spec: ModelSpec, amp: str) -> Held:
    """What a training step of the whole model holds, with spec's grad_checkpointing or without.

    With it: every block's input, and the insides of the one that is recomputed. The loss is a
    squared error of the maps in float32. amp is params.yaml's train.amp.
    """
    one, two = _held(spec, amp, 1), _held(spec, amp, 2)
    return Held(sample=two - one, fixed=2 * one - two)


def _held(spec: ModelSpec, amp: str, batch: int) -> int:
    model = build_on_meta(spec)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")  # fake: bytes of no memory
        width, height = spec.input_wh
        images = torch.empty(batch, 3, height, width)
        held = saved_bytes(model, lambda: _loss(model, images, amp))
        if not spec.grad_checkpointing:
            return held
        tokens = torch.empty(batch, model.backbone.patch_embed.num_patches, spec.embed_dim)
        tokens.requires_grad_()
        return held + saved_bytes(model, lambda: _block(model, tokens, amp))


def _loss(model: PoseModel, images: Tensor, amp: str) -> Tensor:
    with _autocast(amp):
        maps = model(images)
    return ((maps.float() - torch.zeros_like(maps, dtype=torch.float32)) ** 2).mean()


def _block(model: PoseModel, tokens: Tensor, amp: str) -> Tensor:
    with _autocast(amp):
        return model.backbone.blocks[0](tokens)


def _autocast(amp: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp != "none")


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd stores during `forward`, each storage once, parameters left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, Tensor] = {}  # the tensors too: a freed storage's address comes again

    def pack(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FusedAttention():
        output = forward()
    del output
    return sum(t.untyped_storage().nbytes() for key, t in found.items() if key not in own)


class FusedAttention(TorchFunctionMode):
    """scaled_dot_product_attention as the fused kernels keep it, whatever the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Shapes only: keeps query, key, value, output and one float32 a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, rows)
        return output
