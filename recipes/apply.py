"""Merge a recipe into params.yaml and print each value that changed; comments stay.

    python recipes/apply.py                 # list recipes and keypoint sets, one line each
    python recipes/apply.py NAME            # merge the recipe into params.yaml
    python recipes/apply.py NAME --args     # print flags for dvc exp run, write nothing:
    args=$(python recipes/apply.py NAME --args) && eval "dvc exp run $args"

Each recipe sets every key that any recipe sets, so that one can be applied after another. Keys of
`weights` and `keypoints`, and those of `data` that describe files (RESET), return to their defaults
if a recipe does not name them. A keypoint set (keypoints/NAME) sets the
section `keypoints` and resets nothing: apply it after a recipe. `git checkout params.yaml` restores
the embedded default. The result is validated before it is written. Takes seconds.
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
from pose.common.params import Keypoints, Params, Weights, load_params
from pose.common.script import exit_codes

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
PARAMS = ROOT / "params.yaml"
Change = tuple[str, Any, Any]  # section.key, old, new
RESET: dict[str, dict[str, Any]] = {  # values of the keys that a file with weights does not name
    "data": {
        "root": "data/own",
        "train_split": "train2017",
        "val_split": "val2017",
        "train_annotations": None,
        "val_annotations": None,
        "train_images": None,
        "val_images": None,
        "val_fraction": None,
        "group_by": None,
        "category": "person",
        "area": "annotated",
        "visibility_thr": None,
        "orientation": "ignore",
        "bit_depth": None,
        "detections": None,
        "detections_sha256": None,
        "also": None,
        "also_val": None,
    },
    "keypoints": dict.fromkeys(Keypoints.model_fields),
    "weights": dict.fromkeys(Weights.model_fields) | {"source": "embedded", "head": "fresh"},
}
UNQUOTED = re.compile(r"[A-Za-z/][\w./-]*")  # strings that need no quotes in Hydra's grammar
HYDRA_KEYWORDS = {"null", "true", "false", "nan", "inf"}  # strings that need quotes, too


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def keypoint_sets() -> list[str]:
    """The names of all keypoint sets, sorted: `keypoints/aic`, ..."""
    return sorted(f"keypoints/{path.stem}" for path in RECIPES.glob("keypoints/*.yaml"))


def summary(name: str) -> str:
    """The first line of a recipe's or keypoint set's header."""
    with (RECIPES / f"{name}.yaml").open(encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").rstrip()


def read_recipe(name: str) -> CommentedMap:
    """{section: {key: value}} of a recipe, completed by RESET, or of a keypoint set.

    Raises PoseError for an unknown name or another structure.
    """
    names = recipe_names() + keypoint_sets()
    if name not in names:
        raise PoseError(f"no recipe {name!r}; choose one of {', '.join(names)}")
    recipe = _parse((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")
    if not all(isinstance(section, dict) for section in recipe.values()):
        raise PoseError(f"{name}.yaml: expected sections with keys")
    for section, keys in RESET.items() if "weights" in recipe else ():
        named = recipe.setdefault(section, CommentedMap())
        for key, value in keys.items():
            named.setdefault(key, value)
    return recipe


def merge(params_text: str, recipe: CommentedMap) -> tuple[str, list[Change]]:
    """(text of params.yaml with the recipe's values and its own comments, changed keys)."""
    document = _parse(params_text, PARAMS.name)
    changes: list[Change] = []
    for section, keys in recipe.items():
        target = document.setdefault(section, CommentedMap())
        for key, value in keys.items():
            old = target.get(key)
            if _json_types(old) == _json_types(value) and key in target:
                continue
            changes.append((f"{section}.{key}", _json_types(old), _json_types(value)))
            _replace_(target, key, value)
    return (_dump(document) if changes else params_text), changes


def _replace_(target: CommentedMap, key: str, value: Any) -> None:
    """Set target[key] and keep the comments of the old value, which may be a list."""
    old, comments = target.get(key), target.ca.items.get(key)
    if isinstance(value, list):
        value = _json_types(value)  # one item a line, as DVC writes lists
    if isinstance(old, CommentedSeq) and isinstance(value, list) and value:
        old[:] = value  # the comment after the last item belongs to the list
        return
    if comments:
        comments[3] = None  # comments before a block list; ruamel writes invalid YAML with them
    target[key] = value


def parse_params(text: str) -> Params:
    """Params from the text of a params.yaml. Raises PoseError of one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS.name
        path.write_text(text, encoding="utf-8")
        try:
            return load_params(path)
        except PoseError as error:
            raise PoseError("; ".join(str(error).splitlines())) from None


def resolve(name: str, params_text: str | None = None) -> Params:
    """Params of params.yaml, or of its text if given, with the recipe merged."""
    text = _params_text() if params_text is None else params_text
    return parse_params(merge(text, read_recipe(name))[0])


def flags(recipe: CommentedMap) -> list[str]:
    """`section.key=value` per key, in Hydra's override grammar, which dvc's -S reads."""
    return [
        f"{section}.{key}={_hydra(_json_types(value))}"
        for section, keys in recipe.items()
        for key, value in keys.items()
    ]


def _hydra(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_hydra(item) for item in value)}]"
    if isinstance(value, dict):  # its keys cannot be quoted; they may have spaces
        if odd := [key for key in value if not re.fullmatch(r"[A-Za-z_][\w ./-]*\w", key)]:
            raise PoseError(f"the key {odd[0]!r} cannot be passed as a flag; omit --args")
        return f"{{{','.join(f'{key}:{_hydra(item)}' for key, item in value.items())}}}"
    if not isinstance(value, str):
        return json.dumps(value)  # null, true, 3, 5e-06
    if UNQUOTED.fullmatch(value) and value.lower() not in HYDRA_KEYWORDS:
        return value
    if "\\" in value or "'" in value:
        raise PoseError(
            f"{value!r}: quotes and backslashes cannot be passed as a flag; omit --args"
        )
    return f"'{value}'"


def _params_text() -> str:
    try:
        return PARAMS.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        hint = f"`git checkout {PARAMS.name}` restores it"
        raise PoseError(f"{PARAMS.name}: {error}; {hint}") from None


def _yaml() -> YAML:
    yaml = YAML()  # round trip: preserves comments, order and notation of numbers
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _parse(text: str, name: str) -> CommentedMap:
    try:
        document = _yaml().load(text)
    except YAMLError as error:
        raise PoseError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, CommentedMap):
        raise PoseError(f"{name}: expected sections with keys")
    return document


def _dump(document: CommentedMap) -> str:
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _json_types(value: Any) -> Any:
    """The value in JSON's types instead of ruamel's."""
    return json.loads(json.dumps(value))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="default: list them")
    parser.add_argument("--args", action="store_true", help="print -S flags and write nothing")
    parser.add_argument("--list", action="store_true", help="list the names")
    options = parser.parse_args()
    if options.list or options.name is None:
        for name in recipe_names() + keypoint_sets():
            print(f"{name:28} {summary(name)}")
        return
    recipe = read_recipe(options.name)
    text, changes = merge(_params_text(), recipe)
    parse_params(text)
    if options.args:
        print(" ".join(f"-S {shlex.quote(flag)}" for flag in flags(recipe)))
        return
    if changes:
        write_atomic(PARAMS, text.encode())
    for key, old, new in changes:
        print(f"{key}: {json.dumps(old)} -> {json.dumps(new)}")
    if not changes:
        print(f"params.yaml already has the values of {options.name}")


if __name__ == "__main__":
    with exit_codes("apply"):
        main()
