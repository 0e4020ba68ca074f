"""Integers as tools write them, and values in messages."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pose.coco.values import INT64_MAX, is_missing, is_number, read_integer, shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-3, -3),
        ("000123", 123),
        ("-3", -3),
        (3.0, 3),
        (INT64_MAX, INT64_MAX),
        (INT64_MAX + 1, None),
        (str(INT64_MAX + 1), None),
        ("9" * 5000, None),
        (2.0**60, None),
        (1e300, None),
        (math.nan, None),
        (math.inf, None),
        (7.5, None),
        ("7.0", None),
        ("", None),
        (" 7", None),
        ("٣", None),
        ("1_000", None),
        (True, None),
        (None, None),
        ([7], None),
        ({}, None),
    ],
)
def test_integers(value: Any, expected: int | None) -> None:
    assert read_integer(value) == expected
    assert type(read_integer(value)) is type(expected)


def test_integers_of_a_column() -> None:
    assert read_integer("5", maximum=4) is None
    assert read_integer(4.0, maximum=4) == 4


@pytest.mark.parametrize("value", [True, None, "1", math.nan, math.inf, 1e39, 10**400, [1]])
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)
    assert is_number(1)
    assert is_number(-0.5)


def test_missing_values() -> None:
    assert [is_missing(v) for v in (None, math.nan, 0, "", False)] == [True, True, *[False] * 3]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, "1.5"), ("a\nb", r"'a\nb' (text)"), (False, "false"), (None, "null"), ([1], "[1]")],
)
def test_values_in_messages(value: Any, expected: str) -> None:
    assert shown(value) == expected
    assert len(shown("x" * 1000)) < 50
