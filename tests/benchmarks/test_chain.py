"""benchmarks/chain.py: what is read from a run's lines, and the page."""

from __future__ import annotations

import chain


def test_a_stage_ends_where_the_next_starts() -> None:
    lines = [
        (1.0, "'data/own.dvc' didn't change, skipping\n"),
        (2.0, "Running stage 'download_coco':\n"),
        (2.5, "> python stages/download_coco.py\n"),
        (5.0, "Running stage 'report':\n"),
        (9.0, "Use `dvc push` to send your updates to remote storage.\n"),
    ]
    assert chain.seconds_by_stage(lines) == {"download_coco": 3.0, "report": 4.0}


def test_a_page_has_both_runs() -> None:
    before = chain.Chain({"evaluate": 12.1, "report": 8.0}, 370.2, 0.588)
    after = chain.Chain({"evaluate": 12.4, "report": 7.6}, 258.9, 0.599)
    page = chain.to_markdown(before, after, "python benchmarks/chain.py --before x")
    assert "| evaluate | 12 | 12 |\n| report | 8 | 8 |\n| `dvc repro` | 370 | 259 |" in page
    assert "flip test: 0.588 before, 0.599 after." in page
