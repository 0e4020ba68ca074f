"""A small project for the report stage, without training: five mice, a random model, tables.

Names contain HTML and Markdown: the page has to show them literally.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ruamel.yaml import YAML

from own_keypoints_data import LIMBS, write_mice
from pose.coco.annotations import Person, read_annotations
from pose.coco.files import coco_files
from pose.coco.images import Images
from pose.common.files import write_atomic, write_json
from pose.common.params import load_params
from pose.common.skeleton import Skeleton, build_skeleton
from pose.crop_table import CropTable
from pose.crops.shards import CropSettings, plan_shards, write_shard
from pose.data import build as data_build
from pose.engine.curves import write_curves
from pose.models.checkpoint import save_weights
from pose.models.pose_model import PoseModel
from pose.models.spec import model_spec
from sections import changed

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("nose", "left_ear", "right_ear", "tail $<b>x$", "tail_tip")
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">|`.jpg"
)
SMALL = {
    "codec.input_size": [48, 64],
    "codec.heatmap_size": [24, 32],
    "model.embed_dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.deconv_channels": [8, 8],
    "model.conv_channels": [8],
    "report.examples": 3,
    "report.heatmaps": 2,
    "run.threads": 1,
}
EVALUATED = {
    "errors": ("kind,share,ap_gain", "good,0.7,0", "jitter,0.1,0.05", "miss,0.2,0.12"),
    "groups": ("group,bin,persons,AP,oks", "size,medium,3,0.5,0.6", "size,large,0,-1,"),
    "pr": (
        "oks_thr,recall,precision",
        *(f"{thr},{r},{p}" for thr in (0.5, 0.75, 0.9) for r, p in ((0, 1), (0.5, 0.8), (1, 0))),
    ),
    "oks": ("oks_thr,share", "0.0,1", "0.5,0.6", "1.0,0"),
    "calibration": ("bin,count,score,oks", "0.0..0.5,0,,", "0.5..1.0,5,0.7,0.6"),
    "keypoint_scores": (
        "scores,bin,count,score,right",
        "raw,0.5-0.6,5,0.55,0.8",
        "calibrated,0.7-0.8,5,0.75,0.8",
    ),
}


def set_params(path: Path, values: dict[str, Any]) -> None:
    """Change a params.yaml; comments go."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(path)
    for name, value in values.items():
        section, key = name.split(".")
        assert key in params[section]
        params[section][key] = value
    yaml.dump(params, path)


def build(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Write all files that stages/report.py reads into `folder`; names: keypoints beyond NAMES."""
    limbs = tuple((a - 1, b - 1) for a, b in LIMBS)
    skeleton = build_skeleton(names, limbs, None, None, None)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    set_params(folder / "params.yaml", SMALL)
    write_json(folder / "data/cache/skeleton.json", dataclasses.asdict(skeleton))
    _write_cache(folder, skeleton)
    _write_weights(folder, len(names))
    _write_metrics(folder / "metrics", names)
    shutil.copytree(ROOT / "metrics/baseline", folder / "metrics/baseline")
    outs = [{"path": "data/cache", "md5": "5d41.dir", "size": 1234}]
    write_json(folder / "dvc.lock", {"stages": {"build_cache": {"outs": outs}}})  # JSON is YAML


def _write_cache(folder: Path, skeleton: Skeleton) -> None:
    """Crops and predictions of five mice; the last has no box."""
    write_mice(folder / "mice", "val", 5)
    params = load_params(folder / "params.yaml")
    spec = CropSettings(data_build.codec(params, skeleton), skeleton, params.augment, 95)
    images = Images(coco_files(folder / "mice", "val"))
    data = changed(params.data, category="mouse")
    persons = read_annotations(coco_files(folder / "mice", "val"), data, None).persons
    persons = [_with_keypoints(person, skeleton.num_keypoints) for person in persons]
    cache = folder / "data/cache"
    (cache / "val").mkdir(parents=True)
    (shard,) = plan_shards(persons, 8)
    write_shard(cache / "val/00000.arrow", images, shard, spec)
    write_json(cache / "summary.json", {"train": 1200, "val": 5, "crop_psnr_db": 40.123})
    write_json(cache / "ground_truth.json", {"images": [{"id": i} for i in range(5)]})
    bad = {"file": "val", "record": HOSTILE, "reason": "not a JPEG"}
    write_json(cache / "quarantine.json", [bad])
    table = CropTable(cache / "val")
    people: list[dict[str, Any]] = [
        {"row": i, "keypoints": table.keypoints[i][:, :2].tolist(), "oks": 0.9 - 0.1 * i}
        for i in range(4)
    ]
    people.append({"row": 4, "keypoints": None, "oks": 0.0})
    write_json(folder / "data/predictions/persons.json", people)


def _with_keypoints(person: Person, count: int) -> Person:
    """The person with more keypoints in its box, so that there are `count`."""
    more = np.random.default_rng(0).random((count - len(person.keypoints), 3))
    points = more * [*person.bbox_xywh[2:], 0] + [*person.bbox_xywh[:2], 2]
    return dataclasses.replace(person, keypoints=np.vstack([person.keypoints, points]))


def _write_weights(folder: Path, num_keypoints: int) -> None:
    torch.manual_seed(0)
    model = PoseModel(model_spec(load_params(folder / "params.yaml"), num_keypoints))
    provenance = {"source": HOSTILE, "licence": "that of the file"}
    save_weights(folder / "models/ssl.safetensors", model.state_dict(), provenance)
    save_weights(folder / "data/weights/start.safetensors", model.state_dict(), provenance)


def _write_metrics(metrics: Path, names: tuple[str, ...]) -> None:
    write_json(metrics / "download_coco/metrics.json", {"val_images": 5})
    coverage = pd.DataFrame({"keypoint": names, "train": 1.0, "train_in_crop": 0.9, "val": 0.8})
    _write_csv(metrics / "build_cache/keypoints.csv", coverage)
    headline = {"AP": 0.55, "AP50": 0.75, "AP75": 0.5, "AR": 0.6, "APm": -1, "boxes": "dets.json"}
    write_json(metrics / "evaluate/metrics.json", headline)
    _write_csv(metrics / "evaluate/ablation.csv", ablation())
    found = np.linspace(0.9, 0.5, len(names))
    measured = {"labelled": 5, "found": found, "AP": 0.5, "PCK": 0.4, "oks": 0.6}
    _write_csv(metrics / "evaluate/keypoints.csv", pd.DataFrame({"keypoint": names, **measured}))
    for name, lines in EVALUATED.items():
        write_atomic(metrics / f"evaluate/{name}.csv", ("\n".join(lines) + "\n").encode())
    losses = {"phase1": (), "phase2": ((2, 0.5), (4, 0.25)), "ssl": ((2, 0.2),)}
    for phase, points in losses.items():
        rows = [{"step": float(step), "loss": loss, "lr": loss} for step, loss in points]
        write_curves(metrics / f"train_{phase}", rows)


def ablation() -> pd.DataFrame:
    """Two models x two decoders x three test-time augmentations, and an ensemble."""
    rows = [
        {"model": model, "decoder": decoder, "tta": tta, "AP": round(ap + up + more, 4)}
        for model, ap in (("phase2", 0.40), ("ssl", 0.45))
        for decoder, up in (("argmax", 0.0), ("dark", 0.07))
        for tta, more in (("none", 0.0), ("flip", 0.03), ("multiscale", 0.04))
    ]
    rows.append({"model": "ensemble", "decoder": "dark", "tta": "flip", "AP": 0.57})
    table = pd.DataFrame(rows)
    return table.assign(**{name: table["AP"] for name in ("AP50", "AP75", "APm", "APl", "AR")})


def empty_tables(folder: Path) -> None:
    """Replace the tables by those that evaluate writes if val has no annotations: headers only."""
    for path in (folder / "metrics/evaluate").glob("*.csv"):
        path.write_text(path.read_text().splitlines()[0] + "\n")
    headline = {"boxes": "dets.json", "scored": False, "poses": 7}
    (folder / "metrics/evaluate/metrics.json").write_text(json.dumps(headline))
    (folder / "data/predictions/persons.json").write_text("[]")


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, table.to_csv(index=False).encode())
