"""What is fetched or given is data: nothing of it is run, unpickled or unpacked to a path."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pose.common.params import Params
from pose.fetch.checksums import COCO_2017, COCO_2017_UNLABELLED

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "stages").rglob("*.py")) + sorted((ROOT / "recipes").glob("*.py"))
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile"}
METHODS = {"extract", "extractall", "unpack_archive", "getoutput", "getstatusoutput", "mktemp"}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile", "telnetlib"}


def faults(tree: ast.AST) -> list[str]:
    """Source of what must not be there."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if MODULES & {name.split(".")[0] for name in names}:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle."):
            found += [] if node.attr.endswith("Error") else [ast.unparse(node)]
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and _is_bad(node):
            found.append(ast.unparse(node))
    return found + _unsafe_yaml(tree)


def _unsafe_yaml(tree: ast.AST) -> list[str]:
    """PyYAML's loads, where it is imported, but for that with its safe loader in C."""
    nodes = list(ast.walk(tree))
    imports = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    if odd := [text for text in imports if text.startswith("from yaml")]:
        return odd
    calls = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]
    loads = [text for text in calls if re.match(r"yaml\.\w*load\w*\(", text)]
    safe = re.compile(r"yaml\.load\(.*, yaml\.CSafeLoader\)")
    return [text for text in loads if "import yaml" in imports and not safe.fullmatch(text)]


def _is_bad(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load" and given.get("weights_only") != "True":
        return True
    if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
        return True
    if given.get("verify", "True") != "True":
        return True
    method = name.rsplit(".", 1)[-1]
    return (
        name in CALLS
        or method in METHODS
        or (name.endswith("YAML") and "typ" in given and "unsafe" in given["typ"])
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_run_or_unpickled(path: Path) -> None:
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.load(f)",
        "from pickle import loads",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "import yaml\nyaml.load(f)",
        "import yaml\nyaml.load(f, yaml.Loader)",
        "import yaml\nyaml.unsafe_load(f)",
        "from yaml import load",
        "eval(x)",
        "exec(x)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "import tarfile",
        "zipfile.ZipFile(p).extractall(q)",
        "archive.extract(n)",
        "requests.get(u, verify=False)",
        "YAML(typ='unsafe')",
    ],
)
def test_the_search_finds(text: str) -> None:
    assert faults(ast.parse(text))


def test_commands_hold_nothing_of_params() -> None:
    chain = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert "vars" not in chain
    for name, entry in chain["stages"].items():
        assert entry["cmd"] == f"python stages/{name}.py"


@pytest.mark.parametrize(
    ("name", "least"),
    [("requirements.txt", 150), ("requirements-dev.txt", 40), ("tools/requirements.txt", 70)],
)
def test_every_requirement_has_hashes(name: str, least: int) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) > least
    for line in lines:
        assert re.match(r"[\w.\[\],-]+==\S+", line), line[:80]
        assert "--hash=sha256:" in line, line[:80]


def test_what_is_downloaded_is_https_and_pinned(params_text: str) -> None:
    params = Params.model_validate(YAML(typ="safe", pure=True).load(params_text), strict=False)
    assert params.data.base_url.startswith("https://")
    for place, checksum in {**COCO_2017, **COCO_2017_UNLABELLED}.items():
        assert checksum.md5 or place == "annotations/image_info_unlabeled2017.zip"


def test_addresses_in_the_code_are_https() -> None:
    for path in FILES:
        for address in re.findall(r"http://[\w.-]+\.\w+", path.read_text(encoding="utf-8")):
            raise AssertionError(f"{path.name}: {address}")


def test_the_page_escapes() -> None:
    """The HTML template is rendered with autoescape, and no value is exempt."""
    folder = ROOT / "stages" / "pose" / "report"
    template = (folder / "report.html.j2").read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe|autoescape false", template)
    page = (folder / "page.py").read_text(encoding="utf-8")
    assert '_render("report.html.j2", page, autoescape=True)' in page
