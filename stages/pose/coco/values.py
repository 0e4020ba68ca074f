"""Values of annotation files: integers as tools write them, and how messages show a wrong value."""

from __future__ import annotations

import re
import reprlib
from typing import Any

from pose.common.files import FLOAT32_MAX

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
FLOAT_INTEGERS = 2**53  # larger floats do not hold every integer
INTEGER_TEXT = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def read_integer(value: Any, maximum: int = INT64_MAX) -> int | None:
    """The integer that value is, also as text or as a float without decimals; None for others.

    true and false are none, nor are integers beyond +-maximum.

    >>> [read_integer(value) for value in (7, "7", 7.0, "img7", 7.5, True, None)]
    [7, 7, 7, None, None, None, None]
    """
    is_text = isinstance(value, str) and INTEGER_TEXT.fullmatch(value)
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= FLOAT_INTEGERS
    if type(value) is not int and not is_text and not is_whole:
        return None
    number = int(value)
    return number if abs(number) <= maximum else None


def is_number(value: Any) -> bool:
    """Whether value is a number that is finite in float32; true and false are none."""
    return type(value) in (int, float) and abs(value) <= FLOAT32_MAX


def is_missing(value: Any) -> bool:
    """Whether value is null or NaN, as tools write what they do not know."""
    return value is None or (isinstance(value, float) and value != value)


def shown(value: Any) -> str:
    """The value, shortened and with null, true and false as in JSON; text is marked as such.

    >>> [shown(value) for value in ("7", 0.93, True, None)]
    ["'7' (text)", '0.93', 'true', 'null']
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{reprlib.repr(value)}{' (text)' if isinstance(value, str) else ''}"
