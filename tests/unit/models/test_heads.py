"""The three heads: shapes, official names, sizes and first weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pose.models.heads import HEADS, ClassicHead, HeatmapHead, SimpleHead
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec

SAPIENS = ((768, 768), (768, 768))
VITPOSE = ((256, 256), ())
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("kind", "deconvs", "convs", "growth"),
    [
        ("sapiens", (8, 6), (5, 4), 4),
        ("sapiens", (8, 6), (), 4),
        ("sapiens", (), (5,), 1),
        ("sapiens", (), (), 1),
        ("classic", (8, 6), (), 4),
        ("classic", (8,), (5,), 2),
        ("simple", (), (), 4),
    ],
)
@pytest.mark.parametrize("maps", [17, 51])
def test_shapes(kind: str, deconvs, convs, growth: int, maps: int) -> None:
    head = HEADS[kind](16, deconvs, convs, maps)
    assert head(torch.randn(2, 16, 4, 3)).shape == (2, maps, 4 * growth, 3 * growth)


def names(kind: str, deconvs, convs) -> list[str]:
    with torch.device("meta"):
        return list(HEADS[kind](16, deconvs, convs, 17).state_dict())


def test_official_names() -> None:
    last = ["final_layer.weight", "final_layer.bias"]
    assert names("simple", (), ()) == last
    assert names("sapiens", *SAPIENS) == [
        "deconv_layers.0.weight",
        "deconv_layers.3.weight",
        "conv_layers.0.weight",
        "conv_layers.0.bias",
        "conv_layers.3.weight",
        "conv_layers.3.bias",
        *last,
    ]
    assert names("classic", *VITPOSE) == [
        "deconv_layers.0.weight",
        *(f"deconv_layers.1.{name}" for name in BATCH_NORM),
        "deconv_layers.3.weight",
        *(f"deconv_layers.4.{name}" for name in BATCH_NORM),
        *last,
    ]


def official(width: int, depth: int, heads: int, kind: str) -> ModelSpec:
    """Sapiens at 768 x 1024, ViTPose at 192 x 256."""
    large = kind == "sapiens"
    channels = {"sapiens": SAPIENS, "classic": VITPOSE, "simple": ((), ())}[kind]
    return ModelSpec(
        input_wh=(768, 1024) if large else (192, 256),
        patch_size=16,
        patch_padding=2,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        drop_path=0.0,
        head=kind,
        deconv_channels=channels[0],
        conv_channels=channels[1],
        grad_checkpointing=False,
        maps_per_keypoint=1,
        num_keypoints=17,
    )


# Measured on the official models; tensors: backbone and head.
@pytest.mark.parametrize(
    ("size", "backbone", "head", "tensors"),
    [
        ((1024, 24, 16), 306_244_608, 23_214_353, 301),
        ((1280, 32, 16), 634_597_120, 26_360_081, 397),
        ((1536, 40, 24), 1_139_163_648, 29_505_809, 493),
        ((1920, 48, 32), 2_131_943_040, 34_224_401, 589),
    ],
    ids=["0.3b", "0.6b", "1b", "2b"],
)
def test_sizes_of_sapiens(size, backbone: int, head: int, tensors: int) -> None:
    model = build_on_meta(official(*size, "sapiens"))
    assert (count(model.backbone), count(model.head)) == (backbone, head)
    assert len(model.state_dict()) == tensors
    assert model.backbone.patch_embed.grid_size == (64, 48)
    images = torch.empty(1, 3, 1024, 768, device="meta")
    assert model(images).shape == (1, 17, 256, 192)


# `plain` is timm's count of the ViT at 224 x 224 without classifier: it has a class token and
# 1 + side ** 2 rows of positions where ViTPose has 16 * 12. ViT-H is timm's with patches of 14.
@pytest.mark.parametrize(
    ("size", "plain", "side", "patch", "head"),
    [
        ((384, 12, 12), 21_665_664, 14, 16, 2_626_833),
        ((768, 12, 12), 85_798_656, 14, 16, 4_199_697),
        ((1024, 24, 16), 303_301_632, 14, 16, 5_248_273),
        ((1280, 32, 16), 630_764_800, 16, 14, 6_296_849),
    ],
    ids=["S", "B", "L", "H"],
)
def test_sizes_of_vitpose(size, plain: int, side: int, patch: int, head: int) -> None:
    model = build_on_meta(official(*size, "classic"))
    width = size[0]
    rows = 1 + (1 + side**2) - 16 * 12
    assert count(model.backbone) == plain - rows * width + (16**2 - patch**2) * 3 * width
    assert count(model.head) == head
    simple = build_on_meta(official(width, 1, size[2], "simple"))  # the head is of any depth
    assert count(simple.head) == 17 * 9 * width + 17
    images = torch.empty(1, 3, 256, 192, device="meta")
    assert model(images).shape == simple(images).shape == (1, 17, 64, 48)


@pytest.mark.parametrize("kind", HEADS)
def test_initial_weights_are_official(kind: str) -> None:
    torch.manual_seed(0)
    channels = ((), ()) if kind == "simple" else ((64, 64), (64,))
    for layer in HEADS[kind](64, *channels, 17).modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert float(layer.weight.detach().std()) == pytest.approx(0.001, rel=0.1)
            assert float(layer.weight.detach().mean().abs()) < 1e-4
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.weight, torch.ones(64))
            assert not layer.bias.any()


def randomised(head: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in head.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return head.eval()


def deconv(x, state, place: str):
    return F.conv_transpose2d(x, state[f"deconv_layers.{place}.weight"], stride=2, padding=1)


def test_sapiens_normalises_each_map_of_each_image() -> None:
    """InstanceNorm without parameters and SiLU, by hand; in training as in evaluation."""
    head, x = randomised(HeatmapHead(6, (5, 4), (3,), 17)), torch.randn(2, 6, 4, 3)
    state, found = head.state_dict(), head(x)
    assert torch.equal(head.train()(x), found)

    def normed(maps):
        mean, var = maps.mean((2, 3), keepdim=True), maps.var((2, 3), keepdim=True, correction=0)
        maps = (maps - mean) / (var + 1e-5).sqrt()
        return maps * torch.sigmoid(maps)

    x = normed(deconv(normed(deconv(x, state, "0")), state, "3"))
    x = normed(F.conv2d(x, state["conv_layers.0.weight"], state["conv_layers.0.bias"]))
    x = F.conv2d(x, state["final_layer.weight"], state["final_layer.bias"])
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
    assert not list(head.buffers())


def test_classic_uses_its_running_statistics_and_relu() -> None:
    head, x = randomised(ClassicHead(6, (5, 4), (), 17)), torch.randn(2, 6, 4, 3)
    state, found = head.state_dict(), head(x)
    for first, norm in (("0", "1"), ("3", "4")):
        weight, bias, mean, var = (
            state[f"deconv_layers.{norm}.{name}"][:, None, None] for name in BATCH_NORM[:4]
        )
        x = ((deconv(x, state, first) - mean) / (var + 1e-5).sqrt() * weight + bias).clamp_min(0)
    x = F.conv2d(x, state["final_layer.weight"], state["final_layer.bias"])
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


def test_simple_cuts_off_the_negative_before_it_grows() -> None:
    head = SimpleHead(1, (), (), 1)
    nn.init.zeros_(head.final_layer.weight)
    head.final_layer.weight.data[0, 0, 1, 1] = 1  # hands its input on
    x = torch.tensor([[[[-4.0, 8.0]]]])
    # centres of the quarter cells lie at (i + 0.5) / 4 - 0.5 between the two: 0 and 8, not -4 and 8
    expected = torch.tensor([0, 0, 1, 3, 5, 7, 8, 8.0]).expand(4, 8)
    torch.testing.assert_close(head(x)[0, 0], expected)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "frozen backbone"])
def test_grad_checkpointing_changes_no_number(
    tiny_model_spec: ModelSpec, kind: str, frozen: bool
) -> None:
    """Nor do random paths: both runs draw the same ones."""
    channels = {} if kind != "simple" else {"deconv_channels": (), "conv_channels": ()}
    spec = replace(tiny_model_spec, head=kind, drop_path=0.5, depth=4, **channels)
    images = torch.randn(3, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = PoseModel(replace(spec, grad_checkpointing=checkpointing)).train()
        model.backbone.requires_grad_(not frozen)
        torch.manual_seed(1)
        maps = model(images)
        (maps * torch.linspace(0, 1, maps[0].numel()).view(maps[0].shape)).sum().backward()
        results.append((maps, {n: p.grad for n, p in model.named_parameters()}))
    (plain, wanted), (again, found) = results
    assert torch.equal(plain, again)
    for name, grad in found.items():
        assert (grad is None) == (frozen and name.startswith("backbone."))
        assert grad is None or torch.equal(grad, wanted[name]), name


def test_grad_checkpointing_keeps_less(tiny_model_spec: ModelSpec) -> None:
    """It is at work: fewer tensors wait for the way back."""

    def waiting(checkpointing: bool) -> int:
        kept = []
        model = PoseModel(replace(tiny_model_spec, grad_checkpointing=checkpointing))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            model.features(torch.randn(1, 3, 32, 24))
        return len(kept)

    assert waiting(True) < waiting(False) / 2
