"""Write COCO's zips to data/coco: rendered, downloaded, or digests of a local copy.

    python stages/download_coco.py

`data.source: synthetic` renders people into COCO's file layout. `coco` downloads COCO 2017 (20 GB,
39 GB with `data.unlabelled_images`), resumes after an interruption and verifies checksums. `local`
checks data.root and stores digests of its files; it copies nothing. Writes data/coco and
metrics/download_coco. Takes about 20 s on two cores with the embedded default.

Downloads are stored in data/resume/downloads, and data/coco has hard links to them. So neither a
run with other params, nor a kill, nor DVC, which removes data/coco before a run, causes a second
download. After `dvc repro` that folder may be deleted: DVC's cache also has the files, and the next
run takes them from there. Each run verifies them again, which takes about a minute.

`data.detections` is a file of person boxes of the val split, on disk or at a URL; it is checked and
copied. Published results use one of two files. We downloaded neither and do not know their digests:

    COCO_val2017_detections_AP_H_70_person.json   Sapiens. The URL in its documentation:
        https://huggingface.co/noahcao/sapiens-pose-coco/resolve/main/sapiens_host/pose/
        person_detection_results/COCO_val2017_detections_AP_H_70_person.json
    COCO_val2017_detections_AP_H_56_person.json   HRNet, mmpose, ViTPose. Published only as
        file-sharing links: download it by hand and set data.detections to its path
"""

from __future__ import annotations

from pose.common import stage

if __name__ == "__main__":
    stage.parse_arguments(__doc__)  # --help does not wait for the imports below

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pose.coco.annotations import Annotations
from pose.coco.bad_records import BadRecord, report_bad
from pose.coco.detections import parse_detections
from pose.coco.files import Kind, SplitFiles, local_root
from pose.coco.further import Further, read_further, with_key
from pose.coco.holdout import require_both_sides
from pose.coco.images import ABSENT, BadImageError, Images
from pose.coco.overlap import Checksums, image_checksums, shared_images
from pose.coco.splits import Split, read_splits, read_unlabelled, without_people
from pose.common.errors import PoseError, shorten
from pose.common.files import (
    digest,
    existing_path,
    locked,
    replace_folder,
    replacing,
    write_atomic,
    write_json,
)
from pose.common.log import Progress, log, progress
from pose.common.params import Data, Params
from pose.common.skeleton import asked_names
from pose.fetch.checksums import COCO_2017, COCO_2017_UNLABELLED, Checksum, ZipChecksums
from pose.fetch.errors import require_disk_space
from pose.fetch.url import download_all, file_name
from pose.synthetic.dataset import write_coco_zips

NAME = "download_coco"


def main(params: Params) -> None:
    """Write everything to data/resume, then replace data/coco, which stays unchanged until then."""
    sources = {"synthetic": _synthetic, "coco": _coco, "local": _local}
    folder = stage.RESUME / f"{NAME}-{params.data.source}"
    with stage.only_run(NAME):
        shutil.rmtree(folder, ignore_errors=True)  # of a killed run; it holds no downloads
        folder.mkdir(parents=True)
        counts = _detections(params, folder)  # first: report an error in it before the download
        counts |= _unlabelled_detections(params, folder)
        counts |= sources[params.data.source](params, folder)
        counts |= _further(params, folder)
        replace_folder(folder, stage.COCO)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def _detections(params: Params, folder: Path) -> dict[str, int]:
    """Copy data.detections unchanged, if it is set."""
    source, sha256 = params.data.detections, params.data.detections_sha256
    if source is None:
        return {}
    if source.startswith(("http://", "https://")):
        path = _download({source: Checksum(str(sha256), "data.detections_sha256")})[0]
    else:
        path = _existing_file("data.detections", source)
        if sha256 and (error := Checksum(sha256, "data.detections_sha256").mismatch(path)):
            raise PoseError(f"{path}: {error}; correct data.detections or data.detections_sha256")
    count = _copy_detections(path, folder / stage.DETECTIONS.name)
    log(f"{NAME}: boxes of val are from {path.name}, sha256 {digest(path)}")
    return {"detections": count}


def _unlabelled_detections(params: Params, folder: Path) -> dict[str, int]:
    """Copy the person boxes of unlabeled2017 unchanged, if those images are used."""
    if not params.data.unlabelled_images:
        return {}
    source = str(params.data.unlabelled_detections)
    path = _existing_file("data.unlabelled_detections", source)
    return {
        "unlabelled_detections": _copy_detections(path, folder / stage.UNLABELLED_DETECTIONS.name)
    }


def _existing_file(key: str, source: str) -> Path:
    path = existing_path(key, source)
    if not path.is_file():
        raise PoseError(f"params.yaml: {key} = {source!r} is a folder, expected a file")
    return path


def _copy_detections(path: Path, target: Path) -> int:
    """Check and copy a file of boxes; returns their number."""
    content = path.read_bytes()
    count = len(parse_detections(content, str(path)))
    write_atomic(target, content)
    return count


def _download(files: Mapping[str, Checksum | ZipChecksums]) -> list[Path]:
    """Verified files of these URLs; those already in data/resume/downloads or DVC's cache stay."""
    with locked(stage.DOWNLOADS, "download"):
        paths = {url: stage.DOWNLOADS / file_name(url) for url in files}
        missing = [url for url, path in paths.items() if not path.exists()]
        if cache := _dvc_cache() if missing else None:
            for url in missing:
                _link_from_cache(cache, files[url].md5, paths[url])
        return download_all(list(files.items()), stage.DOWNLOADS)


def _dvc_cache() -> Path | None:
    """The cache folder of this project's DVC."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode else Path(done.stdout.strip())


def _link_from_cache(cache: Path, md5: str | None, target: Path) -> None:
    """Link a file of an earlier run: DVC names files in its cache by their md5."""
    cached = cache / "files" / "md5" / str(md5)[:2] / str(md5)[2:]
    if md5 and cached.is_file():
        log(f"{NAME}: {target.name} is in DVC's cache")
        _link(cached, target)


def _synthetic(params: Params, folder: Path) -> dict[str, int]:
    synthetic, parts = params.synthetic, params.keypoints.parts or ()
    total = synthetic.train_images + synthetic.val_images
    with Progress(f"{NAME}: rendering images", total) as bar:
        return write_coco_zips(folder, synthetic, stage.workers(), bar.update, parts)


def _coco(params: Params, folder: Path) -> dict[str, int]:
    """Hard links to COCO's zips, so that the downloads stay when DVC removes data/coco.

    Raises PoseError if keypoints.parts asks for what COCO's own files do not have.
    """
    if params.keypoints.parts:
        raise PoseError(
            f"params.yaml: keypoints.parts = {list(params.keypoints.parts)}, but COCO's own files "
            "have the body alone; set data.source: local, data.train_annotations and "
            "data.val_annotations for COCO-WholeBody's files, or keypoints.parts: null"
        )
    base = params.data.base_url.rstrip("/")
    files = COCO_2017 | COCO_2017_UNLABELLED if params.data.unlabelled_images else COCO_2017
    paths = _download({f"{base}/{name}": checksum for name, checksum in files.items()})
    for path in paths:
        _link(path, folder / path.name)
    return {"bytes": sum(path.stat().st_size for path in paths)}


def _link(path: Path, target: Path) -> None:
    """Hard link from target to path; a copy where the file system or permissions forbid links."""
    try:
        os.link(path, target)
    except OSError:
        require_disk_space(str(target), path.stat().st_size, target.parent)
        with replacing(target) as beside:
            shutil.copyfile(path, beside)


def _local(params: Params, folder: Path) -> dict[str, int]:
    """Check the files below data.root and write their digests, so that data/coco changes with them.

    local.json also has the warnings of build_cache about images that are in train and in val.
    """
    root = local_root(params.data)
    names = asked_names(params.keypoints.parts, params.keypoints.names)
    splits = read_splits(root, params.data, names)
    _report(params.data, splits["train"].annotations, splits["val"].annotations)
    _log_files(root, splits.items())
    if params.data.val_fraction is not None:
        train, val = (len(splits[kind].annotations.images) for kind in ("train", "val"))
        part = f"data.val_fraction = {params.data.val_fraction}"
        log(f"{NAME}: {part}: {train:,} images train, {val:,} val")
    checksums = {kind: _checksums(kind, split) for kind, split in splits.items()}
    unread = [
        record for kind, split in splits.items() for record in _unread(split, checksums[kind])
    ]
    report_bad(NAME, list(dict.fromkeys(unread)), params.data.on_bad_record)
    digests = {str(kind): _digests(split, checksums[kind]) for kind, split in splits.items()}
    counts = {f"{kind}_images": len(split.annotations.images) for kind, split in splits.items()}
    counts |= {f"{kind}_persons": len(split.annotations.persons) for kind, split in splits.items()}
    if params.data.unlabelled_images:
        unlabelled = read_unlabelled(root, splits["train"].annotations.category)
        counts["unlabelled_images"] = len(unlabelled.annotations.images)
        digests["unlabelled"] = _digests(unlabelled, _checksums("unlabelled", unlabelled))
    warnings = shared_images(checksums["train"], checksums["val"])
    for line in warnings:
        log(f"{NAME}: warning: {line}")
    write_json(folder / stage.LOCAL.name, {**digests, "warnings": warnings})
    return counts


def _report(data: Data, train: Annotations, val: Annotations) -> None:
    """Log the warnings on the annotations, and the bad ones as build_cache does."""
    for line in dict.fromkeys([*train.warnings, *val.warnings]):
        log(f"{NAME}: warning: {line}")
    empty = without_people(train, val, data)
    report_bad(NAME, [*train.bad, *val.bad], data.on_bad_record, empty)
    if data.val_fraction is not None:
        require_both_sides(train, val)


def _log_files(root: Path, splits: Iterable[tuple[str, Split]]) -> None:
    """Which files are read, and which of them DVC does not watch because they are not in root."""
    paths = set()
    for name, split in splits:
        log(f"{NAME}: {name}: {split.files.annotations}, images in {split.files.images}")
        paths |= {split.files.annotations, split.files.images}
    if outside := sorted(str(path) for path in paths if path and not path.is_relative_to(root)):
        log(
            f"{NAME}: not below data.root, so DVC does not see a change in them: "
            f"{shorten(outside)}; after one run `dvc repro --force download_coco`, then `dvc repro`"
        )


def _further(params: Params, folder: Path) -> dict[str, int]:
    """Check the sets of data.also and data.also_val; write digests and warnings to further.json.

    Their files stay where they are, as those of a local main set do. folder: of the main set's
    zips. The warnings are about images of a val that are trained on too.
    """
    data = params.data
    if not data.also and not data.also_val:
        return {}
    main = local_root(data) if data.source == "local" else folder
    splits = read_splits(main, data, asked_names(params.keypoints.parts, params.keypoints.names))
    names = splits["train"].annotations.category.names
    sets: dict[Kind, list[Further]] = {
        "train": read_further("train", data, names),
        "val": read_further("val", data, names),
    }
    both = [*sets["train"], *sets["val"]]
    _log_files(Path(data.root).absolute(), ((one.key, one.split) for one in both))
    listed = {one.key: _check_further(one) for one in both}
    digests = {one.key: _digests(one.split, listed[one.key]) for one in both}
    warnings = _shared(splits, sets, listed)
    for line in warnings:
        log(f"{NAME}: warning: {line}")
    write_json(folder / stage.FURTHER.name, {**digests, "warnings": warnings})
    return {name: count for one in both for name, count in _counts(one).items()}


def _counts(one: Further) -> dict[str, int]:
    """Images and people of a set, for the metrics."""
    name, found = f"{one.key.split('.')[1]}_{one.entry.name}", one.split.annotations
    return {f"{name}_images": len(found.images), f"{name}_persons": len(found.persons)}


def _check_further(one: Further) -> Checksums:
    """Checksums of the set's images; bad records as the set's on_bad_record says."""
    annotations = one.split.annotations
    for line in annotations.warnings:
        log(f"{NAME}: warning: {line}")
    empty = [] if annotations.persons else [annotations.name]
    checksums = _checksums(one.entry.name, one.split)
    unread = [
        replace(record, advice=with_key(record.advice, one.key, one.entry))
        for record in _unread(one.split, checksums)
    ]
    for bad, files in ((annotations.bad, empty), (list(dict.fromkeys(unread)), [])):
        report_bad(NAME, bad, one.entry.on_bad_record, files, one.key)
    return checksums


def _shared(
    splits: Mapping[Kind, Split],
    sets: Mapping[Kind, list[Further]],
    listed: Mapping[str, Checksums],
) -> list[str]:
    """The warnings of shared_images for each training set and val of which one is a further one."""
    main = {kind: _checksums(kind, split) for kind, split in splits.items()}
    trains = {"train": main["train"]} | {o.entry.name: listed[o.key] for o in sets["train"]}
    vals = {"val": main["val"]} | {o.entry.name: listed[o.key] for o in sets["val"]}
    pairs = [(train, val) for val in vals for train in trains if (train, val) != ("train", "val")]
    return [
        line for train, val in pairs for line in shared_images(trains[train], vals[val], train, val)
    ]


def _checksums(kind: str, split: Split) -> Checksums:
    """Size and CRC-32 of the split's images; raises PoseError if there is no folder or zip."""
    entries = split.annotations.images
    with Images(split.files) as images:
        return image_checksums(images, progress(entries, f"{NAME}: checksums of {kind}"))


def _unread(split: Split, checksums: Checksums) -> list[BadRecord]:
    """The images of people that have no checksum: they are absent, or cannot be read."""
    names = dict.fromkeys(person.file_name for person in split.annotations.persons)
    missing, found = [name for name in names if name not in checksums], []
    with Images(split.files) as images:
        for name in missing:
            try:
                images.read(name)
            except BadImageError as error:
                found.append(_unread_image(split.files, name, str(error)))
    return found


def _unread_image(files: SplitFiles, file_name: str, reason: str) -> BadRecord:
    """The record of an image; for an absent one with what to move or set."""
    if reason != ABSENT:
        return BadRecord(files.split, file_name, reason)
    advice = f"searched {files.images}; set data.train_images or data.val_images"
    bare = Path(file_name).name
    if files.images is None or bare == file_name:
        return BadRecord(files.split, file_name, reason, advice=advice)
    folder = files.images.parent
    if Path(file_name).parts[0] == files.images.name and (folder / file_name).is_file():
        advice = f"{folder} has it: set data.train_images or data.val_images to {str(folder)!r}"
    elif (files.images / bare).is_file():
        advice = (
            f"{files.images} has {bare!r}: move it to {file_name!r} there, or correct file_name"
        )
    return BadRecord(files.split, file_name, reason, advice=advice)


def _digests(split: Split, checksums: Checksums) -> dict[str, str]:
    """Digests of a split's annotations and images, which are a file or in a folder."""
    images = split.files.images
    listed = hashlib.sha256(json.dumps(sorted(checksums.items())).encode()).hexdigest()
    return {
        "annotations": digest(split.files.annotations),
        "images": digest(images) if images and images.is_file() else listed,
    }


if __name__ == "__main__":
    stage.run(NAME, main)
