"""Which backbone of a file is taken: behind wrappers, prefixes and dictionaries, or by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layouts import (
    HUGGING_FACE,
    MMPRETRAIN,
    TIMM,
    State,
    backbone_in,
    backbone_of,
    hugging_face,
    on_meta,
    prefixed,
    random_state,
    sapiens_clean,
    sapiens_pose,
    vitpose,
)
from pose.common.errors import PoseError
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert
from pose.pretrained.select import read_model, select


@pytest.fixture
def ours(tiny_model_spec: ModelSpec) -> State:
    return random_state(tiny_model_spec)


def in_blocks(part: str) -> Callable[[State], State]:
    """Names with a part behind each block's number."""

    def rename(state: State) -> State:
        split = {name: name.split(".") for name in state}
        places = {name: [i for i, p in enumerate(s) if p.isdigit()] for name, s in split.items()}
        return {
            ".".join([*s[: places[n][0] + 1], part, *s[places[n][0] + 1 :]] if places[n] else s): t
            for (n, t), s in zip(state.items(), split.values(), strict=True)
        }

    return rename


RENAMED: dict[str, Callable[[State], State]] = {
    prefix: lambda state, prefix=prefix: prefixed(prefix, state)  # type: ignore[misc]
    for prefix in (
        "_orig_mod.",
        "module._orig_mod.",
        "model._orig_mod.",
        "_orig_mod.module.model.",
        "_fsdp_wrapped_module.",
        "_fsdp_wrapped_module._checkpoint_wrapped_module.",
        "net.",
        "model.model.",
        "ema_model.",
        "module.ema_model.module.",
        "pose_estimator.network.",
        "a.b.c.d.e.",
    )
} | {
    "compiled blocks": in_blocks("_orig_mod"),
    "FSDP blocks": in_blocks("_fsdp_wrapped_module"),
    "checkpointed blocks": in_blocks("_checkpoint_wrapped_module"),
    "all of them": lambda state: prefixed(
        "net._orig_mod.",
        in_blocks("_fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod")(state),
    ),
}
LAYOUTS: dict[str, Callable[[State], State]] = {
    "ours": lambda state: state,
    "our backbone": backbone_of,
    "timm": lambda state: backbone_in(TIMM, state),
    "mmpretrain": lambda state: backbone_in(MMPRETRAIN, state),
    "sapiens": sapiens_clean,
    "mmpose": sapiens_pose,
}


@pytest.mark.parametrize("rename", RENAMED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrappers_and_prefixes(
    tiny_model_spec: ModelSpec, ours: State, layout: str, rename: str
) -> None:
    state = RENAMED[rename](LAYOUTS[layout](ours))
    keep_head = layout in ("ours", "mmpose")
    tensors, _ = select({"": state})
    found, _ = convert(tensors, on_meta(tiny_model_spec), keep_head)
    expected = ours if keep_head else backbone_of(ours)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("rename", RENAMED)
@pytest.mark.parametrize("layout", [vitpose, hugging_face])
def test_vitpose_and_hugging_face_behind_wrappers(ours: State, layout, rename: str) -> None:
    state = layout({name: t for name, t in ours.items() if "conv_layers.0" not in name})
    found, _ = select({"": RENAMED[rename](state)})
    assert found.keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"epoch": 3, "model_state_dict": "vit", "loss": 0.1}, "model_state_dict"),
        ({"net": "vit"}, "net"),
        ({"generator": {"weights": "vit"}, "step": 1}, "generator.weights"),
        ({"net": "vit", "criterion": "center"}, "net"),
        ({"state_dict": "vit", "ema_state_dict": "vit"}, "state_dict"),  # as mmengine
        ({"state_dict_ema": "vit", "state_dict": "vit"}, "state_dict"),  # as timm
        ({"model": {"state_dict_ema": "vit"}, "ema": "vit"}, "model.state_dict_ema"),
        ({"state_dict": "center", "teacher": "vit"}, "teacher"),
        ({"model": {}, "module": "vit"}, "module"),
    ],
)
def test_the_dictionary_that_is_taken(tmp_path: Path, ours: State, content, expected: str) -> None:
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return {"vit": dict(ours), "center": {"center": torch.ones(1, 3)}}.get(value, value)

    torch.save(filled(content), tmp_path / "x.pth")
    found, where = read_model(tmp_path / "x.pth")
    assert found.keys() == ours.keys()
    assert where.startswith(f"read {len(ours)} tensors of {expected}")
    assert ("; not read: " in where) == (str(content).count("vit") > 1)


def two(ours: State, first: str, second: str) -> State:
    """Two models behind prefixes; the second is negative."""
    return prefixed(first, ours) | prefixed(second, {name: -t for name, t in ours.items()})


TWO: dict[str, Callable[[State], dict[str, State]]] = {
    "dictionaries": lambda s: {"student": s, "teacher": {n: -t for n, t in s.items()}},
    "prefixes": lambda s: {"": two(s, "student.", "teacher.")},
    "wrapped prefixes": lambda s: {"": two(s, "module._orig_mod.student.", "module.teacher.")},
    "in a dictionary": lambda s: {"state_dict": two(s, "student.", "teacher.")},
    "deeper": lambda s: {"a.student": s, "a.teacher": {n: -t for n, t in s.items()}},
}


@pytest.mark.parametrize("kind", TWO)
def test_one_of_two_is_asked_for(ours: State, kind: str) -> None:
    with pytest.raises(PoseError) as caught:
        select(TWO[kind](ours))
    message = str(caught.value)
    assert message.startswith("holds 2 backbones: ")
    assert f"student ({len(ours)} tensors), " in message
    assert message.endswith("; set weights.key to the name of one")
    for key, sign in (("student", 1), ("teacher", -1)):
        (listed,) = (w for w in message.split() if w.endswith(key))
        for wanted in (key, listed):
            found, where = select(TWO[kind](ours), wanted)
            assert found.keys() == ours.keys()
            assert torch.equal(found["backbone.pos_embed"], sign * ours["backbone.pos_embed"])
            assert f" of {listed}; not read: " in where


@pytest.mark.parametrize("key", ["module.teacher", "_orig_mod.teacher", "teacher.module"])
def test_a_key_may_have_wrappers(ours: State, key: str) -> None:
    found, _ = select(TWO["wrapped prefixes"](ours), key)
    assert torch.equal(found["backbone.pos_embed"], -ours["backbone.pos_embed"])


def test_a_key_that_names_none_or_several(ours: State) -> None:
    both = {"state_dict": two(ours, "a.student.", "a.teacher.")}
    for key, count in (("ema", 0), ("stud", 0), ("state_dict", 2), ("a", 2), ("module", 0)):
        with pytest.raises(PoseError) as caught:
            select(both, key)
        assert str(caught.value).startswith(
            f"weights.key = {key!r} names {count} of its backbones: state_dict.a.student ("
        )


def test_a_key_at_the_top(ours: State) -> None:
    dictionaries = {"": ours, "ema": {name: -t for name, t in ours.items()}}
    for key, sign in ((None, 1), (".", 1), ("ema", -1)):
        found, _ = select(dictionaries, key)
        assert torch.equal(found["backbone.pos_embed"], sign * ours["backbone.pos_embed"])


def test_a_key_wins_over_the_preferred_dictionary(ours: State) -> None:
    dictionaries = {"state_dict": ours, "ema_state_dict": prefixed("module.", backbone_of(ours))}
    found, _ = select(dictionaries, "ema_state_dict")
    assert found.keys() == backbone_of(ours).keys()


def test_names_that_differ_by_a_wrapper_alone(ours: State) -> None:
    with pytest.raises(PoseError, match=r"holds 2 backbones: \. \(\d+ tensors\), module \("):
        select({"": two(ours, "", "module.")})


def test_tensors_beside_the_prefix_are_counted(ours: State) -> None:
    state = {**prefixed("net.", ours), "criterion.center": torch.ones(3)}
    found, where = select({"": state})
    assert found.keys() == ours.keys()
    assert where == f"read {len(ours)} tensors of net; 1 beside the prefix are left out"


@pytest.mark.parametrize("lost", ["patch_embed.proj.weight", "pos_embed"])
def test_a_backbone_without_its_first_tensors_is_found(ours: State, lost: str) -> None:
    """So that the error names what is missing."""
    state = backbone_in(TIMM, ours)
    del state[lost]
    assert select({"": prefixed("x.y.", state)})[0].keys() == state.keys()


def test_a_decoder_is_no_second_backbone(ours: State) -> None:
    """VideoMAE and MAE have one beside the encoder."""
    blocks = {n: t for n, t in backbone_in(TIMM, ours).items() if n.startswith("blocks")}
    state = prefixed("encoder.", backbone_in(TIMM, ours)) | prefixed("decoder.", blocks)
    state |= {"decoder_pos_embed": torch.ones(1, 5, 4)}
    assert select({"": state})[0].keys() == backbone_in(TIMM, ours).keys()


def test_tensors_of_something_else_are_shown() -> None:
    state = {f"stage{i}.conv.weight": torch.ones(1) for i in range(5)}
    with pytest.raises(PoseError) as caught:
        select({"net": state, "x": {"y": torch.ones(1)}})
    assert str(caught.value).startswith(
        "none of its 5 tensors has a name of a known ViT (first: stage0.conv.weight, "
        "stage1.conv.weight, stage2.conv.weight and 2 more); expected patch_embed, pos_embed "
    )


def test_hugging_face_names_have_a_prefix_too(ours: State) -> None:
    state = backbone_in(HUGGING_FACE, ours)
    assert select({"": prefixed("vit.", state)})[0].keys() == state.keys()
