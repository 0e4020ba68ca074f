"""The `images` of annotation files: numbers, paths below the split, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pose.coco.image_entries import read_image_entries
from pose.common.errors import PoseError

GOOD = {"id": 1, "file_name": "1.jpg", "width": 64, "height": 48, "license": 3}


def read(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    entry = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    images, lines = read_image_entries([entry], "a.json")
    return images[0], lines


def test_a_good_entry_is_unchanged() -> None:
    assert read() == (GOOD, [])


@pytest.mark.parametrize(("key", "value"), [("id", "1"), ("width", 64.0), ("height", "48")])
def test_numbers_as_text_or_floats(key: str, value: Any) -> None:
    entry, lines = read(**{key: value})
    assert entry == GOOD
    assert type(entry[key]) is int
    assert lines == [
        "a.json: id, width or height is text or a float in 1 of 1 images; read as an integer"
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("id", "img1", "image at index 0 has id 'img1' (text), expected an integer; number the im"),
        ("id", ..., "image at index 0 has no id, expected an integer"),
        ("id", None, "image at index 0 has id null, expected an integer"),
        ("width", None, "image 1 has width null, expected an integer from 1"),
        ("width", 0, "image 1 has width 0, expected an integer from 1"),
        ("height", ..., "image 1 has no height, expected an integer from 1"),
        ("height", 48.5, "image 1 has height 48.5, expected an integer from 1"),
        ("height", 2**31, "image 1 has height 2147483648, expected an integer from 1"),
    ],
)
def test_the_wrong_number_is_named(key: str, value: Any, expected: str) -> None:
    with pytest.raises(PoseError) as caught:
        read(**{key: value})
    assert str(caught.value).startswith(f"a.json: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images/1.jpg", "images/1.jpg"),
        ("a/b c/Ü.png", "a/b c/Ü.png"),
        ("./1.jpg", "1.jpg"),
        ("..a/1..jpg", "..a/1..jpg"),
        *((f"9.41{space}AM.png", f"9.41{space}AM.png") for space in "\u202f\xa0\u3000"),
    ],
)
def test_folders_in_file_names(text: str, expected: str) -> None:
    entry, lines = read(file_name=text)
    assert (entry["file_name"], lines) == (expected, [])


@pytest.mark.parametrize("text", ["images\\1.jpg", ".\\images\\1.jpg", "images\\./1.jpg"])
def test_backslashes(text: str) -> None:
    entry, lines = read(file_name=text)
    assert entry["file_name"] == "images/1.jpg"
    assert lines == ["a.json: file_name has \\ in 1 of 1 images; read as /"]


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "..", "/", "/1.jpg", "a//1.jpg", "a/", "../1.jpg", "a/../../1.jpg"),
        *("a\\..\\1.jpg", "\\\\host\\1.jpg", "C:\\1.jpg", "c:/1.jpg"),
        *("a\n.jpg", "a\0.jpg", "\ud800.jpg", None, 7),
    ],
)
def test_paths_that_are_refused(text: Any) -> None:
    with pytest.raises(PoseError, match=r"a\.json: image 1 has file_name .* expected a path below"):
        read(file_name=text)


@pytest.mark.parametrize("character", ["\n", "\x00", "\u202e", "\u2028", "\u2029", "\ue000"])
def test_the_character_that_is_refused_is_named(character: str) -> None:
    with pytest.raises(PoseError) as caught:
        read(file_name=f"a{character}b.jpg")
    assert f" with the character U+{ord(character):04X}, expected a path" in str(caught.value)
    assert str(caught.value).isprintable()


def test_two_images_of_one_id() -> None:
    with pytest.raises(PoseError, match=r"a\.json: two images have the id 1; remove one"):
        read_image_entries([GOOD, GOOD | {"id": "1"}], "a.json")


@pytest.mark.parametrize("entry", [None, [], "1.jpg"])
def test_an_entry_that_is_no_object(entry: Any) -> None:
    with pytest.raises(PoseError, match=r"a\.json: image at index 0 is not an object"):
        read_image_entries([entry], "a.json")
