"""recipes/keypoints: each set is that of an expert of ViTPose++, and only changes `keypoints`."""

from __future__ import annotations

import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

import apply
import evaluate_checkpoint
import fetch_weights
from pose.common.errors import PoseError
from pose.common.params import Keypoints, Params, load_params
from pose.common.sides import Pairs
from pose.common.skeleton import (
    COCO_17,
    build_skeleton,
    limbs_by_name,
    oks_sigmas,
    whole_body,
)
from pose.pretrained.experts import EXPERTS, KEYPOINT_SETS
from sections import changed

EXPERT_FILE = (
    Path(__file__).resolve().parents[2] / "golden" / "data" / "vitpose_experts.safetensors"
)
SETS = [f"keypoints/{name}" for name in KEYPOINT_SETS if name]
EXPERT = {name: expert for expert, name in enumerate(SETS, start=1)}
UNPAIRED = {
    "keypoints/aic": ["Head top", "Neck"],
    "keypoints/mpii": ["pelvis", "thorax", "upper_neck", "head_top"],
    "keypoints/ap10k": ["nose", "neck", "root_of_tail"],
    "keypoints/apt36k": ["nose", "neck", "root_of_tail"],
    "keypoints/coco_wholebody": [
        "nose",
        *(f"face-{k}" for k in (8, 27, 28, 29, 30, 33, 51, 57, 62, 66)),
    ],
}
VITPOSEPP = "vitposepp_b_coco_256x192"


@cache
def keypoints_of(name: str) -> Keypoints:
    return apply.resolve(name).keypoints


LISTS = [key for key in Keypoints.model_fields if key != "parts"]


def lists_of(name: str) -> tuple[tuple, ...]:
    """names, flip_pairs, upper_body, lower_body, skeleton, oks_sigmas; none is null.

    Those of a whole body are built in.
    """
    found = keypoints_of(name)
    if found.parts:
        built_in = whole_body(found.parts)
        at = built_in.names

        def named(pairs: Pairs) -> tuple[tuple[str, str], ...]:
            return tuple((at[a], at[b]) for a, b in pairs)

        halves = [tuple(at[k] for k in half) for half in (built_in.upper_body, built_in.lower_body)]
        sigmas = tuple(oks_sigmas(at, None).tolist())
        return at, named(built_in.flip_pairs), *halves, named(built_in.limbs), sigmas
    values = [getattr(found, key) for key in LISTS]
    assert all(values)
    return tuple(values)


def with_expert(params: Params, expert: int, head: str = "keep") -> Params:
    """For the small file: two blocks of 16 channels at 64 x 96 pixels."""
    weights = {"source": "file", "file": str(EXPERT_FILE), "expert": expert, "head": head}
    model = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 16, "patch_padding": 2}
    model |= {"mlp_dim": None, "head": "classic", "deconv_channels": (8, 8), "conv_channels": ()}
    codec = {"input_size": (64, 96), "heatmap_size": (16, 24)}
    sections = {"weights": weights, "model": model, "codec": codec}
    return params.model_copy(
        update={key: changed(getattr(params, key), **values) for key, values in sections.items()}
    )


def test_every_set_is_of_one_expert() -> None:
    assert apply.keypoint_sets() == sorted(SETS)
    assert len(KEYPOINT_SETS) == len(EXPERTS)


@pytest.mark.parametrize("name", SETS)
def test_the_header_names_the_expert_and_its_number_of_keypoints(name: str) -> None:
    _, count = EXPERTS[EXPERT[name]]
    assert f"{count} keypoints" in apply.summary(name)
    assert apply.summary(name).endswith(f"expert {EXPERT[name]} of ViTPose++")
    text = (apply.RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"# Command: python recipes/apply.py {name}\n" in text
    assert "# Source: " in text
    assert "# Licence: " in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_a_valid_skeleton(name: str) -> None:
    names, pairs, upper, lower, limbs, sigmas = lists_of(name)
    assert len(names) == len(set(names)) == EXPERTS[EXPERT[name]][1]
    skeleton = build_skeleton(names, limbs_by_name(names, limbs), pairs, upper, lower)
    assert len(skeleton.limbs) == len({frozenset(limb) for limb in skeleton.limbs})
    assert len(oks_sigmas(names, sigmas)) == len(names)


@pytest.mark.parametrize("name", SETS)
def test_pairs_have_every_name_with_a_side(name: str) -> None:
    names, pairs, *_ = lists_of(name)
    paired = [each for pair in pairs for each in pair]
    assert [each for each in names if each not in paired] == UNPAIRED[name]
    sides = re.compile("left|right", re.IGNORECASE)
    for left, right in pairs:
        assert right == left.replace("left", "right").replace("Left", "Right") or (
            not sides.search(left + right)
        )


def test_whole_body_left_of_the_face_is_the_persons_left() -> None:
    """Points 0 to 16 are the jaw from the person's right ear on."""
    pairs = dict(lists_of("keypoints/coco_wholebody")[1])
    assert (pairs["face-16"], pairs["face-45"], pairs["face-54"]) == (
        "face-0",
        "face-36",
        "face-48",
    )


@pytest.mark.parametrize("name", SETS)
def test_limbs_are_the_same_on_both_sides(name: str) -> None:
    _, pairs, _, _, limbs, _ = lists_of(name)
    other = dict(pairs) | {right: left for left, right in pairs}
    drawn = {frozenset(limb) for limb in limbs}
    assert {frozenset(other.get(each, each) for each in limb) for limb in drawn} == drawn


@pytest.mark.parametrize("name", [name for name in SETS if name != "keypoints/aic"])
def test_sigmas_are_the_same_on_both_sides(name: str) -> None:
    """But for those measured for each side: AI Challenger's, and of whole bodies feet and face."""
    names, pairs, *_, sigmas = lists_of(name)
    measured = names[17:91] if name == "keypoints/coco_wholebody" else ()
    sigma = dict(zip(names, sigmas, strict=True))
    for left, right in pairs:
        assert sigma[left] == sigma[right] or left in measured, left


def test_half_bodies_have_every_keypoint_but_those_of_face_and_hands() -> None:
    for name in SETS:
        names, _, upper, lower, *_ = lists_of(name)
        rest = names[23:] if name == "keypoints/coco_wholebody" else ()
        assert sorted((*upper, *lower, *rest)) == sorted(names)


def test_whole_body_starts_with_coco() -> None:
    assert lists_of("keypoints/coco_wholebody")[0][:17] == COCO_17.names


def test_apt36k_is_ap10k() -> None:
    assert keypoints_of("keypoints/apt36k") == keypoints_of("keypoints/ap10k")


@pytest.mark.parametrize("name", SETS)
def test_a_set_changes_keypoints_alone(name: str, params_text: str) -> None:
    """On the default, and on a recipe with files and boxes of its own."""
    recipe, _ = apply.merge(params_text, apply.read_recipe(VITPOSEPP))
    for text in (params_text, recipe):
        merged, changes = apply.merge(text, apply.read_recipe(name))
        before, after = apply.parse_params(text), apply.parse_params(merged)
        assert after == before.model_copy(update={"keypoints": after.keypoints})
        keys = ["parts"] if after.keypoints.parts else LISTS
        assert {key for key, _, _ in changes} == {f"keypoints.{key}" for key in keys}
        assert re.findall(r"#.*", merged) == re.findall(r"#.*", text)
        assert apply.merge(merged, apply.read_recipe(name)) == (merged, [])


@pytest.mark.parametrize("name", SETS)
def test_a_set_after_another_and_in_what_dvc_wrote(
    name: str, params_text: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(params_text, encoding="utf-8")
    apply_overrides(path, ["keypoints.names=[nose,tail]", "data.detections=boxes.json"])
    text = path.read_text(encoding="utf-8")
    for other in SETS:
        text, _ = apply.merge(text, apply.read_recipe(other))
    merged, _ = apply.merge(text, apply.read_recipe(name))
    assert apply.parse_params(merged).keypoints == keypoints_of(name)
    assert apply.parse_params(merged).data.detections == "boxes.json"
    assert max(map(len, merged.splitlines())) == max(map(len, params_text.splitlines()))


@pytest.mark.parametrize("name", SETS)
def test_flags_give_dvc_the_same_params(
    name: str,
    params_text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(params_text, encoding="utf-8")
    monkeypatch.setattr(apply, "PARAMS", path)
    monkeypatch.setattr(sys, "argv", ["apply.py", name, "--args"])
    apply.main()
    words = shlex.split(capsys.readouterr().out)
    assert words[::2] == ["-S"] * len(Keypoints.model_fields)
    assert path.read_text(encoding="utf-8") == params_text
    apply_overrides(path, words[1::2])
    assert load_params(path) == apply.resolve(name, params_text)


@pytest.mark.parametrize("expert", range(1, 6))
def test_the_head_of_an_expert_needs_its_set(expert: int) -> None:
    """Experts 3 and 4 have as many keypoints as COCO, but others.

    The command that the error names makes the next conversion succeed.
    """
    default = load_params(apply.PARAMS)
    with pytest.raises(PoseError, match=r"keypoints\.names has COCO's 17; run") as caught:
        fetch_weights.converted(with_expert(default, expert))
    command = re.search(r"`python recipes/apply\.py (\S+)`", str(caught.value))
    assert command
    assert EXPERT[command[1]] == expert
    state, _ = fetch_weights.converted(with_expert(apply.resolve(command[1]), expert))
    assert len(state["head.final_layer.weight"]) == EXPERTS[expert][1]
    fresh, _ = fetch_weights.converted(with_expert(default, expert, head="fresh"))
    assert not any(key.startswith("head.") for key in fresh)


def test_another_number_of_names_is_refused() -> None:
    params = with_expert(apply.resolve("keypoints/mpii"), 1)
    expected = r"expert = 1 \(AIC, 14 keypoints\).* keypoints.names has 16 names; run .*/aic`"
    with pytest.raises(PoseError, match=expected):
        fetch_weights.converted(params)


def test_names_of_ones_own_are_accepted() -> None:
    params = apply.resolve("keypoints/aic")
    own = tuple(f"k{k}" for k in range(14))
    params = params.model_copy(update={"keypoints": changed(params.keypoints, names=own)})
    state, _ = fetch_weights.converted(with_expert(params, 1))
    assert len(state["head.final_layer.weight"]) == 14


def test_an_evaluation_has_no_use_for_a_new_head() -> None:
    default = load_params(apply.PARAMS)
    with pytest.raises(PoseError, match=r"run `python recipes/apply\.py keypoints/ap10k`$"):
        evaluate_checkpoint._convert(with_expert(default, 3))
