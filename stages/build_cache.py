"""Build the crop cache: one pass over the images, person crops and UDP targets in Arrow shards.

    python stages/build_cache.py

Reads data/coco; writes data/cache and metrics/build_cache. Shards of train/ (persons with
keypoints), unlabelled/ (training persons with a box only, see `data.labelled_persons` and
`data.unlabelled`) and val/; skeleton.json, ground_truth.json of val, quarantine.json, summary.json.
keypoints.csv of the metrics has the share of each keypoint that is labelled; if none is, the stage
stops. With `data.detections` also the shards of detections/, for which val's images are read once
more: so val's shards do not depend on them.
Seconds with the embedded default; an interrupted build goes on at the next shard.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pose.coco.annotations import (
    UNLABELLED_SPLIT,
    Annotations,
    BadRecord,
    Person,
    is_unannotated,
    read_annotations,
    read_images,
    read_unannotated,
)
from pose.coco.category import Category, require_same_names
from pose.coco.detections import read_detections
from pose.coco.images import Images
from pose.codecs.udp import build_codec
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import read_json, write_atomic, write_json
from pose.common.log import log
from pose.common.params import Params
from pose.common.processes import worker_pool
from pose.common.skeleton import Skeleton, build_skeleton, oks_sigmas, some
from pose.crop_table import CropTable
from pose.crops.coverage import Coverage, measure, never, nothing, require_keypoints
from pose.crops.shards import CropSettings, ShardNotes, is_whole, plan_shards, psnr_db, write_shard
from pose.crops.splits import training_persons

NAME = "build_cache"
MAX_LISTED = 10
CATEGORY_KEYS = frozenset(("id", "name", "keypoints", "skeleton"))
ANNOTATION_KEYS = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints")
)


@dataclass(frozen=True)
class Table:
    """Persons of a split on their way into shards whose paths begin with `start`."""

    start: str
    split: str
    persons: list[Person]


def main(params: Params) -> None:
    root = stage.COCO
    if params.data.source == "local":
        root = Path(str(params.data.root)).expanduser()
    splits = {"train": params.data.train_split, "val": params.data.val_split}
    found = _annotations(params, root)
    skeleton = _skeleton(params, found)
    settings = CropSettings(
        codec=build_codec(params.codec, skeleton.flip_indices),
        skeleton=skeleton,
        augment=params.augment,
        jpeg_quality=params.data.jpeg_quality,
    )
    bad = [record for annotations in found.values() for record in annotations.bad]
    _stop_on_bad(params, bad)
    for one in found.values():
        if one.outside:
            log(f"{NAME}: {one.name}: left out {one.outside} persons with a box off the image")
    train = training_persons(found["train"], params.data)
    tables = [
        Table("train/", splits["train"], train),
        Table("val/", splits["val"], found["val"].persons),
    ]
    if params.data.detections is not None:
        tables.append(Table("detections/", splits["val"], _detected(found["val"])))
    if params.data.unlabelled_images:
        tables.append(
            Table(
                "unlabelled/images-",
                UNLABELLED_SPLIT,
                _unlabelled(params, root, found["val"].category),
            )
        )
    with stage.resume_folder(NAME) as folder:
        errors: list[float] = []
        for table in tables:
            notes = _write_split(folder, root, table, params.data.shard_persons, settings)
            new = [record for note in notes for record in note.bad if record not in bad]
            _stop_on_bad(params, new)
            bad += new
            errors += [error for note in notes for error in note.squared_errors]
        coverages = {}
        for kind, one in found.items():
            coverages[kind] = nothing(skeleton.num_keypoints)
            if one.annotated:
                coverages[kind] = measure(CropTable(folder / kind), params.codec.heatmap_size)
                require_keypoints(coverages[kind], one.name)
        write_json(folder / stage.SKELETON.name, asdict(skeleton))
        _write_tables(folder, found["val"], splits["val"], bad, errors)
        _write_coverage(skeleton.names, coverages["train"], coverages["val"])
        _publish(folder)


def _annotations(params: Params, root: Path) -> dict[str, Annotations]:
    """Those of train, and those of val or, of test-dev, its images alone."""
    law, names = params.data, params.keypoints.names
    train = read_annotations(root, law.train_split, law.category, names)
    if not is_unannotated(root, law.val_split):
        return {"train": train, "val": read_annotations(root, law.val_split, law.category, names)}
    if law.detections is None:
        raise PoseError(
            f"params.yaml: data.val_split = {law.val_split!r} has no annotations, so there are no "
            "boxes to predict in; give a detector's in data.detections"
        )
    return {"train": train, "val": read_unannotated(root, law.val_split, train.category)}


def _skeleton(params: Params, found: dict[str, Annotations]) -> Skeleton:
    """The keypoints of both files, and what params make of them."""
    train, val, law = found["train"], found["val"], params.keypoints
    require_same_names(val.category.names, train.category.names, val.name, train.name)
    names, limbs = train.category.names, train.category.limbs
    oks_sigmas(names, law.oks_sigmas)  # evaluate needs them, after hours: a mistake is told now
    return build_skeleton(names, limbs, law.flip_pairs, law.upper_body, law.lower_body)


def _detected(val: Annotations) -> list[Person]:
    """The detector's persons in val's images."""
    found = read_detections(stage.DETECTIONS, val.images, val.category)
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in found.left_out.items())
    log(f"{NAME}: {len(found.persons):,} detections; left out: {left_out}")
    return found.persons


def _unlabelled(params: Params, root: Path, category: Category) -> list[Person]:
    """Confident detections in images that nobody annotated."""
    images = read_images(root, UNLABELLED_SPLIT)
    found = read_detections(stage.UNLABELLED_DETECTIONS, images, category).persons
    threshold = params.data.unlabelled_score_thr
    kept = [person for person in found if person.bbox_score >= threshold]
    log(f"{NAME}: {len(kept):,} of {len(found):,} unlabelled detections score {threshold} or more")
    return kept


def _stop_on_bad(params: Params, bad: list[BadRecord]) -> None:
    """Name the bad records; raise if data.on_bad_record is stop."""
    if not bad:
        return
    listed = [str(record) for record in bad[:MAX_LISTED]]
    more = [f"and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
    if params.data.on_bad_record == "stop":
        advice = "repair them, or set data.on_bad_record: skip to leave them out"
        raise PoseError("\n".join([*listed, *more, f"{len(bad)} bad records; {advice}"]))
    log(f"{NAME}: left out {len(bad)} bad records:\n  " + "\n  ".join([*listed, *more]))


def _write_split(
    folder: Path, root: Path, table: Table, shard_persons: int, settings: CropSettings
) -> list[ShardNotes]:
    """Write the shards that an earlier, killed run has not finished; returns all their notes."""
    shards = plan_shards(table.persons, shard_persons)
    paths = [folder / f"{table.start}{index:05d}.arrow" for index in range(len(shards))]
    count = len(shards)
    with worker_pool(stage.workers()) as pool:
        splits = [table.split] * count
        done = pool.map(_shard_job, paths, [root] * count, splits, shards, [settings] * count)
        return list(tqdm(done, f"crops of {table.start.split('/')[0]}", count, disable=None))


def _shard_job(
    path: Path, root: Path, split: str, persons: list[Person], settings: CropSettings
) -> ShardNotes:
    notes = path.with_suffix(".json")  # written last: marks the shard as finished
    others = path.parent.parent / "unlabelled" / path.name  # of training persons, boxes only
    unlabelled = others if path.parent.name == "train" else None
    if not _is_finished(notes, [path, unlabelled]):
        images = _images(root, split)
        write_json(notes, asdict(write_shard(path, images, persons, settings, unlabelled)))
    found = read_json(notes)
    return ShardNotes([BadRecord(**record) for record in found["bad"]], found["squared_errors"])


def _is_finished(notes: Path, shards: list[Path | None]) -> bool:
    """Whether a run before wrote all of them; what a power cut damaged is written again."""
    try:
        read_json(notes)
    except PoseError:
        return False
    return all(is_whole(path) for path in shards if path)


@cache
def _images(root: Path, split: str) -> Images:
    """Opened once a worker: the directory of COCO's zip alone takes half a second to read."""
    return Images(root, split)


def _write_tables(
    folder: Path, val: Annotations, val_split: str, bad: list[BadRecord], errors: list[float]
) -> None:
    """Ground truth of val without what was left out, the quarantine list, and the counts."""
    names = {record.record for record in bad if record.file == val_split}
    kept = {image["id"] for image in val.images if image["file_name"] not in names}
    write_json(folder / "ground_truth.json", ground_truth(val, kept))
    write_json(folder / "quarantine.json", [asdict(record) for record in bad])
    counts: dict[str, float] = {"bad_records": len(bad)}
    for kind in ("train", "unlabelled", "val", "detections"):
        if (folder / kind).is_dir():
            counts[kind] = len(CropTable(folder / kind))
    counts["val_labelled"] = len(CropTable(folder / "val").labelled())
    if errors:
        counts["crop_psnr_db"] = round(psnr_db(errors), 2)
    write_json(folder / "summary.json", counts)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def ground_truth(val: Annotations, kept: set[int]) -> dict[str, Any]:
    """What COCOeval compares with: the images of these ids and who is in them."""
    return {
        "images": [{"id": i} for i in sorted(kept)],
        "categories": [_kept(val.category.entry, CATEGORY_KEYS)],
        "annotations": [
            _kept(annotation, ANNOTATION_KEYS)
            for annotation in val.annotations
            if annotation["image_id"] in kept
        ],
    }


def _kept(entry: dict[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    """What COCOeval reads, which was checked; nobody knows what else a file may hold."""
    return {key: value for key, value in entry.items() if key in keys}


def _write_coverage(names: tuple[str, ...], train: Coverage, val: Coverage) -> None:
    """Table of the keypoints' shares, as a metric and as lines of the log."""
    columns = {
        "train": train.shares(train.labelled),
        "train_in_crop": train.shares(train.in_crop),
        "val": val.shares(val.labelled),
    }
    table = pd.DataFrame({"keypoint": names, **columns}).round(4)
    write_atomic(stage.METRICS / NAME / "keypoints.csv", table.to_csv(index=False).encode())
    lines = table.to_string(index=False)
    log(f"{NAME}: share of the persons with keypoints that have this one\n{lines}")
    if missing := never(names, train.in_crop):
        log(f"{NAME}: warning: never labelled in a crop of train, so never learnt: {some(missing)}")


def _publish(folder: Path) -> None:
    """Move the finished cache into place."""
    if stage.CACHE.exists():
        shutil.rmtree(stage.CACHE)
    stage.CACHE.mkdir(parents=True)
    for path in _finished(folder):
        target = stage.CACHE / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)


def _finished(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*/*.arrow"))
    yield from sorted(folder.glob("*.json"))


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
