"""Blocks become HTML and Markdown that show every name as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pose.report.page import (
    NOTHING,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    markdown,
    number,
    render_html,
    render_markdown,
    signed,
)

TEMPLATES = Path(__file__).resolve().parents[3] / "stages" / "pose" / "report"
PICTURE = Picture("a.svg", b"<svg/>", "what it | shows", "A caption.")
PAGE = Page(
    "Title",
    "Lead.",
    (
        Section("Two, words", (Pictures((PICTURE,)), Text(("One.", "Two & three.")))),
        Section("Table", (Table("A <caption>", ("name", "n"), [("a|b", "1"), ("c", "x")], 1),)),
    ),
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, NOTHING),
        (-1, NOTHING),
        (-1.0, NOTHING),
        (float("nan"), NOTHING),
        (True, "yes"),
        ("dets.json", "dets.json"),
        (0, "0"),
        (12345, "12,345"),
        (0.58666, "0.587"),
        (-0.25, "-0.250"),
    ],
)
def test_numbers(value: object, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, NOTHING), (0.0, "0.000"), (-0.0004, "0.000"), (0.0126, "+0.013"), (-7, "-7"), (0, "0")],
)
def test_differences(value: float | None, shown: str) -> None:
    assert signed(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("left_eye", "left_eye"),
        ("_a_ b", r"\_a\_ b"),
        ("a|b\nc", r"a\|b c"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b) `c` *d* $e$", r"\[a\](b) \`c\` \*d\* \$e\$"),
    ],
)
def test_markdown_text(text: str, shown: str) -> None:
    assert markdown(text) == shown


def test_html_of_each_block() -> None:
    text = render_html(PAGE, TEMPLATES)
    assert '<h2 id="two-words">Two, words</h2>' in text
    assert '<a href="#two-words">Two, words</a>' in text
    assert '<img src="data:image/svg+xml;base64,PHN2Zy8+" alt="what it | shows">' in text
    assert "<p>Two &amp; three.</p>" in text
    assert "<caption>A &lt;caption&gt;</caption>" in text
    assert '<tr class="bold"><th scope="row">c</th><td class="words">x</td></tr>' in text


def test_markdown_of_each_block() -> None:
    assert render_markdown(PAGE, TEMPLATES, "pictures").splitlines() == [
        "# Title",
        "",
        "Lead.",
        "",
        "## Two, words",
        "",
        r"![what it \| shows](pictures/a.svg)",
        "",
        "A caption.",
        "",
        "One.",
        "",
        "Two &amp; three.",
        "",
        "## Table",
        "",
        "A &lt;caption&gt;:",
        "",
        "| name | n |",
        "| --- | ---: |",
        r"| a\|b | 1 |",
        "| c | x |",
    ]
