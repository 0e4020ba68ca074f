"""Read the further sets of data.also and data.also_val, in the keypoints of the model.

A set may have other keypoints: its map says which of them are which of the model's. The others are
dropped; those of the model that the set lacks are unlabelled, so their loss weight is 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pose.coco.annotations import Annotations, Person, read_annotations
from pose.coco.files import Kind, SplitFiles, local_root, locate_images, split_files
from pose.coco.splits import Split
from pose.common.errors import PoseError, shorten
from pose.common.params import Data, FurtherSet, FurtherTrain, FurtherVal
from pose.common.sides import mirror_pairs
from pose.common.skeleton import Skeleton, parts_of
from pose.common.whole_body import WHOLE

KEYS: dict[Kind, str] = {"train": "also", "val": "also_val"}
NO_FILES = dict.fromkeys(f"{kind}_{key}" for kind in KEYS for key in ("annotations", "images"))


@dataclass(frozen=True)
class Further:
    """A further set, in the K keypoints of the model.

    key: its place in params.yaml, such as data.also.0. names: of the set's own keypoints. sources
    (K,): the index in `names` of each keypoint of the model; None where the set has none.
    """

    key: str
    entry: FurtherSet
    split: Split
    names: tuple[str, ...]
    sources: tuple[int | None, ...]

    @property
    def covered(self) -> list[int]:
        """Indices of the model's keypoints that the set has."""
        return [k for k, source in enumerate(self.sources) if source is not None]


def read_further(kind: Kind, data: Data, names: Sequence[str]) -> list[Further]:
    """The sets of data.also (kind train) or data.also_val (val); names: the model's keypoints.

    Raises PoseError that names the set's key in params.yaml.
    """
    entries: Sequence[FurtherSet] = (data.also if kind == "train" else data.also_val) or ()
    keyed = [(f"data.{KEYS[kind]}.{place}", entry) for place, entry in enumerate(entries)]
    return [_read(kind, key, entry, data, names) for key, entry in keyed]


def _read(kind: Kind, key: str, entry: FurtherSet, data: Data, names: Sequence[str]) -> Further:
    if entry.name in (*parts_of(names), WHOLE):
        raise PoseError(
            f"params.yaml: {key}.name = {entry.name!r}: AP_{entry.name} is the metric of that part "
            "(keypoints.parts); choose another"
        )
    try:
        files, annotations = _read_files(kind, entry, own_data(data, entry))
    except PoseError as error:
        raise PoseError(with_key(str(error), key, entry)) from None
    bad = [replace(one, advice=with_key(one.advice, key, entry)) for one in annotations.bad]
    lines = [with_key(line, key, entry) for line in annotations.warnings]
    annotations = replace(annotations, bad=bad, warnings=lines)
    theirs = annotations.category.names
    sources = map_keypoints(theirs, names, entry.map, key)
    return Further(key, entry, Split(files, mapped(annotations, names, sources)), theirs, sources)


def _read_files(kind: Kind, entry: FurtherSet, own: Data) -> tuple[SplitFiles, Annotations]:
    """Where the set's files are, and its annotations in its own keypoints."""
    root = local_root(own)
    split = f"{entry.name} ({KEYS[kind]})"  # bad images are told apart by it: names may be equal
    files = replace(split_files(root, own, kind), split=split, set_name=entry.name)
    if not files.annotated:
        raise PoseError(f"{files.name}: has no annotations; set data.{kind}_annotations")
    annotations = read_annotations(files, own, entry.names)
    return locate_images(files, root, annotations.images), annotations


def own_data(data: Data, entry: FurtherSet) -> Data:
    """The section data as if this set were the only one; data.orientation and others stay."""
    values = {key: getattr(entry, key) for key in type(entry).model_fields}
    own = {key: value for key, value in values.items() if key in Data.model_fields}
    reset = NO_FILES | {"source": "local", "val_fraction": None, "group_by": None}
    reset |= {"labelled_persons": None, "labelled_fraction": None}
    return data.model_copy(update=reset | own)


def with_key(message: str, key: str, entry: FurtherSet) -> str:
    """A message about the main set's keys, about those of the set at `key` instead."""
    kind = "val" if isinstance(entry, FurtherVal) else "train"
    message = re.sub(
        r"(,)? data\.train_(\w+) or data\.val_\w+",
        lambda found: f"{' or' if found[1] else ''} data.{kind}_{found[2]}",
        message,
    )
    keys = "|".join(type(entry).model_fields)
    message = re.sub(rf"\bdata\.(?=({keys})\b)", f"{key}.", message)
    return message.replace("keypoints.names", f"{key}.names")


# --- keypoints


def map_keypoints(
    theirs: Sequence[str], ours: Sequence[str], names: Mapping[str, str] | None, key: str
) -> tuple[int | None, ...]:
    """Index in `theirs` of each of `ours`, by data.also's map; None where there is none.

    Raises PoseError that names the key if a name is unknown, or if nothing is mapped.
    """
    pairs = {name: name for name in theirs if name in ours} if names is None else names
    for name, known, of in (
        *((name, theirs, "the set") for name in pairs),
        *((name, ours, "the model") for name in pairs.values()),
    ):
        if name not in known:
            raise PoseError(
                f"params.yaml: {key}.map: {name!r} is no keypoint of {of}; there are: "
                f"{shorten(known)}"
            )
    if not pairs:
        raise PoseError(
            f"params.yaml: {key}.map is null, but the set has no keypoint of the model's names; "
            f"map some of its names ({shorten(theirs)}) to the model's ({shorten(ours)})"
        )
    index = {ours.index(our): theirs.index(their) for their, our in pairs.items()}
    return tuple(index.get(k) for k in range(len(ours)))


def require_pairs(further: Further, skeleton: Skeleton) -> None:
    """Raise PoseError if the set's map breaks a flip pair of the model.

    Both keypoints of a pair must be mapped, or none. Where the names of both sides show left and
    right, a pair must come from a pair, left from left. Without a map, names are equal.
    """
    if further.entry.map is None:
        return
    if error := _half_pair(further, skeleton) or _other_sides(further, skeleton):
        raise PoseError(f"params.yaml: {further.key}.map: {error}")


def _half_pair(further: Further, skeleton: Skeleton) -> str | None:
    """A keypoint that is mapped while its flip partner is not."""
    sources, partner = further.sources, skeleton.flip_indices
    for k in further.covered:
        if sources[partner[k]] is None:
            names = skeleton.names[k], skeleton.names[partner[k]]
            return f"{names[0]!r} is mapped to, its flip partner {names[1]!r} is not; map both"
    return None


def _other_sides(further: Further, skeleton: Skeleton) -> str | None:
    """Names with sides that are mapped to names of the other side, of another pair, or of none."""
    sources, theirs = further.sources, _named_pairs(further.names)
    known = _named_pairs(skeleton.names) & {*skeleton.flip_pairs}
    for left, right in sorted(known if theirs else ()):
        pair = sources[left], sources[right]
        if pair[0] is not None and pair[1] is not None and pair not in theirs:
            shown = [further.names[k] for k in pair if k is not None]
            return (
                f"{shown[0]!r} -> {skeleton.names[left]!r}, {shown[1]!r} -> "
                f"{skeleton.names[right]!r}: the former are not left and right of one pair"
            )
    sided = {k for pair in theirs for k in pair} if skeleton.flip_pairs else set()
    for k in further.covered:
        if sources[k] in sided and skeleton.flip_indices[k] == k:
            name = further.names[sources[k] or 0]
            return f"{name!r} has a side, {skeleton.names[k]!r} has no flip partner"
    return None


def _named_pairs(names: Sequence[str]) -> set[tuple[int, int]]:
    """(left, right) of the names, if they show their sides without doubt."""
    try:
        return {*mirror_pairs(names)}
    except PoseError:
        return set()


def describe_map(further: Further, names: Sequence[str]) -> str:
    """What of the model's keypoints the set has, and what of its own is not used, for the log."""
    absent = [name for name, source in zip(names, further.sources, strict=True) if source is None]
    dropped = [n for k, n in enumerate(further.names) if k not in further.sources]
    line = f"has {len(further.covered)} of the {len(names)} keypoints"
    line += f"; unlabelled: {shorten(absent)}" if absent else ""
    return f"{line}; dropped: {shorten(dropped)}" if dropped else line


def mapped(split: Annotations, names: Sequence[str], sources: Sequence[int | None]) -> Annotations:
    """The annotations with the keypoints `names`, read from those at `sources`; others are 0."""
    annotations = [_mapped_annotation(one, sources) for one in split.annotations]
    category = replace(split.category, names=tuple(names), limbs=())
    persons = [_mapped_person(person, sources) for person in split.persons]
    return replace(split, annotations=annotations, category=category, persons=persons)


def _mapped_annotation(one: dict[str, Any], sources: Sequence[int | None]) -> dict[str, Any]:
    triples = [one["keypoints"][3 * k : 3 * k + 3] if k is not None else [0, 0, 0] for k in sources]
    labelled = sum(triple[2] > 0 for triple in triples)
    return one | {"keypoints": [n for t in triples for n in t], "num_keypoints": labelled}


def _mapped_person(person: Person, sources: Sequence[int | None]) -> Person:
    keypoints = np.zeros((len(sources), 3), np.float32)
    for k, source in enumerate(sources):
        if source is not None:
            keypoints[k] = person.keypoints[source]
    labelled = int((keypoints[:, 2] > 0).sum())
    return replace(person, keypoints=keypoints, num_keypoints=labelled)


def weight_of(entry: FurtherSet) -> float:
    """How often an epoch has each person of a training set."""
    weight = entry.weight if isinstance(entry, FurtherTrain) else None
    return 1.0 if weight is None else weight
