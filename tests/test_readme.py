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
    """A file as it stands in the last commit: a rerun on another CPU may move the working copy."""
    command = ["git", "show", f"HEAD:{path}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout with that file")
    return found.stdout


def test_result_table_equals_the_committed_ablation() -> None:
    rows = list(csv.DictReader(io.StringIO(committed("metrics/evaluate/ablation.csv"))))
    expected = {
        (row["model"], row["flip"] == "True"): (float(row["AP"]), float(row["AP50"]))
        for row in rows
        if row["decoder"] == "dark"
    }
    pattern = r"^\| (phase1|phase2|ssl)(, flip test)?[^|]*\| (\S+) \| (\S+) \|$"
    found = re.findall(pattern, committed("README.md"), re.M)
    assert len(found) == 4
    for model, flip, ap, ap50 in found:
        values = expected[model, bool(flip)]
        assert (float(ap), float(ap50)) == pytest.approx(values, abs=6e-4)
