"""Layer-wise decay rules and the values of the schedules at the official points."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pose.common.errors import PoseError
from pose.common.params import load_params
from pose.engine import train
from pose.engine.optim import (
    Schedule,
    build_adamw,
    has_no_decay,
    layer_id,
    parameter_groups,
    set_lr,
)
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec

DEPTH = 24


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.pos_embed", 0),
        ("backbone.patch_embed.proj.weight", 0),
        ("backbone.patch_embed.proj.bias", 0),
        ("backbone.cls_token", 0),
        ("backbone.storage_tokens", 0),
        ("backbone.blocks.0.attn.qkv.weight", 1),
        ("backbone.blocks.10.mlp.fc1.bias", 11),
        ("backbone.blocks.23.norm2.weight", 24),
        ("backbone.norm.weight", 25),
        ("head.deconv_layers.0.weight", 25),
        ("head.final_layer.bias", 25),
    ],
)
def test_layer_ids(name: str, layer: int) -> None:
    assert layer_id(name, DEPTH) == layer


@pytest.mark.parametrize(
    ("name", "shape", "free"),
    [
        ("backbone.pos_embed", (1, 12, 16), True),
        ("backbone.norm.weight", (16,), True),
        ("backbone.cls_token", (1, 1, 16), False),
        ("backbone.storage_tokens", (1, 8, 16), False),
        ("backbone.blocks.0.attn.gamma", (16,), True),
        ("head.conv_layers.0.bias", (8,), True),
        ("backbone.blocks.0.attn.qkv.weight", (48, 16), False),
        ("head.final_layer.weight", (17, 8, 1, 1), False),
    ],
)
def test_no_decay_rules(name: str, shape, free: bool) -> None:
    assert has_no_decay(name, torch.nn.Parameter(torch.empty(shape))) == free


def test_groups_hold_every_parameter_once_with_its_scale(tiny_model_spec: ModelSpec) -> None:
    model = PoseModel(tiny_model_spec)
    names = {id(p): n for n, p in model.named_parameters()}
    seen = []
    for group in parameter_groups(model, 0.1, 0.85):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            layer = layer_id(name, 2)
            assert group["lr_scale"] == pytest.approx(0.85 ** (3 - layer))
            assert group["weight_decay"] == (0.0 if has_no_decay(name, parameter) else 0.1)
    assert sorted(seen) == sorted(names.values())


def test_frozen_parameters_are_in_no_group(tiny_model_spec: ModelSpec) -> None:
    model = PoseModel(tiny_model_spec)
    model.backbone.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, 0.1, 0.85) for p in group["params"]]
    assert len(grouped) == len(list(model.head.parameters()))


def test_set_lr_scales_each_group(tiny_model_spec: ModelSpec) -> None:
    optimizer = build_adamw(PoseModel(tiny_model_spec), 0.1, 0.5, (0.9, 0.999))
    set_lr(optimizer, 8e-4)
    assert sorted({g["lr"] for g in optimizer.param_groups}) == [1e-4, 2e-4, 4e-4, 8e-4]
    assert all(g["betas"] == (0.9, 0.999) for g in optimizer.param_groups)


def schedule(**changes) -> Schedule:
    values = {
        "kind": "multistep",
        "lr": 5e-4,
        "steps": 2100,
        "steps_per_epoch": 10,
        "warmup_iters": 500,
        "min_lr": 5e-6,
        "milestones": (170, 200),
        "gamma": 0.1,
    }
    return Schedule(**values | changes)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.001),
        (1, 0.001 + 0.999 / 499),
        (250, 0.001 + 0.999 * 250 / 499),
        (499, 1.0),
        (500, 1.0),
        (1699, 1.0),
        (1700, 0.1),
        (1999, 0.1),
        (2000, 0.01),
        (2099, 0.01),
    ],
)
def test_multistep_at_the_official_points(step: int, factor: float) -> None:
    assert schedule().at(step) == pytest.approx(5e-4 * factor, rel=1e-9)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 5e-4),
        (50, (5e-4 + 5e-6) / 2),
        (25, 5e-6 + (5e-4 - 5e-6) * (1 + math.sqrt(0.5)) / 2),
        (100, 5e-6),
    ],
)
def test_cosine_ends_at_min_lr(step: int, lr: float) -> None:
    found = schedule(kind="cosine", steps=101, warmup_iters=0).at(step)
    assert found == pytest.approx(lr, rel=1e-9)


@pytest.mark.parametrize("warmup", [0, 2, 5])
def test_cosine_rises_then_falls(warmup: int) -> None:
    law = schedule(kind="cosine", steps=50, warmup_iters=warmup)
    rates = [law.at(step) for step in range(50)]
    top = max(0, warmup - 1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.001), (1, 0.001 + 0.999 / 10), (10, 1.0), (55, 0.5), (99, 1 / 90)]
)
def test_linear_rises_for_one_step_more_then_falls_towards_0(step: int, factor: float) -> None:
    found = schedule(kind="linear", steps=100, warmup_iters=10).at(step)
    assert found == pytest.approx(5e-4 * factor, rel=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_single_step(kind: str) -> None:
    assert schedule(kind=kind, steps=1, warmup_iters=0).at(0) == 5e-4


def test_linear_with_nothing_but_warmup() -> None:
    law = schedule(kind="linear", steps=4, warmup_iters=4)
    assert [law.at(step) / 5e-4 for step in range(4)] == pytest.approx(
        [0.001 + 0.999 * step / 4 for step in range(4)]
    )


def test_the_scaled_peak_is_logged(
    bent_params: Callable[[dict[str, str | None]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"train.lr": "5e-4", "train.batch_size": "1024", "train.lr_scaling": "linear"}
    with caplog.at_level(logging.INFO, "pose"):
        law = train.build_schedule(load_params(bent_params(changes)), 3, 100, 5e-4)
        assert law.lr == pytest.approx(1e-3)
        train.build_schedule(load_params(bent_params({})), 3, 100, 5e-4)
    assert caplog.messages == ["lr 0.0005 x 1024/512 linear = 0.001"]


def test_a_warmup_longer_than_the_phase_is_refused(bent_params) -> None:
    params = load_params(bent_params({"train.warmup_iters": "20", "train.warmup_epochs": "2"}))
    assert train.build_schedule(params, 4, 10, 5e-4).warmup_iters == 40
    message = "a warm-up of 40 steps, but the phase has 30 .3 epochs of 10., so lr never"
    with pytest.raises(PoseError, match=message):
        train.build_schedule(params, 3, 10, 5e-4)
