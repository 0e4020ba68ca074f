"""Shapes, names and sizes of the official model, without its weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pose.models.pose_model import PIXEL_MEAN, PIXEL_STD, PoseModel, normalise
from pose.models.spec import ModelSpec
from pose.models.vit import sine_pos_embed

HEAD = [
    "head.deconv_layers.0.weight",
    "head.deconv_layers.3.weight",
    "head.conv_layers.0.weight",
    "head.conv_layers.0.bias",
    "head.conv_layers.3.weight",
    "head.conv_layers.3.bias",
    "head.final_layer.weight",
    "head.final_layer.bias",
]


def official(embed_dim: int, depth: int, num_heads: int) -> ModelSpec:
    return ModelSpec(
        (768, 1024),
        16,
        2,
        embed_dim,
        depth,
        num_heads,
        0.0,
        "sapiens",
        (768, 768),
        (768, 768),
        False,
        1,
        17,
    )


def test_head_has_the_official_names_and_no_batch_norm() -> None:
    with torch.device("meta"):
        model = PoseModel(official(768, 12, 12))
    assert [name for name in model.state_dict() if name.startswith("head.")] == HEAD
    kinds = {type(module) for module in model.modules()}
    assert nn.InstanceNorm2d in kinds
    assert not kinds & {nn.BatchNorm2d, nn.ReLU, nn.Dropout2d}
    assert not list(model.buffers())
    assert "backbone.cls_token" not in model.state_dict()


def test_shapes_of_a_small_model(tiny_model_spec: ModelSpec) -> None:
    model = PoseModel(tiny_model_spec)
    images = torch.randn(2, 3, 32, 24)
    assert model.features(images).shape == (2, 16, 4, 3)
    assert model(images).shape == (2, 17, 16, 12)


def test_features_lie_where_their_patches_lie(tiny_model_spec: ModelSpec) -> None:
    """Tokens are unfolded row by row: the patch embedding of one bright patch, found again."""
    model = PoseModel(tiny_model_spec).eval()
    model.backbone.blocks = nn.Sequential()
    model.backbone.norm = nn.Identity()
    nn.init.zeros_(model.backbone.pos_embed)
    images = torch.zeros(1, 3, 32, 24)
    images[:, :, 18:20, 10:12] = 1  # of windows that start at 8 i - 2: row 2, column 1
    energy = (model.features(images) - model.features(images * 0)).abs().sum(1)[0]
    assert energy.argmax() == 2 * 3 + 1
    assert (energy > 1e-6).sum() == 1


def test_patch_padding_moves_every_window(tiny_model_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    padded = PoseModel(tiny_model_spec).eval()
    bare = PoseModel(replace(tiny_model_spec, patch_padding=0)).eval()
    bare.load_state_dict(padded.state_dict())
    images = torch.randn(1, 3, 32, 24)
    shifted = torch.zeros(1, 3, 32, 24)
    shifted[..., 2:, 2:] = images[..., :-2, :-2]
    with torch.no_grad():
        assert (padded.features(images) - bare.features(images)).abs().max() > 0.1
        torch.testing.assert_close(padded.features(images), bare.features(shifted))


def test_normalise_is_rgb_minus_mean_by_std() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    found = normalise(images)
    assert found.shape == (2, 3, 4, 5)
    assert found.dtype == torch.float32
    for rgb, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
        expected = (images[..., 2 - rgb].double() - mean) / std
        torch.testing.assert_close(found[:, rgb].double(), expected, atol=1e-5, rtol=0)
    assert PIXEL_MEAN == (123.675, 116.28, 103.53)
    assert PIXEL_STD == (58.395, 57.12, 57.375)


def test_a_sine_embedding_by_hand() -> None:
    """Channels of the patch in row 1, column 2: sin x, cos x, sin y, cos y, of two waves each."""
    embedding = sine_pos_embed((2, 3), 8)
    assert embedding.shape == (1, 6, 8)
    assert embedding.dtype == torch.float32
    by_hand = [wave(at * f) for at in (2, 1) for wave in (math.sin, math.cos) for f in (1, 0.01)]
    assert embedding[0, 1 * 3 + 2].tolist() == pytest.approx(by_hand, abs=1e-7)
    assert len({tuple(patch) for patch in embedding[0].tolist()}) == 6


def test_a_sine_embedding_needs_four_equal_parts() -> None:
    with pytest.raises(ValueError, match="dim is 6; a sine embedding needs a multiple of 4"):
        sine_pos_embed((2, 3), 6)
