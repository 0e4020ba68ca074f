"""What YAML() reads in tests, kept by its text, is what it reads otherwise."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from ruamel.yaml import YAML, YAMLError

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


def test_comments_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    text = f"{TEXT}# a comment\n"
    YAML(typ="safe").load(text)
    yaml = YAML()
    for _ in range(2):
        yaml.dump(yaml.load(text), tmp_path / "out.yaml")
        assert "# a comment" in (tmp_path / "out.yaml").read_text()


@pytest.mark.parametrize("quotes", [None, True])
@pytest.mark.parametrize("name", ["dvc.yaml", "params.yaml"])
def test_a_file_that_was_kept_is_written_as_one_that_was_parsed(
    name: str, quotes: bool | None
) -> None:
    """Comments, quotes and notation of numbers; a stream is parsed each time."""
    text = (ROOT / name).read_text(encoding="utf-8") + "# 'one' more\nx: 'quoted'\n"

    def written(source: object) -> str:
        yaml, out = YAML(), io.StringIO()
        yaml.preserve_quotes = quotes
        yaml.dump(yaml.load(source), out)
        return out.getvalue()

    expected = written(io.StringIO(text))
    assert [written(text) for _ in range(2)] == [expected, expected]
    assert ("'quoted'" in expected) == bool(quotes)
