"""Merge a recipe into params.yaml, comments kept, and print each value that changed.

    python recipes/apply.py                 # the recipes, a line each
    python recipes/apply.py NAME            # params.yaml becomes that run's
    python recipes/apply.py NAME --args     # flags instead; params.yaml stays as it is:
    eval "dvc exp run $(python recipes/apply.py NAME --args)"

A recipe states every key that any recipe sets, so that one can follow another; `git checkout
params.yaml` brings the embedded default back. The result is validated before it is written.
Seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

from pose.common.errors import PoseError
from pose.common.files import write_atomic
from pose.common.params import Params, load_params
from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
PARAMS = ROOT / "params.yaml"
Change = tuple[str, Any, Any]  # section.key, old, new
PLAIN = re.compile(r"[A-Za-z/][\w./-]*")  # strings that Hydra's grammar takes without quotes
WORDS = {"null", "true", "false", "nan", "inf"}  # and those that it reads as something else


def names() -> list[str]:
    """Of all recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def headline(name: str) -> str:
    """First line of a recipe's header."""
    with (RECIPES / f"{name}.yaml").open(encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").rstrip()


def read_recipe(name: str) -> CommentedMap:
    """{section: {key: value}}. Raises PoseError for an unknown name or another shape."""
    if name not in names():
        raise PoseError(f"no recipe {name!r}; there are {', '.join(names())}")
    recipe = _parse((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    if not all(isinstance(section, dict) for section in recipe.values()):
        raise PoseError(f"{name}.yaml: expected sections with keys")
    return recipe


def merge(params_text: str, recipe: CommentedMap) -> tuple[str, list[Change]]:
    """params.yaml's text with the recipe's values, its comments kept, and what changed."""
    document = _parse(params_text, PARAMS.name)
    changes: list[Change] = []
    for section, keys in recipe.items():
        target = document.setdefault(section, CommentedMap())
        for key, value in keys.items():
            old = target.get(key)
            if _plain(old) == _plain(value) and key in target:
                continue
            changes.append((f"{section}.{key}", _plain(old), _plain(value)))
            if isinstance(old, CommentedSeq) and isinstance(value, list):
                old[:] = value  # the list itself carries the comment behind it
            else:
                target[key] = value
    return (_dump(document) if changes else params_text), changes


def validated(text: str) -> Params:
    """Params of a params.yaml's text. Raises PoseError, one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(text, encoding="utf-8")
        try:
            return load_params(path)
        except PoseError as error:
            raise PoseError("; ".join(str(error).splitlines())) from None


def resolve(name: str, params_text: str | None = None) -> Params:
    """Params of params.yaml (or of its text) under the recipe."""
    text = _params_text() if params_text is None else params_text
    return validated(merge(text, read_recipe(name))[0])


def flags(recipe: CommentedMap) -> list[str]:
    """`section.key=value` of every value, in Hydra's override grammar, which dvc's -S reads."""
    return [
        f"{section}.{key}={_hydra(_plain(value))}"
        for section, keys in recipe.items()
        for key, value in keys.items()
    ]


def _hydra(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_hydra(item) for item in value)}]"
    if not isinstance(value, str):
        return json.dumps(value)  # null, true, 3, 5e-06
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    if "\\" in value or "'" in value:
        raise PoseError(f"{value!r}: quotes and backslashes cannot be passed as a flag")
    return f"'{value}'"


def _params_text() -> str:
    try:
        return PARAMS.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        hint = f"`git checkout {PARAMS.name}` restores it"
        raise PoseError(f"{PARAMS.name}: {error}; {hint}") from None


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments, order and notation of numbers stay
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _parse(text: str, name: str) -> CommentedMap:
    try:
        found = _yaml().load(text)
    except YAMLError as error:
        raise PoseError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, CommentedMap):
        raise PoseError(f"{name}: expected sections with keys")
    return found


def _dump(document: CommentedMap) -> str:
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    """Of ruamel's own types, the ones of JSON."""
    return json.loads(json.dumps(value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe; without it, a list")
    parser.add_argument("--args", action="store_true", help="print -S flags, write nothing")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    options = parser.parse_args()
    if options.list or options.name is None:
        for name in names():
            print(f"{name:28} {headline(name)}")
        return
    recipe = read_recipe(options.name)
    text, changes = merge(_params_text(), recipe)
    validated(text)
    if options.args:
        print(" ".join(f"-S {shlex.quote(flag)}" for flag in flags(recipe)))
        return
    if changes:
        write_atomic(PARAMS, text.encode())
    for key, old, new in changes:
        print(f"{key}: {json.dumps(old)} -> {json.dumps(new)}")
    if not changes:
        print(f"params.yaml holds {options.name} already")


if __name__ == "__main__":
    with exit_codes("apply"):
        main()
