"""The examples in the docstrings of stages/pose print what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

POSE = Path(__file__).resolve().parents[2] / "stages" / "pose"
WITH_EXAMPLES = sorted(
    path.relative_to(POSE.parent).with_suffix("").as_posix().replace("/", ".")
    for path in POSE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
LEAST = 10  # examples in all modules


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_of_a_module(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0  # pytest shows the differences under "Captured stdout"


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in WITH_EXAMPLES]
    tests = [test for module in modules for test in finder.find(module)]
    assert sum(len(test.examples) for test in tests) >= LEAST
