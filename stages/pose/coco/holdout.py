"""Hold out a share of the images of one annotation file as val."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import replace
from typing import Any

from pose.coco.annotations import Annotations
from pose.common.errors import PoseError, shorten


def hold_out(
    whole: Annotations, fraction: float, group_by: str | None
) -> tuple[Annotations, Annotations]:
    """(train, val): an image is in val if the hash of its group is below `fraction` of its range.

    So about that share of the groups is val, and an image added later moves no other. The group of
    an image is what group_by matches in its file_name (its first group, if it has one), or the
    file_name if group_by is None. Bad records and people outside their image are counted in train.
    Raises PoseError if one side has no image, or if group_by does not match a file_name.
    """
    keys = _group_keys(whole, group_by)
    shares = {key: _hash_share(key) for key in sorted({*keys.values()})}
    val_ids = {number for number, key in keys.items() if shares[key] < fraction}
    if not 0 < len(val_ids) < len(keys):
        raise PoseError(_one_side_error(whole.name, fraction, sorted(shares.values())))
    train = _with_images(whole, keys.keys() - val_ids)
    return train, replace(_with_images(whole, val_ids), bad=[], outside=0, other_categories={})


def require_both_sides(train: Annotations, val: Annotations) -> None:
    """Raise PoseError if all people of the file are on one side of hold_out."""
    for side, other, kind in ((val, train, "held-out"), (train, val, "other")):
        if other.persons and not side.persons:
            raise PoseError(
                f"{side.name}: no person in the {len(side.images):,} {kind} images; change "
                "data.val_fraction"
            )


def _group_keys(whole: Annotations, group_by: str | None) -> dict[int, str]:
    """The group of each image, by image id."""
    names: dict[int, str] = {image["id"]: image["file_name"] for image in whole.images}
    if group_by is None:
        return names
    pattern, keys = re.compile(group_by), {}
    for number, name in names.items():
        if match := pattern.search(name):
            keys[number] = match[min(1, pattern.groups)]
    if others := [name for number, name in names.items() if keys.get(number) is None]:
        raise PoseError(
            f"params.yaml: data.group_by = {group_by!r} does not match {len(others)} of "
            f"{len(names)} file_names of {whole.name}: {shorten(others)}; correct it"
        )
    return keys


def _hash_share(key: str) -> float:
    """The first 53 bits of the key's sha256, as a number in [0, 1)."""
    return (int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 11) / 2**53


def _one_side_error(name: str, fraction: float, shares: list[float]) -> str:
    """shares: the ascending hashes of the groups."""
    error = f"params.yaml: data.val_fraction = {fraction}, but {name} has {len(shares)} group(s)"
    if len(shares) < 2:
        return f"{error} of images; add images or set data.val_annotations"
    least = math.floor(shares[0] * 1000 + 1) / 1000
    most = math.floor(shares[-1] * 1000) / 1000
    side = "val" if shares[0] >= fraction else "train"
    return f"{error} and by their hashes none is {side}; values from {least} to {most} divide them"


def _with_images(whole: Annotations, ids: set[int]) -> Annotations:
    def chosen(entries: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry[key] in ids]

    return replace(
        whole,
        images=chosen(whole.images, "id"),
        annotations=chosen(whole.annotations, "image_id"),
        persons=[person for person in whole.persons if person.image_id in ids],
    )
