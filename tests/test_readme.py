"""The README's numbers are those of the committed run."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def committed(path: str) -> str:
    """A file as it is in the last commit: a rerun on another CPU may change the working copy."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout with that file")
    return done.stdout


def test_result_table_equals_the_committed_ablation() -> None:
    """Columns are AP of one view and flip, then AP50 of the two; DARK in each."""
    rows = list(csv.DictReader(io.StringIO(committed("metrics/evaluate/ablation.csv"))))
    scores = {(row["model"], row["tta"]): row for row in rows if row["decoder"] == "dark"}
    columns = [(metric, tta) for metric in ("AP", "AP50") for tta in ("none", "flip")]
    pattern = r"^\| `(phase1|phase2|ssl)`[^|]*" + r"\| (\d\.\d{3}) " * len(columns) + r"\|$"
    table = {model: values for model, *values in re.findall(pattern, committed("README.md"), re.M)}
    assert set(table) == {"phase1", "phase2", "ssl"}
    for model, values in table.items():
        expected = [float(scores[model, tta][metric]) for metric, tta in columns]
        assert [float(value) for value in values] == pytest.approx(expected, abs=6e-4), model


def test_the_mean_over_seeds_is_that_of_the_benchmark() -> None:
    row = re.search(
        r"^\| ssl \| dark \| yes \|.*\| (\S+) / \S+ \|$", committed("benchmarks/seeds.md"), re.M
    )
    assert row is not None
    assert f"the final model reaches {row[1]} AP on average" in committed("README.md")


def test_the_readme_is_one_page() -> None:
    text = committed("README.md")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1000
