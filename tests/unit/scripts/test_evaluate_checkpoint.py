"""What the command line means, and the published numbers; tests/pipeline runs the script."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import apply
import evaluate_checkpoint
from evaluate_checkpoint import _published, _table, _weights
from loopback import failure


def test_weights_of_the_hub() -> None:
    found = _weights("hf://owner/name@abc/dir/a.pth", None, "teacher")
    assert (found.source, found.repo, found.revision) == ("huggingface", "owner/name", "abc")
    assert (found.file, found.key, found.head) == ("dir/a.pth", "teacher", "keep")
    assert _weights("hf://owner/name/a.pth", None, None).revision == "main"
    assert "expected hf://OWNER/NAME@REVISION/PATH" in failure(_weights, "hf://owner", None, None)


def test_weights_of_an_address() -> None:
    found = _weights("https://example.org/a.pth", "0" * 64, None)
    assert (found.source, found.url, found.sha256) == (
        "url",
        "https://example.org/a.pth",
        "0" * 64,
    )


@pytest.mark.parametrize(
    ("recipe", "ap", "ar", "boxes"),
    [
        ("vitpose_s_coco_256x192", "73.8", "79.2", "AP_H_56"),
        ("vitpose_b_coco_256x192", "75.8", "81.1", "AP_H_56"),
        ("vitpose_l_coco_256x192", "78.3", "83.5", "AP_H_56"),
        ("vitpose_h_coco_256x192", "79.1", "84.1", "AP_H_56"),
        ("sapiens_0.3b_coco_1024x768", "79.6", "83.6", "AP_H_70"),
        ("sapiens_0.6b_coco_1024x768", "81.2", "84.9", "AP_H_70"),
        ("sapiens_1b_coco_1024x768", "82.1", "85.9", "AP_H_70"),
        ("sapiens_2b_coco_1024x768", "82.2", "86.0", "AP_H_70"),
    ],
)
def test_published_numbers_are_those_of_the_recipes(
    recipe: str, ap: str, ar: str, boxes: str
) -> None:
    found = _published(apply.resolve(recipe))
    assert found is not None
    assert (found["AP"], found["AR"], found["boxes"]) == (ap, ar, boxes)
    header = " ".join((apply.RECIPES / f"{recipe}.yaml").read_text().split())
    assert f"AP {ap}, AR {ar} on val2017" in header
    assert boxes in header


def test_nothing_is_published_for_the_default_or_other_keypoints() -> None:
    params = apply.parse_params(apply.PARAMS.read_text())
    assert _published(params) is None
    official = apply.resolve("vitpose_b_coco_256x192")
    keypoints = official.keypoints.model_copy(update={"names": ["nose"]})
    assert _published(official.model_copy(update={"keypoints": keypoints})) is None


VIEWS = (("none", "dark", 0.5), ("flip", "argmax", 0.1), ("flip", "dark", 0.6))


def test_the_table(tmp_path) -> None:
    row: dict[str, Any] = dict.fromkeys(evaluate_checkpoint.COLUMNS, 0.7)
    rows = [
        {"tta": tta, "decoder": decoder, **row, "AP": ap}
        for tta, decoder, ap in (
            ("none", "dark", 0.5),
            ("flip", "argmax", 0.1),
            ("flip", "dark", 0.6),
        )
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "ablation.csv")
    lines = _table(apply.resolve("vitpose_b_coco_256x192"), tmp_path).splitlines()
    assert [line.split()[-6:] for line in lines[:4]] == [
        ["AP", "AP50", "AP75", "APm", "APl", "AR"],
        ["0.500", *["0.700"] * 5],
        ["0.600", *["0.700"] * 5],
        ["0.758", "-", "-", "-", "-", "0.811"],
    ]
    assert "detector boxes AP_H_56" in lines[4]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    assert "NPROC = '2'" in failure(evaluate_checkpoint.main, SimpleNamespace())
