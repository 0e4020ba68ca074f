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
PR, COMMENT = "pr.yml", "pr_comment.yml"


def read(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(text)


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


NAMES = [path.name for path in WORKFLOWS]


def test_there_are_workflows() -> None:
    assert {PR, COMMENT} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_the_least(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert job.get("permissions", {}) == WRITES.get(name, {})
        assert job["timeout-minutes"] <= 15


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


def test_the_review_environment_has_the_projects_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", (ROOT / name).read_text(encoding="utf-8"), re.M))

    assert pins("tools/requirements.txt") <= pins("requirements.txt")
    wanted = (ROOT / "tools/requirements.in").read_text(encoding="utf-8").splitlines()
    names = {pin.split("==")[0] for pin in pins("tools/requirements.txt")}
    assert {line for line in wanted if not line.startswith("#")} <= names
