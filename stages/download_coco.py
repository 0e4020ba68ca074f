"""Put COCO's three zips into data/coco: rendered, downloaded, or named where they already lie.

    python stages/download_coco.py

`data.source: synthetic` renders people into COCO's own layout; `coco` downloads COCO 2017 (20 GB,
resumes, verifies); `local` checks data.root and notes its digests, copying nothing. A detector's
boxes (`data.detections`) are checked and copied. Writes data/coco and metrics/download_coco. About
30 s on two cores with the embedded default.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tqdm import tqdm

import stage
from pose import coco
from pose.detections import parse_detections
from pose.errors import PoseError
from pose.files import digest, download, write_atomic, write_json
from pose.log import log
from pose.params import Params
from pose.synthetic import SyntheticSpec, write_coco_zips

NAME = "download_coco"
# bytes and md5 as published; they agree over many independent mirrors
COCO_FILES = {
    "train2017.zip": ("zips", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017.zip": ("zips", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    coco.ANNOTATIONS_ZIP: ("annotations", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c"),
}


def main(params: Params) -> None:
    """Gather in data/resume, then swap: what was made before stays until the new is whole."""
    sources = {"synthetic": _synthetic, "coco": _coco, "local": _local}
    folder = stage.RESUME / f"{NAME}-{params.data.source}"
    folder.mkdir(parents=True, exist_ok=True)
    counts = _detections(params, folder)  # first: a mistake in it is told before the download
    counts |= sources[params.data.source](params, folder)
    shutil.rmtree(stage.COCO, ignore_errors=True)
    folder.replace(stage.COCO)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def _detections(params: Params, folder: Path) -> dict[str, int]:
    """The detector's file, byte for byte, or none (an earlier, killed run may have left one)."""
    target = folder / stage.DETECTIONS.name
    target.unlink(missing_ok=True)
    if params.data.detections is None:
        return {}
    source = Path(params.data.detections).expanduser()
    if not source.is_file():
        raise PoseError(f"params.yaml: data.detections = {str(source)!r} is not a file")
    content = source.read_bytes()
    count = len(parse_detections(content, str(source)))
    write_atomic(target, content)
    return {"detections": count}


def _synthetic(params: Params, folder: Path) -> dict[str, int]:
    law = params.synthetic
    spec = SyntheticSpec(
        train_images=law.train_images,
        val_images=law.val_images,
        unlabelled_fraction=law.unlabelled_fraction,
        image_wh=law.image_size,
        jpeg_quality=law.jpeg_quality,
        seed=law.seed,
    )
    total = law.train_images + law.val_images
    with tqdm(total=total, desc="rendering images", disable=None) as bar:
        return write_coco_zips(folder, spec, stage.workers(), bar.update)


def _coco(params: Params, folder: Path) -> dict[str, int]:
    """What is here already, whole or partial, is not fetched again."""
    need = sum(size for _, size, _ in COCO_FILES.values())
    held = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if free + held < need:
        raise PoseError(f"{stage.COCO}: COCO needs {need:,} bytes, {free:,} are free")
    for name, (kind, size, md5) in COCO_FILES.items():
        url = f"{params.data.base_url.rstrip('/')}/{kind}/{name}"
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
            if not (folder / name).exists():
                download(url, folder / name, size, md5, bar.update)
    return {"bytes": need}


def _local(params: Params, folder: Path) -> dict[str, int]:
    """Digests of what data.root holds: the files stay where they are, changes become visible."""
    root = Path(str(params.data.root)).expanduser()
    if not root.is_dir():
        raise PoseError(f"params.yaml: data.root = {str(root)!r} is not a folder")
    counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    for split in dict.fromkeys((params.data.train_split, params.data.val_split)):
        found = coco.read_annotations(root, split, params.data.category, params.keypoints.names)
        with coco.Images(root, split):  # raises if there are none
            digests[split] = _split_digest(root, split)
        counts[f"{split}_images"] = len(found.images)
        counts[f"{split}_persons"] = len(found.persons)
    write_json(folder / "local.json", digests)
    return counts


def _split_digest(root: Path, split: str) -> str:
    """Digest of a split's images and annotations, wherever they lie under root."""
    images = root / split
    name = root / "annotations" / f"person_keypoints_{split}.json"
    parts = [
        images if images.is_dir() else root / f"{split}.zip",
        name if name.is_file() else root / coco.ANNOTATIONS_ZIP,
    ]
    return " ".join(digest(part) for part in parts)


if __name__ == "__main__":
    stage.run(NAME, __doc__, main)
