"""The verdicts of a review, and what is said where there is nothing to compare."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pr_report
from pose.common.errors import PoseError


@pytest.mark.parametrize(
    ("old", "new", "limit", "good", "part"),
    [
        (0.58, 0.57, 0.02, True, "AP 0.5800 -> 0.5700 (-0.0100), within review.max_ap_drop = 0.02"),
        (0.58, 0.56, 0.02, True, "(-0.0200), within"),
        (0.58, 0.5599, 0.02, False, "(-0.0201) falls by more than review.max_ap_drop = 0.02"),
        (0.58, 0.57, 0.0, False, "falls by more"),
        (0.58, 0.60, 0.0, True, "(+0.0200), within"),
        (0.58, -1.0, None, True, "no limit: review.max_ap_drop is null"),
        (0.58, -1.0, 0.02, False, "falls by more"),
        (None, 0.57, 0.02, True, "the base has no AP"),
    ],
)
def test_gate(old: float | None, new: float, limit: float | None, good: bool, part: str) -> None:
    found = pr_report.gate(old, new, limit, [])
    assert found.good is good
    assert part in found.line


@pytest.mark.parametrize("limit", [None, 0.02])
def test_ap_on_other_data_is_not_compared(limit: float | None) -> None:
    found = pr_report.gate(0.58, 0.31, limit, ["data.source", "keypoints.names"])
    assert found.good
    assert found.line == (
        "AP 0.5800 and 0.3100 are not compared: other data (data.source, keypoints.names)"
    )


LOCK = "stages:\n  download_coco:\n    outs:\n    - path: data/coco\n      md5: {}.dir\n"
Write = Callable[[dict[str, str | None]], Path]


@pytest.fixture
def commit(
    bent_params: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str | None], str], None]:
    """Commits a params.yaml and a dvc.lock with data/coco of this md5, in a new repository."""
    monkeypatch.chdir(tmp_path)

    def save(changes: dict[str, str | None], md5: str) -> None:
        bent_params(changes)
        Path("dvc.lock").write_text(LOCK.format(md5))
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "a"]):
            subprocess.run(["git", *command], check=True)

    return save


RENDERED = {"data.source": "synthetic"}
OWN = {"data.source": "local"}


@pytest.mark.parametrize(
    ("before", "after", "md5", "expected"),
    [
        (RENDERED, RENDERED, "a", []),
        (RENDERED, {"train.lr": "1e-5", "synthetic.train_images": "7"}, "b", []),
        (RENDERED, {"synthetic.seed": "7"}, "b", ["synthetic.seed"]),
        (RENDERED, OWN, "b", ["data.source"]),
        (OWN, RENDERED, "b", ["data.source"]),
        (OWN, OWN, "a", []),
        (OWN, OWN, "b", ["files of data.root"]),
        (OWN, OWN | {"data.orientation": "apply"}, "a", ["data.orientation"]),
        (OWN | {"data.area": None}, OWN, "a", []),  # a key of later
    ],
)
def test_what_makes_the_data_other_data(
    commit: Callable[[dict[str, str | None], str], None],
    bent_params: Write,
    before: dict[str, str | None],
    after: dict[str, str | None],
    md5: str,
    expected: list[str],
) -> None:
    commit(before, "a")
    bent_params(after)
    Path("dvc.lock").write_text(LOCK.format(md5))
    assert pr_report.other_data("HEAD") == expected


def test_a_base_without_params_is_the_same_data_and_an_unreadable_one_is_named(
    commit: Callable[[dict[str, str | None], str], None], bent_params: Write
) -> None:
    commit({}, "a")
    assert pr_report.other_data("HEAD:") == []  # no path in it exists
    Path("params.yaml").write_text("data: [\n")
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "b"], check=True
    )
    bent_params({})
    with pytest.raises(PoseError, match=r"HEAD:params\.yaml: not valid; set BASE"):
        pr_report.other_data("HEAD")


def test_a_review_imports_only_what_its_small_environment_has() -> None:
    """All packages of tools/requirements.txt; a review takes no torch."""
    code = (
        "import sys, pr_report\n"
        "from importlib.metadata import packages_distributions\n"
        "owners = packages_distributions()\n"
        "print(*{one for name in [*sys.modules] for one in owners.get(name, ())})"
    )
    folder = Path(pr_report.__file__).parent
    environment = os.environ | {"PYTHONPATH": str(folder)}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
    found = {re.sub(r"[-_.]+", "-", name).lower() for name in output.split()}
    lock = (folder / "requirements.txt").read_text(encoding="utf-8")
    assert "pydantic" in found
    assert found - {"setuptools"} <= set(re.findall(r"^([a-z0-9-]+)==", lock, re.M))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"AP": null}', '{"AP": NaN}'])
def test_metrics_without_a_number_are_refused(text: str) -> None:
    with pytest.raises(PoseError, match=r"m\.json: AP is missing or not a number"):
        pr_report.read_ap(text, "m.json")


def dvc_says(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str = "") -> None:
    done = subprocess.CompletedProcess(["dvc"], code, stdout, stderr)
    monkeypatch.setattr(pr_report, "run", lambda *command: done)


UP_TO_DATE = "Stage 'report' didn't change, skipping\nData and pipelines are up to date.\n"
STALE = "Stage 'a' didn't change, skipping\nRunning stage 'b':\n> python b\n"


WANTING = "ERROR: failed to reproduce 'b': [Errno 2] No such file or directory: 'data/a'"


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [(0, STALE, ""), (255, STALE, WANTING), (0, STALE + UP_TO_DATE, ""), (255, "", WANTING)],
)
def test_a_stage_that_would_run_is_named(
    monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str
) -> None:
    dvc_says(monkeypatch, code, stdout, stderr)
    found = pr_report.freshness()
    assert not found.good
    assert "dvc.lock is stale from b on; run `make repro`" in found.line


def test_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    dvc_says(monkeypatch, 0, UP_TO_DATE)
    assert pr_report.freshness().good


@pytest.mark.parametrize(("code", "stdout"), [(255, ""), (0, "")])
def test_silence_is_not_taken_for_up_to_date(
    monkeypatch: pytest.MonkeyPatch, code: int, stdout: str
) -> None:
    dvc_says(monkeypatch, code, stdout, "ERROR: dvc.yaml\nis broken")
    with pytest.raises(PoseError, match="dvc repro --dry"):
        pr_report.freshness()


@pytest.mark.parametrize("empty", ["", "\n", "| Param | main |\n|---|---|\n\n"])
def test_an_empty_table_is_said_in_words(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    dvc_says(monkeypatch, 0, empty)
    assert pr_report.table("params", "diff") == "No difference."


def test_a_table_with_a_row_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    dvc_says(monkeypatch, 0, "| Param | main |\n|---|---|\n| train.lr | 0.1 |\n\n")
    assert pr_report.table("params", "diff").endswith("| train.lr | 0.1 |")


def test_an_unknown_base_is_named() -> None:
    with pytest.raises(PoseError, match=r"base 'no-such-branch': .*set BASE to a branch"):
        pr_report.fork_point("no-such-branch")


def test_a_page_fits_into_a_comment() -> None:
    line = "| a row of a table |\n"
    assert pr_report.clipped(line) == line
    found = pr_report.clipped(line * 5000)
    assert len(found) < 65_000
    kept, _, note = found.rpartition("\n\n")
    assert set(kept.splitlines()) == {line.strip()}
    assert note == "Truncated here; the artifact has the full page."
