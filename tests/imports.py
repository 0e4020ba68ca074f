"""Which source files a stage script needs, by reading import statements (no code is run)."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

STAGES = Path(__file__).resolve().parents[1] / "stages"
POSE = STAGES / "pose"


@cache
def direct_imports(path: Path) -> frozenset[Path]:
    """Files of ours under stages/ that a file imports itself; each file is read once."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = {STAGES.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    return frozenset(file for file in files if file.is_file())


def needed_files(path: Path) -> set[str]:
    """The file and all files of ours that it imports, directly or not, from the project's root."""
    seen: set[Path] = set()
    waiting = {path}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= direct_imports(file) - seen
    if any(POSE in file.parents for file in seen):
        seen.add(POSE / "__init__.py")
    return {file.relative_to(STAGES.parent).as_posix() for file in seen}


def room(file: str) -> str:
    """What DVC depends on to watch a source file: its folder below stages/pose, or the file."""
    return "/".join(file.split("/")[:3]) if file.startswith("stages/pose/") else file


def needed_rooms(path: Path) -> set[str]:
    """The script itself and the rooms of all that it imports, directly or not."""
    return {room(file) for file in needed_files(path)}
