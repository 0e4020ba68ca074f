"""COCO-WholeBody's annotations: lists of feet, face and hands beside `keypoints`, joined to one.

As its data_format.md describes them: `foot_kpts`, ... hold x, y, visibility, where some
visibilities are confidences, of which every one above 0 counts as labelled; `foot_valid`, ... is
false where a part could not be labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pose.coco.bad_records import InvalidRecordError
from pose.coco.values import is_number, shown
from pose.common.errors import PoseError
from pose.common.whole_body import PARTS


def require_parts(annotations: Sequence[Any], parts: Sequence[str], file: str) -> None:
    """Raise PoseError for a part that no annotation of the file has."""
    for part in parts:
        key = list_key(part)
        if not any(isinstance(one, dict) and key in one for one in annotations):
            raise PoseError(
                f"{file}: no annotation has {key!r}, which params.yaml: keypoints.parts asks for; "
                "set data.train_annotations and data.val_annotations to COCO-WholeBody's files, or "
                f"remove {part} from keypoints.parts"
            )


def list_key(part: str) -> str:
    """Key of the part's keypoints in an annotation.

    >>> list_key("foot")
    'foot_kpts'
    """
    return f"{part}_kpts"


def is_valid(annotation: dict[str, Any], part: str) -> bool:
    """The part's validity flag; true if there is none, as in files of other tools."""
    key = f"{part}_valid"
    value = annotation.get(key, True)
    if not isinstance(value, bool):
        raise InvalidRecordError(f"has no valid {key!r}", shown(value), "true or false")
    return value


def part_values(annotation: dict[str, Any], part: str, visibility_thr: float | None) -> Any:
    """The part's list; zeros for a crowd without it.

    Confidences in it are visibility 2; with visibility_thr they stay, for read_keypoints.
    """
    values: Any = annotation.get(list_key(part))
    if values is None and annotation.get("iscrowd"):
        return [0] * (3 * len(PARTS[part].names))
    if visibility_thr is not None or not isinstance(values, list) or len(values) % 3:
        return values
    return [_visibility(value) if k % 3 == 2 else value for k, value in enumerate(values)]


def _visibility(value: Any) -> Any:
    """0, 1 and 2 as they are, other numbers as 2 above 0 and as 0 below."""
    if not is_number(value) or value in (0, 1, 2):
        return value
    return 2 if value > 0 else 0
