"""Read train and val: from two annotation files, or from one that is split by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pose.coco.annotations import Annotations, read_annotations, read_unannotated
from pose.coco.category import Category
from pose.coco.files import (
    UNLABELLED_SPLIT,
    Kind,
    SplitFiles,
    coco_files,
    locate_images,
    split_files,
)
from pose.coco.holdout import hold_out
from pose.common.errors import PoseError
from pose.common.params import Data


@dataclass(frozen=True)
class Split:
    """Checked annotations of one split, and where its images are."""

    files: SplitFiles
    annotations: Annotations


def read_splits(root: Path, data: Data, names: Sequence[str] | None) -> dict[Kind, Split]:
    """Train and val; with data.val_fraction both are parts of train's file, see hold_out.

    names: as in category.read_category. Raises PoseError if a file is absent or invalid.
    """
    files = split_files(root, data, "train")
    train = read_annotations(files, data, names)
    files = locate_images(files, root, train.images)
    if data.val_fraction is not None:
        train, val = hold_out(train, data.val_fraction, data.group_by)
        return {"train": Split(files, train), "val": Split(files, val)}
    return {"train": Split(files, train), "val": _read_val(root, data, names, train.category)}


def without_people(train: Annotations, val: Annotations, data: Data) -> list[str]:
    """The annotation files without any person.

    With data.val_fraction, train and val are parts of one file.
    """
    if data.val_fraction is not None:
        return [] if train.persons or val.persons else [train.name]
    return [split.name for split in (train, val) if split.annotated and not split.persons]


def read_unlabelled(root: Path, category: Category) -> Split:
    """The images of unlabeled2017."""
    files = coco_files(root, UNLABELLED_SPLIT)
    return Split(files, read_unannotated(files, category))


def _read_val(root: Path, data: Data, names: Sequence[str] | None, category: Category) -> Split:
    """Val by its own file; of an unannotated one (test-dev) only the images."""
    files = split_files(root, data, "val")
    if files.annotated:
        val = read_annotations(files, data, names)
    elif data.detections is None:
        raise PoseError(
            f"params.yaml: data.val_split = {data.val_split!r} has no annotations and so no boxes "
            "to predict in; set data.detections to the file of a detector's boxes"
        )
    else:
        val = read_unannotated(files, category)
        line = (
            f"{files.name}: no annotations, so val_AP cannot be measured while training; train "
            f"with an annotated val, then predict with data.val_split = {data.val_split!r}"
        )
        val = replace(val, warnings=[*val.warnings, line])
    return Split(locate_images(files, root, val.images), val)
