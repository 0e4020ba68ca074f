"""The commands that README.md, CONTRIBUTING.md and docs/*.md tell to type. Not a test itself.

A page's commands are the lines of its `sh` and `bash` blocks, and the code in the second column of
tables whose first column is "task". A comment in which "needs", "downloads" or "takes" comes first,
or after a comma or semicolon, marks a command that no test types, with the reason: `dvc repro
# needs a GPU`. On a line of its own it marks the rest of the block. In a table the last column is
the comment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SHELL = ("sh", "bash")
REASON = re.compile(r"(?:^|(?<=[;,] ))(?:needs|downloads|takes) .+")
ENVIRONMENT = re.compile(r"\w+=")


@dataclass(frozen=True)
class Command:
    """One line of a page, without its comment; reason: why no test types it, None: one does."""

    page: str
    text: str
    reason: str | None


@dataclass(frozen=True)
class Block:
    """What is typed together: a fenced block, or a row of a table."""

    text: str
    commands: list[Command]

    def typed(self) -> str:
        """The commands that a test types, as a script."""
        return "\n".join(command.text for command in self.commands if command.reason is None)


def read_blocks(page: Path) -> list[Block]:
    """The page's shell blocks and rows of tasks, in order."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    fenced = [(m.start(), m[2], read_lines(m[2])) for m in FENCE.finditer(text) if m[1] in SHELL]
    rows = [(at, row, _cells(row)) for at, row in _tasks(text)]
    return [
        Block(content, [Command(name, *command) for command in commands])
        for _, content, commands in sorted(fenced + rows, key=lambda found: found[0])
    ]


def read_lines(block: str) -> list[tuple[str, str | None]]:
    """(command, reason) of each line of a block; lines that end in a backslash are joined."""
    found, rest = [], None
    for line in block.replace("\\\n", "").splitlines():
        command, comment = _split(line)
        reason = REASON.search(comment)
        if command:
            found.append((command, reason[0] if reason else rest))
        elif reason:
            rest = reason[0]
    return found


def _split(line: str) -> tuple[str, str]:
    """The command and its comment, as the shell separates them."""
    for match in re.finditer(r"(?:^|(?<=\s))#", line):
        try:
            shlex.split(line[: match.start()])
        except ValueError:  # within quotes
            continue
        return line[: match.start()].strip(), line[match.end() :].strip()
    return line.strip(), ""


def _tasks(text: str) -> Iterator[tuple[int, str]]:
    """(position, row) of tables whose first column is "task"."""
    for table in re.finditer(r"^\| task \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.M):
        for row in re.finditer(r"^\|.*$", table[1], re.M):
            yield table.start(1) + row.start(), row[0]


def _cells(row: str) -> list[tuple[str, str | None]]:
    """(command, reason) of a row: code in its second column; the last one may be a reason."""
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    reason = REASON.search(cells[-1])
    return [(code, reason[0] if reason else None) for code in re.findall(r"`([^`]+)`", cells[1])]


def simple_commands(text: str) -> Iterator[list[str]]:
    """Words of each part of a line that && and ; join, and within $( ); without variables set."""
    substituted = re.findall(r"\$\(([^()]*)\)", text)
    parts = re.split(r"\s*(?:&&|;)\s*", re.sub(r"\$\([^()]*\)", "$X", text))
    for part in [*substituted, *parts]:
        words = shlex.split(part)
        while words and ENVIRONMENT.match(words[0]):
            words.pop(0)
        if words[:1] == ["eval"]:
            words = shlex.split(" ".join(words[1:]))
        if words:
            yield words
