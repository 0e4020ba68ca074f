"""Find images that are in train and in val."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pose.coco.images import Images
from pose.common.errors import shorten

Checksums = dict[str, tuple[int, int]]


def image_checksums(images: Images, entries: Iterable[dict[str, Any]]) -> Checksums:
    """Size and CRC-32 by file_name of the images that can be read; entries are COCO's."""
    found = {entry["file_name"]: images.checksum(entry["file_name"]) for entry in entries}
    return {name: checksum for name, checksum in found.items() if checksum is not None}


def shared_images(
    train: Checksums, val: Checksums, train_name: str = "train", val_name: str = "val"
) -> list[str]:
    """[] or one warning: how many images of val have the same bytes as one of train."""
    known = set(train.values())
    shared = [name for name, checksum in val.items() if checksum in known]
    if not shared:
        return []
    return [
        f"{len(shared):,} of {len(val):,} images of {val_name} are in {train_name} too (same size "
        f"and CRC-32); AP on {val_name} is then of images that were trained on: {shorten(shared)}"
    ]
