"""params.yaml spoilt in any way: valid sections, or one line a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fuzz.corrupt import corrupted_bytes, corrupted_json, fuzz, inputs, refused, refused_or_fine
from pose.common import params
from pose.common.errors import PoseError
from pose.common.params import load_params


@inputs(5, 1500)
def test_bytes_of_params(bounded: Path, params_text: str, examples: int) -> None:
    path = bounded / "params.yaml"
    plain = "\n".join(line.split("  #")[0] for line in params_text.splitlines()).encode()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with refused_or_fine():
            load_params(path)

    fuzz(examples, corrupted_bytes(plain), check)


@inputs(25, 4000)
def test_values_of_params(bounded: Path, params_text: str, examples: int) -> None:
    raw = YAML(typ="safe", pure=True).load(params_text)

    def check(value: Any) -> None:
        with refused_or_fine():
            params._validate(value, "params.yaml")  # the reader of YAML is slow

    fuzz(examples, corrupted_json(raw), check)


HOSTILE = {
    "deep": "run: " + "[" * 400 + "]" * 400,
    "recursive": "run: &a [*a]",
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "python object": "run: !!python/object/apply:os.system [exit]",
    "long number": "run: {seed: " + "9" * 6000 + "}",
    "key of a list": "run: {? [1, 2] : 3}",
    "key of a map": "? {a: 1}\n: 3",
    "key with a new line": '"run\\nx": 3',
    "doubled key": "run: 1\nrun: 2",
    "two documents": "run: 1\n---\nrun: 2",
    "directive": "%YAML 9.9\n---\nrun: 1",
    "long text": "run: " + "x" * 100_000,
    "long file": "run: " + "x" * 2_000_000,
    "infinite": "run: {seed: .inf, threads: .nan}",
    "date": "run: {seed: 2001-01-01, threads: 2001-01-01T00:00:00Z}",
    "binary": "run: !!binary aGFsbG8=",
    "set": "run: !!set {a, b}",
    "byte order": "\ufeffrun: 1",
    "empty": "",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_params(bounded: Path, kind: str) -> None:
    path = bounded / "params.yaml"
    path.write_text(HOSTILE[kind], encoding="utf-8")
    assert refused(load_params, path).startswith("params.yaml: ")


def test_a_folder_as_params(bounded: Path) -> None:
    (bounded / "params.yaml").mkdir()
    with pytest.raises(PoseError, match="params"):
        load_params(bounded / "params.yaml")
