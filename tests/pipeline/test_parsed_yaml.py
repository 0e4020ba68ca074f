"""What YAML() reads in tests, kept by its text, is what it reads otherwise."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import _yaml
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from pipeline.parsed_yaml import LOAD, keep_parsed_yaml, keep_written_locks
from pipeline.project import ROOT

TEXT = "a: [1, 2.5e-3, yes]\nb: {c: null}\n"


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", "params.yaml"])
def test_files_of_the_project_are_read_as_from_a_stream(name: str) -> None:
    """A stream is parsed each time."""
    text = (ROOT / name).read_text(encoding="utf-8")
    expected = YAML(typ="safe").load(io.StringIO(text))
    for _ in range(2):
        assert repr(YAML(typ="safe", pure=True).load(text)) == repr(expected)


def test_each_call_gets_objects_of_its_own() -> None:
    first = YAML(typ="safe").load(TEXT)
    first["a"].append(first["b"].pop("c"))
    assert YAML(typ="safe").load(TEXT) == {"a": [1, 0.0025, "yes"], "b": {"c": None}}


def test_a_text_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{TEXT}# {test_a_text_is_parsed_once.__name__}\n"
    found = YAML(typ="safe").load(text)
    monkeypatch.setattr(YAML, "get_constructor_parser", None)  # any parsing would fail
    assert YAML(typ="safe").load(text) == found


def test_an_error_is_found_each_time() -> None:
    for _ in range(2):
        with pytest.raises(YAMLError, match="line 1, column 5"):
            YAML(typ="safe").load("a: [")


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock", "params.yaml"])
@pytest.mark.parametrize("quotes", [None, True])
def test_a_round_trip_gives_the_same_bytes(name: str, quotes: bool | None) -> None:
    """Comments, order, quotes and notation of numbers too."""
    text = (ROOT / name).read_text(encoding="utf-8")
    dumped = []
    for load in (LOAD, YAML.load, YAML.load):
        yaml, stream = YAML(), io.StringIO()
        yaml.preserve_quotes = quotes
        yaml.dump(load(yaml, text), stream)
        dumped.append(stream.getvalue())
    assert dumped[1:] == dumped[:1] * 2
    assert ("#" in dumped[0]) == (name != "dvc.lock")


def test_options_are_told_apart() -> None:
    """Quotes are kept where that is asked for; a key that is there twice is found."""
    text = "a: 'x'\n"
    quoted = YAML()
    quoted.preserve_quotes = True
    assert type(YAML().load(text)["a"]) is str
    assert type(quoted.load(text)["a"]) is SingleQuotedScalarString
    assert type(YAML(typ="safe").load(text)) is dict
    twice = YAML(typ="safe")
    twice.allow_duplicate_keys = True
    assert twice.load("b: 1\nb: 2\n") == {"b": 1}
    with pytest.raises(YAMLError, match="duplicate"):
        YAML(typ="safe").load("b: 1\nb: 2\n")


def test_a_lock_that_dvc_wrote_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what the library would read, and as bytes when it is written again."""
    for place, name in ((YAML, "load"), (_yaml, "_dump")):
        monkeypatch.setattr(place, name, getattr(place, name))  # put back afterwards
    keep_parsed_yaml(tmp_path / "parsed")
    keep_written_locks(tmp_path / "parsed")
    path = Path(shutil.copy(ROOT / "dvc.lock", tmp_path))
    with _yaml.modify_yaml(path) as lock:
        lock["stages"]["report"] = {"cmd": "python a.py", "params": {"b": {"c": [1e-5, 2, None]}}}
    text = path.read_text(encoding="utf-8")
    safe, of_round_trip = LOAD(YAML(typ="safe"), text), LOAD(YAML(), text)
    monkeypatch.setattr(YAML, "get_constructor_parser", None)  # any parsing would fail
    assert repr(_yaml.parse_yaml(text, path)) == repr(safe)
    found = _yaml.parse_yaml_for_update(text, path)
    assert found == of_round_trip
    assert _yaml.dumps_yaml(found) == _yaml.dumps_yaml(of_round_trip) == text
