"""Where the annotations and images of a split are: in COCO's layout, or where params.yaml says."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pose.common.errors import PoseError, shorten
from pose.common.files import BAD_ZIP, existing_path
from pose.common.params import Data

ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
UNLABELLED_SPLIT = "unlabeled2017"

Kind = Literal["train", "val"]


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split; nothing in them has been read.

    split: its name in messages. annotations: a JSON file, or a zip with the JSON file `member`.
    images: a folder or a zip; None if locate_images has to find it. annotated: false if the JSON
    file is an image_info_*.json, as for test-dev. set_name: of a further set, for messages.
    """

    split: str
    annotations: Path
    images: Path | None
    member: str | None = None
    annotated: bool = True
    set_name: str | None = None

    @property
    def name(self) -> str:
        """File name of the annotations, for messages."""
        name = Path(self.member or self.annotations).name
        return name if self.set_name is None else f"{self.set_name}: {name}"


def local_root(data: Data) -> Path:
    """data.root as an absolute path, `~` expanded. Raises PoseError unless it is a folder."""
    root = existing_path("data.root", data.root).absolute()
    if not root.is_dir():
        raise PoseError(f"params.yaml: data.root = {data.root!r} is a file, expected a folder")
    return root


def split_files(root: Path, data: Data, kind: Kind) -> SplitFiles:
    """Files of train or val below root, as data.<kind>_annotations and data.<kind>_images say.

    What is null is in COCO's layout. With data.val_fraction, val has train's files. Raises
    PoseError if a file is absent.
    """
    source = "train" if data.val_fraction is not None else kind
    split, annotations, images = {
        "train": (data.train_split, data.train_annotations, data.train_images),
        "val": (data.val_split, data.val_annotations, data.val_images),
    }[source]
    if annotations is None:
        files = coco_files(root, split)
    else:
        path = _given(root, f"data.{source}_annotations", annotations, "a file", Path.is_file)
        files = SplitFiles(source, path, None)
    if images is not None:
        path = _given(root, f"data.{source}_images", images, "a folder or a zip", Path.exists)
        files = replace(files, images=path)
    return files


def coco_files(root: Path, split: str) -> SplitFiles:
    """Files of a split in COCO's layout: annotations/*.json or its zip, <split>/ or <split>.zip.

    A split with only image_info_<split>.json is not annotated; its images may be those of another
    split, see image_split. Raises PoseError if there are no annotations.
    """
    image_name = image_split(split)
    places = (root / image_name, root / f"{image_name}.zip")
    images = next((path for path in places if path.exists()), None)
    zips = {"person_keypoints": ANNOTATIONS_ZIP, "image_info": f"image_info_{image_name}.zip"}
    for kind, zip_name in zips.items():
        name, annotated = f"{kind}_{split}.json", kind == "person_keypoints"
        if (path := root / "annotations" / name).is_file():
            return SplitFiles(split, path, images, None, annotated)
        if _is_member(root / zip_name, member := f"annotations/{name}"):
            return SplitFiles(split, root / zip_name, images, member, annotated)
    name = f"person_keypoints_{split}.json"
    raise PoseError(
        f"neither {root / 'annotations' / name} nor {root / ANNOTATIONS_ZIP} with annotations/"
        f"{name} exists; {found_json(root)}; set data.root, data.train_annotations or "
        "data.val_annotations"
    )


def image_split(split: str) -> str:
    """The split whose folder or zip has the images: COCO's test-dev is a part of test."""
    return split.replace("test-dev", "test")


def locate_images(files: SplitFiles, root: Path, images: list[dict[str, Any]]) -> SplitFiles:
    """The files with `images` set, if they are not: the folder in which the file_names exist.

    images are COCO's entries. The folder is that of the annotation file if it has the first image,
    else the one at or below root, without hidden ones, that has the first or all of them. Raises
    PoseError if there is none, or more than one.
    """
    if files.images is not None:
        return files
    if not images:
        raise PoseError(f"{files.name}: its list 'images' is empty; is it the file of this split?")
    names = [image["file_name"] for image in images]
    beside = files.annotations.parent
    if _has(beside, names[:1]):
        return replace(files, images=beside)
    folders = [path for path in _folders(root) if _has(path, names[:1])]
    if len(folders) > 1:
        folders = [path for path in folders if _has(path, names)] or folders
    if len(folders) == 1:
        return replace(files, images=folders[0])
    listed = shorten([str(path) for path in folders])
    advice = "set data.train_images or data.val_images to the folder or zip of the images"
    if not folders and (alike := _written_otherwise(root, names[0])):
        advice = f"there is {str(alike)!r}: rename it, or write its name in the annotations"
    raise PoseError(
        f"{files.name}: {f'{len(folders)} folders have' if folders else 'no folder has'} its first "
        f"image, {names[0]!r}: {listed or f'searched {root}'}; {advice}"
    )


def _written_otherwise(root: Path, name: str) -> Path | None:
    """A file whose name differs in case, suffix, spaces around it, %-escapes or accents' form."""
    wanted = _plain(name)
    files = (path for folder in _folders(root) for path in sorted(folder.iterdir()))
    alike = (path for path in files if _plain(path.name) == wanted and path.suffix != ".json")
    return next((path for path in alike if path.is_file()), None)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(Path(name.strip()).stem)).strip().casefold()


def found_json(root: Path) -> str:
    """`JSON files there: a.json, train/b.json`, as a part of a message."""
    paths = [path for pattern in ("*.json", "*/*.json") for path in sorted(root.glob(pattern))]
    names = [path.relative_to(root).as_posix() for path in paths]
    return f"JSON files in {root}: {shorten(names) if names else 'none'}"


def _given(root: Path, key: str, value: str, expected: str, is_valid: Any) -> Path:
    """The path that a param names, relative to root. Raises PoseError if it is not there."""
    path = root / Path(value).expanduser()
    if not is_valid(path):
        raise PoseError(
            f"params.yaml: {key} = {value!r}, expected {expected}: {path} "
            f"{'is a folder' if path.is_dir() else 'does not exist'}; {found_json(root)}"
        )
    return path


def _is_member(path: Path, name: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return name in archive.namelist()
    except FileNotFoundError:
        return False
    except BAD_ZIP as error:
        raise PoseError(f"{path}: {error}; download it again") from None


def _folders(root: Path) -> Iterator[Path]:
    """All folders at or below root; links are followed, but no folder comes twice."""
    seen: set[Path] = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        if (real := Path(folder).resolve()) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield Path(folder)


def _has(folder: Path, names: list[str]) -> bool:
    try:
        return all((folder / name).is_file() for name in names)
    except OSError:  # a name that is too long
        return False
