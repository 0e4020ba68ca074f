"""Evaluate one pose checkpoint on a val split, without training and without train annotations.

    python stages/evaluate_checkpoint.py --weights vitpose.pth --data /path/to/coco \\
        --recipe vitpose_b_coco_256x192 --detections boxes.json --out evaluated

--weights takes what fetch_weights reads: a file of Sapiens, ViTPose, mmpose, Hugging Face or this
project (models/ssl.safetensors), an https address with --sha256, or a file of the Hugging Face Hub
as hf://OWNER/NAME@REVISION/PATH (a / in REVISION as %2F). The file needs a head. Model, codec and
weights.expert are those of --recipe, or of params.yaml. --data is a folder in COCO's layout (zips
or folders; data/coco after a run). Boxes are the ground truth's unless --detections names a file of
COCO results.

Crops are cut, and poses predicted and scored, by the code of fetch_weights, build_cache and
evaluate, in a temporary folder ($TMPDIR; about 1 GB for COCO's val): data/, models/, metrics/ and
dvc.lock are not touched. Prints AP in one view and with the flip test, beside the published numbers
of the same architecture (benchmarks/published.csv). Writes to --out: results.json (poses in COCO's
results format, with the flip test if evaluate.flip_test), instances.csv (people by OKS),
metrics.json and the tables of metrics/evaluate. Not a stage of the pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="path, https address or hf://")
    parser.add_argument("--data", required=True, type=Path, help="folder in COCO's layout")
    parser.add_argument("--recipe", metavar="NAME", help="model and codec; default: params.yaml")
    parser.add_argument("--detections", type=Path, metavar="FILE", help="boxes, COCO results")
    parser.add_argument("--val-split", metavar="NAME", help="default: data.val_split")
    parser.add_argument("--key", help="as weights.key, for a file with several models")
    parser.add_argument("--sha256", help="of the file of --weights")
    parser.add_argument("--out", type=Path, default=Path("evaluated"), help="folder (evaluated)")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()  # --help does not wait for the imports below

import csv
import os
import re
import shutil
import sys
import tempfile
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

import pandas as pd
from pydantic import ValidationError

import build_cache
import evaluate
import fetch_weights
from pose.coco.annotations import Annotations, read_annotations
from pose.coco.bad_records import report_bad
from pose.coco.detections import parse_detections
from pose.coco.files import local_root, locate_images, split_files
from pose.coco.splits import Split
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import read_json, write_json
from pose.common.params import Params, Weights, load_params
from pose.common.script import exit_codes
from pose.common.skeleton import COCO_17, asked_names
from pose.crops.upright import upright_annotations

sys.path.insert(0, str(stage.ROOT / "recipes"))

import apply

NAME = "evaluate_checkpoint"
MODEL = "checkpoint"  # its name in tables, in place of a model of the chain
PUBLISHED = stage.ROOT / "benchmarks" / "published.csv"
COLUMNS = ("AP", "AP50", "AP75", "APm", "APl", "AR")
VIEWS = {"none": "one view", "flip": "flip test"}
REVISION = r"refs/(?:pr/\d+|convert/\w+)|(?!refs/)[^/]+"  # the Hub's refs have slashes
HUB = re.compile(rf"hf://([^/@]+/[^/@]+)(?:@({REVISION}))?/(.+)")
PROJECT = "stages: {evaluate: {params: [run], deps: []}}\n"  # a dvc.yaml for stage.resume_folder


def main(arguments: argparse.Namespace) -> None:
    if os.environ.get("NPROC", "1") != "1":
        raise PoseError(f"environment: NPROC = {os.environ['NPROC']!r}; unset it: one process runs")
    params, out = _params(arguments), arguments.out.absolute()
    detections = arguments.detections and arguments.detections.absolute()
    _require_folder(out)
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="pose-") as folder:
        shutil.copy(apply.PARAMS, folder)
        Path(folder, "dvc.yaml").write_text(PROJECT)
        os.chdir(folder)
        try:
            names = _evaluate(params, detections)
            _save(out)
        finally:
            os.chdir(home)
    print(_table(params, names, out))


def _require_folder(out: Path) -> None:
    """Make --out before the work. Raises PoseError if nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise PoseError(f"--out {out}: {error.strerror}; name a folder to write to") from None


def _params(arguments: argparse.Namespace) -> Params:
    """Params of the recipe or of params.yaml, with the weights and data of the command line."""
    params = apply.resolve(arguments.recipe) if arguments.recipe else load_params(apply.PARAMS)
    if not arguments.data.is_dir():
        raise PoseError(f"--data {arguments.data}: no such folder; name one in COCO's layout")
    data: dict[str, Any] = {"source": "local", "root": str(arguments.data.absolute())}
    data |= {"val_fraction": None, "detections": None, "detections_sha256": None}
    if arguments.val_split:
        data |= {"val_split": arguments.val_split, "val_annotations": None, "val_images": None}
    chosen = {"models": (MODEL,), "ablation": tuple(VIEWS), "scales": (1.0,), "ensemble": ()}
    sections = {
        "data": params.data.model_copy(update=data),
        "weights": _weights(
            arguments.weights, arguments.sha256, arguments.key, params.weights.expert
        ),
        "evaluate": params.evaluate.model_copy(update=chosen),
    }
    return params.model_copy(update=sections)


def _weights(text: str, sha256: str | None, key: str | None, expert: int | None) -> Weights:
    """The weights section for --weights, with the head kept."""
    source: dict[str, Any] = {"file": None, "repo": None, "revision": None, "url": None}
    if text.startswith("hf://"):
        if not (found := HUB.fullmatch(text)):
            raise PoseError(
                f"--weights {text}: expected hf://OWNER/NAME@REVISION/PATH; write a / in the name "
                "of a revision as %2F, except in refs/pr/NUMBER"
            )
        repo, revision, file = found.groups()
        source |= {"source": "huggingface", "repo": repo, "revision": unquote(revision or "main")}
        source["file"] = file
    elif "://" in text:
        if not text.startswith(("http://", "https://")):
            raise PoseError(f"--weights {text}: expected a path, https:// or hf://")
        if sha256 is None:
            raise PoseError(f"--weights {text}: an address needs --sha256")
        source |= {"source": "url", "url": text}
    else:
        path = Path(text).expanduser().absolute()
        if not path.exists():
            raise PoseError(f"--weights {text}: no such file; correct the path")
        source |= {"source": "file", "file": str(path)}
    try:
        return Weights(**source, sha256=sha256, key=key, expert=expert, head="keep")
    except ValidationError as error:
        (wrong,) = error.errors()
        option, value = f"--{wrong['loc'][0]}", wrong["input"]
        raise PoseError(f"{option} {value!r}, expected: {wrong['msg'].lower()}") from None


def _evaluate(params: Params, detections: Path | None) -> list[str]:
    """Convert, cut crops, predict and score, in the current folder; returns the keypoint names."""
    split = _read_val(params)
    names = list(split.annotations.category.names)
    keypoints = params.keypoints.model_copy(update={"names": names})
    _convert(params.model_copy(update={"keypoints": keypoints}))
    _build_cache(params, split, detections)
    evaluate.main(params)
    return names


def _read_val(params: Params) -> Split:
    """Val's checked annotations and files; nothing of train is read."""
    root = local_root(params.data)
    try:
        files = split_files(root, params.data, "val")
    except PoseError as error:
        text = str(error).partition("; set data.")[0]  # its advice is for params.yaml
        raise PoseError(f"{text}; name another --val-split or --data") from None
    if not files.annotated:
        raise PoseError(
            f"{files.name}: a split without annotations has no AP; name another with --val-split"
        )
    names = asked_names(params.keypoints.parts, params.keypoints.names)
    val = read_annotations(files, params.data, names)
    empty = [] if val.persons else [val.name]
    report_bad(NAME, val.bad, params.data.on_bad_record, empty)
    return Split(locate_images(files, root, val.images), val)


def _convert(params: Params) -> None:
    """The checkpoint under this project's names, as if a stage had trained it."""
    try:
        fetch_weights.main(params)
    except PoseError as error:  # its advice is for training
        text = str(error).replace(", or set weights.head: fresh", "")
        text = text.replace("set weights.head: fresh", "only a pose model can be evaluated")
        raise PoseError(text) from None
    stage.MODELS.mkdir()
    stage.WEIGHTS.replace(stage.MODELS / f"{MODEL}.safetensors")


def _build_cache(params: Params, split: Split, detections: Path | None) -> None:
    """The parts of data/cache that evaluate reads."""
    turned = build_cache.orientations_of(params, split)
    val = upright_annotations(split.annotations, turned)
    skeleton = build_cache.find_skeleton(params, val, val)
    settings = build_cache.crop_settings(params, skeleton)
    on_bad_record = params.data.on_bad_record
    groups = [build_cache.ShardGroup("val/", split.files, val.persons, on_bad_record)]
    if detections:
        _copy_detections(detections)
        persons = build_cache.detected_persons(val, turned)
        group = build_cache.ShardGroup("detections/", split.files, persons, on_bad_record)
        groups.append(group)
    unusable = []
    for group in groups:
        shards = params.data.shard_persons
        notes = build_cache.write_split(stage.CACHE, group, shards, settings)
        unusable += [record for note in notes for record in note.bad]
        report_bad(NAME, unusable, on_bad_record)
        build_cache.require_people(group, unusable)
    _write_truth(val, {record.record for record in unusable})
    write_json(stage.SKELETON, asdict(skeleton))


def _write_truth(val: Annotations, skipped: set[str]) -> None:
    ids = {image["id"] for image in val.images if image["file_name"] not in skipped}
    write_json(stage.CACHE / "ground_truth.json", build_cache.ground_truth(val, ids))
    write_json(stage.IMAGES, build_cache.image_names(val))


def _copy_detections(path: Path) -> None:
    if not path.is_file():
        raise PoseError(f"--detections {path}: no such file; correct the path")
    parse_detections(path.read_bytes(), str(path))
    stage.COCO.mkdir(parents=True)
    shutil.copy(path, stage.DETECTIONS)


def _save(out: Path) -> None:
    """Copy poses, metrics and tables from the current folder to --out."""
    shutil.copy(stage.PREDICTIONS / "keypoints.json", out / "results.json")
    shutil.copy(stage.PREDICTIONS / "instances.csv", out)
    for path in (stage.METRICS / evaluate.NAME).glob("*.*"):
        shutil.copy(path, out)


def _table(params: Params, names: list[str], out: Path) -> str:
    """One line per test-time mode, and one of the published numbers if the model is known."""
    boxes = read_json(out / "metrics.json")["boxes"]
    rows = pd.read_csv(out / "ablation.csv")
    rows = rows[rows["decoder"] != "argmax"]
    lines = {VIEWS[row["tta"]]: [row[name] for name in COLUMNS] for _, row in rows.iterrows()}
    found = _published(params, names)
    if found:
        numbers = [float(found[name]) / 100 if found[name] else None for name in COLUMNS]
        lines[f"published, {found['model']}"] = numbers
    width = max(map(len, lines))
    text = [" " * width + "".join(f"{name:>7}" for name in COLUMNS)]
    for label, values in lines.items():
        shown = ("-" if value is None else f"{value:.3f}" for value in values)
        text.append(f"{label:{width}}" + "".join(f"{value:>7}" for value in shown))
    text.append(f"this file: {params.data.val_split}, boxes: {boxes}")
    if found:
        text.append(
            f"published: val2017, flip test, detector boxes {found['boxes']} ({found['source']})"
        )
    return "\n".join(text)


def _published(params: Params, names: list[str]) -> dict[str, str] | None:
    """The row of published.csv of this architecture and input size, for COCO's 17 keypoints."""
    model, input_wh = params.model, params.codec.input_size
    experts = "no" if params.weights.expert is None else "yes"
    shape = [str(model.embed_dim), str(model.depth), model.head, *map(str, input_wh), experts]
    if names != [*COCO_17.names] or model.family != "vit":
        return None
    with PUBLISHED.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            keys = ("embed_dim", "depth", "head", "input_w", "input_h", "experts")
            if [row[key] for key in keys] == shape:
                return row
    return None


if __name__ == "__main__":
    with exit_codes(NAME):
        main(arguments)
