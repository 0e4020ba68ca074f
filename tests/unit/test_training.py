"""What params ask of the keypoints is checked before the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest

import training
from pose.errors import PoseError
from pose.params import load_params
from pose.skeleton import COCO_17, build_skeleton

MOUSE = build_skeleton(("nose", "tail"), (), None, None, None)


def test_half_bodies_are_those_of_the_skeleton(bent_params) -> None:
    params = load_params(bent_params({"augment.half_body_prob": "0.3"}))
    law = training.box_law(params, COCO_17)
    assert (law.upper_body, law.lower_body) == (tuple(range(11)), tuple(range(11, 17)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "augment.min_keypoints = 4, but there are only 2 keypoints; lower it"),
        ({"half_body_prob": "0.3"}, "augment.half_body_prob = 0.3, but these 2 keypoints have no"),
    ],
)
def test_what_the_keypoints_cannot_give(bent_params, changes: dict, expected: str) -> None:
    params = load_params(bent_params({f"augment.{key}": v for key, v in changes.items()}))
    with pytest.raises(PoseError) as caught:
        training.box_law(params, MOUSE)
    assert str(caught.value).startswith(f"params.yaml: {expected}")


def test_more_keypoints_than_there_are_for_a_half_body(bent_params) -> None:
    changes = {"augment.half_body_prob": "0.3", "augment.min_keypoints": "1"}
    halved = replace(MOUSE, upper_body=(0,), lower_body=(1,))
    with pytest.raises(PoseError, match=r"half_body_min_keypoints = 9, but there are only 2"):
        training.box_law(load_params(bent_params(changes)), halved)


@pytest.mark.parametrize(("kind", "maps"), [("gaussian", 2), ("combined", 6)])
def test_the_head_has_the_maps_of_the_keypoints(bent_params, kind: str, maps: int) -> None:
    params = load_params(bent_params({"codec.type": kind}))
    assert training.build_model(params, MOUSE).head.final_layer.out_channels == maps
