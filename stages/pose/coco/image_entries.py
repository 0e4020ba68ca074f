"""Read the `images` of an annotation file: ids, sizes, and names below the split's folder."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from typing import Any

from pose.coco.values import INT32_MAX, INT64_MAX, read_integer, shown
from pose.common.errors import PoseError

NUMBERS = {"id": (None, INT64_MAX), "width": (1, INT32_MAX), "height": (1, INT32_MAX)}
NO_PART_OF_A_NAME = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # categories of Unicode
DRIVE = re.compile(r"[A-Za-z]:")


def read_image_entries(entries: list[Any], name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The entries with integers as numbers and / between folders, and a line for each such change.

    Raises PoseError for the first invalid entry; name is the annotation file's.
    """
    images = [_entry(entry, index, name) for index, entry in enumerate(entries)]
    seen_ids: set[int] = set()
    for image in images:
        if image["id"] in seen_ids:
            raise PoseError(f"{name}: two images have the id {image['id']}; remove one")
        seen_ids.add(image["id"])
    pairs = list(zip(entries, images, strict=True))
    texts = sum(any(type(old[key]) is not int for key in NUMBERS) for old, _ in pairs)
    slashes = sum("\\" in old["file_name"] for old, _ in pairs)
    lines = []
    if texts:
        what = "id, width or height is text or a float"
        lines.append(f"{name}: {what} in {texts:,} of {len(images):,} images; read as an integer")
    if slashes:
        what = "file_name has \\"
        lines.append(f"{name}: {what} in {slashes:,} of {len(images):,} images; read as /")
    return images, lines


def _entry(entry: Any, index: int, name: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise PoseError(f"{name}: image at index {index} is not an object; is it a COCO file?")
    number = read_integer(entry.get("id"))
    label = f"image at index {index}" if number is None else f"image {number}"
    numbers = {}
    for key, (minimum, maximum) in NUMBERS.items():
        number = read_integer(entry.get(key), maximum)
        if number is None or (minimum is not None and number < minimum):
            value = f"{key} {shown(entry[key])}" if key in entry else f"no {key}"
            expected = "an integer" if minimum is None else f"an integer from {minimum}"
            advice = "number the images, and image_id alike" if key == "id" else "correct it"
            raise PoseError(f"{name}: {label} has {value}, expected {expected}; {advice}")
        numbers[key] = number
    file_name = _relative_path(entry.get("file_name"))
    if file_name is None:
        value = reprlib.repr(entry.get("file_name"))
        character = _control_character(entry.get("file_name"))
        what = f" with the character U+{ord(character):04X}" if character else ""
        raise PoseError(
            f"{name}: {label} has file_name {value}{what}, expected a path below the split's "
            "folder, such as 1.jpg or video1/1.jpg"
        )
    return {**entry, **numbers, "file_name": file_name}


def _control_character(text: Any) -> str | None:
    """The first character of text that cannot be seen, or that ends a line; None if there is none.

    Spaces of any kind are allowed: names of macOS's screenshots have U+202F.
    """
    if not isinstance(text, str) or text.isprintable():
        return None
    return next((c for c in text if unicodedata.category(c) in NO_PART_OF_A_NAME), None)


def _relative_path(text: Any) -> str | None:
    r"""The path with / between its parts; None if it is absolute, leaves its folder, or is no path.

    >>> [_relative_path(text) for text in ("1.jpg", "a\\1.jpg", "./a/1.jpg", "../1.jpg", "/1.jpg")]
    ['1.jpg', 'a/1.jpg', 'a/1.jpg', None, None]
    """
    if not isinstance(text, str) or _control_character(text) or DRIVE.match(text):
        return None
    parts = [part for part in text.replace("\\", "/").split("/") if part != "."]
    return "/".join(parts) if parts and all(part not in ("", "..") for part in parts) else None
