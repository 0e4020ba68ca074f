"""Write a page for reviewers: what a branch changes in metrics, params and plots.

    python tools/pr_report.py [--base main]
    make pr-report BASE=main

Compares the working tree with the commit where it branched off `base`: checks that dvc.lock matches
the code and the params, then lists the differences of metrics, params and plots. Writes
pr_report/pr_report.md and pr_report/plots/index.html. Reads only files in git: needs no data, GPU
or torch; about ten seconds. After writing the page it exits with 1 if dvc.lock is stale or AP fell
by more than `review.max_ap_drop`. AP on other data than the base's is not compared.
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
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import YAML_ERRORS, load_params
from pose.common.script import exit_codes
from pose.report.baseline import VAL, Settings, flatten, other_settings, parse_settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("pr_report")
MAIN_RESULT = "metrics/evaluate/metrics.json"
UP_TO_DATE = "Data and pipelines are up to date."
Finished = subprocess.CompletedProcess[str]
SECTIONS = ("data", "keypoints", "synthetic")  # of params.yaml, on which the data depend
OWN_DATA = (*VAL, "data.orientation", "data.visibility_thr")  # change own files' ground truth
MAX_CHARACTERS = 60_000  # of the page; GitHub allows 65,536 in a comment


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
    result = gate(committed_ap(base), present_ap(), max_ap_drop(), other_data(base))
    verdicts = [freshness(), result]
    dvc("plots", "diff", base, "--out", str(FOLDER / "plots"))
    write_atomic(FOLDER / "pr_report.md", page(base, verdicts).encode())
    print(f"pr_report: read {FOLDER / 'pr_report.md'}, open {FOLDER / 'plots' / 'index.html'}")
    if bad := [verdict.line for verdict in verdicts if not verdict.good]:
        raise PoseError("; ".join(bad))


def fork_point(base: str) -> str:
    """The commit where HEAD branched off `base`; later commits of `base` are not compared."""
    result = run("git", "merge-base", "--end-of-options", base, "HEAD")
    if result.returncode:
        reason = " ".join(result.stderr.split()) or "no common history; fetch the full history"
        raise PoseError(f"base {base!r}: {reason}; set BASE to a branch or commit")
    return result.stdout.strip()[:12]  # the length in the headers of dvc's tables


def freshness() -> Verdict:
    """Whether dvc.lock matches code and params; needs no data."""
    command = ("repro", "--dry", "--allow-missing")
    done = run_dvc(*command)
    output = done.stdout
    stale = re.findall(r"^Running stage '(\w+)'", output, re.M)
    stale += re.findall(r"failed to reproduce '(\w+)'", done.stderr)  # if data are missing
    if stale:
        advice = "run `make repro` and commit dvc.lock and metrics/"
        return Verdict(False, f"dvc.lock is stale from {stale[0]} on; {advice}")
    if UP_TO_DATE not in succeeded(command, done):
        raise PoseError(
            f"`dvc {' '.join(command)}` printed neither a stale stage nor {UP_TO_DATE!r}: {output}"
        )
    return Verdict(True, "dvc.lock is up to date with code, params and data")


def gate(old: float | None, new: float, max_drop: float | None, reasons: list[str]) -> Verdict:
    """Fails if AP falls by more than max_drop; None, or reasons (other data), disable the check."""
    if old is None:
        return Verdict(True, f"AP {new:.4f}; the base has no AP to compare with")
    if reasons:
        line = f"AP {old:.4f} and {new:.4f} are not compared: other data ({', '.join(reasons)})"
        return Verdict(True, line)
    change = f"AP {old:.4f} -> {new:.4f} ({new - old:+.4f})"
    if max_drop is None:
        return Verdict(True, f"{change}; no limit: review.max_ap_drop is null")
    limit = f"review.max_ap_drop = {max_drop:g}"
    if new < old - max_drop - 1e-9:
        return Verdict(False, f"{change} falls by more than {limit}")
    return Verdict(True, f"{change}, within {limit}")


def max_ap_drop() -> float | None:
    return load_params(Path("params.yaml"), ["review"]).review.max_ap_drop


def other_data(base: str) -> list[str]:
    """What makes the ground truth or its scoring another one than the commit's; empty: nothing."""
    here = flatten(load_params(Path("params.yaml")).model_dump(mode="json", include={*SECTIONS}))
    there = committed_settings(base)
    found = other_settings(here, there)
    if here["data.source"] == "local" == there.get("data.source"):
        found += [key for key in OWN_DATA if there.get(key, here[key]) != here[key]]
        present = Path("dvc.lock").read_text(encoding="utf-8")
        if own_files(present) != own_files(committed(base, "dvc.lock")):
            found.append("files of data.root")
    return found


def committed_settings(base: str) -> Settings:
    """The settings of the data in the commit's params.yaml; empty if it has none."""
    try:
        return parse_settings(committed(base, "params.yaml") or "", SECTIONS)
    except (YAMLError, *YAML_ERRORS):
        raise PoseError(f"{base}:params.yaml: not valid; set BASE to another commit") from None


def own_files(lock: str | None) -> Any:
    """The md5 that dvc.lock has of data/coco: it changes with any file of the user's data."""
    stages = (YAML(typ="safe", pure=True).load(lock or "") or {}).get("stages", {})
    outs = stages.get("download_coco", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == "data/coco"), None)


def committed(base: str, name: str) -> str | None:
    """A file of the commit, or None if it has no such file."""
    result = run("git", "show", f"{base}:{name}")
    return None if result.returncode else result.stdout


def committed_ap(base: str) -> float | None:
    """AP in the commit's metrics, or None if it has no such file."""
    text = committed(base, MAIN_RESULT)
    return None if text is None else read_ap(text, f"{base}:{MAIN_RESULT}")


def present_ap() -> float:
    """AP in the working tree."""
    try:
        return read_ap(Path(MAIN_RESULT).read_text(encoding="utf-8"), MAIN_RESULT)
    except FileNotFoundError:
        hint = f"`git checkout {MAIN_RESULT}` restores it"
        raise PoseError(f"{MAIN_RESULT}: no such file; {hint}") from None


def read_ap(text: str, name: str) -> float:
    """AP in a metrics file. Raises PoseError if it is missing or not a number."""
    try:
        ap = json.loads(text)["AP"]
    except (ValueError, KeyError, TypeError):
        ap = None
    if not isinstance(ap, (int, float)) or ap != ap:
        raise PoseError(f"{name}: AP is missing or not a number; `git checkout` restores the file")
    return float(ap)


def page(base: str, verdicts: list[Verdict]) -> str:
    """The Markdown that reviewers read."""
    sections = [
        f"# What changes against {base}",
        "\n".join(f"- {'passed' if v.good else '**failed**'}: {v.line}" for v in verdicts),
        "## Result",
        table("metrics", "diff", base, "--md", "--no-path", "--targets", MAIN_RESULT),
        "## Params",
        table("params", "diff", base, "--md", "--no-path"),
        "## All metrics",
        table("metrics", "diff", base, "--md"),
        "Curves and pictures side by side: `plots/index.html` beside this page.",
    ]
    return clipped("\n\n".join(sections)) + "\n"


def clipped(text: str) -> str:
    """The text, truncated at the end of a line to what fits into a comment."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return (
        text[: text.rindex("\n", 0, MAX_CHARACTERS)]
        + "\n\nTruncated here; the artifact has the full page."
    )


def table(*command: str) -> str:
    """dvc's Markdown table; "No difference." if it has no rows."""
    text = dvc(*command).strip()
    return text if text.count("\n") > 1 else "No difference."


def dvc(*command: str) -> str:
    """Standard output of a dvc command that has to succeed."""
    return succeeded(command, run_dvc(*command))


def run_dvc(*command: str) -> Finished:
    return run(sys.executable, "-m", "dvc", *command)


def succeeded(command: tuple[str, ...], done: Finished) -> str:
    """Standard output. Raises PoseError with dvc's error message if the command failed."""
    if done.returncode:
        message = " ".join(done.stderr.split())
        raise PoseError(f"`dvc {' '.join(command)}` exited with {done.returncode}: {message}")
    return done.stdout


def run(*command: str) -> Finished:
    """Run a command. The hash seed fixes the order of dvc's rows, which comes from a set."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


if __name__ == "__main__":
    os.chdir(ROOT)
    with exit_codes("pr_report"):
        main()
