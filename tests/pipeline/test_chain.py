"""`dvc repro` and `dvc exp run` as a newcomer uses them, in a clean clone."""

from __future__ import annotations

import csv
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.project import ROOT, STAGES, Finished, FirstRun, Project, ran

IGNORED = ("data/", "models/", "report/", ".dvc/", "__pycache__/", "/plots/")
FROM_TRAINING_ON = list(STAGES[3:])
HEADLINE = "metrics/evaluate/metrics.json"
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
FIRST, *BLOCKS = re.findall(r"(?ms)^```bash\n(.*?)^```$", PAGE)  # what the page tells to type


@dataclass(frozen=True)
class Experiment:
    """A project after docs/experiments.md's first command, committed on the branch slow-lr."""

    project: Project
    ran: list[str]
    table: str
    clone: Project


@pytest.fixture(scope="module")
def experiment(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    project = first_run.project.copy(tmp_path_factory.mktemp("experiment"))
    output = project.must(*shlex.split(FIRST))
    table = project.must("dvc", "exp", "show", "--csv")
    project.must("git", "switch", "--quiet", "--create", "slow-lr")
    project.commit("train.lr 1e-5")
    clone = project.clone(tmp_path_factory.mktemp("clone"))
    return Experiment(project, ran(output), table, clone)


def declared(project: Project, kind: str) -> list[str]:
    entries = [entry for stage in project.definition().values() for entry in stage.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_the_chain_runs_every_stage_in_order(first_run: FirstRun) -> None:
    assert sorted(ran(first_run.output)) == sorted(STAGES)
    assert ran(first_run.output)[3:] == FROM_TRAINING_ON


@pytest.mark.parametrize(("kind", "count"), [("outs", 15), ("metrics", 8), ("plots", 14)])
def test_every_declared_file_is_there(first_run: FirstRun, kind: str, count: int) -> None:
    names = declared(first_run.project, kind)
    assert len(names) >= count
    for name in names:
        assert first_run.project.content(name), name


def test_headline_is_a_number(first_run: FirstRun) -> None:
    headline = first_run.project.json(HEADLINE)
    assert -1 <= headline["AP"] <= 1


def test_git_sees_only_the_lock_and_the_metrics(first_run: FirstRun) -> None:
    """All numbers differ here from the committed ones, as most do on another CPU."""
    assert "dvc.lock" in first_run.changed
    assert len(first_run.changed) <= 29  # with params.yaml, shrunk, and the counts of its data
    strays = {p for p in first_run.changed - {"dvc.lock"} if not p.startswith("metrics/")}
    assert not strays


def test_all_else_lies_in_the_ignored_folders(first_run: FirstRun) -> None:
    assert {"models/", "report/"} <= first_run.ignored
    assert not {p for p in first_run.ignored if not any(folder in p for folder in IGNORED)}
    left = (first_run.project.root / "data").glob("resume/*")
    assert [path.name for path in left] == ["locks"]


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


def add_origin(project: Project) -> None:
    """A bare clone beside the project, as a git server has it."""
    hub = str(project.root.parent / "hub.git")
    project.must("git", "clone", "--quiet", "--bare", ".", hub)
    project.must("git", "remote", "add", "origin", hub)


@dataclass(frozen=True)
class Walk:
    """What each further block of docs/experiments.md printed, in a copy on the branch main.

    Its origin is a bare clone, which has no experiment at first.
    """

    grid: str
    table: str
    back: str
    pushed: str
    pulled: str
    after_going_back: dict[str, bytes]
    colleague: Project


@pytest.fixture(scope="module")
def walk(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    project = experiment.project.copy(tmp_path_factory.mktemp("walk"))
    project.must("git", "switch", "--quiet", "main")
    add_origin(project)

    def typed(block: str) -> str:
        return project.must("bash", "-euo", "pipefail", "-c", block)

    there = [typed(block) for block in BLOCKS[:3]]
    after = project.content("dvc.lock", "metrics")
    shared = [typed(block) for block in BLOCKS[3:]]
    return Walk(*there, *shared, after, Project(project.root.parent / "colleague"))


def test_the_page_sorts_a_grid_by_ap(walk: Walk) -> None:
    table = walk.table.partition("Path")[0]  # before that of `dvc exp diff`
    head, *rows = [line.split() for line in table.splitlines() if "  " in line.strip()]
    assert head == ["Experiment", "AP", "train.lr", "evaluate.keypoint_score_thr"]
    values = {(float(row[-2]), float(row[-1])) for row in rows}
    assert values == {(0.003, 0.2), (0.003, 0.1), (0.003, 0.5), (1e-05, 0.2)}


def test_the_page_compares_two(walk: Walk) -> None:
    assert re.search(r"params\.yaml +train\.lr +0\.003 +1e-05", walk.table)


def test_going_back_restores_from_the_run_cache(walk: Walk, first_run: FirstRun) -> None:
    assert ran(walk.back) == ["report"]  # its Markdown is in git, see dvc.yaml
    for name in set(FROM_TRAINING_ON) - {"report"}:
        assert f"Stage '{name}' is cached" in walk.back
    assert walk.after_going_back == first_run.project.content("dvc.lock", "metrics")


def test_a_colleague_takes_an_experiment(walk: Walk, experiment: Experiment) -> None:
    """The second run of the origin, by its name: nothing runs in the clone."""
    assert re.search(r"\d+ files uploaded", walk.pushed)
    assert ran(walk.pulled) == []
    assert "up to date" in walk.pulled
    assert walk.colleague.params()["train"]["lr"] == 1e-5
    for name in ("metrics", "models", "data/predictions"):
        assert walk.colleague.content(name) == experiment.project.content(name)


def test_a_colleague_goes_back_to_the_other_run(walk: Walk) -> None:
    walk.colleague.must("git", "checkout", "--quiet", ".")
    walk.colleague.must("dvc", "exp", "apply", "mine")
    assert ran(walk.colleague.must("dvc", "repro")) == []
    assert walk.colleague.content("dvc.lock", "metrics") == walk.after_going_back


def test_a_colleague_takes_a_run_whose_lock_is_not_committed(
    first_run: FirstRun, tmp_path: Path
) -> None:
    """The committed lock is of another machine, which pushed no files."""
    project = first_run.project.copy(tmp_path)
    lock = project.root / "dvc.lock"
    mine = lock.read_text()
    models = mine.index("  train_phase1:")
    lock.write_text(mine[:models] + re.sub(r"md5: \w{4}", "md5: 0000", mine[models:]))
    project.commit("run on another machine")
    lock.write_text(mine)
    add_origin(project)
    remote, *save = BLOCKS[3].splitlines()
    for line in (remote, *(line.replace(" slow", "") for line in save)):
        project.must(*shlex.split(line))
    clone = Project(tmp_path / "clone" / "pose")
    project.must("git", "clone", "--quiet", str(project.root.parent / "hub.git"), str(clone.root))
    clone.must(*shlex.split(remote)[:-1], str(project.root.parent / "myremote"))
    assert clone.run("dvc", "pull").returncode != 0
    clone.must("dvc", "exp", "pull", "origin", "mine")
    clone.must("dvc", "exp", "apply", "mine")
    assert ran(clone.must("dvc", "repro")) == []
    assert clone.content("models") == project.content("models")


def test_people_with_one_cache_take_runs_by_their_params(
    experiment: Experiment, tmp_path: Path
) -> None:
    clone = experiment.project.clone(tmp_path)
    clone.must("dvc", "cache", "dir", "--local", str(experiment.project.root / ".dvc/cache"))
    clone.must("dvc", "checkout")
    clone.set(**{"train.lr": 0.003})
    assert ran(clone.must("dvc", "repro")) == ["report"]


@dataclass(frozen=True)
class Review:
    """tools/pr_report.py in a clone without data: of two commits, and after two mistakes."""

    good: Finished
    page: str
    plots: str
    bad: Finished
    bad_page: str


@pytest.fixture(scope="module")
def review(experiment: Experiment) -> Review:
    clone = experiment.clone
    command = ("python", "tools/pr_report.py", "--base", "origin/main")
    page, plots = clone.root / "pr_report/pr_report.md", clone.root / "pr_report/plots/index.html"
    good = clone.run(*command)
    first = page.read_text(), plots.read_text()
    assert clone.changed() == set()
    clone.set(**{"report.examples": 3})
    lower = re.sub(r'"AP": [^,]+', '"AP": -0.5', (clone.root / HEADLINE).read_text())
    (clone.root / HEADLINE).write_text(lower)
    bad = clone.run(*command)
    second = page.read_text()
    clone.must("git", "checkout", "--quiet", ".")
    return Review(good, *first, bad, second)


def test_a_reviewer_sees_params_and_metrics(review: Review) -> None:
    assert review.good.returncode == 0, review.good.stderr
    assert "- passed: dvc.lock is up to date" in review.page
    assert "- passed: AP " in review.page
    assert re.search(r"\| train\.lr +\| 0\.003 +\| 1e-05 +\|", review.page)
    assert re.search(
        r"\| metrics/train_phase1/metrics\.json +\| loss +\| \S+ +\| \S+ +\|", review.page
    )


def test_a_reviewer_sees_plots(review: Review) -> None:
    for name in ("train_ssl", "ablation.csv", "keypoints.csv", "poses"):
        assert name in review.plots


def test_a_review_refuses_a_stale_lock_and_a_fallen_ap(review: Review) -> None:
    assert review.bad.returncode == 1
    (line,) = review.bad.stderr.splitlines()
    assert line.startswith("pr_report: dvc.lock is stale from evaluate on; run `make repro`")
    assert "falls by more than review.max_ap_drop = 0.02" in line
    assert review.bad_page.count("- **failed**: ") == 2


def test_an_experiment_is_applied_onto_a_used_tree(project: Project) -> None:
    """Stages write the same files in git whatever their params: no file of a run is left over."""
    off = ("ssl.epochs=0", "train.picture_epochs=0", "train.val_epochs=0", "report.heatmaps=0")
    project.must("dvc", "exp", "run", "--name", "short", *(f"-S{param}" for param in off))
    assert project.must("git", "ls-files", "--others", "--exclude-standard") == ""
    project.must("git", "commit", "--quiet", "--all", "--message", "short")
    short = project.content("metrics")
    project.must("dvc", "exp", "run", "--name", "long", "-Sssl.epochs=2", "-Sreport.heatmaps=1")
    assert set(project.content("metrics")) >= set(short)
    project.must("dvc", "exp", "apply", "short")
    assert "up to date" in project.must("dvc", "status")
    assert project.content("metrics") == short
    assert project.must("git", "ls-files", "--others", "--exclude-standard") == ""
