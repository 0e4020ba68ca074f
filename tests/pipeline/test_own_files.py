"""Own sets as tools export them, with the edits of docs/own_data.md, and what DVC sees of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from exports import WRITERS, write_label_studio, write_roboflow
from own_keypoints_data import NAMES
from pipeline.project import ROOT, STAGES, Project, new_project, ran

MAX_EDITS = 5


def edits(tool: str) -> dict[str, Any]:
    """The edits that the page shows under the tool's heading, by section.key."""
    page = (ROOT / "docs/own_data.md").read_text()
    block = re.search(rf"^### {tool}\n.*?^```yaml\n(.*?)^```", page, re.M | re.S)
    assert block, tool
    sections = YAML(typ="safe", pure=True).load(block[1])
    return {f"{name}.{key}": v for name, keys in sections.items() for key, v in keys.items()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Never reproduced; copies of it are changed."""
    return new_project(tmp_path_factory.mktemp("fresh"))


def exported(fresh: Project, folder: Path, tool: str) -> Project:
    """A project with an export in data/own, and the page's edits."""
    project = fresh.copy(folder)
    WRITERS[tool](project.root / "data/own")
    project.set(**edits(tool))
    return project


@pytest.mark.parametrize("tool", WRITERS)
def test_the_edits_of_the_page(fresh: Project, tmp_path: Path, tool: str) -> None:
    assert len(edits(tool)) <= MAX_EDITS
    project = exported(fresh, tmp_path, tool)
    assert ran(project.must("dvc", "repro", "build_cache")) == ["download_coco", "build_cache"]
    skeleton = project.json("data/cache/skeleton.json")
    assert skeleton["names"] == NAMES
    assert skeleton["flip_pairs"] == [[1, 2]]
    counts = project.json("metrics/build_cache/metrics.json")
    expected = 20 + 8 if tool == "Roboflow" else 24
    assert counts["train"] + counts["val"] == expected
    assert counts["val_labelled"] == counts["val"] > 0
    assert counts["bad_records"] == 0


def test_label_studio_of_windows(fresh: Project, tmp_path: Path) -> None:
    """The same cache, though each file_name has a backslash."""
    caches = []
    for separator in ("/", "\\"):
        project = fresh.copy(tmp_path / f"{ord(separator)}")
        write_label_studio(project.root / "data/own", separator)
        project.set(**edits("Label Studio"))
        project.must_stage("download_coco")
        project.must_stage("build_cache")
        caches.append(project.content("data/cache/train", "data/cache/val"))
    assert caches[0] == caches[1]


def test_an_export_reaches_the_report(fresh: Project, tmp_path: Path) -> None:
    """By these edits alone; stage 2 has nobody without keypoints and is skipped."""
    project = exported(fresh, tmp_path, "Roboflow")
    output = project.run("dvc", "repro")
    assert output.returncode == 0, output.stderr
    assert sorted(ran(output.stdout)) == sorted(STAGES)
    assert "train_ssl: data/cache/unlabelled has no people: skipped" in output.stderr
    assert 0 <= project.json("metrics/evaluate/metrics.json")["AP"] <= 1


# ---------------------------------------------------------------------------- DVC sees changes


@pytest.fixture(scope="module")
def built(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Roboflow's export, reproduced up to the cache."""
    project = exported(fresh, tmp_path_factory.mktemp("built"), "Roboflow")
    project.must("dvc", "repro", "build_cache")
    return project


def changed_files(project: Project) -> list[str]:
    """What `dvc status` lists as changed dependencies of download_coco."""
    status = json.loads(project.must("dvc", "status", "--json", "download_coco"))
    deps = [one.get("changed deps", {}) for one in status.get("download_coco", [])]
    return [name for dep in deps for name in dep]


def test_a_changed_annotation_file_reruns_what_depends_on_it(
    built: Project, tmp_path: Path
) -> None:
    project = built.copy(tmp_path)
    assert changed_files(project) == []
    path = project.root / "data/own/valid/_annotations.coco.json"
    raw = json.loads(path.read_text())
    raw["annotations"][0]["keypoints"][0] += 1
    path.write_text(json.dumps(raw))
    assert changed_files(project) == ["data/own"]
    before = project.content("data/cache")
    assert ran(project.must("dvc", "repro", "build_cache")) == ["download_coco", "build_cache"]
    after = project.content("data/cache")
    assert {name for name in before if before[name] != after[name]} == {
        "data/cache/ground_truth.json",
        "data/cache/val/00000.arrow",
    }


def test_a_touched_file_reruns_nothing(built: Project, tmp_path: Path) -> None:
    project = built.copy(tmp_path)
    for path in (project.root / "data/own").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    assert changed_files(project) == []
    assert ran(project.must("dvc", "repro", "build_cache")) == []


def test_a_file_that_no_split_uses_does_not_rebuild_the_cache(
    built: Project, tmp_path: Path
) -> None:
    project = built.copy(tmp_path)
    (project.root / "data/own/README.dataset.txt").write_text("changed\n")
    assert changed_files(project) == ["data/own"]
    assert ran(project.must("dvc", "repro", "build_cache")) == ["download_coco"]


def test_a_changed_image_rebuilds_the_cache(built: Project, tmp_path: Path) -> None:
    project = built.copy(tmp_path)
    images = sorted((project.root / "data/own/train").glob("*.jpg"))
    images[0].write_bytes(images[1].read_bytes())
    assert ran(project.must("dvc", "repro", "build_cache")) == ["download_coco", "build_cache"]


def test_a_file_outside_root_needs_force(built: Project, tmp_path: Path) -> None:
    """The log tells the command, and it helps."""
    project = built.copy(tmp_path)
    outside = tmp_path / "valid.json"
    inside = project.root / "data/own/valid/_annotations.coco.json"
    outside.write_bytes(inside.read_bytes())
    project.set(**{"data.val_annotations": str(outside), "data.val_images": "valid"})
    done = project.run("dvc", "repro", "build_cache")
    assert "dvc repro --force download_coco" in done.stderr
    raw = json.loads(outside.read_text())
    raw["annotations"][0]["keypoints"][0] += 1
    outside.write_text(json.dumps(raw))
    assert ran(project.must("dvc", "repro", "build_cache")) == []
    assert ran(project.must("dvc", "repro", "--force", "download_coco")) == ["download_coco"]
    assert ran(project.must("dvc", "repro", "build_cache")) == ["build_cache"]


def test_root_is_relative_and_untracked_in_a_temporary_run(built: Project, tmp_path: Path) -> None:
    """DVC's own line has the folder in which it looked."""
    project = built.copy(tmp_path)
    project.commit("params")
    write_roboflow(project.root / "mice")
    done = project.run("dvc", "exp", "run", "--temp", "-S", "data.root=mice", "build_cache")
    assert done.returncode != 0
    assert re.search(r"No such file or directory: '.*/\.dvc/tmp/exps/.*/mice'", done.stderr)


def test_a_regular_expression_keeps_clips_together(fresh: Project, tmp_path: Path) -> None:
    project = exported(fresh, tmp_path, "CVAT")
    project.set(**{"data.val_fraction": 0.5, "data.group_by": r"^(clip\d+)/"})
    project.must_stage("download_coco")
    project.must_stage("build_cache")
    truth = project.json("data/cache/ground_truth.json")
    clips = {image["id"] % 3 for image in truth["images"]}
    assert len(truth["images"]) == 8 * len(clips)
    assert len(clips) in (1, 2)
