"""Every command on a page is typed by a test or says why not; all name what exists.

Those without a reason are typed in tests/pipeline/test_commands.py.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from commands import FENCE, PAGES, ROOT, Block, Command, read_blocks, read_lines, simple_commands

SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("stages", "tools", "benchmarks", "recipes", "examples")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
COMMANDS = [c for page in PAGES for block in read_blocks(page) for c in block.commands]
LANGUAGES = {"sh", "bash", "python", "yaml", "text"}
PLACEHOLDER = re.compile(r"[A-Z]+|\$.*")  # such as NAME, or $RECIPE


class FoundError(BaseException):
    """Ends a script at the point where it parses its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser of a script, which runs up to there."""

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise FoundError(self)

    path, folder = ROOT / script, os.getcwd()
    source = path.read_text(encoding="utf-8")
    assert "argparse" in source or "stage.run(" in source, "it would run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(path)])
        patch.setattr(sys, "path", [str(path.parent), *sys.path])
        with pytest.raises(FoundError) as found:
            runpy.run_path(str(path), run_name="__main__")
    os.chdir(folder)
    return found.value.parser


@cache
def params() -> dict[str, dict[str, object]]:
    return YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def check(text: str) -> None:
    """AssertionError or SystemExit if a command names something that is not there."""
    for words in simple_commands(text):
        program, *arguments = words
        if program == "make":
            check_make(arguments)
        elif program.endswith("python") and arguments[0].endswith(".py"):
            check_script(*arguments)
        elif program == "dvc":
            check_dvc(arguments)


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = [word for word in arguments if "=" not in word]
    assert set(named) <= set(targets), named


def check_script(script: str, *arguments: str) -> None:
    assert (ROOT / script).is_file(), script
    if "--help" in arguments:
        return
    parsed = vars(parser_of(script).parse_args(list(arguments)))
    named = script in ("recipes/apply.py", "stages/plan.py")
    recipe = parsed.get("name" if named else "recipe")
    if recipe and not PLACEHOLDER.fullmatch(recipe):
        assert (ROOT / "recipes" / f"{recipe}.yaml").is_file(), recipe


def check_dvc(arguments: list[str]) -> None:
    arguments = [word for word in arguments if not word.startswith("$")]
    parsed = vars(get_main_parser().parse_args(arguments))
    for setting in parsed.get("set_param") or []:
        section, _, key = setting.partition("=")[0].partition(".")
        assert key in params().get(section, ()), f"params.yaml has no {section}.{key}"
    if arguments[0] == "repro" or arguments[:2] == ["exp", "run"]:
        stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
        assert set(parsed["targets"]) <= set(stages), parsed["targets"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_block_names_its_language(page: Path) -> None:
    """Shell blocks are typed, `text` is what a command prints or a drawing."""
    for language, content in FENCE.findall(page.read_text(encoding="utf-8")):
        assert language in LANGUAGES, f"```{language}\n{content}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.page}: {c.text}")
def test_a_command_names_what_exists(command: Command) -> None:
    check(command.text)


@pytest.mark.parametrize(
    "text",
    [
        "make nothing",
        "python stages/none.py",
        "python stages/predict.py photo.jpg --boxez",
        "python stages/predict.py",
        "python recipes/apply.py vitpose_b",
        "args=$(python recipes/apply.py vitpose_b --args) && eval dvc exp run $args",
        "NPROC=8 python stages/train_ssl.py --lr 1",
        "dvc pull --run-cash",
        "true && dvc exp run -S train.rate=1",
        "dvc repro train_phase3",
    ],
)
def test_a_wrong_command_is_found(text: str) -> None:
    with pytest.raises((AssertionError, SystemExit, DvcParserError)):
        check(text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_answers_help(script: str) -> None:
    text = parser_of(script).format_help()
    assert "--help" in text
    assert script in text or "make " in text  # its command


def test_tasks_are_counted() -> None:
    """The third column has the number of commands in the second."""
    blocks = read_blocks(ROOT / "docs" / "README.md")
    rows = [block for block in blocks if block.text.startswith("|")]
    assert len(rows) >= 9
    for row in rows:
        assert int(row.text.split("|")[3]) == len(row.commands), row.text


def test_reasons_are_read_from_comments_only() -> None:
    block = "\n".join(
        [
            "dvc repro                 # needs a GPU",
            "dvc status                # seconds; it takes no GPU",
            "dvc push                  # one file; takes hours",
            "echo '# needs this' a#b \\",
            "  c",
            "# takes hours",
            "make seeds",
        ]
    )
    assert read_lines(block) == [
        ("dvc repro", "needs a GPU"),
        ("dvc status", None),
        ("dvc push", "takes hours"),
        ("echo '# needs this' a#b   c", None),
        ("make seeds", "takes hours"),
    ]


def test_only_marked_commands_are_not_typed() -> None:
    block = Block("", [Command("p", "a", None), Command("p", "b", "needs a GPU")])
    assert block.typed() == "a"
