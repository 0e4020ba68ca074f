"""Put COCO's three zips into data/coco: rendered, downloaded, or named where they already lie.

    python stages/download_coco.py

`data.source: synthetic` renders people into COCO's own layout; `coco` downloads COCO 2017 (20 GB,
39 GB with `data.unlabelled_images`; resumes, verifies); `local` checks data.root and notes its
digests, copying nothing. Writes data/coco and metrics/download_coco. About 30 s on two cores with
the embedded default.

Downloads are kept in data/resume/downloads, and data/coco holds hard links to them: a run with
other params, a kill, or DVC, which removes data/coco before a run, costs no second download. Once
`dvc repro` is done that folder may go: DVC's cache has the files too, and serves the next run. Each
run verifies them anew, which takes about a minute.

`data.detections` is a file of val's person boxes, on disk or at a URL; it is checked and copied.
Published tables stand on one of two. We fetched neither, and their digests are not known to us:

    COCO_val2017_detections_AP_H_70_person.json   Sapiens. Its address, from its documentation:
        https://huggingface.co/noahcao/sapiens-pose-coco/resolve/main/sapiens_host/pose/
        person_detection_results/COCO_val2017_detections_AP_H_70_person.json
    COCO_val2017_detections_AP_H_56_person.json   HRNet, mmpose, ViTPose. Spread by file-sharing
        links only: fetch it by hand and give its path
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from pose.coco.annotations import (
    ANNOTATIONS_ZIP,
    UNLABELLED_SPLIT,
    image_info_zip,
    is_unannotated,
    read_annotations,
    read_images,
)
from pose.coco.detections import parse_detections
from pose.coco.images import Images, image_split
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest, locked, replacing, write_atomic, write_json
from pose.common.log import log
from pose.common.params import Params
from pose.fetch.checksums import COCO, UNLABELLED, Pin, ZipPin
from pose.fetch.errors import need_space
from pose.fetch.url import fetch_all, file_name
from pose.synthetic.dataset import write_coco_zips

NAME = "download_coco"


def main(params: Params) -> None:
    """Gather in data/resume, then swap: what was made before stays until the new is whole."""
    sources = {"synthetic": _synthetic, "coco": _coco, "local": _local}
    folder = stage.RESUME / f"{NAME}-{params.data.source}"
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run; downloads are not in it
    folder.mkdir(parents=True)
    counts = _detections(params, folder)  # first: a mistake in it is told before the download
    counts |= _unlabelled_detections(params, folder)
    counts |= sources[params.data.source](params, folder)
    shutil.rmtree(stage.COCO, ignore_errors=True)
    folder.replace(stage.COCO)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def _detections(params: Params, folder: Path) -> dict[str, int]:
    """The detector's file, byte for byte, or none."""
    if params.data.detections is None:
        return {}
    path = _detections_path(params.data.detections, params.data.detections_sha256)
    content = path.read_bytes()
    count = len(parse_detections(content, str(path)))
    write_atomic(folder / stage.DETECTIONS.name, content)
    log(f"{NAME}: val's boxes are those of {path.name}, sha256 {digest(path)}")
    return {"detections": count}


def _unlabelled_detections(params: Params, folder: Path) -> dict[str, int]:
    """The boxes of persons in unlabeled2017, byte for byte, or none."""
    if not params.data.unlabelled_images:
        return {}
    path = Path(str(params.data.unlabelled_detections)).expanduser()
    if not path.is_file():
        raise PoseError(f"params.yaml: data.unlabelled_detections = {str(path)!r} is not a file")
    content = path.read_bytes()
    count = len(parse_detections(content, str(path)))
    write_atomic(folder / stage.UNLABELLED_DETECTIONS.name, content)
    return {"unlabelled_detections": count}


def _detections_path(source: str, sha256: str | None) -> Path:
    """The file where it lies, or where it was fetched to."""
    if source.startswith(("http://", "https://")):
        return _fetch({source: Pin(str(sha256), "data.detections_sha256")})[0]
    path = Path(source).expanduser()
    if not path.is_file():
        raise PoseError(f"params.yaml: data.detections = {str(path)!r} is not a file")
    if sha256 and (fault := Pin(sha256, "data.detections_sha256").fault(path)):
        raise PoseError(f"{path}: {fault}; correct data.detections or data.detections_sha256")
    return path


def _fetch(wanted: Mapping[str, Pin | ZipPin]) -> list[Path]:
    """Verified files of these addresses; what is in data/resume/downloads is not fetched again."""
    with locked(stage.DOWNLOADS, "download"):
        missing = {url: pin for url, pin in wanted.items() if not _download(url).exists()}
        if cache := _dvc_cache() if missing else None:
            for url, pin in missing.items():
                _take(cache, pin, _download(url))
        return fetch_all(list(wanted.items()), stage.DOWNLOADS)


def _download(url: str) -> Path:
    return stage.DOWNLOADS / file_name(url)


def _dvc_cache() -> Path | None:
    """Where this project's DVC keeps its outs."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    found = subprocess.run(command, capture_output=True, text=True)
    return None if found.returncode else Path(found.stdout.strip())


def _take(cache: Path, pin: Pin | ZipPin, target: Path) -> None:
    """Link what DVC has kept of an earlier run; it files by md5, and so are COCO's files known."""
    kept = cache / "files" / "md5" / str(pin.md5)[:2] / str(pin.md5)[2:]
    if pin.md5 and kept.is_file():
        log(f"{NAME}: {target.name} is in DVC's cache")
        _link(kept, target)


def _synthetic(params: Params, folder: Path) -> dict[str, int]:
    law = params.synthetic
    total = law.train_images + law.val_images
    with tqdm(total=total, desc="rendering images", disable=None) as bar:
        return write_coco_zips(folder, law, stage.workers(), bar.update)


def _coco(params: Params, folder: Path) -> dict[str, int]:
    """COCO's zips under a second name: the downloads stay when DVC removes data/coco."""
    base = params.data.base_url.rstrip("/")
    wanted = COCO | UNLABELLED if params.data.unlabelled_images else COCO
    paths = _fetch({f"{base}/{place}": pin for place, pin in wanted.items()})
    for path in paths:
        _link(path, folder / path.name)
    return {"bytes": sum(path.stat().st_size for path in paths)}


def _link(path: Path, target: Path) -> None:
    """The same file as target; a copy where file systems or rights allow no hard link."""
    try:
        os.link(path, target)
    except OSError:
        need_space(str(target), path.stat().st_size, target.parent)
        with replacing(target) as beside:
            shutil.copyfile(path, beside)


def _local(params: Params, folder: Path) -> dict[str, int]:
    """Digests of what data.root holds: the files stay where they are, changes become visible."""
    root = Path(str(params.data.root)).expanduser()
    if not root.is_dir():
        raise PoseError(f"params.yaml: data.root = {str(root)!r} is not a folder")
    counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    law, names = params.data, params.keypoints.names
    for split in dict.fromkeys((law.train_split, law.val_split)):
        images, persons = _counts(root, split, law.category, names)
        with Images(root, split):  # raises if there are none
            digests[split] = _split_digest(root, split)
        counts |= {f"{split}_images": images, f"{split}_persons": persons}
    if params.data.unlabelled_images:
        counts["unlabelled_images"] = len(read_images(root, UNLABELLED_SPLIT))
        digests[UNLABELLED_SPLIT] = digest(_place(root, UNLABELLED_SPLIT))
    write_json(folder / "local.json", digests)
    return counts


def _counts(root: Path, split: str, category: str, names: Sequence[str] | None) -> tuple[int, int]:
    """Images and persons of a split whose annotations, if it has any, are sound."""
    if is_unannotated(root, split):
        return len(read_images(root, split)), 0
    found = read_annotations(root, split, category, names)
    return len(found.images), len(found.persons)


def _split_digest(root: Path, split: str) -> str:
    """Digest of a split's images and annotations, wherever they lie under root."""
    kind = "image_info" if is_unannotated(root, split) else "person_keypoints"
    name = root / "annotations" / f"{kind}_{split}.json"
    zipped = ANNOTATIONS_ZIP if kind == "person_keypoints" else image_info_zip(split)
    annotations = name if name.is_file() else root / zipped
    return f"{digest(_place(root, split))} {digest(annotations)}"


def _place(root: Path, split: str) -> Path:
    """A split's images, in their folder or their zip."""
    split = image_split(split)
    return root / split if (root / split).is_dir() else root / f"{split}.zip"


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
