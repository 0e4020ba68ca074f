"""dvc.yaml tells the truth: what stages read and write, noted while the chain ran, is declared.

tests/recording/sitecustomize.py took the notes.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from imports import needed_files, needed_rooms, room
from pipeline.project import ROOT, STAGES, FirstRun, Project

ASIDE = ("data/resume", "params.yaml", "dvc.yaml", ".gitignore", ".dvcignore")


def noted(run: FirstRun, stage: str, kind: str) -> set[str]:
    """Lines of that kind in the stage's notes."""
    lines = (run.notes / f"{stage}.txt").read_text().splitlines()
    found = {line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")}
    assert found, f"{stage} has no notes of what it {kind}"
    return found


def paths(entries: Iterable[Any]) -> set[str]:
    """Of dvc.yaml's outs, which are strings or {path: settings}."""
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def outs(entry: dict[str, Any]) -> set[str]:
    return paths(out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, []))


def beyond(found: set[str], declared: Iterable[str]) -> set[str]:
    """Paths that are neither declared nor below a declared folder. x.tmp is x on its way."""
    known = set(declared)
    names = {path.removesuffix(".tmp") for path in found}
    return {path for path in names if not known & {path, *map(str, Path(path).parents)}}


def declared_keys(project: Project, stage: str) -> set[str]:
    """`section.key` of what dvc.yaml declares for the stage; whole sections spelt out."""
    params, found = project.params(), set()
    for name in project.definition()[stage]["params"]:
        section, _, key = name.partition(".")
        found |= {name} if key else {f"{section}.{key}" for key in params[section]}
    return found


def named(stage: str) -> set[str]:
    """Attributes and strings in any branch of the code that the stage imports.

    A key of params.yaml that is not among these cannot be read, whatever the other params are.
    """
    files = [ROOT / name for name in needed_files(ROOT / "stages" / f"{stage}.py")]
    files = [file for file in files if file.stem != "params"]
    nodes = [n for file in files for n in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | {str(node.value) for node in nodes if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("stage", STAGES)
def test_every_param_that_is_read_is_declared(first_run: FirstRun, stage: str) -> None:
    assert noted(first_run, stage, "param") <= declared_keys(first_run.project, stage)


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_every_declared_param_is_read(first_run: FirstRun, stage: str) -> None:
    """In this run, or by a branch that this run's params do not take.

    The report is left out: it compares all sections with the baseline's, whatever they hold.
    """
    left = declared_keys(first_run.project, stage) - noted(first_run, stage, "param")
    names = named(stage)
    assert {key for key in left if key.split(".")[1] not in names} == set()


def test_every_param_is_some_stages(first_run: FirstRun) -> None:
    """But for review's, which are about runs; tools/ reads those."""
    project = first_run.project
    declared = {key for stage in STAGES for key in declared_keys(project, stage)}
    every = {f"{section}.{key}" for section, keys in project.params().items() for key in keys}
    rest = every - declared
    assert {key.split(".")[0] for key in rest} == {"review"}
    tools = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tools").glob("*.py"))
    assert all(f".{key}" in tools for key in rest)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_what_it_declares_and_no_more(first_run: FirstRun, stage: str) -> None:
    declared = outs(first_run.project.definition()[stage])
    written = noted(first_run, stage, "wrote")
    assert beyond(written, {*declared, "data/resume"}) == set()
    ancestors = {str(parent) for path in written for parent in (Path(path), *Path(path).parents)}
    assert declared <= ancestors


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_what_it_declares_and_no_more(first_run: FirstRun, stage: str) -> None:
    entry = first_run.project.definition()[stage]
    known = {*entry["deps"], *outs(entry), *ASIDE}
    if stage == "report":
        known.add("dvc.lock")  # for the hashes of what it declares
    assert beyond(noted(first_run, stage, "read"), known) == set()


def test_every_out_has_one_stage(first_run: FirstRun) -> None:
    found = [Path(out) for entry in first_run.project.definition().values() for out in outs(entry)]
    assert [path for path, count in Counter(found).items() if count > 1] == []
    assert [path for path in found if set(path.parents) & set(found)] == []


def changed_stages(status: dict[str, list[Any]]) -> dict[str, set[str]]:
    """Of each stage that DVC would rerun, the deps that changed."""
    found = {
        stage: {path for reason in reasons for path in reason.get("changed deps", {})}
        for stage, reasons in status.items()
    }
    return {stage: paths for stage, paths in found.items() if paths}


EDIT_ROUNDS = """
import json, sys
from pathlib import Path
from dvc.repo import Repo

for files in json.loads(sys.argv[1]):
    before = {file: Path(file).read_bytes() for file in files}
    for file in files:
        Path(file).write_bytes(before[file] + b"# edited")
    with Repo() as repo:
        print(json.dumps(repo.status()), flush=True)
    for file in files:
        Path(file).write_bytes(before[file])
"""


def editing_rounds() -> list[list[str]]:
    """All source files, templates included, in rounds that edit at most one file per room."""
    rooms: dict[str, list[str]] = {}
    for path in sorted((ROOT / "stages").rglob("*.*")):
        if path.parent.name != "__pycache__":
            file = path.relative_to(ROOT).as_posix()
            rooms.setdefault(room(file), []).append(file)
    files = zip_longest(*rooms.values())
    return [[file for file in edited if file] for edited in files]


def test_editing_a_file_reruns_exactly_the_stages_that_import_its_room(project: Project) -> None:
    """`dvc status` names the changed rooms of each stage, so a round edits one file per room."""
    rounds = editing_rounds()
    assert sum(map(len, rounds)) > 100
    output = project.must("python", "-c", EDIT_ROUNDS, json.dumps(rounds))
    statuses = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    needed = {stage: needed_rooms(ROOT / "stages" / f"{stage}.py") for stage in STAGES}
    for files, status in zip(rounds, statuses, strict=True):
        edited = {room(file) for file in files}
        expected = {stage: rooms & edited for stage, rooms in needed.items() if rooms & edited}
        assert changed_stages(status) == expected, files
