"""A set of COCO's size: the images of a small COCO folder repeated under new ids."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pose.coco.files import ANNOTATIONS_ZIP, SplitFiles, coco_files
from pose.coco.images import BadImageError, Images, open_zip, read_member
from pose.common.errors import PoseError
from pose.common.files import parse_json, write_json

COCO_IMAGES = {"train2017": 118_287, "val2017": 5_000}
MAX_JSON_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """An annotated split: its annotation file's content and size, and its images."""

    raw: dict[str, Any]
    json_bytes: int
    images: Images

    def read(self, file_name: str) -> bytes:
        """Bytes of an image. Raises PoseError if it is absent or damaged."""
        try:
            return self.images.read(file_name)
        except BadImageError as error:
            raise PoseError(f"{self.images.path}: {file_name!r} {error}; repair it") from None


def read_source(root: Path, split: str) -> Source:
    """The split of a folder in COCO's layout. Raises PoseError if it is absent or has no images."""
    name = f"annotations/person_keypoints_{split}.json"
    if not any((root / file).is_file() for file in (name, ANNOTATIONS_ZIP)):
        raise PoseError(
            f"{root} has neither {name} nor {ANNOTATIONS_ZIP}; correct FOLDER or --split"
        )
    files = coco_files(root, split)
    content = _annotations(files)
    raw = parse_json(content, files.name)
    if not isinstance(raw, dict) or not raw.get("images") or "annotations" not in raw:
        raise PoseError(f"{files.name}: has no images or no annotations; choose another --split")
    return Source(raw, len(content), Images(files))


def _annotations(files: SplitFiles) -> bytes:
    if files.member is None:
        return files.annotations.read_bytes()
    with open_zip(files.annotations) as archive:
        return read_member(archive, files.member, MAX_JSON_BYTES)


def image_counts(share: float) -> dict[str, int]:
    """Images per split: this share of COCO's, at least one."""
    return {split: max(1, round(share * count)) for split, count in COCO_IMAGES.items()}


def repeat(
    raw: dict[str, Any], count: int, first_image: int = 1, first_annotation: int = 1
) -> dict[str, Any]:
    """An annotation file's content with `count` images, which take turns, and their annotations.

    Ids count up from first_image and first_annotation; file names are COCO's, made of the id.
    """
    of_image = defaultdict(list)
    for annotation in raw["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    images, annotations = [], []
    for number in range(count):
        entry = raw["images"][number % len(raw["images"])]
        image_id = first_image + number
        name = f"{image_id:012d}{Path(entry['file_name']).suffix}"
        images.append({**entry, "id": image_id, "file_name": name})
        for annotation in of_image[entry["id"]]:
            annotation_id = first_annotation + len(annotations)
            annotations.append({**annotation, "id": annotation_id, "image_id": image_id})
    return {**raw, "images": images, "annotations": annotations}


def required_bytes(source: Source, counts: dict[str, int]) -> int:
    """Size of the set; less where hard links are possible and chosen."""
    entries = source.raw["images"]
    sizes = [len(source.read(entry["file_name"])) for entry in entries]
    per_image = (sum(sizes) + source.json_bytes) / len(entries)
    return round(sum(counts.values()) * per_image)


def write_set(source: Source, folder: Path, counts: dict[str, int], links: bool) -> None:
    """Write annotations/ and each split, as a zip or as a folder of hard links."""
    first_image = first_annotation = 1
    for split, count in counts.items():
        content = repeat(source.raw, count, first_image, first_annotation)
        first_image += count
        first_annotation += len(content["annotations"])
        path = folder / "annotations" / f"person_keypoints_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        names = _names(source.raw, content)
        if links:
            _write_links(source, folder / split, names)
        else:
            _write_zip(source, folder / f"{split}.zip", names)


def _names(raw: dict[str, Any], content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The source's and the new file name of each image."""
    names = [entry["file_name"] for entry in raw["images"]]
    for number, entry in enumerate(content["images"]):
        yield names[number % len(names)], entry["file_name"]


def _write_zip(source: Source, path: Path, names: Iterator[tuple[str, str]]) -> None:
    """Stored, not compressed, as COCO's."""
    with zipfile.ZipFile(path, "w") as archive:
        for old, new in names:
            archive.writestr(f"{path.stem}/{new}", source.read(old))


def _write_links(source: Source, folder: Path, names: Iterator[tuple[str, str]]) -> None:
    """One copy of each image and links to it; a new copy where the file system allows no more."""
    folder.mkdir()
    copies: dict[str, Path] = {}
    for old, new in names:
        target = folder / new
        try:
            os.link(copies[old], target)
        except (KeyError, OSError):
            target.write_bytes(source.read(old))
            copies[old] = target
