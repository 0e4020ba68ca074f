"""Files of Sapiens2, as its authors and as transformers write them, and its 308 keypoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from layouts import State, on_meta, prefixed, random_state, sapiens_clean
from pose.common.errors import PoseError
from pose.common.skeleton import COCO_17, names_of_parts
from pose.common.whole_body import ALL_PARTS
from pose.models import checkpoint
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert
from pose.pretrained.keypoints_308 import NAMES, rows_for
from pose.pretrained.select import read_model

COCO_ROWS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 62, 41, 9, 10, 11, 12, 13, 14]

# ours -> the authors', in this order
OFFICIAL = (
    ("patch_embed.proj.", "patch_embed.projection."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".gamma", ".gamma.weight"),
    ("backbone.norm.", "backbone.ln1."),
    ("head.final_layer.", "decode_head.conv_pose."),
    ("head.deconv_", "decode_head.deconv_"),
    ("head.conv_layers", "decode_head.conv_layers"),
)
# ours -> transformers' Sapiens2ForPoseEstimation
TRANSFORMERS = (
    ("backbone.patch_embed.proj.", "model.embeddings.patch_embeddings."),
    ("backbone.cls_token", "model.embeddings.cls_token"),
    ("backbone.storage_tokens", "model.embeddings.register_tokens"),
    ("backbone.norm.", "model.norm."),
    ("backbone.blocks.", "model.model.layer."),
    (".attn.wq.", ".attention.q_proj."),
    (".attn.wk.", ".attention.k_proj."),
    (".attn.wv.", ".attention.v_proj."),
    (".attn.proj.", ".attention.o_proj."),
    (".attn.q_norm.", ".attention.q_norm."),
    (".attn.k_norm.", ".attention.k_norm."),
    (".attn.gamma", ".layer_scale1.lambda1"),
    (".ffn.w3.", ".mlp.down_proj."),
    ("head.final_layer.", "decode_head.predictor."),
    ("head.deconv_layers.0.", "decode_head.upsample_layers.0.convolution."),
    ("head.deconv_layers.3.", "decode_head.upsample_layers.1.convolution."),
    ("head.conv_layers.0.", "decode_head.conv_layers.0.convolution."),
    ("head.conv_layers.3.", "decode_head.conv_layers.1.convolution."),
    ("head.conv_layers.6.", "decode_head.conv_layers.2.convolution."),
)


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    """Depth 17: the block in the middle has half as many key heads."""
    sizes = {"depth": 17, "patch_padding": 0, "mlp_dim": 40}
    head = {"deconv_channels": (10, 8), "conv_channels": (8, 6, 4)}
    return replace(tiny_model_spec, family="sapiens2", **sizes, **head)


@pytest.fixture
def ours(spec: ModelSpec) -> State:
    return random_state(spec)


def renamed(state: State, pairs: tuple[tuple[str, str], ...]) -> State:
    named = {}
    for name, tensor in state.items():
        for mine, theirs in pairs:
            name = name.replace(mine, theirs)
        named[name] = tensor
    return named


def pose_file(ours: State) -> State:
    return {"backbone.rope_embed.periods": torch.ones(2), **renamed(ours, OFFICIAL)}


def pretrain_file(ours: State) -> State:
    """Without prefix and head."""
    return {k[9:]: t for k, t in pose_file(ours).items() if k.startswith("backbone.")}


def transformers_file(ours: State) -> State:
    """w12 is split into two layers."""
    named = renamed(ours, TRANSFORMERS)
    for name in [n for n in named if ".ffn.w12." in n]:
        block, kind = name.split(".ffn.w12.")
        gate, up = named.pop(name).chunk(2)
        named |= {f"{block}.mlp.up_proj.{kind}": up, f"{block}.mlp.gate_proj.{kind}": gate}
    return named


def read(folder: Path, state: State) -> State:
    checkpoint.save_weights(folder / "model.safetensors", state, {})
    return read_model(folder / "model.safetensors")[0]


@pytest.mark.parametrize("layout", [pose_file, transformers_file])
@pytest.mark.parametrize("keep_head", [True, False])
def test_a_pose_file(tmp_path: Path, spec: ModelSpec, ours: State, layout, keep_head: bool) -> None:
    found, report = convert(read(tmp_path, layout(ours)), on_meta(spec), keep_head)
    expected = {k: t for k, t in ours.items() if keep_head or k.startswith("backbone.")}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    assert report.notes[:2] == [
        "backbone in the file: model.embed_dim 16, depth 17, num_heads 2, mlp_dim 40, patch_size 8",
        "head in the file: model.head sapiens, deconv_channels [10, 8], conv_channels [8, 6, 4], "
        "17 maps",
    ]
    periods = {"backbone.rope_embed.periods"} if layout is pose_file else set()
    head = {n for n in report.dropped if n.startswith("head.")}
    assert {*report.dropped} == periods | head
    assert bool(head) == (not keep_head)


def test_a_pretraining_file(tmp_path: Path, spec: ModelSpec, ours: State) -> None:
    state = pretrain_file(ours)
    assert "storage_tokens" in state
    found, report = convert(read(tmp_path, state), on_meta(spec), False)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in found.items())
    assert report.dropped == ["backbone.rope_embed.periods"]


@pytest.mark.parametrize("start", ["model.model.", "model."])
def test_transformers_backbone_alone(
    tmp_path: Path, spec: ModelSpec, ours: State, start: str
) -> None:
    """Sapiens2Model, and layers without the inner `model.`."""
    state = {
        name.removeprefix("model.")
        if start == "model.model."
        else name.replace("model.model", "model"): t
        for name, t in transformers_file(ours).items()
        if not name.startswith("decode_head")
    }
    found, _ = convert(read(tmp_path, state), on_meta(spec), False)
    assert len(found) == sum(name.startswith("backbone.") for name in ours)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in found.items())


@pytest.mark.parametrize("prefix", ["module.", "net.model."])
def test_behind_prefixes(tmp_path: Path, spec: ModelSpec, ours: State, prefix: str) -> None:
    state = read(tmp_path, prefixed(prefix, pose_file(ours)))
    found, _ = convert(state, on_meta(spec), True)
    assert found.keys() == ours.keys()


def test_our_own_file(tmp_path: Path, spec: ModelSpec, ours: State) -> None:
    found, report = convert(read(tmp_path, ours), on_meta(spec), True)
    assert found.keys() == ours.keys()
    assert report.dropped == []


def refused(source: State, spec: ModelSpec, keep_head: bool = False) -> str:
    with pytest.raises(PoseError) as caught:
        convert(source, on_meta(spec), keep_head)
    return str(caught.value)


def test_the_family_must_be_that_of_the_file(
    tiny_model_spec: ModelSpec, spec: ModelSpec, ours: State
) -> None:
    message = refused(pose_file(ours), tiny_model_spec)
    assert message.startswith("model.family = 'vit', but the file has a backbone of sapiens2; set")
    assert "num_heads 2, mlp_dim 40" in message
    vit = sapiens_clean(random_state(tiny_model_spec))
    assert "the file has a backbone of vit; set model.family: vit" in refused(vit, spec)


def test_wrong_sizes_are_named(spec: ModelSpec, ours: State) -> None:
    """Unlike in a ViT, the number of heads has a shape."""
    message = refused(pose_file(ours), replace(spec, num_heads=4))
    assert "attn." in message
    assert "(backbone in the file: model.embed_dim 16, depth 17, num_heads 2" in message
    assert "mlp_dim 40" in refused(pose_file(ours), replace(spec, mlp_dim=None))


def test_the_4k_variant_is_refused(spec: ModelSpec, ours: State) -> None:
    state = pose_file(ours) | {"backbone.tokenizer.w_cls": torch.ones(1, 1, 16)}
    assert "window tokenizer of the 4K variant" in refused(state, spec)


@pytest.mark.parametrize("missing", ["blocks.3.attn.wk.weight", "blocks.3.mlp.up_proj.bias"])
def test_a_missing_tensor_is_named(spec: ModelSpec, ours: State, missing: str) -> None:
    layout = transformers_file if "mlp" in missing else pose_file
    state = {
        k: t
        for k, t in layout(ours).items()
        if not k.endswith(missing.replace("blocks", "layer" if "mlp" in missing else "blocks"))
    }
    assert "missing tensors backbone.blocks.3." in refused(state, spec)


# ------------------------------------------------------------------------------- 308 keypoints


def test_rows_of_coco() -> None:
    assert rows_for(COCO_17.names) == COCO_ROWS
    assert len(NAMES) == 63
    assert rows_for(["nose", "tail"]) is None
    assert rows_for(["left_big_toe", "left_small_toe", "left_heel"]) == [15, 16, 17]
    assert rows_for(["right_big_toe", "right_small_toe", "right_heel"]) == [18, 19, 20]
    assert rows_for(["right_thumb4", "left_thumb4", "left_pinky_finger_third_joint"]) == [
        21,
        42,
        61,
    ]


def test_hands_of_coco_wholebody_have_rows_and_faces_have_none() -> None:
    rows = rows_for(names_of_parts(ALL_PARTS))
    assert rows is not None
    assert rows[:17] == COCO_ROWS
    assert rows[17:23] == [15, 16, 17, 18, 19, 20]
    assert rows[23:91] == [None] * 68
    assert rows[91:96] == [62, 45, 44, 43, 42], "left wrist, thumb from its base to its tip"
    assert rows[112:117] == [41, 24, 23, 22, 21]
    hands = [row for row in rows[91:] if row is not None]
    assert sorted(hands) == [*range(21, 63)]


def test_maps_of_the_face_start_at_0(spec: ModelSpec) -> None:
    whole = random_state(replace(spec, num_keypoints=308))
    names = names_of_parts(("body", "face"))
    model = on_meta(replace(spec, num_keypoints=len(names)))
    found, report = convert(pose_file(whole), model, keep_head=True, names=names)
    for kind in ("weight", "bias"):
        key = f"head.final_layer.{kind}"
        assert torch.equal(found[key][:17], whole[key][COCO_ROWS])
        assert not found[key][17:].any()
    assert report.notes[-1].endswith("of its 308, by keypoint names; the 68 of the face are new")


def test_a_head_of_308_is_reduced_to_the_keypoints_by_name(spec: ModelSpec) -> None:
    whole = random_state(replace(spec, num_keypoints=308))
    found, report = convert(pose_file(whole), on_meta(spec), keep_head=True)
    for kind in ("weight", "bias"):
        name = f"head.final_layer.{kind}"
        assert torch.equal(found[name], whole[name][COCO_ROWS])
    assert f"the head's 17 maps are rows {COCO_ROWS} of its 308, by keypoint names" in report.notes
    few = ("right_heel", "left_wrist")
    model = on_meta(replace(spec, num_keypoints=2))
    found, _ = convert(pose_file(whole), model, True, names=few)
    assert torch.equal(found["head.final_layer.bias"], whole["head.final_layer.bias"][[20, 62]])


def test_other_keypoints_need_a_fresh_head(spec: ModelSpec) -> None:
    whole = random_state(replace(spec, num_keypoints=308))
    model = on_meta(replace(spec, num_keypoints=2))
    with pytest.raises(PoseError, match=r"its head has 308 maps, the keypoints here need 2; set"):
        convert(pose_file(whole), model, True, names=("nose", "tail"))
    found, report = convert(pose_file(whole), model, False, names=("nose", "tail"))
    assert not any(name.startswith("head.") for name in found)
    assert not any("308" in note for note in report.notes[2:])


def test_a_model_of_308_keeps_all(spec: ModelSpec) -> None:
    large = replace(spec, num_keypoints=308)
    whole = random_state(large)
    names = tuple(f"keypoint_{i}" for i in range(308))
    found, _ = convert(pose_file(whole), on_meta(large), True, names=names)
    assert torch.equal(found["head.final_layer.weight"], whole["head.final_layer.weight"])
