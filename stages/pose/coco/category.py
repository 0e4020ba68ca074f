"""Select the categories to train on in a COCO file: their ids, keypoint names and limbs."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pose.coco.limbs import read_limbs
from pose.common.errors import PoseError, shorten
from pose.common.sides import Pairs
from pose.common.skeleton import COCO_17, both_hands_or_none, parts_of, whole_body

ALL = "all"  # value of data.category, unless a category has this name


@dataclass(frozen=True)
class Category:
    """One or more checked entries of COCO's `categories`, which are trained as one.

    id and entry are those of the first one, `ids` those of all; the name in `entry` lists all.
    Limbs count from 0; `notes` says how they were read. `others`: names of other categories by id.
    parts: those of COCO-WholeBody whose keypoints are in lists of their own (parts.py).
    """

    id: int
    names: tuple[str, ...]
    limbs: Pairs
    entry: dict[str, Any]
    ids: frozenset[int]
    notes: tuple[str, ...] = ()
    others: Mapping[int, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()


def read_category(
    categories: list[Any], wanted: str | Sequence[str], names: Sequence[str] | None, file: str
) -> Category:
    """The categories of data.category; `names`, if not None, are the expected keypoint names.

    A category without 'keypoints' has `names`. One of COCO's 17 gets those of the other parts of
    COCO-WholeBody if `names` has them. Raises PoseError that names the file.
    """
    entries = [entry for entry in categories if isinstance(entry, dict)]
    selected = _select(entries, wanted, file)
    keypoints = [_keypoints(entry, names, file) for entry in selected]
    if different := [e for e, k in zip(selected, keypoints, strict=True) if k != keypoints[0]]:
        raise PoseError(
            f"{file}: other 'keypoints' than those of category {_label(selected[0])} have: "
            f"{shorten([_label(entry) for entry in different])}; list categories with equal "
            "keypoints in params.yaml: data.category"
        )
    if names is not None:
        expected = [name.strip() for name in names]
        parts = parts_of(expected)
        if parts and both_hands_or_none(parts) and tuple(keypoints[0]) == COCO_17.names:
            return _with_parts(_as_one(entries, selected, keypoints[0], file), (*parts,))
        require_same_names(keypoints[0], expected, file, "keypoints.names")
    return _as_one(entries, selected, keypoints[0], file)


def _with_parts(body: Category, parts: tuple[str, ...]) -> Category:
    """The category of the body alone, with the keypoints and limbs of all parts."""
    skeleton = whole_body(parts)
    limbs = [[start + 1, end + 1] for start, end in skeleton.limbs]
    entry = {**body.entry, "keypoints": list(skeleton.names), "skeleton": limbs}
    return replace(
        body, names=skeleton.names, limbs=skeleton.limbs, entry=entry, notes=(), parts=parts[1:]
    )


def require_same_names(
    names: Sequence[str], expected: Sequence[str], file: str, source: str
) -> None:
    """Raise PoseError that lists how the names of `file` differ from those of `source`."""
    if list(names) == list(expected):
        return
    missing = [name for name in expected if name not in names]
    extra = [name for name in names if name not in expected]
    parts = [f"missing: {shorten(missing)}"] if missing else []
    parts += [f"unexpected: {shorten(extra)}"] if extra else []
    parts = parts or [f"the order differs: {shorten(names)}"]
    raise PoseError(
        f"{file}: has {len(names)} keypoints, {source} {len(expected)}; {'; '.join(parts)}; make "
        "them equal"
    )


def _select(
    entries: list[dict[str, Any]], wanted: str | Sequence[str], file: str
) -> list[dict[str, Any]]:
    """The wanted entries, each with an id of its own."""
    if wanted == ALL and not any(_name(entry) == ALL for entry in entries):
        selected = [entry for entry in entries if entry.get("keypoints")] or entries
        if not selected:
            raise PoseError(f"{file}: 'categories' is empty; add the category of the annotations")
    else:
        wanted = [wanted] if isinstance(wanted, str) else wanted
        selected = [_find(entries, name, file) for name in dict.fromkeys(map(str.strip, wanted))]
    for entry in selected:
        if type(entry.get("id")) is not int:
            raise PoseError(
                f"{file}: category {_label(entry)} has id {reprlib.repr(entry.get('id'))}, "
                "expected an integer"
            )
        if others := [one for one in entries if one is not entry and one.get("id") == entry["id"]]:
            raise PoseError(
                f"{file}: categories {_label(entry)} and {_label(others[0])} have the same id "
                f"{entry['id']}; give each its own"
            )
    return selected


def _find(entries: list[dict[str, Any]], wanted: str, file: str) -> dict[str, Any]:
    """The category of that name; if there are several, the only one with keypoints."""
    matches = [entry for entry in entries if _name(entry) == wanted]
    if len(matches) > 1:  # Roboflow's first category may have the project's name
        matches = [entry for entry in matches if entry.get("keypoints")] or matches
    if len(matches) != 1:
        raise PoseError(
            f"{file}: {len(matches)} categories are named {wanted!r}, expected one; there are: "
            f"{shorten([_label(entry) for entry in entries]) or 'none'}; set data.category to a "
            "name, a list of names, or all"
        )
    return matches[0]


def _name(entry: dict[str, Any]) -> str | None:
    name = entry.get("name")
    return name.strip() if isinstance(name, str) else None


def _label(entry: dict[str, Any]) -> str:
    """The name as it is shown in messages and pictures."""
    name = _name(entry)
    return name if name and name.isprintable() else reprlib.repr(entry.get("name"))


def _keypoints(entry: dict[str, Any], names: Sequence[str] | None, file: str) -> list[str]:
    """The trimmed keypoint names of an entry, or `names` if it has none."""
    keypoints = entry.get("keypoints")
    if keypoints is None or keypoints == []:
        if names is None:
            raise PoseError(
                f"{file}: category {_label(entry)!r} has no 'keypoints'; add their names there, or "
                "list them in params.yaml: keypoints.names"
            )
        keypoints = list(names)
    if isinstance(keypoints, list):
        keypoints = [name.strip() if isinstance(name, str) else name for name in keypoints]
    if error := _names_error(keypoints):
        raise PoseError(f"{file}: category {_label(entry)!r} has 'keypoints' {error}")
    return list(keypoints)


def _names_error(names: Any) -> str | None:
    """What is invalid, as the end of a sentence; None if the names are valid."""
    if not isinstance(names, list) or not names:
        return f"{reprlib.repr(names)}, expected a list of names"
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        return "with a name that is not printable text"
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return f"with {shorten(duplicates)} more than once" if duplicates else None


def _as_one(
    entries: list[dict[str, Any]], selected: list[dict[str, Any]], names: list[str], file: str
) -> Category:
    first = selected[0]
    skeleton = next((entry["skeleton"] for entry in selected if entry.get("skeleton")), None)
    limbs, notes = read_limbs(skeleton, names)
    if len(selected) > 1:
        first = {**first, "name": shorten([_label(entry) for entry in selected])}
    return Category(
        id=first["id"],
        names=tuple(names),
        limbs=limbs,
        entry=first,
        ids=frozenset(entry["id"] for entry in selected),
        notes=tuple(f"{file}: category {_label(selected[0])}: {note}" for note in notes),
        others={
            entry["id"]: _label(entry)
            for entry in entries
            if type(entry.get("id")) is int and all(entry is not one for one in selected)
        },
    )
