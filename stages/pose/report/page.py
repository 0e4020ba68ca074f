"""The parts of a report page, and its two formats: HTML in one file, Markdown with picture files.

A page is a list of sections, a section a list of blocks; the templates beside this file render
them. Names that come from data (files, categories, keypoints) are escaped for both formats, here
and nowhere else.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent
MIME = {".svg": "image/svg+xml", ".jpg": "image/jpeg"}
MISSING = "\N{EN DASH}"  # shown in place of a number that was not measured


@dataclass(frozen=True)
class Picture:
    """A picture's file name and bytes; alt describes what it shows, caption how to read it."""

    name: str
    content: bytes
    alt: str
    caption: str

    @property
    def data_uri(self) -> str:
        """The bytes as a data: URI, base64."""
        text = base64.b64encode(self.content).decode()
        return f"data:{MIME[Path(self.name).suffix]};base64,{text}"


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side; if wide, one below the other, each scrolled sideways on a phone."""

    pictures: tuple[Picture, ...]
    wide: bool = False
    kind: str = "pictures"


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    lines: tuple[str, ...]
    kind: str = "text"


@dataclass(frozen=True)
class Cards:
    """The main numbers, shown large: (name, value, note)."""

    items: tuple[tuple[str, str, str], ...]
    kind: str = "cards"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row. bold: index of the row in bold, if any."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    bold: int | None = None
    kind: str = "table"


Block = Pictures | Text | Cards | Table


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The heading's id, lower case: "Size, crowding" is "size-crowding"."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A title, a paragraph below it, and sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [p for block in blocks if isinstance(block, Pictures) for p in block.pictures]


def render_html(page: Page) -> str:
    """One self-contained file: pictures are inside, nothing is fetched, names are escaped."""
    return _render("report.html.j2", page, autoescape=True)


def render_markdown(page: Page, folder: str, files: Sequence[str]) -> str:
    """Markdown as GitHub shows it, with the pictures whose `files` lie in `folder` beside it.

    Of the other pictures it has the description, and says that the HTML page shows them.
    """
    return _render(
        "report.md.j2",
        page,
        finalize=lambda value: markdown(value) if isinstance(value, str) else value,
        trim_blocks=True,
        folder=folder,
        files=files,
    )


def _render(
    template: str, page: Page, folder: str = "", files: Sequence[str] = (), **options: Any
) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), **options)
    environment.tests["text"] = _is_text
    return environment.get_template(template).render(page=page, folder=folder, files=files)


def markdown(text: str) -> str:
    r"""Text escaped so that GitHub shows it literally: one line, no HTML, emphasis or formulas.

    >>> print(markdown("a|b <i>"))
    a\|b &lt;i&gt;
    """
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def number(value: Any, digits: int = 3) -> str:
    """A value as the page shows it: integers whole, other numbers rounded, MISSING for none.

    None, NaN (an empty cell of a csv file) and -1 (COCOeval's value for no ground truth) are
    missing.

    >>> number(12345), number(0.58666), number(True)
    ('12,345', '0.587', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value is None or value == -1 or not math.isfinite(value):
        return MISSING
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; a difference that rounds to 0 has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return f"{value:+,}" if value else "0"
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def _is_text(cell: str) -> bool:
    """Whether a cell is not a number: text is aligned left, numbers right."""
    return not re.fullmatch(rf"[+-]?[\d.,]+(e[+-]?\d+)?|{MISSING}", cell)
