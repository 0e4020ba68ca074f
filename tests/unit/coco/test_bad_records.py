"""Bad records are told by reason, and skipped only if people are left."""

from __future__ import annotations

import logging

import pytest

from pose.coco.bad_records import (
    MAX_LINES,
    BadRecord,
    InvalidRecordError,
    bad_annotation,
    reason_lines,
    report_bad,
)
from pose.common.errors import PoseError

NO_AREA = InvalidRecordError("has no 'area'", advice="set data.area: box")


def annotations(count: int, error: InvalidRecordError = NO_AREA) -> list[BadRecord]:
    return [bad_annotation("a.json", str(number), error) for number in range(1, count + 1)]


def test_one_record() -> None:
    assert reason_lines(annotations(1)) == [
        "a.json: annotation 1 has no 'area'; set data.area: box"
    ]
    bbox = InvalidRecordError("has no valid 'bbox'", "null", "4 numbers")
    assert reason_lines(annotations(1, bbox)) == [
        "a.json: annotation 1 has no valid 'bbox': null, expected 4 numbers"
    ]


def test_many_records_of_a_reason_are_one_line() -> None:
    assert reason_lines(annotations(12345)) == [
        "a.json: 12,345 annotations have no 'area'; first: 1, 2, 3, 4, 5; set data.area: box"
    ]


def test_each_value_is_told_beside_its_record() -> None:
    values = [InvalidRecordError("has no integer 'id'", value) for value in ("null", "'x' (text)")]
    bad = [bad_annotation("a.json", f"at index {i}", value) for i, value in enumerate(values)]
    assert reason_lines(bad) == [
        "a.json: 2 annotations have no integer 'id'; first: at index 0 (null), "
        "at index 1 ('x' (text))"
    ]


def test_reasons_are_told_by_their_number_and_file() -> None:
    box = InvalidRecordError("names an image that is not in 'images'", "7")
    other = [bad_annotation("b.json", "1", box)]
    lines = reason_lines([*other, *annotations(1, box), *annotations(2)])
    assert [line.split(" ")[0:2] for line in lines] == [
        ["a.json:", "2"],
        ["b.json:", "annotation"],
        ["a.json:", "annotation"],
    ]


def test_images_are_grouped_whatever_their_numbers() -> None:
    bad = [BadRecord("val", f"{w}.jpg", f"is {w} x 9, the annotations say 5 x 5") for w in (7, 8)]
    assert reason_lines(bad) == [
        "val: 2 images cannot be used; first: 7.jpg (is 7 x 9, the annotations say 5 x 5), "
        "8.jpg (is 8 x 9, the annotations say 5 x 5)"
    ]
    bad = [BadRecord("val", name, "is not there") for name in ("a.jpg", "b.jpg")]
    assert reason_lines(bad) == ["val: 2 images are not there; first: a.jpg, b.jpg"]


def test_the_number_of_lines_is_bounded() -> None:
    letters = [chr(ord("a") + i) for i in range(MAX_LINES + 5)]
    bad = [BadRecord("val", "1.jpg", f"is of kind {letter}") for letter in letters]
    lines = reason_lines(bad)
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == "and 5 records for 5 other reasons"


def test_stop_raises_and_skip_logs(caplog: pytest.LogCaptureFixture) -> None:
    report_bad("build_cache", [], "stop", ["a.json"])
    with pytest.raises(PoseError) as caught:
        report_bad("build_cache", annotations(3), "stop")
    assert str(caught.value).splitlines()[1] == (
        "3 bad records; repair them, or set data.on_bad_record: skip to skip them"
    )
    with caplog.at_level(logging.INFO, "pose"):
        report_bad("build_cache", annotations(1), "skip", ["b.json"])
    assert caplog.messages == [
        "build_cache: skipped 1 bad record:\n"
        "  a.json: annotation 1 has no 'area'; set data.area: box"
    ]


@pytest.mark.parametrize("on_bad_record", ["stop", "skip"])
def test_skipping_everybody_is_an_error(on_bad_record: str) -> None:
    with pytest.raises(PoseError) as caught:
        report_bad("build_cache", annotations(3), on_bad_record, ["a.json"])
    first, last = str(caught.value).splitlines()
    assert first.endswith("set data.area: box")
    assert last == "3 bad records; without them nobody is left in a.json; repair them"
