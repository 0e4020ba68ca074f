"""`dvc repro` and `dvc exp run` as a newcomer uses them, in a clean clone."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.project import STAGES, FirstRun, Project, ran

IGNORED = ("data/", "models/", "report/", ".dvc/", "__pycache__/")
FROM_TRAINING_ON = list(STAGES[3:])


@dataclass(frozen=True)
class Experiment:
    """A project after `dvc exp run -S train.lr=1e-5`, its results on a branch of that name."""

    project: Project
    ran: list[str]
    table: str
    clone: Project


@pytest.fixture(scope="module")
def experiment(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    project = first_run.project.copy(tmp_path_factory.mktemp("experiment"))
    output = project.must("dvc", "exp", "run", "--name", "slow", "-S", "train.lr=1e-5")
    table = project.must("dvc", "exp", "show", "--csv")
    project.must("git", "switch", "--quiet", "--create", "slow")
    project.commit("train.lr 1e-5")
    clone = project.clone(tmp_path_factory.mktemp("clone"))
    return Experiment(project, ran(output), table, clone)


def declared(project: Project, kind: str) -> list[str]:
    entries = [entry for stage in project.definition().values() for entry in stage.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_the_chain_runs_every_stage_in_order(first_run: FirstRun) -> None:
    assert sorted(ran(first_run.output)) == sorted(STAGES)
    assert ran(first_run.output)[3:] == FROM_TRAINING_ON


@pytest.mark.parametrize("kind", ["outs", "metrics", "plots"])
def test_every_declared_file_is_there(first_run: FirstRun, kind: str) -> None:
    names = declared(first_run.project, kind)
    assert len(names) >= 4
    for name in names:
        assert first_run.project.content(name), name


def test_headline_is_a_number(first_run: FirstRun) -> None:
    headline = first_run.project.json("metrics/evaluate/metrics.json")
    assert -1 <= headline["AP"] <= 1


def test_git_sees_only_the_lock_and_the_metrics(first_run: FirstRun) -> None:
    assert "dvc.lock" in first_run.changed
    strays = {p for p in first_run.changed - {"dvc.lock"} if not p.startswith("metrics/")}
    assert not strays


def test_all_else_lies_in_the_ignored_folders(first_run: FirstRun) -> None:
    assert {"models/", "report/"} <= first_run.ignored
    assert not {p for p in first_run.ignored if not any(folder in p for folder in IGNORED)}
    assert not list((first_run.project.root / "data").glob("resume/*"))


def test_a_second_repro_does_nothing(project: Project) -> None:
    output = project.must("dvc", "repro")
    assert ran(output) == []
    assert "up to date" in output
    assert project.changed() == set()
    assert "up to date" in project.must("dvc", "status")


def test_a_report_parameter_reruns_only_the_report(project: Project) -> None:
    project.set(**{"report.examples": 2})
    assert ran(project.must("dvc", "repro")) == ["report"]


def test_an_experiment_redoes_training_only(experiment: Experiment) -> None:
    assert experiment.ran == FROM_TRAINING_ON


def test_exp_show_lists_the_experiment(experiment: Experiment) -> None:
    rows = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(experiment.table))}
    assert float(rows["slow"]["train.lr"]) == 1e-5
    assert float(rows["slow"]["AP"]) >= -1


def test_going_back_restores_from_the_run_cache(
    experiment: Experiment, first_run: FirstRun, tmp_path: Path
) -> None:
    project = experiment.project.copy(tmp_path)
    project.must("git", "checkout", "--quiet", "main", "params.yaml")
    output = project.must("dvc", "repro")
    assert ran(output) == ["report"]  # its Markdown is in git, see dvc.yaml
    for name in set(FROM_TRAINING_ON) - {"report"}:
        assert f"Stage '{name}' is cached" in output
    assert project.content("dvc.lock", "metrics") == first_run.project.content(
        "dvc.lock", "metrics"
    )


def test_metrics_diff_in_a_clone_without_data(experiment: Experiment) -> None:
    found = json.loads(experiment.clone.must("dvc", "metrics", "diff", "--json", "origin/main"))
    loss = found["metrics/train_phase1/metrics.json"]["loss"]
    assert loss["new"] != loss["old"]


def test_params_diff_in_a_clone_without_data(experiment: Experiment) -> None:
    found = json.loads(experiment.clone.must("dvc", "params", "diff", "--json", "origin/main"))
    assert found["params.yaml"]["train.lr"]["new"] == 1e-5


def test_plots_diff_in_a_clone_without_data(experiment: Experiment, tmp_path: Path) -> None:
    experiment.clone.must("dvc", "plots", "diff", "origin/main", "--out", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text()
    assert "origin/main" in page
    for name in ("train_ssl", "ablation.csv", "keypoints.csv", "poses"):
        assert name in page


def test_a_clone_without_data_is_up_to_date(experiment: Experiment) -> None:
    output = experiment.clone.must("dvc", "repro", "--dry", "--allow-missing")
    assert ran(output) == []
    assert "up to date" in output
