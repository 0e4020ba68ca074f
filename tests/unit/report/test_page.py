"""Blocks are rendered as HTML and Markdown; names from data are shown literally."""

from __future__ import annotations

import pytest

from pose.report.page import (
    MISSING,
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
    ("value", "expected"),
    [
        (None, MISSING),
        (-1, MISSING),
        (-1.0, MISSING),
        (float("nan"), MISSING),
        (True, "yes"),
        ("dets.json", "dets.json"),
        (0, "0"),
        (12345, "12,345"),
        (0.58666, "0.587"),
        (-0.25, "-0.250"),
    ],
)
def test_numbers(value: object, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, MISSING), (0.0, "0.000"), (-0.0004, "0.000"), (0.0126, "+0.013"), (-7, "-7"), (0, "0")],
)
def test_differences(value: float | None, expected: str) -> None:
    assert signed(value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("left_eye", "left_eye"),
        ("_a_ b", r"\_a\_ b"),
        ("a|b\nc", r"a\|b c"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[a](b) `c` *d* $e$", r"\[a\](b) \`c\` \*d\* \$e\$"),
    ],
)
def test_markdown_text(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_html_of_each_block() -> None:
    text = render_html(PAGE)
    assert '<h2 id="two-words">Two, words</h2>' in text
    assert '<a href="#two-words">Two, words</a>' in text
    assert '<img src="data:image/svg+xml;base64,PHN2Zy8+" alt="what it | shows">' in text
    assert "<p>Two &amp; three.</p>" in text
    assert "<caption>A &lt;caption&gt;</caption>" in text
    assert '<tr class="bold"><th scope="row">c</th><td class="text">x</td></tr>' in text


def test_markdown_of_each_block() -> None:
    assert render_markdown(PAGE, "pictures", ["a.svg"]).splitlines() == [
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


def test_markdown_describes_pictures_without_a_file() -> None:
    text = render_markdown(PAGE, "pictures", [])
    assert r"what it \| shows (chart in report/index.html). A caption." in text.splitlines()
    assert "![" not in text
