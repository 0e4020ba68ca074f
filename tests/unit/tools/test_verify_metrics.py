"""Which numbers of a fresh run count as the committed ones."""

from __future__ import annotations

import pytest

import verify_metrics
from pose.common.errors import PoseError

HEADLINE = '{"AP": 0.58, "AP50": 0.8, "boxes": "ground truth"}'
ABLATION = "model,flip,decoder,AP,AP50\nssl,True,dark,0.58,0.8\nssl,False,dark,0.57,0.8\n"
NUMBERS = {
    "main result": 0.58,
    "model ssl, flip True, decoder dark": 0.58,
    "model ssl, flip False, decoder dark": 0.57,
}


def test_numbers_are_named_by_their_settings() -> None:
    assert verify_metrics.ap_by_settings(HEADLINE, ABLATION) == NUMBERS


@pytest.mark.parametrize(
    ("headline", "ablation"),
    [("{}", ABLATION), ("[]", ABLATION), ("", ABLATION), (HEADLINE, "model,AP\nssl,\n")],
)
def test_broken_metrics_are_refused(headline: str, ablation: str) -> None:
    with pytest.raises(PoseError, match="no AP where one is expected"):
        verify_metrics.ap_by_settings(headline, ablation)


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "bad"),
    [
        ({}, {}, 0.0, []),
        ({"a": 0.5}, {"a": 0.5}, 0.0, []),
        ({"a": 0.5}, {"a": 0.52}, 0.02, []),
        ({"a": 0.5}, {"a": 0.48}, 0.02, []),
        ({"a": 0.5}, {"a": 0.5201}, 0.02, ["a"]),
        ({"a": 0.5}, {"a": 0.4799}, 0.02, ["a"]),
        ({"a": 0.5}, {"a": float("nan")}, 0.02, ["a"]),
        ({"a": 0.5, "b": 0.5}, {"b": 0.5}, 0.02, ["a"]),
        ({"b": 0.5}, {"b": 0.5, "c": 0.5}, 0.02, ["c"]),
    ],
)
def test_moved(old: dict, new: dict, tolerance: float, bad: list[str]) -> None:
    assert verify_metrics.differing(old, new, tolerance) == bad


def test_the_table_has_a_line_for_each() -> None:
    lines = verify_metrics.table({"a": 0.5, "b": 0.25}, {"a": 0.48, "c": 1.0}).splitlines()[2:]
    assert lines == [
        "| a | 0.5000 | 0.4800 | -0.0200 |",
        "| b | 0.2500 | - | - |",
        "| c | - | 1.0000 | - |",
    ]
