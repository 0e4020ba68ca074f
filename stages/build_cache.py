"""Build the crop cache: one pass over the images writes person crops and UDP targets to shards.

    python stages/build_cache.py

Reads data/coco; writes data/cache and metrics/build_cache. In data/cache are Arrow shards in train/
(people with keypoints), unlabelled/ (people of the training split without keypoints, see
`data.labelled_persons` and `data.unlabelled`) and val/, skeleton.json, ground_truth.json of val,
images.json (file names of val by image id),
quarantine.json (skipped records), summary.json (counts) and, only if there are any, warnings.json
(lines on annotations and images). metrics/build_cache/keypoints.csv has the labelled share of each
keypoint; the stage raises an error if no keypoint is labelled. With `data.detections` it also
writes detections/; val's images are then read a second time, so that val's shards do not depend on
the detections.
With `data.also` the people of further training sets are in train/ too, with a column `set`, and
train/sets.json lists the sets; `data.also_val` makes vals/NAME/ and vals/NAME.json.
Takes seconds with the embedded default. An interrupted build resumes at the next shard.
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from pose.coco.annotations import Annotations, Person
from pose.coco.bad_records import BadRecord, reason_lines, report_bad
from pose.coco.category import require_same_names
from pose.coco.decode import ImageNote, PixelSettings
from pose.coco.detections import read_detections
from pose.coco.files import Kind, SplitFiles, local_root
from pose.coco.further import (
    Further,
    describe_map,
    mapped,
    own_data,
    read_further,
    require_pairs,
    weight_of,
)
from pose.coco.holdout import require_both_sides
from pose.coco.image_notes import bit_depth_lines, orientation_lines
from pose.coco.images import Images
from pose.coco.splits import Split, read_splits, read_unlabelled, without_people
from pose.codecs.encode import build_encoder
from pose.common.errors import PoseError, shorten
from pose.common.files import read_json, replace_folder, write_atomic, write_json
from pose.common.log import log, progress
from pose.common.params import Params
from pose.common.processes import worker_pool
from pose.common.skeleton import (
    Skeleton,
    asked_names,
    build_skeleton,
    describe_flip_pairs,
    limbs_by_name,
    oks_sigmas,
)
from pose.crop_table import SETS, CropTable, TrainingSet
from pose.crops.aspect import LOW_FILL, fill, median_ratio
from pose.crops.coverage import (
    Coverage,
    empty_coverage,
    measure_coverage,
    require_keypoints,
    unlabelled_keypoints,
)
from pose.crops.shards import (
    CropSettings,
    ShardNotes,
    is_complete,
    plan_shards,
    psnr_db,
    write_shard,
)
from pose.crops.splits import training_persons
from pose.crops.upright import (
    stored_orientations,
    upright_annotations,
    upright_images,
    upright_persons,
)

NAME = "build_cache"
CATEGORY_KEYS = frozenset(("id", "name", "keypoints", "skeleton"))
ANNOTATION_KEYS = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints")
)


@dataclass(frozen=True)
class ShardGroup:
    """People of a split, to be written to shards whose paths begin with `prefix`."""

    prefix: str
    files: SplitFiles
    persons: list[Person]
    on_bad_record: str
    key: str = "data"  # of on_bad_record in params.yaml
    set_index: int | None = None  # of several training sets


def main(params: Params) -> None:
    root = local_root(params.data) if params.data.source == "local" else stage.COCO
    names = asked_names(params.keypoints.parts, params.keypoints.names)
    splits = read_splits(root, params.data, names)
    turned = {kind: orientations_of(params, split) for kind, split in splits.items()}
    train = upright_annotations(splits["train"].annotations, turned["train"])
    val = upright_annotations(splits["val"].annotations, turned["val"])
    skeleton = find_skeleton(params, train, val)
    settings = crop_settings(params, skeleton)
    limb_notes = train.category.notes if params.keypoints.skeleton is None else ()
    lines = [*limb_notes, *train.warnings, *val.warnings, *_shared_images(params)]
    warnings = list(dict.fromkeys(lines))
    for line in warnings:
        log(f"{NAME}: warning: {line}")
    bad = list(dict.fromkeys([*train.bad, *val.bad]))
    report_bad(NAME, bad, params.data.on_bad_record, without_people(train, val, params.data))
    if params.data.val_fraction is not None:
        require_both_sides(train, val)
    for split in (train, val):
        if split.outside:
            log(
                f"{NAME}: {split.name}: skipped {split.outside} people whose box lies "
                "outside the image"
            )
        if others := split.other_categories:
            listed = shorten([f"{name} {count:,}" for name, count in others.items()])
            log(
                f"{NAME}: {split.name}: left out {sum(others.values()):,} annotations of other "
                f"categories: {listed}"
            )
    also, also_val = further_sets(params, skeleton)
    bad += [record for one in (*also, *also_val) for record in one.split.annotations.bad]
    warnings += [line for one in (*also, *also_val) for line in one.split.annotations.warnings]
    main_set, on_bad_record = 0 if also else None, params.data.on_bad_record
    persons = training_persons(train, params.data)
    groups = [
        ShardGroup("train/", splits["train"].files, persons, on_bad_record, set_index=main_set),
        *also_groups(params, also),
        ShardGroup("val/", splits["val"].files, val.persons, on_bad_record),
        *also_val_groups(also_val),
    ]
    if params.data.detections is not None:
        persons = detected_persons(val, turned["val"])
        groups.append(ShardGroup("detections/", splits["val"].files, persons, on_bad_record))
    if params.data.unlabelled_images:
        unlabelled = read_unlabelled(root, val.category)
        persons = _unlabelled_persons(params, unlabelled)
        groups.append(
            ShardGroup(
                "unlabelled/images-", unlabelled.files, persons, on_bad_record, set_index=main_set
            )
        )
    with stage.resume_folder(NAME) as folder:
        _move(folder / "cache", folder)  # of a run that was killed while it published
        errors: list[float] = []
        noted: dict[tuple[str, str], ImageNote] = {}
        for group in groups:
            notes = write_split(folder, group, params.data.shard_persons, settings)
            unusable = [record for note in notes for record in note.bad]
            new = [record for record in unusable if record not in bad]
            report_bad(NAME, new, group.on_bad_record, key=group.key)
            require_people(group, unusable)
            bad += new
            errors += [error for note in notes for error in note.squared_errors]
            for note in notes:
                noted |= {(group.files.split, name): image for name, image in note.images.items()}
        image_lines = _image_lines(groups, noted, settings.pixels)
        for line in image_lines:
            log(f"{NAME}: warning: {line}")
        if also:
            write_json(folder / "train" / SETS, training_sets(also, skeleton.num_keypoints))
        coverage = {}
        for kind, split in (("train", train), ("val", val)):
            coverage[kind] = empty_coverage(skeleton.num_keypoints)
            if split.annotated:
                table = CropTable(folder / kind)
                coverage[kind] = measure_coverage(table, params.codec.heatmap_size)
                require_keypoints(coverage[kind], split.name)
        _log_fill(params, CropTable(folder / "train"))
        write_json(folder / stage.SKELETON.name, asdict(skeleton))
        _write_vals(folder, params, also_val, bad)
        by_set = set_coverage(folder, params, also)
        _write_summary(folder, val, splits["val"].files, bad, errors, also_val)
        _write_warnings(folder / "warnings.json", [*warnings, *image_lines])
        _write_coverage(skeleton.names, coverage["train"], coverage["val"], by_set)
        _publish(folder)


def _shared_images(params: Params) -> list[str]:
    """The warnings of download_coco about images that are in train and in val."""
    data = params.data
    paths = [stage.LOCAL] if data.source == "local" else []
    paths += [stage.FURTHER] if data.also or data.also_val else []
    return [line for path in paths if path.exists() for line in read_json(path)["warnings"]]


def further_sets(params: Params, skeleton: Skeleton) -> tuple[list[Further], list[Further]]:
    """The sets of data.also and data.also_val, upright; bad records as their on_bad_record says."""
    sets: dict[Kind, list[Further]] = {}
    kinds: tuple[Kind, ...] = ("train", "val")
    for kind in kinds:
        sets[kind] = []
        for one in read_further(kind, params.data, skeleton.names):
            require_pairs(one, skeleton)
            annotations = one.split.annotations
            empty = [] if annotations.persons else [annotations.name]
            report_bad(NAME, annotations.bad, one.entry.on_bad_record, empty, one.key)
            for line in annotations.warnings:
                log(f"{NAME}: warning: {line}")
            upright = upright_annotations(annotations, orientations_of(params, one.split))
            sets[kind].append(replace(one, split=replace(one.split, annotations=upright)))
            log(f"{NAME}: {one.entry.name}: {describe_map(one, skeleton.names)}")
    return sets["train"], sets["val"]


def also_groups(params: Params, also: list[Further]) -> list[ShardGroup]:
    """The people of the further training sets; all of them keep their keypoints."""
    groups = []
    for index, one in enumerate(also, start=1):
        persons = training_persons(one.split.annotations, own_data(params.data, one.entry))
        prefix, on_bad_record = f"train/set{index:02d}-", one.entry.on_bad_record
        groups.append(
            ShardGroup(prefix, one.split.files, persons, on_bad_record, one.key, set_index=index)
        )
    return groups


def also_val_groups(also_val: list[Further]) -> list[ShardGroup]:
    """The people of the further vals."""
    return [
        ShardGroup(
            f"vals/{one.entry.name}/",
            one.split.files,
            one.split.annotations.persons,
            one.entry.on_bad_record,
            one.key,
        )
        for one in also_val
    ]


def training_sets(also: list[Further], num_keypoints: int) -> list[dict[str, Any]]:
    """sets.json: what crop_table.TrainingSet has of the main set and each further one."""
    sets = [TrainingSet("main", 1.0, num_keypoints)]
    sets += [TrainingSet(o.entry.name, weight_of(o.entry), len(o.covered)) for o in also]
    return [asdict(one) for one in sets]


def set_coverage(folder: Path, params: Params, also: list[Further]) -> dict[str, Coverage]:
    """Coverage of each of several training sets; raises PoseError if one has no keypoint."""
    if not also:
        return {}
    table, coverage = CropTable(folder / "train"), {}
    names = ["main", *(one.entry.name for one in also)]
    for index, name in enumerate(names):
        coverage[name] = measure_coverage(table, params.codec.heatmap_size, index)
        if index:
            require_keypoints(coverage[name], also[index - 1].split.annotations.name)
    return coverage


def find_skeleton(params: Params, train: Annotations, val: Annotations) -> Skeleton:
    """Keypoints and limbs of the annotation files, pairs and half bodies of params.yaml."""
    keypoints = params.keypoints
    require_same_names(val.category.names, train.category.names, val.name, train.name)
    names, limbs = train.category.names, train.category.limbs
    if keypoints.skeleton is not None:
        limbs = limbs_by_name(names, keypoints.skeleton)
    oks_sigmas(names, keypoints.oks_sigmas)  # checked here because evaluate comes hours later
    skeleton = build_skeleton(
        names, limbs, keypoints.flip_pairs, keypoints.upper_body, keypoints.lower_body
    )
    line = describe_flip_pairs(skeleton)
    if keypoints.flip_pairs is None and not skeleton.flip_pairs and len(names) > 1:
        line = (
            f"warning: {line}; if two of these are the left and the right of one point, list them "
            "in keypoints.flip_pairs; if none are, set it to []"
        )
    log(f"{NAME}: {line}")
    return skeleton


def crop_settings(params: Params, skeleton: Skeleton) -> CropSettings:
    """What the crops depend on."""
    return CropSettings(
        codec=build_encoder(params.codec, skeleton.flip_indices),
        skeleton=skeleton,
        augment=params.augment,
        jpeg_quality=params.data.jpeg_quality,
        pixels=PixelSettings(params.data.orientation == "apply", params.data.bit_depth),
    )


def orientations_of(params: Params, split: Split) -> dict[int, int]:
    """As crops/upright.py has them; {} unless data.orientation is apply."""
    if params.data.orientation == "ignore":
        return {}
    entries = split.annotations.images
    with Images(split.files) as images:
        name = f"{NAME}: orientation of {split.files.split}"
        orientations = stored_orientations(images, progress(entries, name))
    if orientations:
        log(
            f"{NAME}: {split.files.split}: {len(orientations):,} of {len(entries):,} images have "
            "annotations in pixels as stored, which are rotated with the image (data.orientation: "
            "apply)"
        )
    return orientations


def _image_lines(
    groups: list[ShardGroup], noted: dict[tuple[str, str], ImageNote], settings: PixelSettings
) -> list[str]:
    """EXIF orientation and 16-bit pixels, counted over all images with people."""
    count = len({(g.files.split, person.file_name) for g in groups for person in g.persons})
    notes = noted.values()
    return [*orientation_lines(notes, count, settings), *bit_depth_lines(notes, count, settings)]


def detected_persons(val: Annotations, turned: dict[int, int]) -> list[Person]:
    """The detector's people in val's images; turned: as upright_annotations had it for val."""
    stored = upright_images(val.images, turned)  # width and height are exchanged back
    detections = read_detections(stage.DETECTIONS, stored, val.category)
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in detections.left_out.items())
    log(f"{NAME}: {len(detections.persons):,} detections; skipped: {skipped}")
    return upright_persons(detections.persons, turned)


def _unlabelled_persons(params: Params, split: Split) -> list[Person]:
    """Detections with a high score in images without annotations."""
    images, category = split.annotations.images, split.annotations.category
    persons = read_detections(
        stage.UNLABELLED_DETECTIONS,
        images,
        category,
        split.files.split,
        "data.unlabelled_detections",
    ).persons
    persons = upright_persons(persons, orientations_of(params, split))
    threshold = params.data.unlabelled_score_thr
    confident = [person for person in persons if person.bbox_score >= threshold]
    log(
        f"{NAME}: {len(confident):,} of {len(persons):,} unlabelled detections have a score of at "
        f"least {threshold}"
    )
    return confident


def require_people(group: ShardGroup, bad: list[BadRecord]) -> None:
    """Raise PoseError with the reasons if no person's image can be used."""
    unusable = {record.record for record in bad}
    if group.persons and unusable >= {person.file_name for person in group.persons}:
        lines = "\n".join(reason_lines(bad))
        raise PoseError(
            f"{lines}\n{group.files.split}: no image of a person can be used; repair them"
        )


def write_split(
    folder: Path, group: ShardGroup, shard_persons: int, settings: CropSettings
) -> list[ShardNotes]:
    """Notes of all shards, after writing those that an interrupted run has not finished."""
    shards = plan_shards(group.persons, shard_persons)
    indices = [group.set_index] * len(shards)
    paths = [folder / f"{group.prefix}{index:05d}.arrow" for index in range(len(shards))]
    count = len(shards)
    with worker_pool(stage.workers()) as pool:
        files = [group.files] * count
        done = pool.map(_shard_job, paths, files, shards, [settings] * count, indices)
        label = group.prefix.split("/")[0] if group.key == "data" else group.files.split
        return list(progress(done, f"{NAME}: crops of {label}", count))


def _shard_job(
    path: Path,
    files: SplitFiles,
    persons: list[Person],
    settings: CropSettings,
    set_index: int | None,
) -> ShardNotes:
    notes = path.with_suffix(".json")  # written last: marks the shard as finished
    is_train = path.parent.name == "train"
    unlabelled = path.parent.parent / "unlabelled" / path.name if is_train else None
    if not _is_finished(notes, [path, unlabelled]):
        images = _images(files)
        done = write_shard(path, images, persons, settings, unlabelled, set_index)
        write_json(notes, asdict(done))
    content = read_json(notes)
    bad = [BadRecord(**record) for record in content["bad"]]
    noted = {name: ImageNote(**note) for name, note in content["images"].items()}
    return ShardNotes(bad, content["squared_errors"], noted)


def _is_finished(notes: Path, shards: list[Path | None]) -> bool:
    """Whether an earlier run wrote all of them in full; a power cut may have truncated some."""
    try:
        read_json(notes)
    except PoseError:
        return False
    return all(is_complete(path) for path in shards if path)


@cache
def _images(files: SplitFiles) -> Images:
    """Opened once per worker: reading the directory of COCO's zip takes half a second."""
    return Images(files)


def _write_vals(
    folder: Path, params: Params, also_val: list[Further], bad: list[BadRecord]
) -> None:
    """vals/NAME.json of each further val: ground truth and file names of what evaluate scores.

    The ground truth has only the keypoints that the set has: `keypoints` are their indices among
    the model's. Raises PoseError if none of them is labelled.
    """
    for one in also_val:
        path = folder / "vals" / one.entry.name
        coverage = measure_coverage(CropTable(path), params.codec.heatmap_size)
        require_keypoints(coverage, one.split.annotations.name)
        names = [one.split.annotations.category.names[k] for k in one.covered]
        val = mapped(one.split.annotations, names, one.covered)
        image_ids = _usable_images(val, one.split.files, bad)
        truth = ground_truth(val, image_ids)
        truth["categories"] = [{"id": val.category.id, "name": one.entry.name, "keypoints": names}]
        content = {"keypoints": one.covered, "truth": truth, "images": image_names(val)}
        write_json(path.with_suffix(".json"), content)


def _usable_images(val: Annotations, files: SplitFiles, bad: list[BadRecord]) -> set[int]:
    """Ids of the images without the skipped ones."""
    skipped = {record.record for record in bad if record.file == files.split}
    return {image["id"] for image in val.images if image["file_name"] not in skipped}


def _write_summary(
    folder: Path,
    val: Annotations,
    files: SplitFiles,
    bad: list[BadRecord],
    errors: list[float],
    also_val: list[Further],
) -> None:
    """Write val's ground truth without skipped images, the quarantine list, and the counts."""
    image_ids = _usable_images(val, files, bad)
    write_json(folder / "ground_truth.json", ground_truth(val, image_ids))
    write_json(folder / stage.IMAGES.name, image_names(val))
    if len(val.category.ids) > 1:
        write_json(folder / stage.CATEGORY_IDS.name, sorted(val.category.ids))
    write_json(folder / "quarantine.json", [record.entry() for record in bad])
    counts: dict[str, float] = {"bad_records": len(bad)}
    for kind in ("train", "unlabelled", "val", "detections"):
        if (folder / kind).is_dir():
            counts[kind] = len(CropTable(folder / kind))
    counts["val_labelled"] = len(CropTable(folder / "val").labelled())
    train = CropTable(folder / "train")
    for index, one in enumerate(train.sets):
        counts[f"train_{one.name}"] = int((train.set_index == index).sum())
    for further in also_val:
        table = CropTable(folder / "vals" / further.entry.name)
        counts[f"val_{further.entry.name}_labelled"] = len(table.labelled())
    if errors:
        counts["crop_psnr_db"] = round(psnr_db(errors), 2)
    write_json(folder / "summary.json", counts)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def _write_warnings(path: Path, lines: list[str]) -> None:
    """Write the lines for the report, if there are any."""
    path.unlink(missing_ok=True)  # of an interrupted run
    if lines:
        write_json(path, lines)


def ground_truth(val: Annotations, image_ids: set[int]) -> dict[str, Any]:
    """Ground truth for COCOeval: the images of image_ids and their annotations."""
    return {
        "images": [{"id": i} for i in sorted(image_ids)],
        "categories": [_select(val.category.entry, CATEGORY_KEYS)],
        "annotations": [
            _select(annotation, ANNOTATION_KEYS) | {"category_id": val.category.id}
            for annotation in val.annotations
            if annotation["image_id"] in image_ids
        ],
    }


def image_names(val: Annotations) -> dict[str, str]:
    """File name by image id; ground_truth.json has only the keys that COCOeval reads."""
    return {str(image["id"]): image["file_name"] for image in val.images}


def _select(entry: dict[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    """Only the keys that COCOeval reads, which were checked; files may hold any others."""
    return {key: value for key, value in entry.items() if key in keys}


def _log_fill(params: Params, table: CropTable) -> None:
    """One line if most of the input of own data shows what is beside the person."""
    ratio, (width, height) = median_ratio(table), params.codec.input_size
    share = fill(ratio, (width, height))
    if params.data.source == "local" and share < LOW_FILL:
        log(
            f"{NAME}: the padded median box (w/h {ratio:.2f}) fills {share:.0%} of "
            f"codec.input_size = [{width}, {height}]; `python stages/plan.py` prints a better size"
        )


def _write_coverage(
    names: tuple[str, ...], train: Coverage, val: Coverage, by_set: dict[str, Coverage]
) -> None:
    """Write the labelled share of each keypoint to keypoints.csv and to the log."""
    columns = {
        "train": train.shares(train.labelled),
        "train_in_crop": train.shares(train.in_crop),
        "val": val.shares(val.labelled),
    }
    columns |= {f"train_{name}": one.shares(one.labelled) for name, one in by_set.items()}
    table = pd.DataFrame({"keypoint": names, **columns}).round(4)
    write_atomic(stage.METRICS / NAME / "keypoints.csv", table.to_csv(index=False).encode())
    lines = table.to_string(index=False)
    log(f"{NAME}: share of the people with keypoints that have this keypoint\n{lines}")
    if missing := unlabelled_keypoints(names, train.in_crop):
        log(
            f"{NAME}: warning: keypoints that are not labelled in any crop of train and cannot be "
            f"learnt: {shorten(missing)}"
        )


def _publish(folder: Path) -> None:
    """Replace data/cache by the finished shards and JSON files, without the shards' notes."""
    _move(folder, folder / "cache")
    replace_folder(folder / "cache", stage.CACHE)


def _move(source: Path, target: Path) -> None:
    patterns = ("*/*.arrow", "vals/*/*.arrow", f"*/{SETS}", "vals/*.json", "*.json")
    for path in [path for pattern in patterns for path in sorted(source.glob(pattern))]:
        moved = target / path.relative_to(source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.replace(moved)


if __name__ == "__main__":
    stage.run(NAME, main)
