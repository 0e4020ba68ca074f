"""What the command line means, and the published numbers; tests/pipeline runs the script."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import apply
import evaluate_checkpoint
from evaluate_checkpoint import _published, _table, _weights
from loopback import failure
from pose.common.skeleton import COCO_17

COCO = [*COCO_17.names]


def test_weights_of_the_hub() -> None:
    found = _weights("hf://owner/name@abc/dir/a.pth", None, "teacher", 0)
    assert (found.source, found.repo, found.revision) == ("huggingface", "owner/name", "abc")
    assert (found.file, found.key, found.head) == ("dir/a.pth", "teacher", "keep")
    assert found.expert == 0
    assert _weights("hf://owner/name/a.pth", None, None, None).revision == "main"
    assert "expected hf://OWNER/NAME@REVISION/PATH" in failure(
        _weights, "hf://owner", None, None, None
    )


@pytest.mark.parametrize(
    ("given", "revision"),
    [
        ("refs/pr/12", "refs/pr/12"),
        ("refs%2Fpr%2F12", "refs/pr/12"),
        ("refs/convert/parquet", "refs/convert/parquet"),
        ("my%2Fbranch", "my/branch"),
        ("refs-old", "refs-old"),
    ],
)
def test_revisions_with_a_slash(given: str, revision: str) -> None:
    found = _weights(f"hf://owner/name@{given}/dir/a.pth", None, None, None)
    assert (found.repo, found.revision, found.file) == ("owner/name", revision, "dir/a.pth")


@pytest.mark.parametrize("given", ["refs/pr/1", "refs/pr/a.pth", "refs/heads/main/a.pth"])
def test_a_revision_that_is_cut_is_refused(given: str) -> None:
    said = failure(_weights, f"hf://owner/name@{given}", None, None, None)
    assert "write a / in the name of a revision as %2F, except in refs/pr/NUMBER" in said


def test_other_addresses_and_a_wrong_digest_are_one_line(tmp_path: Path) -> None:
    assert "expected a path, https:// or hf://" in failure(
        _weights, "ftp://x/a.pth", None, None, None
    )
    assert failure(_weights, "https://x.org/a.pth", "abc", None, None).startswith(
        "--sha256 'abc', exp"
    )
    (tmp_path / "a.pth").touch()
    assert "--sha256 'abc'" in failure(_weights, str(tmp_path / "a.pth"), "abc", None, None)


def test_options_are_checked_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    file.touch()
    given = {"weights": str(file), "sha256": None, "key": None, "recipe": None, "val_split": None}
    given |= {"detections": None, "data": tmp_path, "out": file}
    assert failure(evaluate_checkpoint.main, SimpleNamespace(**given)).startswith(f"--out {file}: ")
    given |= {"data": tmp_path / "absent", "out": tmp_path / "out"}
    text = failure(evaluate_checkpoint.main, SimpleNamespace(**given))
    assert text.startswith(f"--data {tmp_path / 'absent'}: no such folder")
    assert not (tmp_path / "out").exists()


def test_weights_of_an_address() -> None:
    found = _weights("https://example.org/a.pth", "0" * 64, None, None)
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
        ("vitposepp_s_coco_256x192", "75.8", "82.6", "AP_H_56"),
        ("vitposepp_b_coco_256x192", "77.0", "82.6", "AP_H_56"),
        ("vitposepp_l_coco_256x192", "78.6", "84.1", "AP_H_56"),
        ("vitposepp_h_coco_256x192", "79.4", "84.8", "AP_H_56"),
        ("sapiens_0.3b_coco_1024x768", "79.6", "83.6", "AP_H_70"),
        ("sapiens_0.6b_coco_1024x768", "81.2", "84.9", "AP_H_70"),
        ("sapiens_1b_coco_1024x768", "82.1", "85.9", "AP_H_70"),
        ("sapiens_2b_coco_1024x768", "82.2", "86.0", "AP_H_70"),
    ],
)
def test_published_numbers_are_those_of_the_recipes(
    recipe: str, ap: str, ar: str, boxes: str
) -> None:
    found = _published(apply.resolve(recipe), COCO)
    assert found is not None
    assert (found["AP"], found["AR"], found["boxes"]) == (ap, ar, boxes)
    header = " ".join((apply.RECIPES / f"{recipe}.yaml").read_text().split())
    assert f"AP {ap}, AR {ar} on val2017" in header
    assert boxes in header


def test_nothing_is_published_for_the_default_or_other_keypoints() -> None:
    params = apply.parse_params(apply.PARAMS.read_text())
    assert _published(params, COCO) is None
    assert _published(apply.resolve("vitpose_b_coco_256x192"), ["nose", "tail"]) is None


@pytest.mark.parametrize("size", ["0.4b", "0.8b", "1b"])
def test_nothing_is_published_for_sapiens2(size: str) -> None:
    """Its sizes are those of Sapiens."""
    params = apply.resolve(f"sapiens2_{size}_coco_1024x768")
    assert _published(params, COCO) is None
    sapiens = params.model.model_copy(update={"family": "vit"})
    assert _published(params.model_copy(update={"model": sapiens}), COCO) is not None


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
    (tmp_path / "metrics.json").write_text('{"boxes": "ground truth"}')
    lines = _table(apply.resolve("vitpose_b_coco_256x192"), COCO, tmp_path).splitlines()
    assert [line.split()[-6:] for line in lines[:4]] == [
        ["AP", "AP50", "AP75", "APm", "APl", "AR"],
        ["0.500", *["0.700"] * 5],
        ["0.600", *["0.700"] * 5],
        ["0.758", "-", "-", "-", "-", "0.811"],
    ]
    assert lines[4] == "this file: val2017, boxes: ground truth"
    assert "detector boxes AP_H_56" in lines[5]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    assert "NPROC = '2'" in failure(evaluate_checkpoint.main, SimpleNamespace())
