"""Size, arithmetic and memory of a recipe's model, from shapes alone: 2B in seconds on a laptop.

    python recipes/describe.py [NAME]       # without NAME: params.yaml as it is

Prints parameters, forward FLOPs of one image and the activations that one training sample holds
for its backward pass. Nothing is allocated (the meta device). Attention is taken as fused, which
keeps no matrix of tokens x tokens; kernels' workspace and temporary gradients are not counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import apply  # puts stages/ on sys.path
from pose.errors import PoseError
from pose.model import PoseModel, build_on_meta
from pose.skeleton import COCO_17
from training import model_spec


@dataclass(frozen=True)
class Description:
    """Parameters, forward FLOPs of one image, and saved numbers (not bytes) of one sample."""

    backbone: int
    head: int
    flops: int
    held: int  # for backward, all blocks' insides kept
    held_checkpointed: int  # with grad_checkpointing, and one block recomputed: at most this


def describe(params: apply.Params) -> Description:
    """Of the model of params at its input size."""
    names = params.keypoints.names or COCO_17.names  # of a file that is not at hand
    model = build_on_meta(model_spec(params, len(names)))
    width, height = params.codec.input_size
    image = torch.empty(1, 3, height, width, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train()
    model.backbone.set_grad_checkpointing(False)
    held = saved_numbers(model, lambda: model(image))
    grid = model.backbone.patch_embed.num_patches
    tokens = torch.empty(1, grid, params.model.embed_dim, device="meta", requires_grad=True)
    block = saved_numbers(model, lambda: model.backbone.blocks[0](tokens))
    model.backbone.set_grad_checkpointing(True)
    kept = saved_numbers(model, lambda: model(image))
    return Description(
        backbone=_count(model.backbone),
        head=_count(model.head),
        flops=counter.get_total_flops(),
        held=held,
        held_checkpointed=kept + block,
    )


def saved_numbers(model: PoseModel, forward: Callable[[], Any]) -> int:
    """Numbers that autograd stores during `forward`, each once, parameters left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    found: dict[int, Tensor] = {}  # the tensors too: a freed storage's address comes again

    def pack(tensor: Tensor) -> Tensor:
        found.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), FusedAttention():
        output = forward()
    del output
    return sum(
        tensor.untyped_storage().nbytes() // tensor.element_size()
        for storage, tensor in found.items()
        if storage not in own
    )


class FusedAttention(TorchFunctionMode):
    """scaled_dot_product_attention as GPUs run it; on meta torch takes the unfused one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Shapes only: keeps query, key, value, output and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]))
        return output


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(name: str, params: apply.Params, found: Description) -> str:
    """Lines for eyes."""
    law, total = params.codec, found.backbone + found.head
    rows = [
        f"{name}: input {law.input_size[0]} x {law.input_size[1]} (w x h)",
        f"parameters        backbone {found.backbone:,}  head {found.head:,}",
        f"training state    {total * 16 / 1e9:.1f} GB (weights, gradients, AdamW, float32)",
        f"forward           {found.flops / 1e9:,.1f} GFLOP an image",
        "activations of one training sample, GB",
        f"                        {'float32':>10} {'bf16 throughout':>16}",
    ]
    for label, numbers in (
        ("all kept", found.held),
        ("grad_checkpointing", found.held_checkpointed),
    ):
        rows.append(f"    {label:19} {numbers * 4 / 1e9:10.2f} {numbers * 2 / 1e9:16.2f}")
    batch = params.train.batch_size
    held = found.held_checkpointed if params.model.grad_checkpointing else found.held
    rows.append(f"this run, batch {batch}, float32: {(held * 4 * batch + total * 16) / 1e9:.0f} GB")
    rows.append("(train.amp bf16 lies between the columns: norms and the residual stay float32)")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe")
    name = parser.parse_args().name
    params = apply.resolve(name) if name else apply.load_params(apply.PARAMS)
    print(table(name or apply.PARAMS.name, params, describe(params)))


if __name__ == "__main__":
    try:
        main()
    except PoseError as error:
        sys.exit(f"describe: {error}")
