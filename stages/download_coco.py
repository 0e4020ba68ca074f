"""Put COCO's three zips into data/coco: rendered, downloaded, or named where they already lie.

    python stages/download_coco.py

`data.source: synthetic` renders people into COCO's own layout; `coco` downloads COCO 2017 (20 GB,
resumes, verifies); `local` checks data.root and notes its digests, copying nothing. Writes
data/coco and metrics/download_coco. About 30 s on two cores with the embedded default.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tqdm import tqdm

import stage
from pose import coco
from pose.errors import PoseError
from pose.files import digest, download, write_json
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
    sources = {"synthetic": _synthetic, "coco": _coco, "local": _local}
    shutil.rmtree(stage.COCO, ignore_errors=True)
    stage.COCO.mkdir(parents=True)
    counts = sources[params.data.source](params)
    log(f"{NAME}: " + ", ".join(f"{value:,} {key}" for key, value in counts.items()))
    with stage.live(NAME) as live:
        live.summary.update(counts)


def _synthetic(params: Params) -> dict[str, int]:
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
        return write_coco_zips(stage.COCO, spec, stage.workers(), bar.update)


def _coco(params: Params) -> dict[str, int]:
    """Partial files live in data/resume, since DVC clears a stage's outs before it runs."""
    waiting = stage.RESUME / NAME
    sizes = {name: size for name, (_, size, _) in COCO_FILES.items()}
    free = shutil.disk_usage(stage.COCO).free
    held = sum(p.stat().st_size for p in waiting.glob("*")) if waiting.exists() else 0
    if free + held < sum(sizes.values()):
        raise PoseError(
            f"{stage.COCO}: COCO needs {sum(sizes.values()):,} bytes, {free:,} are free"
        )
    for name, (folder, size, md5) in COCO_FILES.items():
        url = f"{params.data.base_url.rstrip('/')}/{folder}/{name}"
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
            if not (waiting / name).exists():
                download(url, waiting / name, size, md5, bar.update)
    for name in COCO_FILES:
        (waiting / name).replace(stage.COCO / name)
    return {f"bytes_{name}": size for name, size in sizes.items()}


def _local(params: Params) -> dict[str, int]:
    """Digests of what data.root holds: the files stay where they are, changes become visible."""
    root = Path(str(params.data.root)).expanduser()
    if not root.is_dir():
        raise PoseError(f"params.yaml: data.root = {str(root)!r} is not a folder")
    counts: dict[str, int] = {}
    digests: dict[str, str] = {}
    for split in dict.fromkeys((params.data.train_split, params.data.val_split)):
        found = coco.read_annotations(root, split)
        counts[f"{split}_images"] = len(found.images)
        counts[f"{split}_persons"] = len(found.persons)
        digests[split] = _split_digest(root, split)
    write_json(stage.COCO / "local.json", digests)
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
