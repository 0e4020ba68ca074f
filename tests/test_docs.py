"""The pages name files, headings, make targets and stages that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")]
)
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:stages|tests|tools|recipes|benchmarks|examples|docs|\.github)/[\w./-]+)`")
MADE = ("report/", "data/", "models/", "metrics/")  # by the pipeline; data/ and models/ not in git


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    lines = page.read_text(encoding="utf-8").splitlines()
    return {anchor(line.lstrip("# ")) for line in lines if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        path, _, name = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not name or name in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page: Path) -> None:
    for name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_name_scripts_recipes_and_make_targets_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "stages|tools|recipes|benchmarks|examples"
    for script in re.findall(rf"python ((?:{folders})/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for recipe in re.findall(r"(?:apply|plan)\.py ([a-z]\w[\w./]+)", text):
        assert (ROOT / "recipes" / f"{recipe}.yaml").is_file(), recipe
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)
    assert set(commands) <= set(targets)


def test_every_page_is_listed_in_docs_readme() -> None:
    listed = LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(listed)


def test_values_with_special_characters_reach_params_yaml(tmp_path: Path) -> None:
    """Each -S of docs/experiments.md, by the shell's quotes and then by DVC's parser."""
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    block = page.split("## Values with special characters")[1].split("```sh\n")[1].split("```")[0]
    arguments = [word for word in shlex.split(block) if "=" in word]
    params = tmp_path / "params.yaml"
    found = []
    for argument in arguments:
        params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        (each,) = get_hydra_sweeps({"params.yaml": [argument]})  # one value, no grid
        apply_overrides(params, each["params.yaml"])
        section, key = argument.split("=")[0].split(".")
        found.append(YAML(typ="safe", pure=True).load(params.read_text())[section][key])
    assert found == [
        "file",
        "/x/epoch=3-step=200.ckpt",
        "url",
        "https://example.org/x.pth?download=true&v=1",
        "file",
        "/x/my model, 50% [ema] @2 (best).pth",
        ["adult mouse", "cat=2"],
    ]


@pytest.mark.parametrize("character", "=,[]{}()#~+%@?&: 'ä;!*")
def test_double_quotes_keep_each_special_character(tmp_path: Path, character: str) -> None:
    params, value = tmp_path / "params.yaml", f"/x/a{character}b.pth"
    params.write_text("weights: {file: null}\n")
    apply_overrides(params, [f'weights.file="{value}"'])
    assert YAML(typ="safe", pure=True).load(params.read_text())["weights"]["file"] == value


def rerun_rows() -> Iterator[tuple[str, list[str]]]:
    """(room, stages) of CONTRIBUTING.md's table."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## What an edit reruns")[1].split("\n## ")[0]
    for rooms, stages in re.findall(r"^\| [^|]+ \| (`[^|]+`) \| ([^|]+) \|$", table, re.M):
        names = [re.sub(r" \(.*\)", "", name) for name in stages.split(", ")]
        for room in re.findall(r"`([\w.]+)`", rooms):
            yield room, names


def test_the_rerun_table_equals_dvc_yaml() -> None:
    chain = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    table = dict(rerun_rows())
    rooms = {path.name for path in (ROOT / "stages" / "pose").iterdir()} - {"__pycache__"}
    assert set(table) == rooms
    for room, names in table.items():
        watching = [name for name in chain if f"stages/pose/{room}" in chain[name]["deps"]]
        expected = {"all": list(chain), "none": []}.get(names[0], names)
        assert watching == expected, room


def test_the_examples_of_keys_equal_dvc_yaml() -> None:
    chain = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())["stages"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([^|;]+?)(?:;[^|]*)? \|$", text, re.M)
    assert len(rows) == 3
    for section, key, stages in rows:
        declared = {section, f"{section}.{key}"}
        assert [n for n in chain if declared & {*chain[n]["params"]}] == stages.split(", ")
