"""One's own COCO-layout folder instead of the embedded data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pipeline.project import STAGES, Project, ran
from tiny_coco import SPLIT, TinyCoco


def use_own(project: Project, root: Path) -> None:
    values = {"source": "local", "root": str(root), "train_split": SPLIT, "val_split": SPLIT}
    project.set(**{f"data.{key}": value for key, value in values.items()})


def test_the_whole_chain_on_a_folder(project: Project, tiny_coco: TinyCoco) -> None:
    use_own(project, tiny_coco.root)
    project.set(**{"ssl.batch_size": 1})  # there is one person without keypoints
    done = ran(project.must("dvc", "repro"))
    assert done == [name for name in STAGES if name != "fetch_weights"]
    counts = project.json("metrics/build_cache/metrics.json")
    assert (counts["val_labelled"], counts["val"], counts["unlabelled"]) == (5, 6, 1)
    assert project.json("metrics/evaluate/metrics.json")["AP"] >= 0
    page = (project.root / "report/index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert {path.name for path in (project.root / "data/coco").iterdir()} == {"local.json"}


def test_zips_give_the_same_cache_as_a_folder(
    project: Project, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    caches = []
    for root in (tiny_coco.root, tiny_coco.zipped(tmp_path / "zips")):
        use_own(project, root)
        output = project.must("dvc", "repro", "build_cache")
        assert ran(output) == ["download_coco", "build_cache"]
        caches.append(project.content("data/cache"))
    assert caches[0] == caches[1]
    assert "data/cache/val/00000.arrow" in caches[0]


def test_hidden_keypoints_and_unlabelled_images_serve_stage_2(
    project: Project, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    root = tiny_coco.root
    shutil.copytree(root / SPLIT, root / "unlabeled2017")
    listed = {"images": tiny_coco.raw["images"]}
    (root / "annotations/image_info_unlabeled2017.json").write_text(json.dumps(listed))
    boxes = [
        {"image_id": image_id, "category_id": 1, "bbox": [10, 10, 50, 90], "score": score}
        for image_id, score in ((1, 0.9), (2, 0.4), (3, 0.6))
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    use_own(project, root)
    values = {"labelled_persons": 1, "unlabelled": ["boxes", "rest"], "unlabelled_images": True}
    values |= {"unlabelled_detections": str(tmp_path / "boxes.json")}
    project.set(**{f"data.{key}": value for key, value in values.items()})
    project.must("dvc", "repro", "build_cache")
    counts = project.json("metrics/build_cache/metrics.json")
    assert (counts["train"], counts["unlabelled"], counts["val"]) == (1, 4 + 2, 6)
    names = {name for name in project.content("data/cache") if "unlabelled/" in name}
    assert names == {
        "data/cache/unlabelled/00000.arrow",
        "data/cache/unlabelled/images-00000.arrow",
    }
