"""What a report page is made of, and its two texts: HTML in one file, Markdown beside its pictures.

A page is written once, as sections of blocks; templates turn it into text. Names that come from
data (files, categories, keypoints) are escaped for either, here and nowhere else.
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

MIME = {".svg": "image/svg+xml", ".jpg": "image/jpeg"}
NOTHING = "\N{EN DASH}"  # in place of a number that there is not


@dataclass(frozen=True)
class Picture:
    """A picture's file name and bytes; alt says in words what it shows, caption how to read it."""

    name: str
    content: bytes
    alt: str
    caption: str

    @property
    def data_uri(self) -> str:
        """The picture itself as an address."""
        text = base64.b64encode(self.content).decode()
        return f"data:{MIME[Path(self.name).suffix]};base64,{text}"


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side. wide: one below the other, each scrolled sideways on a phone."""

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
    """The few numbers that count: (name, value, how it compares)."""

    items: tuple[tuple[str, str, str], ...]
    kind: str = "cards"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row. bold: index of the row that counts, if any."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    bold: int | None = None
    kind: str = "table"


Block = Pictures | Text | Cards | Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """The heading's id."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    title: str
    lead: str
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """All of them, in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [p for block in blocks if isinstance(block, Pictures) for p in block.pictures]


def render_html(page: Page, templates: Path) -> str:
    """One self-contained file: pictures inside, nothing fetched, every name escaped."""
    return _render("report.html.j2", page, templates, autoescape=True)


def render_markdown(page: Page, templates: Path, folder: str) -> str:
    """GitHub's Markdown; the pictures are files in `folder` beside it."""
    return _render(
        "report.md.j2", page, templates, finalize=_finalize, trim_blocks=True, folder=folder
    )


def _render(
    name: str, page: Page, templates: Path, folder: str | None = None, **options: Any
) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(templates), **options)
    environment.tests["words"] = _is_words
    return environment.get_template(name).render(page=page, folder=folder)


def _finalize(value: Any) -> Any:
    return markdown(value) if isinstance(value, str) else value


def markdown(text: str) -> str:
    """Text that GitHub shows as it is: one line, no HTML, no emphasis, links or formulas."""
    text = re.sub(r"([\\`*\[\]|~$#])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def number(value: Any, digits: int = 3) -> str:
    """A value as the page shows it: counts whole, other numbers rounded, NOTHING for none.

    COCOeval gives -1 where there is nobody to find; csv files have empty cells there.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if value is None or value == -1 or not math.isfinite(value):
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if isinstance(value, int):
        return f"{value:+,}" if value else "0"
    return f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def _is_words(cell: str) -> bool:
    """Whether a cell is anything but a number: words stand left, numbers right."""
    return not re.fullmatch(rf"[+-]?[\d.,]+(e[+-]?\d+)?|{NOTHING}", cell)
