"""The table of benchmarks/finetune.py: means over seeds, and the command that made it."""

from __future__ import annotations

from pathlib import Path

import pytest

import finetune


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(finetune, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    path = tmp_path / "rows.csv"
    runs = (("full", 1, 0.004, 0.5), ("full", 2, 0.004, 0.6), ("head", 1, 0.001, 0.2))
    for arm, seed, lr, ap in runs:
        key = {"arm": arm, "seed": seed, "epochs": 8, "lr": lr}
        found = {"AP": ap, "trained": 1000, "peak": 80.4, "seconds": 0.25, "disk": 4.0}
        finetune.append(path, key | found)
    finetune.append(path, {**key, "epochs": 9} | found)
    return path


def test_rows_are_means_over_seeds(rows: Path, tmp_path: Path) -> None:
    finetune.write_table(rows, 8)
    text = (tmp_path / "benchmarks" / "finetune.md").read_text()
    assert "`python benchmarks/finetune.py --seeds 1 2 --epochs 8 --lr 0.004 0.001`" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| full | 0.004 | 0.550 | 0.071 | 1,000 | 80 | 0.25 | 4.00 |",
        "| head | 0.001 | 0.200 | one seed | 1,000 | 80 | 0.25 | 4.00 |",
    ]


def test_a_finished_arm_is_not_run_again(rows: Path) -> None:
    key = {"arm": "head", "seed": 1, "epochs": 8, "lr": 0.001}
    assert finetune.is_done(rows, key)
    assert not finetune.is_done(rows, key | {"lr": 0.004})
    assert not finetune.is_done(rows.with_name("none.csv"), key)


def test_the_arms_are_settings_that_exist() -> None:
    for changes in (finetune.COMMON, *finetune.ARMS.values()):
        for key in changes:
            section, name = key.split(".")
            assert name in finetune.load_params(finetune.ROOT / "params.yaml").model_dump()[section]
