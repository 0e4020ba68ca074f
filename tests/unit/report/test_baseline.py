"""Whether the baseline is of the same people of val."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pose.common.files import digest
from pose.report import baseline
from pose.report.baseline import (
    DIGEST,
    RENDERED,
    SCORING,
    VAL,
    accepted_digest,
    other_data,
    parse_settings,
)
from sections import DEFAULT

SAME: dict[str, Any] = dict.fromkeys((*SCORING, *VAL, *RENDERED, "train.lr"), 1)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "ground_truth.json"
    path.write_bytes(b"{}")
    return path


@pytest.mark.parametrize(
    ("source", "changed", "expected"),
    [
        ("synthetic", {}, []),
        ("synthetic", {"train.lr": 2, "synthetic.train_images": 7, "data.root": "x"}, []),
        ("synthetic", {"synthetic.seed": 2}, ["synthetic.seed"]),
        ("synthetic", {"keypoints.oks_sigmas": [0.1]}, ["keypoints.oks_sigmas"]),
        ("coco", {"synthetic.seed": 2}, []),
        ("coco", {"data.category": ["cat", "dog"]}, ["data.category"]),
        ("synthetic", {"keypoints.parts": ["body", "foot"]}, ["keypoints.parts"]),
    ],
)
def test_rendered_and_downloaded_data_are_told_by_their_settings(
    truth: Path, source: str, changed: dict[str, Any], expected: list[str]
) -> None:
    before = SAME | {"data.source": source}
    assert other_data(before | changed, before, truth, None) == expected


def test_a_setting_that_the_baseline_lacks_is_no_difference(truth: Path) -> None:
    here = SAME | {"data.source": "coco"}
    there = {key: value for key, value in here.items() if key != "data.area"}
    assert other_data(here, there, truth, None) == []


def test_other_data_than_the_embedded(truth: Path) -> None:
    here, there = (SAME | {"data.source": name} for name in ("local", "synthetic"))
    assert other_data(here, there, truth, None) == ["data.source", "annotations of val"]
    assert other_data(there, here, truth, digest(truth)) == ["data.source"]


def test_own_files_are_told_by_their_content(truth: Path) -> None:
    here = SAME | {"data.source": "local"}
    same, other = digest(truth), "0" * 64
    assert other_data(here | {"data.val_split": "b"}, here, truth, same) == []
    assert other_data(here, here, truth, None) == ["annotations of val"]
    assert other_data(here, here, truth, other) == ["annotations of val"]
    sigmas = {"keypoints.oks_sigmas": [0.1]}
    assert other_data(here | sigmas, here, truth, same) == ["keypoints.oks_sigmas"]


def test_settings_of_other_sections_are_ignored() -> None:
    text = "train:\n  lr: 1e-05\nreview:\n  max_ap_drop: 0.02\n"
    assert parse_settings(text, {"train": {}}) == {"train.lr": 1e-5}
    assert parse_settings("", {"train": {}}) == {}


def test_the_digest_of_a_baseline(tmp_path: Path) -> None:
    assert accepted_digest(tmp_path) is None
    (tmp_path / DIGEST).write_text("ab\n")
    assert accepted_digest(tmp_path) == "ab"


def test_the_keys_exist() -> None:
    sections = DEFAULT.model_dump()
    for key in (*baseline.SCORING, *baseline.VAL, *baseline.RENDERED):
        section, name = key.split(".")
        assert name in sections[section], key
