"""The model card's head, the folder that is replaced, large weights beside the graph."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ruamel.yaml import YAML

from loopback import failure
from pose.common.licence import CC_BY_NC, NONE, SAPIENS2, UNKNOWN
from pose.deploy import export as deploy_export
from pose.deploy.export import front_matter, replacing_folder


def read(text: str) -> dict:
    return YAML(typ="safe", pure=True).load(text)


def test_scores_are_the_hubs_results() -> None:
    head = read(front_matter("mine", CC_BY_NC, "coco", {"AP": 0.71234, "AR": 0.8}))
    assert head["license"] == "cc-by-nc-4.0"
    assert head["pipeline_tag"] == "keypoint-detection"
    (model,) = head["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "COCO 2017", "type": "coco"}
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert found == {"AP": 0.7123, "AR": 0.8}


def test_without_scores_and_licence_nothing_is_claimed() -> None:
    head = read(front_matter("mine", NONE, "coco", {}))
    assert not {"license", "license_name", "license_link", "model-index"} & set(head)


def test_licences_that_the_hub_does_not_know_have_a_name() -> None:
    head = read(front_matter("mine", UNKNOWN, "local", {}))
    assert (head["license"], head["license_name"]) == ("other", "as-the-starting-weights")
    head = read(front_matter("mine", SAPIENS2, "local", {}))
    assert (head["license"], head["license_name"]) == ("other", "sapiens2-license")
    assert head["license_link"].startswith("https://github.com/facebookresearch/sapiens2/")


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    (tmp_path / "file").touch()
    for name in ("thesis", "file"):
        line = failure(replacing_folder(tmp_path / name, "pose.json").__enter__)
        assert "exists and is not an exported model; choose another --out" in line
    assert (tmp_path / "thesis/chapter.tex").exists()


@pytest.mark.parametrize("before", [None, "pose.json"])
def test_trouble_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    out = tmp_path / "deep/exported"
    if before:
        out.mkdir(parents=True)
        (out / before).write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_folder(out, "pose.json") as folder:
        (folder / "pose.json").write_text(str(1 / 0))
    assert [path.name for path in out.parent.iterdir()] == (["exported"] if before else [])
    with replacing_folder(out, "pose.json") as folder:
        (folder / "pose.json").write_text("new")
    assert (out / "pose.json").read_text() == "new"
    assert os.listdir(out.parent) == ["exported"]


def test_large_weights_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An .onnx holds 2 GB at most."""
    asked: list[bool] = []

    def note(*_: object, external_data: bool, **others: object) -> None:
        asked.append(external_data)

    monkeypatch.setattr(torch.onnx, "export", note)
    program = SimpleNamespace(state_dict={"a": torch.zeros(10), "b": torch.zeros(6)})
    for limit in (63, 64):
        monkeypatch.setattr(deploy_export, "EXTERNAL_BYTES", limit)
        deploy_export.write_onnx(program, torch.zeros(2), tmp_path / "model.onnx")
    assert asked == [True, False]
