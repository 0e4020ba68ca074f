"""Select the category to train on in a COCO file: its id, keypoint names and limbs."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pose.common.errors import PoseError
from pose.common.skeleton import Pairs, shorten


@dataclass(frozen=True)
class Category:
    """One checked entry of COCO's `categories`; limbs count from 0, `entry` is unchanged."""

    id: int
    names: tuple[str, ...]
    limbs: Pairs
    entry: dict[str, Any]


def read_category(
    categories: list[Any], wanted: str, names: Sequence[str] | None, file: str
) -> Category:
    """The category named `wanted`; `names`, if not None, are the expected keypoint names.

    If the category has no 'keypoints', they are `names`. Raises PoseError that names the file.
    """
    entry = _find(categories, wanted, file)
    keypoints = entry.get("keypoints")
    if keypoints is None and names is None:
        raise PoseError(
            f"{file}: category {wanted!r} has no 'keypoints'; add their names there, or list them "
            "in params.yaml: keypoints.names"
        )
    keypoints = list(names or ()) if keypoints is None else keypoints
    if error := _names_error(keypoints):
        raise PoseError(f"{file}: category {wanted!r} has 'keypoints' {error}")
    if names is not None:
        require_same_names(keypoints, names, file, "keypoints.names")
    return Category(entry["id"], tuple(keypoints), _limbs(entry, len(keypoints), file), entry)


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


def _find(categories: list[Any], wanted: str, file: str) -> dict[str, Any]:
    entries = [entry for entry in categories if isinstance(entry, dict)]
    matches = [entry for entry in entries if entry.get("name") == wanted]
    if len(matches) != 1 or type(matches[0].get("id")) is not int:
        names = [_printable(entry.get("name")) for entry in entries]
        raise PoseError(
            f"{file}: {len(matches)} categories are named {wanted!r}, expected one with an integer "
            f"id; there are: {shorten(names) or 'none'}; set data.category"
        )
    return matches[0]


def _printable(name: Any) -> str:
    return name if isinstance(name, str) and name.isprintable() else reprlib.repr(name)


def _names_error(names: Any) -> str | None:
    """What is invalid, as the end of a sentence; None if the names are valid."""
    if not isinstance(names, list) or not names:
        return f"{reprlib.repr(names)}, expected a list of names"
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        return "with a name that is not printable text"
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return f"with {shorten(duplicates)} more than once" if duplicates else None


def _limbs(entry: dict[str, Any], count: int, file: str) -> Pairs:
    """The category's `skeleton`, converted to count from 0; () if there is none."""
    limbs = []
    skeleton = entry.get("skeleton") or []
    for limb in skeleton if isinstance(skeleton, list) else [skeleton]:
        is_pair = isinstance(limb, list) and len(limb) == 2
        if not is_pair or not all(type(k) is int and 1 <= k <= count for k in limb):
            raise PoseError(
                f"{file}: category {entry['name']!r} has {reprlib.repr(limb)} in 'skeleton', "
                f"expected two numbers from 1 to {count} (COCO counts keypoints from 1)"
            )
        limbs.append((limb[0] - 1, limb[1] - 1))
    return tuple(limbs)
