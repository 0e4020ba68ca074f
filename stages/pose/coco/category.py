"""The category of an annotation file that is learnt: its id, keypoint names and limbs."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pose.common.errors import PoseError
from pose.common.skeleton import Pairs, some


@dataclass(frozen=True)
class Category:
    """One of COCO's `categories`, checked; limbs 0-based, `entry` as the file has it."""

    id: int
    names: tuple[str, ...]
    limbs: Pairs
    entry: dict[str, Any]


def read_category(
    categories: list[Any], wanted: str, names: Sequence[str] | None, file: str
) -> Category:
    """The category named `wanted`; `names`, if not None, are what its keypoints have to be.

    A file that tells no keypoints takes them from `names`. Raises PoseError that names the file.
    """
    entry = _named(categories, wanted, file)
    found = entry.get("keypoints")
    if found is None and names is None:
        raise PoseError(
            f"{file}: category {wanted!r} has no 'keypoints'; add their names there, or list them "
            "in keypoints.names"
        )
    found = list(names or ()) if found is None else found
    if fault := _names_fault(found):
        raise PoseError(f"{file}: category {wanted!r} has 'keypoints' {fault}")
    if names is not None:
        require_same_names(found, names, file, "keypoints.names")
    return Category(entry["id"], tuple(found), _limbs(entry, len(found), file), entry)


def require_same_names(
    found: Sequence[str], expected: Sequence[str], file: str, source: str
) -> None:
    """Raises PoseError that tells how the file's names differ from those of `source`."""
    if list(found) == list(expected):
        return
    lacks = [name for name in expected if name not in found]
    more = [name for name in found if name not in expected]
    parts = [f"it lacks {some(lacks)}"] if lacks else []
    parts += [f"it has besides {some(more)}"] if more else []
    parts = parts or [f"the order is another: it has {some(found)}"]
    raise PoseError(
        f"{file}: has {len(found)} keypoints, {source} {len(expected)}; {'; '.join(parts)}; make "
        "them equal"
    )


def _named(categories: list[Any], wanted: str, file: str) -> dict[str, Any]:
    found = [one for one in categories if isinstance(one, dict) and one.get("name") == wanted]
    if len(found) != 1 or type(found[0].get("id")) is not int:
        listed = some([_printed(one.get("name")) for one in categories if isinstance(one, dict)])
        raise PoseError(
            f"{file}: {len(found)} categories are named {wanted!r}, expected one with an integer "
            f"id; there are: {listed or 'none'}; set data.category"
        )
    return found[0]


def _printed(name: Any) -> str:
    return name if isinstance(name, str) and name.isprintable() else reprlib.repr(name)


def _names_fault(names: Any) -> str | None:
    """Why names cannot serve, or None. Continues a sentence."""
    if not isinstance(names, list) or not names:
        return f"{reprlib.repr(names)}, expected a list of names"
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        return "with a name that is no text"
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return f"with {some(twice)} more than once" if twice else None


def _limbs(entry: dict[str, Any], count: int, file: str) -> Pairs:
    """The category's `skeleton`, which counts from 1, counted from 0; () if there is none."""
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
