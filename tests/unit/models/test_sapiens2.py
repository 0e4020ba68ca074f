"""Sizes, names and parts of Sapiens2's backbone; tests/golden compares its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pose.deploy.export import tolerance_of, trace, verify, write_onnx
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.sapiens2 import Attention, Block, rotary_tables, rotate
from pose.models.spec import ModelSpec

CPU = torch.device("cpu")


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    return replace(tiny_model_spec, family="sapiens2", patch_padding=0, num_heads=2)


@pytest.fixture
def model(spec: ModelSpec) -> PoseModel:
    """With weights that all matter: initially the layer scale hides attention."""
    torch.manual_seed(0)
    model = PoseModel(spec).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def official(size: tuple[int, int, int], deconvs: tuple[int, int], convs: tuple[int, ...]):
    width, depth, heads = size
    return ModelSpec((768, 1024), 16, 0, width, depth, heads, 0.0, "sapiens", deconvs, convs, False,
                     1, 17, "sapiens2")  # fmt: skip


LARGE = ((1024, 768), (512, 512, 256))


# Measured on the official classes; tensors of the backbone without rope_embed.periods.
@pytest.mark.parametrize(
    ("size", "channels", "backbone", "head", "tensors"),
    [
        ((768, 12, 12), LARGE, 113_993_472, 25_957_905, 209),
        ((1024, 24, 16), LARGE, 395_450_368, 30_152_209, 413),
        ((1280, 32, 16), LARGE, 814_283_520, 34_346_513, 549),
        ((1536, 40, 24), ((1536, 1024), (768, 512, 256)), 1_455_474_176, 64_231_185, 685),
        ((2432, 56, 32), LARGE, 5_066_902_976, 53_220_881, 957),
    ],
    ids=["0.1b", "0.4b", "0.8b", "1b", "5b"],
)
def test_sizes(size, channels, backbone: int, head: int, tensors: int) -> None:
    model = build_on_meta(official(size, *channels))
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model.head)]
    assert counts == [backbone, head]
    assert len(model.backbone.state_dict()) == tensors
    assert not list(model.buffers())


def test_key_heads_are_halved_in_the_middle_blocks() -> None:
    model = build_on_meta(official((1024, 24, 16), *LARGE))
    heads = [block.attn.wk.out_features // block.attn.head_dim for block in model.backbone.blocks]
    assert heads == [16] * 8 + [8] * 8 + [16] * 8


def test_query_head_h_uses_key_head_h_by_2() -> None:
    """With one token, attention gives that token's values."""
    attention = Attention(dim=16, num_heads=4, kv_heads=2)
    values = torch.arange(8.0)
    nn.init.zeros_(attention.wv.weight)
    attention.wv.bias = nn.Parameter(values)
    attention.gamma, attention.proj = nn.Parameter(torch.ones(16)), nn.Identity()
    table = torch.zeros(1, 4)
    found = attention(torch.randn(1, 1, 16), table, table + 1)
    expected = torch.cat([values[:4], values[:4], values[4:], values[4:]])
    torch.testing.assert_close(found[0, 0], expected)


def test_only_attention_has_a_layer_scale(spec: ModelSpec) -> None:
    block, tokens = Block(spec, 0), torch.randn(1, 3, 16)
    tables = torch.zeros(3, 8), torch.ones(3, 8)
    nn.init.zeros_(block.attn.gamma)
    expected = tokens + block.ffn(block.norm2(tokens))
    torch.testing.assert_close(block(tokens, *tables), expected)
    assert not torch.allclose(expected, tokens)
    nn.init.ones_(block.attn.gamma)
    assert not torch.allclose(block(tokens, *tables), expected)


def test_layer_scale_is_small_at_first(spec: ModelSpec) -> None:
    state = PoseModel(spec).state_dict()
    assert (state["backbone.blocks.0.attn.gamma"] == 1e-4).all()
    assert state["backbone.storage_tokens"].std() == pytest.approx(0.02, rel=0.5)
    assert not state["backbone.blocks.1.ffn.w3.bias"].any()
    assert (state["backbone.norm.weight"] == 1).all()


def test_the_head_starts_from_kaiming_by_fan_out() -> None:
    head = PoseModel(replace(official((64, 1, 4), (48, 32), (24, 24, 8)), input_wh=(32, 32))).head
    for layer, fan_out in ((head.deconv_layers[0], 64 * 16), (head.conv_layers[3], 24)):
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert not head.final_layer.bias.any()


@pytest.mark.parametrize("token", ["cls_token", "storage_tokens"])
def test_prefix_tokens_are_read(model: PoseModel, token: str) -> None:
    images = torch.randn(2, 3, 32, 24)
    before = model(images)
    nn.init.zeros_(getattr(model.backbone, token))
    assert (model(images) - before).abs().max() > 1e-3


def test_any_grid_without_resizing(model: PoseModel) -> None:
    assert model.features(torch.randn(1, 3, 40, 64)).shape == (1, 16, 5, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_angle_of_a_patch(dtype: torch.dtype) -> None:
    """y first, then x, each 2 pi of the centre in -1..1 by periods 1 and 10; then once more."""
    sin, cos = rotary_tables((4, 3), 8, dtype, CPU)
    assert sin.dtype == cos.dtype == dtype
    assert sin.shape == (9 + 12, 8)
    y, x = 2 * (2.5 / 4) - 1, 2 * (1.5 / 3) - 1  # of row 2, column 1
    angles = 2 * torch.pi * torch.tensor([y, y / 10, x, x / 10] * 2)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    signed = angles.sin() * torch.tensor([-1.0] * 4 + [1.0] * 4)
    torch.testing.assert_close(sin[9 + 7].float(), signed, atol=tolerance, rtol=0)
    torch.testing.assert_close(cos[9 + 7].float(), angles.cos(), atol=tolerance, rtol=0)


def test_periods_in_bfloat16_are_not_the_rounded_exact_ones() -> None:
    """Heads of 80 channels (0.8b): 11 of 20 periods differ, because the exponent is rounded."""
    sin, _ = rotary_tables((1, 2), 80, torch.bfloat16, CPU)
    exact = torch.tensor([100.0 ** (4 * i / 80) for i in range(20)]).bfloat16().float()
    angles = (torch.tensor(-torch.pi).bfloat16().float() / exact).bfloat16().float()
    assert int((sin[9, 60:] != angles.sin().bfloat16()).sum()) >= 8


def test_rotation_keeps_lengths_and_turns_halves() -> None:
    x = torch.randn(1, 2, 5, 8)
    angles = torch.rand(5, 4).tile(1, 2)
    signs = torch.tensor([-1.0] * 4 + [1.0] * 4)
    found = rotate(x, signs * angles.sin(), angles.cos())
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))
    turned = rotate(x, signs.expand(5, 8), torch.zeros(5, 8))
    torch.testing.assert_close(turned, torch.cat([-x[..., 4:], x[..., :4]], dim=-1))


def test_checkpointing_recomputes_the_same_gradients(spec: ModelSpec) -> None:
    images, found = torch.randn(2, 3, 32, 24), []
    for on in (False, True):
        torch.manual_seed(0)
        model = PoseModel(replace(spec, grad_checkpointing=on))
        model(images).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in found[0].items():
        assert torch.equal(grad, found[1][name]), name


@pytest.mark.usefixtures("kept_operators")
@pytest.mark.parametrize(("rope_dtype", "depth"), [("bf16", 2), ("fp32", 17)])
def test_exported_files_equal_the_model(
    tmp_path: Path, spec: ModelSpec, rope_dtype: str, depth: int
) -> None:
    """Depth 17 has a block with grouped heads, exported between the first and the last.

    The initial layer scale would hide attention.
    """
    torch.manual_seed(0)
    model = PoseModel(replace(spec, depth=depth, rope_dtype=rope_dtype)).eval()
    blocks, middle = model.backbone.blocks, depth // 2
    heads = [blocks[middle].attn.wk.weight.shape[0], blocks[middle].attn.wq.weight.shape[0]]
    assert (heads[0] < heads[1]) == (depth == 17)
    model.backbone.blocks = nn.Sequential(*(blocks[i] for i in sorted({0, middle, depth - 1})))
    for block in model.backbone.blocks:
        nn.init.ones_(block.attn.gamma)
        for layer in (block.attn.wq, block.attn.wk, block.attn.wv, block.attn.proj):
            nn.init.normal_(layer.weight, std=0.25)
    model.head.final_layer.weight.data /= 4  # maps of about 1, which the tolerance is for
    images = torch.randn(2, 3, 32, 24)
    program = trace(model, images)
    write_onnx(program, images, tmp_path / "model.onnx")
    torch.export.save(program, tmp_path / "model.pt2")
    tolerance = tolerance_of(replace(spec, rope_dtype=rope_dtype))
    found = verify(model, images, tmp_path / "model.onnx", tmp_path / "model.pt2", tolerance)
    assert set(found) == {"model.onnx", "model.pt2"}


def test_roundings_to_bfloat16_may_flip_in_another_runtime(spec: ModelSpec) -> None:
    assert tolerance_of(replace(spec, rope_dtype="bf16")) == 1e-3
    assert tolerance_of(replace(spec, rope_dtype="fp32")) == 1e-4
    assert tolerance_of(replace(spec, family="vit", rope_dtype="bf16")) == 1e-4
