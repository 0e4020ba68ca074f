"""The training curves in git: the same two files whatever was logged."""

from __future__ import annotations

from pathlib import Path

from pose.engine.curves import write_curves


def test_rows_of_training_and_of_validation_are_apart(tmp_path: Path) -> None:
    history = [
        {"step": 2.0, "lr": 0.1, "loss": 0.5, "peak_joco": 0.25},
        {"step": 2.0, "val_AP": 0.125},
        {"step": 4.0, "lr": 0.1, "loss": 1 / 3},  # every step of the second path was skipped
    ]
    write_curves(tmp_path, history)
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "step,loss,lr,grad_norm,peak_joco",
        "2,0.5,0.1,,0.25",
        "4,0.3333333333333333,0.1,,",
    ]
    assert (tmp_path / "val_AP.csv").read_text() == "step,val_AP\n2,0.125\n"


def test_a_run_without_rows_writes_both_files(tmp_path: Path) -> None:
    write_curves(tmp_path, [])
    assert (tmp_path / "curves.csv").read_text() == "step,loss,lr,grad_norm\n"
    assert (tmp_path / "val_AP.csv").read_text() == "step,val_AP\n"
