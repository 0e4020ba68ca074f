"""Compare the metrics of a fresh run with the committed ones, within a tolerance.

    make repro && python tools/verify_metrics.py

On the same kind of machine all digits are equal. Another kind of CPU, or a GPU, rounds differently,
and training amplifies that: there each AP may differ by `review.ap_tolerance`. Prints a table and
exits with 1 if one AP differs by more or is missing. Takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.params import load_params
from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
MAIN_RESULT = "metrics/evaluate/metrics.json"
ABLATION = "metrics/evaluate/ablation.csv"
Numbers = dict[str, float]


def main() -> None:
    tolerance = load_params(Path("params.yaml"), ["review"]).review.ap_tolerance
    expected = ap_by_settings(committed(MAIN_RESULT), committed(ABLATION))
    measured = ap_by_settings(present(MAIN_RESULT), present(ABLATION))
    print(table(expected, measured))
    if bad := differing(expected, measured, tolerance):
        raise PoseError(f"{', '.join(bad)}: beyond review.ap_tolerance = {tolerance:g}")
    print(f"every AP is within review.ap_tolerance = {tolerance:g}")


def ap_by_settings(main_result: str, ablation: str) -> Numbers:
    """AP of the main result, and of each row of the ablation by its settings."""
    try:
        aps = {"main result": float(json.loads(main_result)["AP"])}
        for row in csv.DictReader(io.StringIO(ablation)):
            settings = [f"{k} {v}" for k, v in row.items() if not k.startswith(("AP", "AR"))]
            aps[", ".join(settings)] = float(row["AP"])
    except (KeyError, TypeError, ValueError) as error:
        raise PoseError(
            f"{MAIN_RESULT}, {ABLATION}: no AP where one is expected ({error})"
        ) from None
    return aps


def table(expected: Numbers, measured: Numbers) -> str:
    """Markdown table: committed AP, AP of this run, difference."""
    lines = ["| AP of | committed | this run | difference |", "|---|---|---|---|"]
    for name in {**expected, **measured}:
        old, new = expected.get(name), measured.get(name)
        change = "-" if old is None or new is None else f"{new - old:+.4f}"
        cells = ["-" if value is None else f"{value:.4f}" for value in (old, new)]
        lines.append(f"| {name} | {' | '.join(cells)} | {change} |")
    return "\n".join(lines)


def differing(expected: Numbers, measured: Numbers, tolerance: float) -> list[str]:
    """Names that are missing on one side, or differ by more. NaN differs from everything."""
    return [
        name
        for name in {**expected, **measured}
        if name not in expected
        or name not in measured
        or not abs(measured[name] - expected[name]) <= tolerance + 1e-9
    ]


def committed(name: str) -> str:
    """A file of the last commit."""
    done = subprocess.run(["git", "show", f"HEAD:{name}"], capture_output=True, text=True)
    if done.returncode:
        raise PoseError(f"{name}: not in the last commit: {' '.join(done.stderr.split())}")
    return done.stdout


def present(name: str) -> str:
    """A file of the working tree."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PoseError(f"{name}: no such file; `make repro` writes it") from None


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    os.chdir(ROOT)
    with exit_codes("verify_metrics"):
        main()
