"""The table of benchmarks/unlabelled.py: gains are over the better control of the same seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import unlabelled
from pose.common.errors import PoseError
from pose.common.params import Params

ROWS = [  # arm, seed, AP
    (unlabelled.SUPERVISED, 0, 0.30),
    (unlabelled.LIGHT, 0, 0.32),
    (unlabelled.HARD, 0, 0.34),
    ("multiaugs, K = 2", 0, 0.38),
    (unlabelled.LIGHT, 1, 0.37),
    (unlabelled.HARD, 1, 0.35),
    ("multiaugs, K = 2", 1, 0.40),
]


def test_gains_are_over_the_better_control_of_each_seed() -> None:
    rows = pd.DataFrame(ROWS, columns=["arm", "seed", "AP"]).assign(steps=7, cpu_s=12)
    text = unlabelled.to_markdown(rows)
    assert "--steps 7" in text
    assert "| multiaugs, K = 2 | 0.380 | 0.400 | 0.390 | +0.035 | 0.007 | 12 |" in text
    assert "| supervised | 0.300 |  | 0.300 | -0.040 |  | 12 |" in text
    assert "ensemble" not in text


def test_a_finished_arm_is_not_run_again(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    assert not unlabelled._is_done(rows, unlabelled.LIGHT, 0, 40)
    unlabelled._append(rows, {"arm": unlabelled.HARD, "seed": 0, "steps": 40, "AP": 0.3})
    unlabelled._append(rows, {"arm": unlabelled.LIGHT, "seed": 1, "steps": 40, "AP": 0.4})
    assert unlabelled._is_done(rows, unlabelled.HARD, 0, 40)
    assert not unlabelled._is_done(rows, unlabelled.LIGHT, 0, 40)
    with pytest.raises(PoseError, match="has arms with other steps than 80; set another --work"):
        unlabelled._is_done(rows, unlabelled.HARD, 0, 80)
    assert list(pd.read_csv(rows)["AP"]) == [0.3, 0.4]


def test_arms_and_people_name_known_params() -> None:
    known = {
        name: set(field.annotation.model_fields) for name, field in Params.model_fields.items()
    }
    for key in unlabelled.PEOPLE:
        section, name = key.split(".")
        assert name in known[section], key
    for changes in unlabelled.ARMS.values():
        assert changes.keys() <= known["ssl"]
