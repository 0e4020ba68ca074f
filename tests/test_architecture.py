"""The house keeps its shape: who may import whom, what DVC watches, and who may speak."""

from __future__ import annotations

import ast
import importlib.machinery
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from imports import POSE, STAGES, direct_imports, needed_files, needed_rooms
from mutate import TARGETS

ROOT = STAGES.parent
SCRIPTS = sorted(STAGES.glob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
MODULES = sorted(path for path in POSE.rglob("*.py") if path.stem != "__init__")


def read_yaml(name: str) -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


CHAIN = read_yaml("dvc.yaml")["stages"]


def name_in_pose(path: Path) -> str:
    return path.relative_to(POSE).with_suffix("").as_posix()


def calls(path: Path) -> Iterator[str]:
    """Source text of all that a file calls."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


@pytest.mark.parametrize("path", MODULES, ids=name_in_pose)
def test_no_module_needs_itself(path: Path) -> None:
    own = path.relative_to(ROOT).as_posix()
    assert all(own not in needed_files(file) for file in direct_imports(path) - {path})


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem != "script"], ids=name_in_pose
)
def test_the_library_neither_prints_nor_exits(path: Path) -> None:
    assert not {"print", "exit", "quit", "sys.exit", "os._exit"} & set(calls(path))


def test_calls_are_seen(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import sys\ndef f():\n    print(1)\n    sys.exit(2)\n")
    assert set(calls(tmp_path / "x.py")) == {"print", "sys.exit"}


def is_installed(name: str) -> bool:
    elsewhere = [p for p in sys.path if "site-packages" in p]
    return importlib.machinery.PathFinder.find_spec(name, elsewhere) is not None


@pytest.mark.parametrize(
    "name", [*(path.stem for path in [*SCRIPTS, *TOOLS]), "apply", "pose", "imports"]
)
def test_names_shadow_no_other_module(name: str) -> None:
    """stages/ comes first on sys.path: a script called `profile` would break torch."""
    assert name not in sys.stdlib_module_names
    assert not is_installed(name)
    assert is_installed("torch")


def test_only_scripts_lie_in_stages() -> None:
    others = {"plan", "preflight", "predict", "export", "evaluate_checkpoint"}
    assert {path.stem for path in SCRIPTS} - set(CHAIN) == others
    assert set(CHAIN) <= {path.stem for path in SCRIPTS}
    others = {p.name for p in STAGES.iterdir() if p.suffix != ".py"} - {"__pycache__"}
    assert others == {"pose"}


@pytest.mark.parametrize("path", MODULES, ids=name_in_pose)
def test_a_module_of_a_room_has_its_tests_in_the_same_room(path: Path) -> None:
    """tests/unit mirrors the rooms; a module may be tested through its room's other modules."""
    room = path.relative_to(POSE).parts[0].removesuffix(".py")
    tests = ROOT / "tests" / "unit"
    assert list((tests / room).glob("test_*.py")) or (tests / f"test_{room}.py").is_file()


def test_mutation_testing_names_existing_modules_and_tests() -> None:
    assert [module for module in TARGETS if not (POSE / module).is_file()] == []
    tests = {name for names in TARGETS.values() for name in names}
    assert [name for name in tests if not (ROOT / "tests" / name).is_file()] == []


def produced() -> set[str]:
    """Everything that the chain's stages write."""
    found: set[str] = set()
    for entry in CHAIN.values():
        for kind in ("outs", "metrics", "plots"):
            for out in entry.get(kind, []):
                found |= {out} if isinstance(out, str) else set(out)
    return found


def in_default(dep: str) -> str:
    """The path with ${section.key} replaced by its value in params.yaml, as DVC does."""
    values = read_yaml("params.yaml")
    return re.sub(r"\$\{(\w+)\.(\w+)\}", lambda m: values[m[1]][m[2]], dep)


def is_produced(dep: str) -> bool:
    """Whether a stage writes it, or a folder that holds it."""
    return bool({dep, *map(str, Path(dep).parents)} & produced())


@pytest.mark.parametrize("name", CHAIN)
def test_dvc_watches_exactly_the_rooms_that_a_stage_imports(name: str) -> None:
    entry = CHAIN[name]
    assert entry["cmd"] == f"python stages/{name}.py"
    code = {dep for dep in entry["deps"] if dep.startswith("stages/")}
    assert code == needed_rooms(STAGES / f"{name}.py")
    others = {in_default(dep) for dep in entry["deps"]} - code
    assert all(is_produced(dep) or (ROOT / dep).exists() for dep in others), others
    assert len(entry["deps"]) == len(set(entry["deps"]))


@pytest.mark.parametrize("name", CHAIN)
def test_declared_params_exist(name: str) -> None:
    params = read_yaml("params.yaml")
    for key in CHAIN[name]["params"]:
        section, _, leaf = key.partition(".")
        assert section in params, key
        assert not leaf or leaf in params[section], key


@pytest.mark.parametrize("name", CHAIN)
def test_a_script_reads_only_what_it_declares(name: str) -> None:
    tree = ast.parse((STAGES / f"{name}.py").read_text(encoding="utf-8"))
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read = {text for text in read if text.startswith("params.") and text.count(".") == 2}
    declared = CHAIN[name]["params"]
    for text in read:
        _, section, key = text.split(".")
        assert section in declared or f"{section}.{key}" in declared, text


@pytest.mark.parametrize("name", CHAIN)
def test_a_script_tells_its_purpose_and_command(name: str) -> None:
    path = STAGES / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"    python stages/{name}.py" in (ast.get_docstring(tree) or "")
    assert ast.unparse(tree.body[-1]) == ("if __name__ == '__main__':\n    stage.run(NAME, main)")
    assert f'NAME = "{name}"' in path.read_text(encoding="utf-8").splitlines()


SLOW = {"torch", "timm", "torchvision", "albumentations", "pandas", "dvclive", "scipy", "sympy"}


def slow_imports(*command: str) -> set[str]:
    """Those of SLOW that a Python with these arguments imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=STAGES,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pose.common" in imported or "argparse" in imported
    return SLOW & imported


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_help_does_not_wait_for_slow_imports(path: Path) -> None:
    """Each script imports some of them, which takes seconds."""
    assert not slow_imports(str(path), "--help")


ADAPTERS = {"peft", "transformers", "bitsandbytes"}  # the libraries of adapters
LEFT_OUT = {  # by what is imported, one after another in the same process: modules that are not
    "download_coco": SLOW,
    "build_cache": SLOW - {"pandas"},  # in each helper process too
    "evaluate": {"albumentations", "dvclive", "scipy"} | ADAPTERS,
    "train_phase1, train_phase2, train_ssl, export": ADAPTERS,
}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Modules that are there after each import of LEFT_OUT."""
    lines = [f"import {names}; print(*sys.modules)" for names in LEFT_OUT]
    code = "\n".join(["import sys", *lines])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=STAGES, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return {names: set(line.split()) for names, line in zip(LEFT_OUT, printed, strict=True)}


@pytest.mark.parametrize("names", LEFT_OUT)
def test_a_stage_imports_what_it_uses(imported: dict[str, set[str]], names: str) -> None:
    assert {"pose.common", *names.split(", ")} <= imported[names]
    assert not imported[names] & LEFT_OUT[names]


def test_help_needs_neither_params_nor_data(tmp_path: Path) -> None:
    command = [sys.executable, str(STAGES / "build_cache.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "python stages/build_cache.py" in done.stdout


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    """A stage takes its numbers from params.yaml alone."""
    command = [sys.executable, str(STAGES / "build_cache.py"), "--lr", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "unrecognized arguments: --lr 1" in done.stderr
