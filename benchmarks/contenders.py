"""The two contenders: the engine's training step, and transformers' ViTPose in a plain loop."""

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
from pose.models.pose_model import normalise

Work = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """Settings that all measurements of a run share."""

    device: torch.device
    amp: str
    pairs: int
    batch: int | None  # None: chosen from free memory


@dataclass(frozen=True)
class Case:
    """One model: its params, batch size and setting."""

    name: str
    params: Params
    batch: int
    setting: Setting


@dataclass(frozen=True)
class Contender:
    """A training step, and a prediction with flip test, of one batch."""

    step: Work
    predict: Work


def ours(case: Case) -> Contender:
    """The engine's supervised step and its prediction."""
    params, device = case.params, case.setting.device
    model = models_build.build_model(params, COCO_17).to(device)
    codec = build.codec(params, COCO_17)
    train = params.train
    optimizer = build_adamw(model, train.weight_decay, train.layer_decay, train.betas)
    set_lr(optimizer, train.lr)
    run = supervised_step(model, codec, device, case.setting.amp)
    images, targets = samples(case)

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        run((images, targets), 0)
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_grad_norm)
        optimizer.step()

    @torch.no_grad()
    def predict() -> None:
        model.eval()
        with autocast(device, case.setting.amp):
            predict_maps(model, codec, normalise(images), flip=True)

    return Contender(step, predict)


def samples(case: Case) -> tuple[Tensor, Tensor]:
    """Random images (B, h, w, 3) uint8 and targets (B, K, 3) on the device, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    width, height = case.params.codec.input_size
    shape = (case.batch, height, width, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    size = torch.tensor([*case.params.codec.heatmap_size, 1.0])
    targets = torch.rand(case.batch, 17, 3, generator=generator) * size
    targets[..., 2] = 1.0
    return images.to(case.setting.device), targets.to(case.setting.device)


def theirs(case: Case) -> Contender | None:
    """transformers' model in a plain loop; None without transformers or for another head."""
    model = huggingface_vitpose(case.params)
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

    return Contender(step, predict)


def huggingface_vitpose(params: Params) -> nn.Module | None:
    """VitPoseForPoseEstimation of the same sizes with random weights; None as for `theirs`."""
    settings = params.model
    if settings.head != "classic" or settings.deconv_channels != (256, 256):
        return None
    try:
        from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
    except ImportError:
        print("transformers is not installed: only ours is measured; `--help` says how to add it")
        return None
    backbone = VitPoseBackboneConfig(
        image_size=params.codec.input_size[::-1],
        patch_size=(settings.patch_size, settings.patch_size),
        hidden_size=settings.embed_dim,
        num_hidden_layers=settings.depth,
        num_attention_heads=settings.num_heads,
        out_indices=[settings.depth],
    )
    config = VitPoseConfig(backbone_config=backbone, use_simple_decoder=False, num_labels=17)
    model = VitPoseForPoseEstimation(config)
    if settings.grad_checkpointing:
        model.gradient_checkpointing_enable()
    return model
