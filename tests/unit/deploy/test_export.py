"""The model card's head: whose licence binds, and the scores in the Hub's form."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from pose.deploy.export import front_matter, licence


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("random initialisation, seed 0", None),
        ("facebook/sapiens/sapiens_host/pretrain/x.pth", "cc-by-nc-4.0"),
        ("Sapiens_1b_coco.pth", "cc-by-nc-4.0"),
        ("vitpose-b.pth", "other"),
        (None, "other"),
    ],
)
def test_licence_of_the_starting_weights(source: str | None, expected: str | None) -> None:
    found, sentence = licence({"source": source} if source else {})
    assert found == expected
    assert sentence.endswith(".")


def read(text: str) -> dict:
    return YAML(typ="safe", pure=True).load(text)


def test_scores_are_the_hubs_results() -> None:
    head = read(front_matter("mine", "cc-by-nc-4.0", "coco", {"AP": 0.71234, "AR": 0.8}))
    assert head["license"] == "cc-by-nc-4.0"
    assert head["pipeline_tag"] == "keypoint-detection"
    (model,) = head["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "COCO 2017", "type": "coco"}
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {"AP": 0.7123, "AR": 0.8}


def test_without_scores_and_licence_nothing_is_claimed() -> None:
    head = read(front_matter("mine", None, "coco", {}))
    assert not {"license", "license_name", "model-index"} & set(head)
    assert (
        read(front_matter("mine", "other", "local", {}))["license_name"]
        == "as-the-starting-weights"
    )
