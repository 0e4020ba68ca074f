"""One expert of a ViTPose++ file becomes a plain ViTPose; tests/golden compares its maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from layouts import State, hugging_face, on_meta, random_state, vitpose
from pose.common.errors import PoseError
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert
from pose.pretrained.experts import EXPERTS

PART = 4  # of 16 channels


def names(count: int) -> tuple[str, ...]:
    """Of keypoints; COCO's 17 would be refused for another expert's head."""
    return tuple(f"point_{k}" for k in range(count))


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    return replace(tiny_model_spec, head="classic", deconv_channels=(10, 8), conv_channels=())


def with_experts(source: State, states: list[State], block: str) -> State:
    """`source` with the first channels of fc2 shared and the last PART in experts, one of each."""
    named = dict(source)
    for i in range(2):
        for kind in ("weight", "bias"):
            name = f"{block.format(i)}.mlp"
            for number, state in enumerate(states):
                fc2 = state[f"backbone.blocks.{i}.mlp.fc2.{kind}"]
                named[f"{name}.experts.{number}.{kind}"] = fc2[-PART:]
            named[f"{name}.fc2.{kind}"] = fc2[:-PART]
    return named


def official_file(spec: ModelSpec, heads: bool = True) -> tuple[State, list[State]]:
    """A file of the authors, and what each expert's plain model has."""
    shared = random_state(spec)
    expected = []
    for number, (_, count) in enumerate(EXPERTS):
        own = random_state(replace(spec, num_keypoints=count), seed=number)
        head = {k: t for k, t in own.items() if k.startswith("head.")}
        state = {k: t for k, t in shared.items() if k.startswith("backbone.")} | head
        for i in range(2):
            for kind in ("weight", "bias"):
                name = f"backbone.blocks.{i}.mlp.fc2.{kind}"
                state[name] = torch.cat([shared[name][:-PART], own[name][-PART:]])
        expected.append(state)
    source = with_experts(vitpose(expected[0]), expected, "backbone.blocks.{}")
    for number, state in enumerate(expected[1:] if heads else []):
        for name, tensor in state.items():
            if name.startswith("head."):
                source[f"associate_keypoint_heads.{number}.{name[5:]}"] = tensor
    return source, expected


@pytest.mark.parametrize("expert", range(6))
@pytest.mark.parametrize("keep_head", [True, False])
def test_an_expert_of_the_authors_file(spec: ModelSpec, expert: int, keep_head: bool) -> None:
    source, expected = official_file(spec)
    name, count = EXPERTS[expert]
    model = on_meta(replace(spec, num_keypoints=count))
    found, report = convert(source, model, keep_head, expert, names(count))
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[expert][key]), key
    assert ("head.final_layer.weight" in found) == keep_head
    assert f"expert {expert} of 6: ({name}, {count} keypoints)" in report.notes
    assert not any("experts" in key for key in found)


def test_hugging_face_has_the_head_of_expert_0(spec: ModelSpec) -> None:
    _, expected = official_file(spec)
    source = with_experts(hugging_face(expected[0]), expected, "backbone.encoder.layer.{}")
    found, _ = convert(source, on_meta(spec), True, 0)
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[0][key]), key
    with pytest.raises(PoseError, match=r"has no associate_keypoint_heads\.2; set weights\.head"):
        convert(source, on_meta(spec), True, 3, names(17))
    found, report = convert(source, on_meta(spec), False, 3)
    name = "backbone.blocks.1.mlp.fc2.weight"
    assert torch.equal(found[name], expected[3][name])
    assert report.notes[-1] == "the model's head is newly initialised"


def test_more_maps_than_keypoints_are_cut(spec: ModelSpec) -> None:
    """Whole files of the authors may have them."""
    source, expected = official_file(spec)
    for kind in ("weight", "bias"):
        name = f"associate_keypoint_heads.0.final_layer.{kind}"
        source[name] = torch.cat([source[name], torch.ones(119, *source[name].shape[1:])])
    found, report = convert(source, on_meta(replace(spec, num_keypoints=14)), True, 1, names(14))
    assert torch.equal(found["head.final_layer.bias"], expected[1]["head.final_layer.bias"])
    assert "the head's final layer has 133 maps; the first 14 are read" in report.notes


def refused(source: State, spec: ModelSpec, expert: int | None) -> str:
    with pytest.raises(PoseError) as caught:
        convert(source, on_meta(spec), True, expert, names(17))
    return str(caught.value)


def test_an_expert_must_be_named_and_be_there(spec: ModelSpec) -> None:
    source, _ = official_file(spec)
    listed = (
        "0 (COCO, 17 keypoints), 1 (AIC, 14 keypoints), 2 (MPII, 16 keypoints), 3 (AP-10K, 17 "
        "keypoints), 4 (APT-36K, 17 keypoints), 5 (COCO-WholeBody, 133 keypoints)"
    )
    message = refused(source, spec, None)
    assert message == (
        f"weights.expert is null, but the file has 6 experts: {listed}; set it to the number of one"
    )
    few = {k: t for k, t in source.items() if ".experts.5." not in k}
    assert "weights.expert = 5, but the file has 5 experts: 0 (COCO" in refused(few, spec, 5)
    plain = vitpose(random_state(spec))
    assert "the file has no experts (mlp.experts); set it to null" in refused(plain, spec, 0)


@pytest.mark.parametrize("missing", ["experts.2.weight", "fc2.bias"])
def test_a_part_that_is_missing_is_named(spec: ModelSpec, missing: str) -> None:
    source, _ = official_file(spec)
    del source[f"backbone.blocks.1.mlp.{missing}"]
    message = refused(source, spec, 2)
    assert f"backbone.blocks.1.mlp.{missing}" in message
    assert message.endswith("; download it again")


def test_parts_of_two_types_are_refused(spec: ModelSpec) -> None:
    source, _ = official_file(spec)
    source["backbone.blocks.0.mlp.experts.1.bias"] = torch.ones(4, dtype=torch.float16)
    assert "differ in shape or type; download it again" in refused(source, spec, 1)
