"""AdamW parameter groups with layer-wise lr decay, and the learning-rate schedule.

Source: Sapiens pose/mmpose/engine/optim_wrappers/layer_decay_optim_wrapper.py and the COCO configs;
Sapiens2 engine/runners/base_runner.py and the pose configs for its tokens and linear schedule.
"""

from __future__ import annotations

import bisect
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pose.common.params import Train
from pose.models.pose_model import PoseModel

WARMUP_START = 0.001  # of the peak lr
EMBEDDINGS = tuple(
    f"backbone.{name}" for name in ("pos_embed", "patch_embed", "cls_token", "storage_tokens")
)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over `steps` steps; names and units as in params.yaml's `train`."""

    kind: str  # cosine | multistep | linear
    lr: float
    steps: int
    steps_per_epoch: int
    warmup_iters: int
    min_lr: float
    milestones: tuple[int, ...]
    gamma: float

    def at(self, step: int) -> float:
        """lr of step 0 .. steps - 1: linear warm-up, times the decay of `kind`.

        The warm-up ends at the lr of its last step, or for linear at that of the step after it, as
        in the official code of Sapiens and of Sapiens2.
        """
        warmup = 1.0
        if step < self.warmup_iters:
            rise = self.warmup_iters if self.kind == "linear" else max(1, self.warmup_iters - 1)
            warmup = WARMUP_START + (1 - WARMUP_START) * step / rise
        return warmup * self._decayed(step)

    def _decayed(self, step: int) -> float:
        if self.kind == "linear":
            after_warmup = max(0, step - self.warmup_iters)
            return self.lr * (1 - after_warmup / max(1, self.steps - self.warmup_iters))
        if self.kind == "multistep":
            epoch = step // self.steps_per_epoch
            return self.lr * self.gamma ** bisect.bisect_right(self.milestones, epoch)
        done = step / max(1, self.steps - 1)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


def layer_id(name: str, depth: int) -> int:
    """0 for the embeddings, i + 1 for block i, depth + 1 for the final norm and the head.

    An adapter has the layer of its block.

    >>> layer_id("backbone.blocks.3.attn.qkv.weight", depth=12)
    4
    """
    if name.startswith(EMBEDDINGS):
        return 0
    if name.startswith("backbone.blocks."):
        return int(name.split(".")[2]) + 1
    return depth + 1


def has_no_decay(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether weight decay skips a parameter: vectors, biases and the position embedding.

    Adapters decay: towards 0, so the merged weights towards those of the base.

    It does not skip Sapiens2's class and storage tokens, as in the official code.
    """
    return parameter.ndim == 1 or name.endswith(".bias") or "pos_embed" in name


def parameter_groups(
    model: PoseModel, weight_decay: float, layer_decay: float
) -> list[dict[str, object]]:
    """AdamW groups of the trainable parameters, each with its `lr_scale`."""
    depth = len(model.backbone.blocks)
    groups: dict[tuple[int, float], dict[str, object]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_id(name, depth)
        decay = 0.0 if has_no_decay(name, parameter) else weight_decay
        scale = layer_decay ** (depth + 1 - layer)
        group = groups.setdefault(
            (layer, decay), {"params": [], "weight_decay": decay, "lr_scale": scale}
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]
    return list(groups.values())


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """The optimiser of train.optimizer; set_lr sets the rates."""
    settings = train.weight_decay, train.layer_decay, train.betas
    if train.optimizer == "adamw8bit":
        return build_adamw8bit(model, *settings)
    return build_adamw(model, *settings)


def build_adamw(
    model: nn.Module, weight_decay: float, layer_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Fused AdamW over the parameter_groups of each PoseModel in `model`."""
    groups = _groups(model, weight_decay, layer_decay)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def build_adamw8bit(
    model: nn.Module, weight_decay: float, layer_decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The same with moments of 8 bits, in blocks of 256; those of tensors below 4096 in float32.

    Source: Dettmers et al., ICLR 2022, by bitsandbytes, which needs no compiler and runs on CPUs.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels not used here
    import bitsandbytes

    groups = _groups(model, weight_decay, layer_decay)
    kind: Any = bitsandbytes.optim
    optimizer: torch.optim.Optimizer = kind.AdamW8bit(groups, lr=0.0, betas=betas)
    return optimizer


def _groups(model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict[str, object]]:
    """The parameter_groups of each PoseModel in `model`."""
    networks = [part for part in model.modules() if isinstance(part, PoseModel)]
    return [g for network in networks for g in parameter_groups(network, weight_decay, layer_decay)]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group lr times its lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
