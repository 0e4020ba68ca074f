"""Checkpoints of other projects become ours; layouts.py writes them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from layouts import (
    ROW,
    TIMM,
    State,
    backbone_in,
    backbone_of,
    head_of,
    hugging_face,
    on_meta,
    prefixed,
    random_state,
    sapiens_clean,
    sapiens_pose,
    vitpose,
    with_row,
)
from pose.common.errors import PoseError
from pose.models import checkpoint
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec
from pose.pretrained.convert import LoadReport, convert, fit_pos_embed
from pose.pretrained.select import read_model, select


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    """With two 1x1 convolutions, as Sapiens has; all channel counts differ."""
    return replace(tiny_model_spec, deconv_channels=(10, 8), conv_channels=(6, 4))


@pytest.fixture
def ours(spec: ModelSpec) -> State:
    return random_state(spec)


@pytest.fixture
def classic(spec: ModelSpec) -> ModelSpec:
    return replace(spec, head="classic", conv_channels=())


@pytest.fixture
def simple(spec: ModelSpec) -> ModelSpec:
    return replace(spec, head="simple", deconv_channels=(), conv_channels=())


# ------------------------------------------------------------------------- Sapiens, mmpose 1.x


def test_sapiens_clean_pretraining_file(spec: ModelSpec, ours: State) -> None:
    found, report = convert(sapiens_clean(ours), on_meta(spec), keep_head=False)
    assert_same(found, backbone_of(ours))
    assert report.loaded == sorted(backbone_of(ours))
    assert report.resized == ["backbone.pos_embed"]  # by its class row
    assert report.dropped == ["backbone.cls_token"]
    assert report.missing == sorted(head_of(ours), key=list(ours).index)
    assert report.notes == [
        "backbone in the file: model.embed_dim 16, depth 2, mlp_dim 64, patch_size 8",
        "head in the file: none",
        "the model's head is newly initialised",
    ]


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "module.backbone."])
def test_sapiens_wrappers_and_prefixes(
    tmp_path: Path, spec: ModelSpec, ours: State, wrap: str | None, prefix: str
) -> None:
    state = prefixed(prefix, sapiens_clean(ours))
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "x.pth")
    found, _ = convert(read_model(tmp_path / "x.pth")[0], on_meta(spec), False)
    assert_same(found, backbone_of(ours))


def test_sapiens_raw_pretraining_file(tmp_path: Path, spec: ModelSpec, ours: State) -> None:
    """MAE's neck and head beside the backbone, and a trainer's objects beside the weights."""
    state = {
        **prefixed("backbone.", sapiens_clean(ours)),
        "backbone.mask_token": torch.ones(1, 1, 16),
        "neck.decoder_embed.weight": torch.ones(8, 16),
        "neck.decoder_blocks.0.ln1.weight": torch.ones(8),
        "head.predictor.weight": torch.ones(3, 3),
        "data_preprocessor.mean": torch.ones(3, 1, 1),
    }
    meta = {"args": argparse.Namespace(lr=1e-4), "best": np.float64(0.5), "losses": np.arange(3.0)}
    content = {"meta": meta, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "x.pth")
    read = read_model(tmp_path / "x.pth")[0]
    found, report = convert(read, on_meta(spec), False)
    assert_same(found, backbone_of(ours))
    assert sorted(report.dropped) == [
        "backbone.cls_token",
        "backbone.mask_token",
        "data_preprocessor.mean",
        "head.predictor.weight",
        "neck.decoder_blocks.0.ln1.weight",
        "neck.decoder_embed.weight",
    ]


@pytest.mark.parametrize("keep_head", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_sapiens_pose_file(
    tmp_path: Path, spec: ModelSpec, ours: State, keep_head: bool, prefix: str
) -> None:
    state = prefixed(prefix, sapiens_pose(ours))
    torch.save({"meta": {"epoch": np.int64(210)}, "state_dict": state}, tmp_path / "x.pth")
    read = read_model(tmp_path / "x.pth")[0]
    found, report = convert(read, on_meta(spec), keep_head)
    assert_same(found, ours if keep_head else backbone_of(ours))
    assert report.missing == ([] if keep_head else list(head_of(ours)))
    assert len(report.dropped) == (2 if keep_head else 2 + 8)
    assert report.notes[1] == (
        "head in the file: model.head sapiens, deconv_channels [10, 8], conv_channels [6, 4], "
        "17 maps"
    )


def test_mmpose_1_classic_file(classic: ModelSpec) -> None:
    state = random_state(classic)
    found, report = convert(sapiens_pose(state), on_meta(classic), True)
    assert_same(found, state)
    assert report.resized == []
    assert "model.head classic, deconv_channels [10, 8], conv_channels [], 17" in report.notes[1]


# ------------------------------------------------------------------------- ViTPose, mmpose 0.x


@pytest.mark.parametrize("prefix", ["", "module."])
def test_vitpose_classic_file(classic: ModelSpec, prefix: str) -> None:
    state = random_state(classic)
    found, report = convert(
        select({"": prefixed(prefix, vitpose(state))})[0], on_meta(classic), True
    )
    assert_same(found, state)
    assert report.dropped == report.missing == []


def test_vitpose_simple_file(simple: ModelSpec) -> None:
    state = random_state(simple)
    found, report = convert(vitpose(state), on_meta(simple), True)
    assert_same(found, state)
    assert "model.head simple, deconv_channels [], conv_channels [], 17 maps" in report.notes[1]


def test_vitpose_without_a_prefix_before_its_backbone(classic: ModelSpec) -> None:
    state = vitpose(random_state(classic))
    bare = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    found, _ = convert(bare, on_meta(classic), keep_head=True)
    expected, _ = convert(state, on_meta(classic), keep_head=True)
    assert found.keys() == expected.keys()


def test_tensors_without_values_are_named(spec: ModelSpec, ours: State) -> None:
    state = {key: tensor.to("meta") for key, tensor in ours.items()}
    with pytest.raises(PoseError, match=r"has no values in .*: they were saved on the meta device"):
        convert(state, on_meta(spec), False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(spec: ModelSpec, ours: State, value: float) -> None:
    ours = {**ours, "backbone.norm.bias": torch.full((16,), value)}
    with pytest.raises(PoseError, match=r"NaN or Inf in backbone\.norm\.bias"):
        convert(ours, on_meta(spec), keep_head=False)


def test_vitpose_at_another_size_adds_its_class_row_first(spec: ModelSpec) -> None:
    state = random_state(spec)
    wide = torch.randn(1, 24 * 18, 16)  # of the same aspect, 6 times finer
    source = vitpose({**state, "backbone.pos_embed": wide})
    source["backbone.pos_embed"] = with_row(wide, ROW)
    found, _ = convert(source, on_meta(spec), False)
    planes = (wide + ROW).unflatten(1, (24, 18)).permute(0, 3, 1, 2)
    expected = F.interpolate(planes, (4, 3), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(found["backbone.pos_embed"], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("convs", "last"), [((6, 4), 6), ((), 0)])
def test_sequential_final_layer_of_mmpose_0(classic: ModelSpec, convs, last: int) -> None:
    """mmpose 0.x writes all 1x1s as one sequence: conv, norm, activation ..., conv."""
    spec = replace(classic, conv_channels=convs)
    state = random_state(spec)
    source = {}
    for name, tensor in vitpose(state).items():
        name = name.replace("_head.final_layer.", f"_head.final_layer.{last}.")
        source[name.replace("_head.conv_layers.", "_head.final_layer.")] = tensor
    found, report = convert(source, on_meta(spec), True)
    assert_same(found, state)
    assert f"conv_channels {list(convs)}, 17 maps" in report.notes[1]


# ---------------------------------------------------------------------------- Hugging Face


@pytest.mark.parametrize("kind", ["classic", "simple"])
def test_hugging_face_file(request, tmp_path: Path, kind: str) -> None:
    spec = request.getfixturevalue(kind)
    state = random_state(spec)
    checkpoint.save_weights(tmp_path / "model.safetensors", hugging_face(state), {})
    read = read_model(tmp_path / "model.safetensors")[0]
    found, report = convert(read, on_meta(spec), True)
    assert_same(found, state)
    assert report.dropped == report.missing == []
    assert f"model.head {kind}" in report.notes[1]


# -------------------------------------------------------------------------- timm, MAE, ours


def test_timm_vit_with_class_token_and_classifier(spec: ModelSpec) -> None:
    torch.manual_seed(3)
    vit = VisionTransformer(
        img_size=(32, 24), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
    )
    state = {name: torch.randn(tensor.shape) for name, tensor in vit.state_dict().items()}
    assert state["pos_embed"].shape[1] == 1 + 4 * 3
    found, report = convert(state, on_meta(spec), False)
    expected = {name: t for name, t in state.items() if name.split(".")[0] not in DROPPED_OF_TIMM}
    expected["pos_embed"] = state["pos_embed"][:, 1:]
    assert_same(found, prefixed("backbone.", expected))
    dropped = ["backbone.cls_token", "backbone.head.bias", "backbone.head.weight"]
    assert sorted(report.dropped) == dropped


DROPPED_OF_TIMM = ("cls_token", "head")


def test_mae_file_with_a_smaller_patch(spec: ModelSpec, ours: State) -> None:
    """Flat, with a decoder; a square grid; a kernel of 6 in the middle of our 8."""
    source = backbone_in(TIMM, ours)
    kernel = torch.randn(16, 3, 6, 6)
    source["patch_embed.proj.weight"] = kernel
    square = torch.randn(1, 36, 16)
    source["pos_embed"] = with_row(square, torch.zeros(1, 1, 1))
    source |= {name: torch.ones(1, 1, 16) for name in ("cls_token", "mask_token")}
    source |= {name: torch.ones(4) for name in DECODER}
    found, report = convert(source, on_meta(spec), False)
    padded = torch.zeros(16, 3, 8, 8)
    padded[:, :, 1:7, 1:7] = kernel
    planes = square.unflatten(1, (6, 6)).permute(0, 3, 1, 2)
    resized = F.interpolate(planes, (4, 3), mode="bicubic").flatten(2).transpose(1, 2)
    expected = {
        **backbone_of(ours),
        "backbone.patch_embed.proj.weight": padded,
        "backbone.pos_embed": resized.contiguous(),
    }
    assert_same(found, expected)
    assert report.resized == ["backbone.pos_embed", "backbone.patch_embed.proj.weight"]
    assert len(report.dropped) == 2 + len(DECODER)


DECODER = (
    "decoder_pos_embed",
    "decoder_embed.weight",
    "decoder_blocks.0.norm1.weight",
    "decoder_norm.weight",
    "decoder_pred.bias",
)


@pytest.mark.parametrize("keep_head", [True, False])
def test_our_own_file(tmp_path: Path, spec: ModelSpec, ours: State, keep_head: bool) -> None:
    checkpoint.save_weights(tmp_path / "x.safetensors", ours, {})
    read = read_model(tmp_path / "x.safetensors")[0]
    found, report = convert(read, on_meta(spec), keep_head)
    assert_same(found, ours if keep_head else backbone_of(ours))
    assert report.resized == []


def test_our_own_file_at_twice_the_size(spec: ModelSpec, ours: State) -> None:
    large = replace(spec, input_wh=(48, 64))
    found, _ = convert(ours, on_meta(large), True)
    planes = ours["backbone.pos_embed"].unflatten(1, (4, 3)).permute(0, 3, 1, 2)
    expected = F.interpolate(planes, (8, 6), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(found["backbone.pos_embed"], expected, atol=1e-6, rtol=0)


def test_half_precision_stays(spec: ModelSpec, ours: State) -> None:
    """The model's own load casts; here nothing is rounded twice."""
    half = {name: tensor.bfloat16() for name, tensor in ours.items()}
    half["backbone.pos_embed"] = torch.randn(1, 64, 16).bfloat16()
    found, _ = convert(half, on_meta(spec), True)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_the_model_may_lie_in_memory_and_is_not_changed(spec: ModelSpec, ours: State) -> None:
    model = PoseModel(spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = sapiens_pose(ours)
    kept = dict(source)
    convert(source, model, True)
    assert_same(dict(model.state_dict()), before)
    assert_same(source, kept)


# ------------------------------------------------------------------- class rows and grids


@pytest.mark.parametrize(
    ("rows", "grid", "dropped", "source"),
    [
        (12, (4, 3), 0, (4, 3)),
        (13, (4, 3), 1, (4, 3)),
        (9, (3, 3), 0, (3, 3)),  # odd, yet just the model's
        (10, (3, 3), 1, (3, 3)),
        (9, (4, 3), 0, (3, 3)),  # odd, and a square: 8 would be no grid
        (25, (8, 6), 0, (5, 5)),
        (49, (8, 6), 1, (8, 6)),  # one more than the model's comes first
        (65, (8, 6), 1, (8, 8)),
        (65, (13, 5), 0, (13, 5)),
        (65, (26, 10), 1, (8, 8)),
        (257, (16, 12), 1, (16, 16)),
        (197, (16, 12), 1, (14, 14)),
        (4097, (64, 48), 1, (64, 64)),
        (4096, (64, 48), 0, (64, 64)),
        (3073, (64, 48), 1, (64, 48)),
        (1370, (64, 48), 1, (37, 37)),  # even with its class row: a grid of odd sides
        (193, (32, 24), 1, (16, 12)),
        (192, (32, 24), 0, (16, 12)),
        (63, (18, 14), 0, (9, 7)),  # ours, at half the size
        (64, (18, 14), 0, (8, 8)),
    ],
)
def test_class_row_and_source_grid(rows: int, grid, dropped: int, source) -> None:
    pos_embed = torch.randn(1, rows, 2, generator=torch.Generator().manual_seed(rows))
    found = fit_pos_embed(pos_embed, grid, adds_class_row=False)
    planes = pos_embed[:, dropped:].unflatten(1, source).permute(0, 3, 1, 2)
    if source != grid:
        planes = F.interpolate(planes, grid, mode="bicubic", align_corners=False, antialias=False)
    assert torch.equal(found, planes.flatten(2).transpose(1, 2))


def test_a_vitpose_file_whose_class_row_is_merged_already_stays() -> None:
    rows = torch.randn(1, 12, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_pos_embed(rows, (4, 3), adds_class_row=True), rows)


@pytest.mark.parametrize("rows", [0, 1 + 7, 14, 23])
def test_rows_that_are_no_grid(rows: int) -> None:
    with pytest.raises(PoseError) as caught:
        fit_pos_embed(torch.zeros(1, rows, 4), (4, 3), adds_class_row=False)
    assert str(caught.value) == (
        f"pos_embed has {rows} rows: neither a square nor of the aspect ratio of a grid of 4 x 3 "
        "(h x w); check codec.input_size"
    )


def keys_cubic(t: float) -> float:
    """The bicubic kernel of torch (a = -0.75)."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resized_row(values: list[float], length: int) -> list[float]:
    """One axis: pixel centres aligned at the edges, four taps, the border repeated."""
    out, n = [], len(values)
    for i in range(length):
        at = (i + 0.5) * n / length - 0.5
        first = int(at // 1) - 1
        taps = range(first, first + 4)
        out.append(sum(keys_cubic(at - t) * values[min(max(t, 0), n - 1)] for t in taps))
    return out


@pytest.mark.parametrize(("source", "grid"), [((8, 8), (5, 3)), ((4, 3), (8, 6)), ((8, 6), (4, 3))])
def test_pos_embed_is_resized_bicubic_without_antialias(source, grid) -> None:
    plane = torch.randn(source, generator=torch.Generator().manual_seed(2))
    wide = [resized_row(row, grid[1]) for row in plane.tolist()]
    columns = [resized_row(list(column), grid[0]) for column in zip(*wide, strict=True)]
    found = fit_pos_embed(plane.reshape(1, -1, 1), grid, adds_class_row=False)
    torch.testing.assert_close(found.reshape(grid), torch.tensor(columns).T, atol=1e-5, rtol=0)


def test_an_image_of_another_size_resizes_on_the_fly(spec: ModelSpec, ours: State) -> None:
    """What the official forward pass does: as if the file had been loaded at that size."""
    square = replace(spec, input_wh=(40, 40))
    images = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    trained = PoseModel(square).eval()
    torch.nn.init.normal_(trained.backbone.pos_embed)
    loaded = PoseModel(spec).eval()
    loaded.load_state_dict(convert(dict(trained.state_dict()), loaded, True)[0])
    with torch.no_grad():
        assert torch.equal(trained.features(images), loaded.features(images))
        assert torch.equal(trained(images), loaded(images))


# ------------------------------------------------------------------------------- refusals


def refused(source: State, spec: ModelSpec, keep_head: bool = False) -> str:
    with pytest.raises(PoseError) as caught:
        convert(source, on_meta(spec), keep_head)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SIZES = " (backbone in the file: model.embed_dim 16, depth 2, mlp_dim 64, patch_size 8)"


def test_a_missing_backbone_tensor(spec: ModelSpec, ours: State) -> None:
    source = {n: t for n, t in sapiens_clean(ours).items() if not n.startswith("layers.1.attn")}
    assert refused(source, spec) == (
        "missing tensors backbone.blocks.1.attn.proj.bias, backbone.blocks.1.attn.proj.weight, "
        "backbone.blocks.1.attn.qkv.bias and 1 more; check model in params.yaml" + SIZES
    )


def test_an_unexpected_backbone_tensor(spec: ModelSpec, ours: State) -> None:
    source = {**sapiens_clean(ours), "layers.0.gamma_1": torch.ones(16)}
    assert refused(source, spec) == (
        "unexpected tensors backbone.layers.0.gamma_1; check model in params.yaml" + SIZES
    )


BENT: dict[str, tuple[Callable[[ModelSpec], ModelSpec], str]] = {
    "deeper model": (lambda s: replace(s, depth=3), "missing tensors backbone.blocks.2."),
    "flatter model": (lambda s: replace(s, depth=1), "unexpected tensors backbone.blocks.1."),
    "wider model": (lambda s: replace(s, embed_dim=24), "the model of params.yaml needs"),
    "larger patch": (lambda s: replace(s, patch_size=13, input_wh=(39, 52)), "needs [16, 3, 13,"),
    "smaller patch": (lambda s: replace(s, patch_size=4, input_wh=(12, 16)), "needs [16, 3, 4, 4]"),
}


@pytest.mark.parametrize("layout", [sapiens_clean, vitpose, hugging_face])
@pytest.mark.parametrize("case", BENT)
def test_another_size_names_what_the_file_holds(classic: ModelSpec, layout, case: str) -> None:
    bend, expected = BENT[case]
    message = refused(layout(random_state(classic)), bend(classic))
    assert expected in message
    assert message.endswith(SIZES)


def test_a_file_of_something_else(spec: ModelSpec) -> None:
    message = refused({"conv1.weight": torch.ones(3), "fc.bias": torch.ones(2)}, spec)
    assert message.startswith(
        "none of its 2 tensors has a name of a known ViT (first: conv1.weight, fc.bias); expected "
    )


@pytest.mark.parametrize("tensor", [torch.ones(()), torch.ones(3), torch.ones(1, 0, 16)])
@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.projection.weight", "ln1.weight"])
def test_tensors_of_another_rank(spec: ModelSpec, ours: State, name: str, tensor: Tensor) -> None:
    message = refused({**sapiens_clean(ours), name: tensor}, spec)
    assert " (backbone in the file: " in message or "pos_embed has 0 rows" in message


def test_another_number_of_heads_cannot_be_seen(spec: ModelSpec, ours: State) -> None:
    """num_heads shapes no tensor; that the file fits says nothing about it."""
    found, _ = convert(sapiens_pose(ours), on_meta(replace(spec, num_heads=4)), True)
    assert_same(found, ours)


HEADS_IN_FILES = {
    "sapiens": "model.head sapiens, deconv_channels [10, 8], conv_channels [6, 4], 17 maps",
    "classic": "model.head classic, deconv_channels [10, 8], conv_channels [], 17 maps",
    "simple": "model.head simple, deconv_channels [], conv_channels [], 17 maps",
    "combined": "model.head sapiens, deconv_channels [10, 8], conv_channels [6, 4], 51 maps",
    "narrow": "model.head sapiens, deconv_channels [5, 8], conv_channels [6, 4], 17 maps",
    "one": "model.head sapiens, deconv_channels [10, 8], conv_channels [4], 17 maps",
}


def head_spec(spec: ModelSpec, kind: str) -> ModelSpec:
    return {
        "sapiens": spec,
        "classic": replace(spec, head="classic", conv_channels=()),
        "simple": replace(spec, head="simple", deconv_channels=(), conv_channels=()),
        "combined": replace(spec, maps_per_keypoint=3),
        "narrow": replace(spec, deconv_channels=(5, 8)),
        "one": replace(spec, conv_channels=(4,)),
    }[kind]


@pytest.mark.parametrize("wanted", HEADS_IN_FILES)
@pytest.mark.parametrize("kind", HEADS_IN_FILES)
def test_keeping_a_head_of_another_kind(spec: ModelSpec, kind: str, wanted: str) -> None:
    source = sapiens_pose(random_state(head_spec(spec, kind)))
    if kind == wanted:
        convert(source, on_meta(head_spec(spec, wanted)), True)
        return
    message = refused(source, head_spec(spec, wanted), keep_head=True)
    assert message.endswith(f" (head in the file: {HEADS_IN_FILES[kind]})")


def test_keeping_a_head_that_is_not_there(spec: ModelSpec, ours: State) -> None:
    message = refused(sapiens_clean(ours), spec, keep_head=True)
    assert message == "has no head of a pose model; set weights.head: fresh"
    source = {**backbone_of(ours), "decode_head.conv.weight": torch.ones(1)}
    assert refused(source, spec, keep_head=True) == (
        "has no head of a pose model (beside the backbone: decode_head.conv.weight); set "
        "weights.head: fresh"
    )


def test_report_is_a_table() -> None:
    report = LoadReport(["a", "b"], ["b"], list("cdefg"), [], ["a note"])
    assert str(report).splitlines() == [
        "loaded       2  a, b",
        "resized      1  b",
        "dropped      5  c, d, e and 2 more",
        "missing      0  ",
        "a note",
    ]
