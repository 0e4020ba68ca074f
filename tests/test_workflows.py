"""The workflows keep to least rights, pinned actions, and commands that can be tried at home."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"- uses: actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
WRITES = {"pr_comment.yml": {"pull-requests": "write", "actions": "read"}}  # the others only read
PR, COMMENT, TESTS = "pr.yml", "pr_comment.yml", "tests.yml"
MINUTES = {TESTS: 120}  # it trains; the others compare files


def read(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text)


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


NAMES = [path.name for path in WORKFLOWS]


def test_there_are_workflows() -> None:
    assert set(NAMES) == {PR, COMMENT, TESTS}


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_the_least(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert job.get("permissions", {}) == WRITES.get(name, {})
        assert job["timeout-minutes"] <= MINUTES.get(name, 15)


@pytest.mark.parametrize("path", WORKFLOWS, ids=NAMES)
def test_actions_are_githubs_own_and_pinned_by_commit(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    used = [line.strip().removeprefix("- ") for line in lines if "uses:" in line]
    assert all(PINNED.fullmatch(f"- {line}") for line in used), used


@pytest.mark.parametrize("name", NAMES)
def test_no_command_is_built_from_names_that_others_choose(name: str) -> None:
    assert all("${{" not in step.get("run", "") for step in steps(name))


def test_the_code_of_a_pull_request_runs_without_rights_to_write() -> None:
    assert set(read(PR)["on"]) == {"pull_request"}
    (checkout,) = [step for step in steps(PR) if "checkout" in step.get("uses", "")]
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_what_may_write_runs_no_code_of_the_pull_request() -> None:
    assert set(read(COMMENT)["on"]) == {"workflow_run"}
    assert read(COMMENT)["on"]["workflow_run"]["workflows"] == [read(PR)["name"]]
    assert not [step for step in steps(COMMENT) if "uses" in step]
    text = " ".join(step["run"] for step in steps(COMMENT))
    assert not {"make", "python", "dvc"} & set(re.findall(r"[\w.-]+", text))


def test_the_review_is_a_make_target() -> None:
    """What runs there can be tried here: one target, and the page that its script writes."""
    commands = [step["run"] for step in steps(PR) if "run" in step]
    assert commands == ["make pr-report", 'cat pr_report/pr_report.md >> "$GITHUB_STEP_SUMMARY"']
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^pr-report:", makefile, re.M)


def test_the_tests_run_on_each_python_and_each_week() -> None:
    workflow = read(TESTS)
    assert set(workflow["on"]) == {"push", "pull_request", "schedule", "workflow_dispatch"}
    assert workflow["on"]["push"] == {"branches": ["main"]}
    assert len(workflow["on"]["schedule"]) == 1
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"] == {"python": ["3.10", "3.11", "3.12", "3.13"]}
    assert job["strategy"]["fail-fast"] is False
    assert [step["run"] for step in steps(TESTS) if "run" in step][-1] == ".ci/run"


def test_the_tests_cannot_write_and_are_kept_no_secret() -> None:
    text = (ROOT / ".github" / "workflows" / TESTS).read_text(encoding="utf-8")
    assert "secrets." not in text
    (checkout,) = [step for step in steps(TESTS) if "checkout" in step.get("uses", "")]
    assert checkout["with"] == {"persist-credentials": False}


def test_the_pip_cache_is_keyed_by_the_locks() -> None:
    (python,) = [step for step in steps(TESTS) if "setup-python" in step.get("uses", "")]
    assert python["with"]["cache"] == "pip"
    locks = {path.name for path in ROOT.glob(python["with"]["cache-dependency-path"])}
    assert locks == {"requirements.txt", "requirements-dev.txt"}


def test_a_clean_checkout_is_set_up_checked_and_tested() -> None:
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make setup",
        "make check",
        "make test",
    ]


def test_the_review_environment_has_the_projects_versions() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return set(re.findall(r"^[\w.-]+(?:\[[\w,]+\])?==\S+", text, re.M))

    assert pins("tools/requirements.txt") <= pins("requirements.txt")
    wanted = (ROOT / "tools/requirements.in").read_text(encoding="utf-8").splitlines()
    names = {pin.split("==")[0] for pin in pins("tools/requirements.txt")}
    assert {line for line in wanted if not line.startswith("#")} <= names
