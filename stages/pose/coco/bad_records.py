"""Records of a data set that cannot be used, and one line for each reason, not for each record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pose.common.errors import PoseError
from pose.common.log import log

MAX_FIRST = 5  # records that a line names
MAX_LINES = 10
PLURALS = {"is": "are", "has": "have", "names": "name"}


class InvalidRecordError(Exception):
    """An annotation that cannot be used.

    kind: what is wrong, without the value, as the end of a sentence that names the annotation; all
    annotations of one kind share one line. value: what the file has instead, or "". expected,
    advice: the ends of that line, or "".
    """

    def __init__(self, kind: str, value: str = "", expected: str = "", advice: str = "") -> None:
        super().__init__(kind)
        self.kind, self.value, self.expected, self.advice = kind, value, expected, advice


@dataclass(frozen=True)
class BadRecord:
    """An annotation or image that is left out, and the reason; see InvalidRecordError for `kind`.

    An image has no kind; lines have its reason alone.
    """

    file: str
    record: str
    reason: str
    kind: str = ""
    value: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.record} {self.reason}"

    def entry(self) -> dict[str, str]:
        """What quarantine.json has."""
        return {"file": self.file, "record": self.record, "reason": self.reason}


def bad_annotation(file: str, label: str, error: InvalidRecordError) -> BadRecord:
    """The record of an annotation that raised `error`; label: its id, or its place."""
    value = f": {error.value}" if error.value else ""
    expected = f", expected {error.expected}" if error.expected else ""
    kind = f"{error.kind}{expected}"
    reason = f"{error.kind}{value}{expected}"
    return BadRecord(file, f"annotation {label}", reason, kind, error.value, error.advice)


def reason_lines(bad: Sequence[BadRecord]) -> list[str]:
    """One line for each file and reason: the number of records, the first of them, what to set."""
    groups: dict[tuple[str, str], list[BadRecord]] = {}
    for record in bad:
        groups.setdefault((record.file, record.kind or _masked(record.reason)), []).append(record)
    largest = sorted(groups.values(), key=len, reverse=True)
    lines = [_line(group) for group in largest[:MAX_LINES]]
    if others := sum(len(group) for group in largest[MAX_LINES:]):
        lines.append(f"and {others:,} records for {len(largest) - MAX_LINES} other reasons")
    return lines


def report_bad(
    name: str,
    bad: Sequence[BadRecord],
    on_bad_record: str,
    without_people: Sequence[str] = (),
    key: str = "data",
) -> None:
    """Log the bad records of stage `name`, or raise PoseError with the same lines.

    It raises if on_bad_record is stop, or if skipping them would leave files without any person:
    without_people names these files. key: where in params.yaml on_bad_record is.
    """
    if not bad:
        return
    lines, count = reason_lines(bad), f"{len(bad):,} bad record{'s' if len(bad) > 1 else ''}"
    empty = [file for file in without_people if any(record.file == file for record in bad)]
    if empty:
        lines.append(f"{count}; without them nobody is left in {' and '.join(empty)}; repair them")
    elif on_bad_record == "stop":
        lines.append(f"{count}; repair them, or set {key}.on_bad_record: skip to skip them")
    if empty or on_bad_record == "stop":
        raise PoseError("\n".join(lines))
    log(f"{name}: skipped {count}:\n  " + "\n  ".join(lines))


def _masked(reason: str) -> str:
    """The reason without its numbers, so that images of any size are one group."""
    return re.sub(r"\d+", "#", reason)


def _line(group: list[BadRecord]) -> str:
    first = group[0]
    advice = f"; {first.advice}" if first.advice else ""
    if len(group) == 1:
        return f"{first}{advice}"
    noun = "annotations" if first.kind else "images"
    alike = bool(first.kind) or len({record.reason for record in group}) == 1
    verb, _, rest = (first.kind or first.reason).partition(" ")
    text = f"{PLURALS.get(verb, verb)} {rest}" if alike else "cannot be used"
    labels = [_label(record, alike) for record in group[:MAX_FIRST]]
    return f"{first.file}: {len(group):,} {noun} {text}; first: {', '.join(labels)}{advice}"


def _label(record: BadRecord, alike: bool) -> str:
    label = record.record.removeprefix("annotation ")
    note = record.value if alike else record.reason
    return f"{label} ({note})" if note else label
