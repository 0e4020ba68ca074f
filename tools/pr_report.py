"""Write what a change does to results: a page for its reviewers, with the gate's verdict.

    python tools/pr_report.py [--base main]
    make pr-report BASE=main

Compares the working tree with the commit where it left `base`: whether dvc.lock belongs to this
code and these params, then the differences of metrics, params and plots. Writes pr_report/:
pr_report.md and plots/index.html. Reads files in git alone: no data, no GPU, no torch; about ten
seconds. Ends with 1, once the page is written, if dvc.lock is stale or the AP fell by more than
`review.max_ap_drop`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import load_params
from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("pr_report")
HEADLINE = "metrics/evaluate/metrics.json"
UP_TO_DATE = "Data and pipelines are up to date."
Finished = subprocess.CompletedProcess[str]
LONGEST = 60_000  # characters; a comment on GitHub may have 65,536


@dataclass(frozen=True)
class Verdict:
    """One line of the page; `good` decides the exit code."""

    good: bool
    line: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="main", help="branch or commit to compare with")
    base = fork_point(parser.parse_args().base)
    verdicts = [freshness(), gate(committed_ap(base), present_ap(), max_ap_drop())]
    dvc("plots", "diff", base, "--out", str(FOLDER / "plots"))
    write_atomic(FOLDER / "pr_report.md", page(base, verdicts).encode())
    print(f"pr_report: read {FOLDER / 'pr_report.md'}, open {FOLDER / 'plots' / 'index.html'}")
    if bad := [one.line for one in verdicts if not one.good]:
        raise PoseError("; ".join(bad))


def fork_point(base: str) -> str:
    """The commit where HEAD left `base`: what happened on `base` since is not this change's."""
    found = run("git", "merge-base", "--end-of-options", base, "HEAD")
    if found.returncode:
        reason = " ".join(found.stderr.split()) or "no common history; fetch all of it"
        raise PoseError(f"base {base!r}: {reason}; set BASE to a branch or commit")
    return found.stdout.strip()[:12]  # as it heads the columns of dvc's tables


def freshness() -> Verdict:
    """Whether dvc.lock is what this code makes of these params; needs no data."""
    command = ("repro", "--dry", "--allow-missing")
    done = run_dvc(*command)
    output = done.stdout
    stale = re.findall(r"^Running stage '(\w+)'", output, re.M)
    stale += re.findall(r"failed to reproduce '(\w+)'", done.stderr)  # for want of data
    if stale:  # the first of them is the news
        advice = "run `make repro` and commit dvc.lock and metrics/"
        return Verdict(False, f"dvc.lock is stale from {stale[0]} on; {advice}")
    if UP_TO_DATE not in succeeded(command, done):
        raise PoseError(f"`dvc {' '.join(command)}` says neither stale nor up to date: {output}")
    return Verdict(True, "dvc.lock is up to date with code, params and data")


def gate(old: float | None, new: float, max_drop: float | None) -> Verdict:
    """AP may fall by max_drop and no more; null lets all pass."""
    if old is None:
        return Verdict(True, f"AP {new:.4f}; the base has none to compare with")
    change = f"AP {old:.4f} -> {new:.4f} ({new - old:+.4f})"
    if max_drop is None:
        return Verdict(True, f"{change}; no limit: review.max_ap_drop is null")
    limit = f"review.max_ap_drop = {max_drop:g}"
    if new < old - max_drop - 1e-9:
        return Verdict(False, f"{change} falls by more than {limit}")
    return Verdict(True, f"{change}, within {limit}")


def max_ap_drop() -> float | None:
    return load_params(Path("params.yaml"), ["review"]).review.max_ap_drop


def committed_ap(base: str) -> float | None:
    """AP in the commit's metrics, or None if it has no such file."""
    found = run("git", "show", f"{base}:{HEADLINE}")
    return None if found.returncode else read_ap(found.stdout, f"{base}:{HEADLINE}")


def present_ap() -> float:
    """AP in the working tree."""
    try:
        return read_ap(Path(HEADLINE).read_text(encoding="utf-8"), HEADLINE)
    except FileNotFoundError:
        hint = f"`git checkout {HEADLINE}` restores it"
        raise PoseError(f"{HEADLINE}: no such file; {hint}") from None


def read_ap(text: str, name: str) -> float:
    """The number AP of a metrics file. Raises PoseError if there is none."""
    try:
        ap = json.loads(text)["AP"]
    except (ValueError, KeyError, TypeError):
        ap = None
    if not isinstance(ap, (int, float)) or ap != ap:
        raise PoseError(f"{name}: AP is no number; is the file cut off?")
    return float(ap)


def page(base: str, verdicts: list[Verdict]) -> str:
    """The Markdown that reviewers read."""
    sections = [
        f"# What changes against {base}",
        "\n".join(f"- {'passed' if one.good else '**failed**'}: {one.line}" for one in verdicts),
        "## Result",
        table("metrics", "diff", base, "--md", "--no-path", "--targets", HEADLINE),
        "## Params",
        table("params", "diff", base, "--md", "--no-path"),
        "## All metrics",
        table("metrics", "diff", base, "--md"),
        "Curves and pictures side by side: `plots/index.html` beside this page.",
    ]
    return clipped("\n\n".join(sections)) + "\n"


def clipped(text: str) -> str:
    """What fits into a comment, cut at the end of a line."""
    if len(text) <= LONGEST:
        return text
    return text[: text.rindex("\n", 0, LONGEST)] + "\n\nCut here; the artifact has all of it."


def table(*command: str) -> str:
    """dvc's Markdown table, unless it is but a head and its rule."""
    found = dvc(*command).strip()
    return found if found.count("\n") > 1 else "No difference."


def dvc(*command: str) -> str:
    """Standard output of a dvc command that has to succeed."""
    return succeeded(command, run_dvc(*command))


def run_dvc(*command: str) -> Finished:
    return run(sys.executable, "-m", "dvc", *command)


def succeeded(command: tuple[str, ...], done: Finished) -> str:
    """Its standard output. Raises PoseError with what dvc said if it failed."""
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise PoseError(f"`dvc {' '.join(command)}` ended {done.returncode}: {said}")
    return done.stdout


def run(*command: str) -> Finished:
    """A command, ended. The seed keeps the order of dvc's rows, which follows that of a set."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


if __name__ == "__main__":
    os.chdir(ROOT)
    with exit_codes("pr_report"):
        main()
