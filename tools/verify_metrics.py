"""Compare the metrics of a fresh run with the committed ones: is this still the same result?

    make repro && python tools/verify_metrics.py

On the same kind of machine they are equal to the digit. Another kind of CPU, or a GPU, rounds
differently, and training carries that on: there each AP may move by `review.ap_tolerance`. Prints a
table, and ends with 1 if one AP moved further or is missing. Seconds.
"""

from __future__ import annotations

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
HEADLINE = "metrics/evaluate/metrics.json"
ABLATION = "metrics/evaluate/ablation.csv"
Numbers = dict[str, float]


def main() -> None:
    tolerance = load_params(Path("params.yaml"), ["review"]).review.ap_tolerance
    expected = numbers(committed(HEADLINE), committed(ABLATION))
    found = numbers(present(HEADLINE), present(ABLATION))
    print(table(expected, found))
    if bad := moved(expected, found, tolerance):
        raise PoseError(f"{', '.join(bad)}: beyond review.ap_tolerance = {tolerance:g}")
    print(f"every AP lies within review.ap_tolerance = {tolerance:g}")


def numbers(headline: str, ablation: str) -> Numbers:
    """AP of the headline, and of each row of the ablation by its settings."""
    try:
        found = {"headline": float(json.loads(headline)["AP"])}
        for row in csv.DictReader(io.StringIO(ablation)):
            settings = [f"{k} {v}" for k, v in row.items() if not k.startswith(("AP", "AR"))]
            found[", ".join(settings)] = float(row["AP"])
    except (KeyError, TypeError, ValueError) as error:
        raise PoseError(f"{HEADLINE}, {ABLATION}: no AP where one is expected ({error})") from None
    return found


def table(expected: Numbers, found: Numbers) -> str:
    """Markdown: committed, here, difference."""
    lines = ["| AP of | committed | here | difference |", "|---|---|---|---|"]
    for name in {**expected, **found}:
        old, new = expected.get(name), found.get(name)
        change = "-" if old is None or new is None else f"{new - old:+.4f}"
        cells = ["-" if value is None else f"{value:.4f}" for value in (old, new)]
        lines.append(f"| {name} | {' | '.join(cells)} | {change} |")
    return "\n".join(lines)


def moved(expected: Numbers, found: Numbers, tolerance: float) -> list[str]:
    """Names that are missing on one side or differ by more. NaN differs from everything."""
    return [
        name
        for name in {**expected, **found}
        if name not in expected
        or name not in found
        or not abs(found[name] - expected[name]) <= tolerance + 1e-9
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
    os.chdir(ROOT)
    with exit_codes("verify_metrics"):
        main()
