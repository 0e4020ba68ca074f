"""Mutation testing: small changes to the code that the unit tests have to catch.

    python tests/mutate.py 150                     # mutants in all
    python tests/mutate.py 150 codecs/udp.py       # of these modules only

Takes a seeded sample over the modules of TARGETS: a mutant changes one operator, comparison, number
or boolean, or drops one statement. Prints the surviving mutants; docs/reliability.md explains them.
Libraries are loaded once; each mutant runs in a fork of this process, on a copy of the tree.
"""

from __future__ import annotations

import ast
import copy
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {  # module in stages/pose: its tests in tests/
    "codecs/encode.py": ["unit/codecs/test_gaussian.py", "unit/codecs/test_combined.py"],
    "codecs/udp.py": ["unit/codecs/test_udp.py"],
    "codecs/gaussian.py": ["unit/codecs/test_gaussian.py", "unit/codecs/test_udp.py"],
    "codecs/geometry.py": ["unit/codecs/test_geometry.py", "property/test_properties.py"],
    "models/checkpoint.py": ["unit/models/test_checkpoint.py"],
    "models/integrity.py": ["unit/models/test_integrity.py"],
    "pretrained/read.py": ["unit/pretrained/test_read.py"],
    "pretrained/select.py": ["unit/pretrained/test_select.py"],
    "evaluation/coco_metrics.py": ["unit/evaluation/test_coco_metrics.py"],
    "evaluation/keypoint_eval.py": ["property/test_keypoint_eval.py"],
    "analysis/matching.py": ["unit/analysis/test_matching.py"],
}
SECONDS = 300  # limit per mutant; one that runs longer counts as caught
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.Is: ast.IsNot,
}


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, description of the change and changed source of every possible mutant."""
    for index in _places(ast.parse(source)):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[index]
        before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
        if _change(node):
            yield getattr(node, "lineno", 0), f"{before[:60]} -> {_text(node)}", ast.unparse(tree)


def _places(tree: ast.Module) -> list[int]:
    """Positions in ast.walk of all nodes outside annotations, which are never evaluated."""
    types = [
        getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")
    ]
    annotations = {id(part) for root in types if root for part in ast.walk(root)}
    return [index for index, node in enumerate(ast.walk(tree)) if id(node) not in annotations]


def _text(node: ast.AST) -> str:
    return ast.unparse(node)[:60]


def _change(node: ast.AST) -> bool:
    """Change the node in place; returns whether this kind of node can be changed."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        node.ops[0] = OPERATORS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        node.value += 1
    elif isinstance(node, ast.FunctionDef) and len(node.body) > 2:
        middle = len(node.body) // 2
        if isinstance(node.body[middle], ast.Return | ast.FunctionDef):
            return False
        del node.body[middle]
    else:
        return False
    return True


def survives(copied: Path, module: str, source: str) -> bool:
    """Whether all tests of the module pass on the changed source."""
    path = copied / "stages" / "pose" / module
    good = path.read_text(encoding="utf-8")
    path.write_text(source, encoding="utf-8")
    child = os.fork()
    if child == 0:
        _try(copied, TARGETS[module])
    try:
        return _ended(child) == 0
    finally:
        path.write_text(good, encoding="utf-8")


def _try(copied: Path, tests: list[str]) -> None:
    import pytest

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(copied)
    sys.dont_write_bytecode = True
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly"]
    os._exit(int(pytest.main([*options, *(f"tests/{name}" for name in tests)])))


def _ended(child: int) -> int:
    """Exit status of the child; 1 if it ran too long and was killed."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 1


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """Names to leave out: data and models of the root, but not stages/pose/data and models."""
    left_out = {"__pycache__"}
    if Path(folder) == ROOT:
        left_out |= {".git", ".venv", "data", "models", ".dvc"}
    return left_out & set(names)


def main() -> None:
    count, only = int(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    places = []
    for module in only:
        source = (ROOT / "stages" / "pose" / module).read_text(encoding="utf-8")
        places += [(module, *mutant) for mutant in mutants(source)]
    sample = random.Random(0).sample(places, min(count, len(places)))
    for library in ("torch", "cv2", "pyarrow", "pycocotools.cocoeval", "hypothesis", "timm"):
        __import__(library)
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "pose"
        shutil.copytree(ROOT, copied, ignore=_not_copied)
        for module in only:  # the tests have to pass on the unchanged code
            source = (copied / "stages" / "pose" / module).read_text(encoding="utf-8")
            assert survives(copied, module, copy.copy(source)), module
        alive = 0
        for done, (module, line, change, source) in enumerate(sorted(sample), start=1):
            if survives(copied, module, source):
                alive += 1
                sys.stdout.write(f"{module}:{line}: {change}\n")
            sys.stderr.write(f"\r{done} of {len(sample)}, {alive} alive")
    sys.stdout.write(f"{len(places)} places, {len(sample)} tried, {alive} not caught\n")


if __name__ == "__main__":
    main()
