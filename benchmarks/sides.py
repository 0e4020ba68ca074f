"""The two that are compared: the engine's step, and transformers' ViTPose in a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pose.common.params import Params
from pose.common.skeleton import COCO_17
from pose.data import build
from pose.engine.fit import supervised_step
from pose.engine.optim import build_adamw, set_lr
from pose.evaluation.predict import predict_maps
from pose.models import build as models_build
from pose.models.build import autocast
from pose.models.vit import normalise

Work = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What all measurements of a run share."""

    device: torch.device
    amp: str
    pairs: int
    batch: int | None  # None: chosen from free memory


@dataclass(frozen=True)
class Case:
    """One model: its params, batch and what it trains on."""

    name: str
    params: Params
    batch: int
    setting: Setting


@dataclass(frozen=True)
class Side:
    """One of the two: a training step and a flip-test prediction of a batch."""

    step: Work
    predict: Work


def our_side(case: Case) -> Side:
    """The engine's step; see the head of this file."""
    params, device = case.params, case.setting.device
    model, codec = (
        models_build.build_model(params, COCO_17).to(device),
        build.codec(params, COCO_17),
    )
    law = params.train
    optimizer = build_adamw(model, law.weight_decay, law.layer_decay, law.betas)
    set_lr(optimizer, law.lr)
    run = supervised_step(model, codec, device, case.setting.amp)
    images, targets = samples(case)

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        run((images, targets), 0)
        nn.utils.clip_grad_norm_(model.parameters(), law.clip_grad_norm)
        optimizer.step()

    @torch.no_grad()
    def predict() -> None:
        model.eval()
        with autocast(device, case.setting.amp):
            predict_maps(model, codec, normalise(images), flip=True)

    return Side(step, predict)


def samples(case: Case) -> tuple[Tensor, Tensor]:
    """Images (B, h, w, 3) uint8 and targets (B, K, 3) on the device, drawn from a seed."""
    generator = torch.Generator().manual_seed(0)
    width, height = case.params.codec.input_size
    shape = (case.batch, height, width, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    size = torch.tensor([*case.params.codec.heatmap_size, 1.0])
    targets = torch.rand(case.batch, 17, 3, generator=generator) * size
    targets[..., 2] = 1.0
    return images.to(case.setting.device), targets.to(case.setting.device)


def their_side(case: Case) -> Side | None:
    """transformers' model in a plain loop; None without transformers or for another head."""
    model = their_model(case.params)
    if model is None:
        return None
    device, amp = case.setting.device, case.setting.amp
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.params.train.lr)
    raw, targets = samples(case)
    codec = build.codec(case.params, COCO_17)
    images, heatmaps = normalise(raw), codec.render(targets)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        with autocast(device, amp):
            loss = nn.functional.mse_loss(model(images).heatmaps, heatmaps)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), case.params.train.clip_grad_norm)
        optimizer.step()

    @torch.no_grad()
    def predict() -> None:
        model.eval()
        with autocast(device, amp):
            plain, mirrored = model(images).heatmaps, model(images.flip(3)).heatmaps
            (plain + codec.flip_back(mirrored)) / 2

    return Side(step, predict)


def their_model(params: Params) -> nn.Module | None:
    """VitPoseForPoseEstimation of the same sizes, random weights."""
    law = params.model
    if law.head != "classic" or law.deconv_channels != (256, 256):
        return None
    try:
        from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
    except ImportError:
        print("transformers is not installed: no peer. `--help` tells how to put it beside")
        return None
    backbone = VitPoseBackboneConfig(
        image_size=params.codec.input_size[::-1],
        patch_size=(law.patch_size, law.patch_size),
        hidden_size=law.embed_dim,
        num_hidden_layers=law.depth,
        num_attention_heads=law.num_heads,
        out_indices=[law.depth],
    )
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=False, num_labels=17)
    model = VitPoseForPoseEstimation(config)
    if law.grad_checkpointing:
        model.gradient_checkpointing_enable()
    return model
