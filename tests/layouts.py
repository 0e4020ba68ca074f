"""Random models of ours as other projects write them: tables of names, not the code's rules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec

State = dict[str, Tensor]
PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")  # ours, of a block


@dataclass(frozen=True)
class Layout:
    """A project's names of a backbone."""

    patch: str
    block: str
    parts: tuple[str | None, ...]  # in the order of PARTS; None: written otherwise
    norm: str
    positions: str = "pos_embed"


MMPRETRAIN = Layout(
    "patch_embed.projection",
    "layers.{}",
    ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1"),
    "ln1",
)
VITPOSE = Layout("patch_embed.proj", "blocks.{}", PARTS, "last_norm")
TIMM = Layout("patch_embed.proj", "blocks.{}", PARTS, "norm")
HUGGING_FACE = Layout(
    "embeddings.patch_embeddings.projection",
    "encoder.layer.{}",
    (
        "layernorm_before",
        None,
        "attention.output.dense",
        "layernorm_after",
        "mlp.fc1",
        "mlp.fc2",
    ),
    "layernorm",
    "embeddings.position_embeddings",
)


@cache
def on_meta(spec: ModelSpec) -> PoseModel:
    """The model on the meta device, where it takes 15 ms to build; read only."""
    return build_on_meta(spec)


def random_state(spec: ModelSpec, seed: int = 0) -> State:
    """Tensors of a model, all different; in 64ths, so that adding and subtracting is exact."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(-99, 100, tensor.shape, generator=generator).to(tensor.dtype) / 64
        if tensor.is_floating_point()
        else torch.tensor(7)
        for name, tensor in on_meta(spec).state_dict().items()
    }


def backbone_in(layout: Layout, state: State, depth: int = 2) -> State:
    """Our backbone under a layout's names, without prefix."""
    named = {layout.positions: state["backbone.pos_embed"]}
    for kind in ("weight", "bias"):
        named[f"{layout.patch}.{kind}"] = state[f"backbone.patch_embed.proj.{kind}"]
        named[f"{layout.norm}.{kind}"] = state[f"backbone.norm.{kind}"]
        for i in range(depth):
            for ours, theirs in zip(PARTS, layout.parts, strict=True):
                if theirs:
                    name = f"{layout.block.format(i)}.{theirs}.{kind}"
                    named[name] = state[f"backbone.blocks.{i}.{ours}.{kind}"]
    return named


def head_of(state: State, prefix: str = "head.") -> State:
    return {f"{prefix}{k[5:]}": t for k, t in state.items() if k.startswith("head.")}


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def with_row(positions: Tensor, row: Tensor) -> Tensor:
    return torch.cat([row.expand(1, 1, positions.shape[2]), positions], dim=1)


def backbone_of(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}


ROW = torch.full((1, 1, 1), 3.25)


def sapiens_clean(state: State) -> State:
    """Flat, with class token and class row."""
    named = backbone_in(MMPRETRAIN, state)
    named["pos_embed"] = with_row(named["pos_embed"], ROW)
    return {"cls_token": torch.ones(1, 1, 16), **named}


def sapiens_pose(state: State) -> State:
    """Also mmpose 1.x, whose ViTPose files have these names and no class row."""
    return {
        "data_preprocessor.mean": torch.ones(3, 1, 1),
        "data_preprocessor.std": torch.ones(3, 1, 1),
        **prefixed("backbone.", backbone_in(MMPRETRAIN, state)),
        **head_of(state),
    }


def vitpose(state: State) -> State:
    """The class row of its file is added to all the others in its forward pass."""
    named = backbone_in(VITPOSE, state)
    named["pos_embed"] = with_row(named["pos_embed"] - ROW, ROW)
    return {**prefixed("backbone.", named), **head_of(state, "keypoint_head.")}


def hugging_face(state: State) -> State:
    """Separate query, key and value; heads with plain names."""
    named = backbone_in(HUGGING_FACE, state)
    name = HUGGING_FACE.positions
    named[name] = with_row(named[name] - ROW, ROW)
    for i in range(2):
        for kind in ("weight", "bias"):
            qkv = state[f"backbone.blocks.{i}.attn.qkv.{kind}"]
            rows = {"query": qkv[:16], "key": qkv[16:32], "value": qkv[32:]}
            for role in ("key", "query", "value"):  # sorted, as safetensors has them
                named[f"encoder.layer.{i}.attention.attention.{role}.{kind}"] = rows[role]
    places = {
        "deconv_layers.0": "deconv1",
        "deconv_layers.1": "batchnorm1",
        "deconv_layers.3": "deconv2",
        "deconv_layers.4": "batchnorm2",
        "final_layer": "conv",
    }
    head = {}
    for name, tensor in head_of(state).items():
        place, kind = name.removeprefix("head.").rsplit(".", 1)
        head[f"head.{places[place]}.{kind}"] = tensor
    return {**prefixed("backbone.", named), **head}
