"""Tables and sentences of the report: gains, final combination, nearest recipe, weaknesses."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from pose.common.skeleton import COCO_17, names_of_parts
from pose.report import tables
from pose.report.page import MISSING, Cards, Table, Text
from report_project import ablation

BASELINE = {"train.lr": 1e-3, "train.betas": [0.9, 0.999], "model.depth": 4}


def test_the_final_row_is_the_last_single_model_with_the_subpixel_decoder() -> None:
    table = ablation()
    row = table.loc[tables.final_row(table, "flip")]
    assert (row["model"], row["decoder"], row["tta"]) == ("ssl", "dark", "flip")
    assert tables.final_sentence(table, row.name) == "The final combination: ssl, dark, flip."


def test_the_final_row_has_the_given_tta_even_with_ties() -> None:
    table = ablation().assign(AP=0.5)
    assert table.loc[tables.final_row(table, "flip"), "tta"] == "flip"
    assert table.loc[tables.final_row(table, "none"), "tta"] == "none"


def test_gains_change_one_thing_at_a_time() -> None:
    gains = tables.ap_gains(ablation(), tables.final_row(ablation(), "flip"))
    assert gains == {
        "ssl": 0.05,
        "ensemble": 0.02,
        "flip": 0.03,
        "multiscale": 0.01,
        "dark": 0.07,
    }


def test_one_combination_has_no_gains() -> None:
    only = ablation().query("model == 'ssl' and decoder == 'dark' and tta == 'flip'")
    only = only.reset_index(drop=True)
    assert tables.ap_gains(only, 0) == {}
    text, by_tta, _ = tables.ablation_blocks(only, 0, {})
    assert text == Text(())
    assert isinstance(by_tta, Table)
    assert by_tta.rows == [["ssl, dark", "0.550"]]


def test_tta_that_was_not_evaluated_is_blank() -> None:
    rows = {row[0]: row[1:] for row in tables.tta_table(ablation()).rows}
    assert rows["ssl, dark"] == ["0.520", "0.550", "+0.030", "0.560", "+0.010"]
    assert rows["ensemble, dark"] == [MISSING, "0.570", MISSING, MISSING, MISSING]


def test_the_main_result_is_compared_with_the_baseline() -> None:
    cards, table = tables.main_result(
        {"AP": 0.5, "APm": -1, "boxes": "x", "scored": True}, {"AP": 0.6, "AP50": 0.9}
    )
    assert isinstance(cards, Cards)
    assert cards.items == (("AP", "0.500", "change -0.100"),)
    assert table.rows == [
        ("AP", "0.500", "0.600", "-0.100"),
        ("APm", MISSING, MISSING, MISSING),
    ]


def test_sigmas_of_known_names() -> None:
    for names in (COCO_17.names, COCO_17.names[::-1]):
        assert tables.sigmas_sentence(names, None) == "OKS sigmas: COCO's 17."
    names = names_of_parts(("body", "foot"))
    found = tables.sigmas_sentence(names, None)
    assert found == "OKS sigmas: COCO-WholeBody's, for 23 keypoints."


def test_failures_are_summarised() -> None:
    keypoints = pd.DataFrame(
        {"keypoint": list("abcde"), "labelled": [9, 9, 9, 9, 0], "found": [0.9, 0.2, 0.4, 0.3, 0]}
    )
    errors = pd.DataFrame(
        {"kind": ["good", "swap", "miss"], "share": [0.7, 0.1, 0.2], "ap_gain": [0, 0.3, 0.12]}
    )
    groups = pd.DataFrame(
        {"group": ["size"] * 3, "bin": ["s", "m", "l"], "persons": [0, 4, 5], "AP": [-1, 0.3, 0.5]}
    )
    assert tables.failure_summary(keypoints, errors, groups).lines == (
        "Weakest keypoints: b (20% found), d (30% found), c (40% found).",
        "Most frequent error: miss, 20.0% of the keypoints. Most costly error: swap; correcting it "
        "would change AP by +0.300.",
        "Hardest group: size m, AP 0.300 (4 people).",
    )
    assert tables.failure_summary(keypoints[:0], errors[:0], groups[:0]).lines == ()


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
def test_the_settings_with_the_fewest_differences(
    here: tables.Settings, start: str, differences: list[tables.Difference]
) -> None:
    recipes = {"big": {"train.lr": 5e-4, "model.depth": 24}, "other": {"train.lr": 7.0}}
    assert tables.nearest_settings(here, BASELINE, recipes) == (start, differences)


def test_removed_keys_are_listed() -> None:
    assert tables.differences({}, {"a.b": None}) == [("a.b", None, tables.ABSENT)]


def test_differences_are_listed() -> None:
    assert tables.changed_params("x", []) == Text(("All params are those of x.",))
    table = tables.changed_params("x", [("a.b", None, True), ("a.c", [1], 1e-05)])
    assert isinstance(table, Table)
    assert table.rows == [("a.b", "null", "true"), ("a.c", "[1]", "1e-05")]


def test_other_data_give_a_warning() -> None:
    assert tables.data_warning([("train.lr", 1, 2), ("data.new", tables.ABSENT, 2)]).lines == ()
    (line,) = tables.data_warning(
        [("data.source", "coco", "local"), ("synthetic.seed", 1, 2)]
    ).lines
    assert "(data.source, synthetic.seed)" in line


def test_no_record_was_skipped() -> None:
    assert tables.quarantine([]) == Text(("No record was skipped.",))


def test_hashes_are_of_declared_data_only(tmp_path: Path) -> None:
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


def test_a_change_from_a_missing_value_is_missing() -> None:
    assert tables.change(0.5, None) == tables.change(-1, 0.5) == tables.change(0.5, -1) == MISSING
    assert tables.change(0.5, math.nan) == MISSING
