"""What the report says: gains, the final combination, the nearest recipe, and what is weakest."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from pose.report import tables
from pose.report.page import NOTHING, Cards, Table, Text
from report_project import ablation

BASELINE = {"train.lr": 1e-3, "train.betas": [0.9, 0.999], "model.depth": 4}


def test_the_final_row_is_the_last_single_models_refined_one() -> None:
    table = ablation()
    row = table.loc[tables.final_row(table, "flip")]
    assert (row["model"], row["decoder"], row["tta"]) == ("ssl", "dark", "flip")
    assert tables.final_text(table, row.name) == "The final combination: ssl, dark, flip."


def test_the_final_row_is_of_the_asked_views_whatever_ties() -> None:
    table = ablation().assign(AP=0.5)
    assert table.loc[tables.final_row(table, "flip"), "tta"] == "flip"
    assert table.loc[tables.final_row(table, "none"), "tta"] == "none"


def test_gains_change_one_thing_at_a_time() -> None:
    found = tables.gains(ablation(), tables.final_row(ablation(), "flip"))
    assert found == {
        "ssl": 0.05,
        "ensemble": 0.02,
        "flip": 0.03,
        "multiscale": 0.01,
        "dark": 0.07,
    }


def test_one_combination_gains_nothing() -> None:
    only = ablation().query("model == 'ssl' and decoder == 'dark' and tta == 'flip'")
    only = only.reset_index(drop=True)
    assert tables.gains(only, 0) == {}
    assert tables.gains_text({}).lines == ()
    assert tables.view_table(only).rows == [("ssl, dark", "0.550")]


def test_views_that_were_not_asked_for_are_blank() -> None:
    rows = {row[0]: row[1:] for row in tables.view_table(ablation()).rows}
    assert rows["ssl, dark"] == ("0.520", "0.550", "+0.030", "0.560", "+0.010")
    assert rows["ensemble, dark"] == (NOTHING, "0.570", NOTHING, NOTHING, NOTHING)


def test_the_headline_beside_the_baseline() -> None:
    cards, table = tables.headline(
        {"AP": 0.5, "APm": -1, "boxes": "x", "scored": True}, {"AP": 0.6, "AP50": 0.9}
    )
    assert isinstance(cards, Cards)
    assert cards.items == (("AP", "0.500", "change -0.100"),)
    assert table.rows == [
        ("AP", "0.500", "0.600", "-0.100"),
        ("APm", NOTHING, NOTHING, NOTHING),
    ]


def test_what_is_weakest_is_said() -> None:
    keypoints = pd.DataFrame(
        {"keypoint": list("abcde"), "labelled": [9, 9, 9, 9, 0], "found": [0.9, 0.2, 0.4, 0.3, 0]}
    )
    errors = pd.DataFrame(
        {"kind": ["good", "swap", "miss"], "share": [0.7, 0.1, 0.2], "ap_gain": [0, 0.3, 0.12]}
    )
    groups = pd.DataFrame(
        {"group": ["size"] * 3, "bin": ["s", "m", "l"], "persons": [0, 4, 5], "AP": [-1, 0.3, 0.5]}
    )
    assert tables.verdict(keypoints, errors, groups).lines == (
        "Weakest keypoints: b (20% found), d (30% found), c (40% found).",
        "Most frequent error: miss, 20.0% of the keypoints. Most costly: swap; without it AP would "
        "gain +0.300.",
        "Hardest group: size m, AP 0.300 (4 persons).",
    )
    assert tables.verdict(keypoints[:0], errors[:0], groups[:0]).lines == ()


@pytest.mark.parametrize(
    ("here", "start", "differences"),
    [
        (BASELINE, "the baseline", []),
        (BASELINE | {"train.lr": 2e-3}, "the baseline", [("train.lr", 1e-3, 2e-3)]),
        (
            BASELINE | {"train.lr": 5e-4, "model.depth": 24, "new.key": 1},
            "big",
            [("new.key", tables.ABSENT, 1)],
        ),
    ],
)
def test_the_start_with_the_fewest_differences(
    here: tables.Flat, start: str, differences: list[tables.Difference]
) -> None:
    recipes = {"big": {"train.lr": 5e-4, "model.depth": 24}, "other": {"train.lr": 7.0}}
    assert tables.nearest(here, BASELINE, recipes) == (start, differences)


def test_sections_that_the_stage_does_not_see_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train:\n  lr: 1e-05\nreview:\n  max_ap_drop: 0.02\n")
    assert tables.read_flat(path, {"train": {}}) == {"train.lr": 1e-5}


def test_keys_that_are_gone_are_told() -> None:
    assert tables.differences({}, {"a.b": None}) == [("a.b", None, tables.ABSENT)]


def test_differences_are_listed() -> None:
    (same,) = tables.params_blocks("x", [])
    assert same == Text(("All params are those of x.",))
    (table,) = tables.params_blocks("x", [("a.b", None, True), ("a.c", [1], 1e-05)])
    assert isinstance(table, Table)
    assert table.rows == [("a.b", "null", "true"), ("a.c", "[1]", "1e-05")]


def test_other_data_are_a_warning() -> None:
    assert tables.other_data([("train.lr", 1, 2), ("data.new", tables.ABSENT, 2)]).lines == ()
    (line,) = tables.other_data([("data.source", "coco", "local"), ("synthetic.seed", 1, 2)]).lines
    assert "(data.source, synthetic.seed)" in line


def test_nothing_was_left_out() -> None:
    assert tables.quarantine([]) == Text(("No record was left out.",))


def test_hashes_are_of_the_declared_data_alone(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "stages:\n  a:\n    cmd: x\n    outs:\n"
        "    - {path: data/cache, md5: 1f.dir, size: 1200}\n"
        "    - {path: data/other, md5: 2f, size: 1}\n"
        "    - {path: metrics/a.json, md5: 3f, size: 1}\n"
        "  b: {cmd: y}\n"
    )
    table = tables.hashes_table(lock, ["data/cache", "metrics/a.json"])
    assert isinstance(table, Table)
    assert table.rows == [("data/cache", "1f.dir", "1,200")]
    assert isinstance(tables.hashes_table(tmp_path / "none", []), Text)


def test_a_change_from_nothing_is_none() -> None:
    assert tables.delta(0.5, None) == tables.delta(-1, 0.5) == tables.delta(0.5, -1) == NOTHING
    assert tables.delta(0.5, math.nan) == NOTHING
