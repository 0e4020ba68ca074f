"""The stage from a file on disk to start.safetensors; mistakes end it in one line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fetch_weights
from layouts import backbone_of, prefixed, random_state, sapiens_clean, sapiens_pose
from pose.common import stage
from pose.common.errors import PoseError
from pose.common.files import digest
from pose.common.licence import SAPIENS2, UNKNOWN
from pose.common.params import Params, load_params
from pose.models import checkpoint
from pose.models.spec import ModelSpec

Fetch = Callable[..., None]


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    return replace(tiny_model_spec, deconv_channels=(10, 8), conv_channels=(6, 4))


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bent_params, spec: ModelSpec) -> Fetch:
    """Runs the stage's main in an empty folder, for a small model and the given `weights` keys."""
    monkeypatch.chdir(tmp_path)

    def run(**weights: str) -> None:
        fetch_weights.main(params(bent_params, spec, weights))

    return run


def params(bent_params, spec: ModelSpec, weights: dict[str, str]) -> Params:
    keys = ("patch_size", "embed_dim", "depth", "num_heads", "deconv_channels", "conv_channels")
    model = {
        f"model.{key}": str(getattr(spec, key)).replace("(", "[").replace(")", "]") for key in keys
    }
    model["model.mlp_dim"] = "null"
    sizes = {"codec.input_size": "[24, 32]", "codec.heatmap_size": "[12, 16]"}
    return load_params(
        bent_params({**model, **sizes, **{f"weights.{key}": v for key, v in weights.items()}})
    )


def test_the_licence_depends_on_the_family(
    tmp_path: Path, spec: ModelSpec, bent_params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(sapiens_clean(random_state(spec)), tmp_path / "mine.pth")
    given = params(bent_params, spec, {"source": "file", "file": "mine.pth"})
    _, provenance = fetch_weights.converted(given)
    assert provenance["licence"] == UNKNOWN.name
    monkeypatch.setattr(fetch_weights, "convert", lambda *_: ({}, ""))
    model = given.model.model_copy(update={"family": "sapiens2"})
    _, provenance = fetch_weights.converted(given.model_copy(update={"model": model}))
    assert provenance["licence"] == SAPIENS2.name


def test_flat_sapiens_file(tmp_path: Path, spec: ModelSpec, fetch: Fetch, caplog) -> None:
    state = random_state(spec)
    torch.save(sapiens_clean(state), tmp_path / "sapiens_clean.pth")
    with caplog.at_level(logging.INFO):
        fetch(source="file", file="sapiens_clean.pth")
    found = checkpoint.read_weights(stage.WEIGHTS)
    assert found.keys() == backbone_of(state).keys()
    assert all(torch.equal(found[name], state[name]) for name in found)
    assert checkpoint.read_provenance(stage.WEIGHTS) == {
        "source": "sapiens_clean.pth",
        "sha256": digest(tmp_path / "sapiens_clean.pth"),
        "licence": "CC BY-NC 4.0",
    }
    lines = caplog.text
    for line in ("loaded      29  ", "resized      1  ", "dropped      1  ", "missing      8  "):
        assert line in lines
    assert "backbone in the file: model.embed_dim 16, depth 2, mlp_dim 64, patch_size 8" in lines
    assert (stage.METRICS / "fetch_weights" / "metrics.json").is_file()


@pytest.mark.parametrize("head", ["keep", "fresh"])
def test_pose_file_with_its_head(tmp_path: Path, spec: ModelSpec, fetch: Fetch, head: str) -> None:
    state = random_state(spec)
    path = tmp_path / "pose.pth"
    torch.save({"meta": {}, "state_dict": sapiens_pose(state)}, path)
    fetch(source="file", file=str(path), head=head, sha256=digest(path))
    found = checkpoint.read_weights(stage.WEIGHTS)
    expected = state if head == "keep" else backbone_of(state)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], state[name]) for name in found)


@pytest.mark.parametrize("key", ["student", "teacher"])
def test_a_dictionary_by_its_key(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, key: str, caplog
) -> None:
    states = {"student": random_state(spec), "teacher": random_state(spec, seed=1)}
    torch.save({k: prefixed("module.", sapiens_pose(s)) for k, s in states.items()}, "x.pth")
    with caplog.at_level(logging.INFO):
        fetch(source="file", file="x.pth", key=key, head="keep")
    found = checkpoint.read_weights(stage.WEIGHTS)
    assert all(torch.equal(found[name], t) for name, t in states[key].items())
    assert f"x.pth: read 39 tensors of {key}; not read: " in caplog.text


@pytest.mark.parametrize("given_by", ["folder", "index"])
def test_shards_and_their_digests(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, given_by: str
) -> None:
    folder, state, names = tmp_path / "model", random_state(spec), {}
    for i, part in enumerate(("backbone.", "head.")):
        shard = {name: t for name, t in state.items() if name.startswith(part)}
        checkpoint.save_weights(folder / f"{i}.safetensors", shard, {})
        names |= dict.fromkeys(shard, f"{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    file = "model" if given_by == "folder" else "model/model.safetensors.index.json"
    fetch(source="file", file=file, head="keep")
    found = checkpoint.read_weights(stage.WEIGHTS)
    assert all(torch.equal(found[name], t) for name, t in state.items())
    provenance = checkpoint.read_provenance(stage.WEIGHTS)
    assert provenance["sha256"] == digest(index)
    assert provenance["shards"] == {
        name: digest(folder / name) for name in ("0.safetensors", "1.safetensors")
    }
    with pytest.raises(PoseError, match=r"weights\.sha256 is that of one file; set it to null"):
        fetch(source="file", file=file, sha256="a" * 64)


def test_an_index_of_the_hub_brings_its_shards(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each from the index's folder and commit."""
    state, asked = random_state(spec), []
    snapshot = tmp_path / "snapshot" / "deep"
    index = {"weight_map": dict.fromkeys(state, "a.safetensors")}

    def download(repo: str, file: str, revision: str, sha256: str | None) -> tuple[Path, str]:
        asked.append((repo, file, revision, sha256))
        path = snapshot.parent / file
        if file.endswith(".json"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(index))
        else:
            checkpoint.save_weights(path, state, {})
        return path, "c0ffee"

    monkeypatch.setattr(fetch_weights, "download_from_hub", download)
    fetch(source="huggingface", repo="o/n", file="deep/m.index.json", revision="main", head="keep")
    assert asked == [
        ("o/n", "deep/m.index.json", "main", None),
        ("o/n", "deep/a.safetensors", "c0ffee", None),
    ]
    assert checkpoint.read_weights(stage.WEIGHTS).keys() == state.keys()


def test_the_same_file_makes_the_same_bytes(tmp_path: Path, spec: ModelSpec, fetch: Fetch) -> None:
    torch.save(sapiens_clean(random_state(spec)), tmp_path / "x.pth")
    fetch(source="file", file="x.pth")
    first = stage.WEIGHTS.read_bytes()
    fetch(source="file", file="x.pth")
    assert stage.WEIGHTS.read_bytes() == first


def test_embedded_weights_are_those_of_the_seed(fetch: Fetch) -> None:
    fetch(source="embedded")
    first = stage.WEIGHTS.read_bytes()
    torch.manual_seed(99)
    fetch(source="embedded")
    assert stage.WEIGHTS.read_bytes() == first
    assert checkpoint.read_provenance(stage.WEIGHTS)["source"] == "random initialisation, seed 0"


def test_embedded_positions_are_sines(fetch: Fetch) -> None:
    fetch(source="embedded")
    positions = checkpoint.read_weights(stage.WEIGHTS)["backbone.pos_embed"]
    dim = positions.shape[-1]
    assert torch.equal(positions[0, 0], torch.tensor([0.0, 1.0] * 2).repeat_interleave(dim // 4))


def test_sines_need_four_equal_parts(fetch: Fetch, spec: ModelSpec, bent_params) -> None:
    odd = params(bent_params, replace(spec, embed_dim=18), {"source": "embedded"})
    with pytest.raises(PoseError, match=r"model.embed_dim = 18, expected a multiple of 4 with"):
        fetch_weights.main(odd)
    assert not stage.WEIGHTS.exists()


class Trap:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def spoil_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>Sign in</html>")


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def spoil_trap(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": Trap(path.with_name("harm"))}, path)


def spoil_other(path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("spoil", "weights", "expected"),
    [
        (Path.unlink, {}, "weights.file = 'x.pth': no such file in /"),
        (None, {"file": "."}, ".: is a folder without an index of shards; it holds x.pth; give"),
        (
            None,
            {"key": "ema"},
            "x.pth: weights.key = 'ema' names 0 of its backbones: . (30 tensors)",
        ),
        (None, {"sha256": "0" * 64}, f"weights.sha256 says {'0' * 64}"),
        (spoil_cut, {}, "x.pth: it begins as a zip archive, but has no readable directory ("),
        (spoil_trap, {}, "x.pth: contains an object of type posix.mkdir, which is not unpickled"),
        (
            spoil_web_page,
            {},
            "x.pth: is a web page, no checkpoint; download the file itself",
        ),
        (
            spoil_other,
            {},
            "x.pth: none of its 1 tensors has a name of a known ViT (first: conv1.weight); ",
        ),
        (None, {"head": "keep"}, "x.pth: has no head of a pose model; set weights.head: fresh"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, spoil, weights: dict, expected: str
) -> None:
    path = tmp_path / "x.pth"
    torch.save(sapiens_clean(random_state(spec)), path)
    if spoil:
        spoil(path)
    quoted = {key: f'"{value}"' for key, value in weights.items()}
    with pytest.raises(PoseError) as caught:
        fetch(**{"source": "file", "file": "x.pth", **quoted})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    assert not stage.WEIGHTS.exists()


def test_a_model_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bent_params, spec: ModelSpec
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(sapiens_clean(random_state(spec)), tmp_path / "x.pth")
    wider = params(bent_params, replace(spec, embed_dim=32), {"source": "file", "file": "x.pth"})
    with pytest.raises(PoseError) as caught:
        fetch_weights.main(wider)
    assert str(caught.value) == (
        "x.pth: backbone.pos_embed is [1, 12, 16], the model of params.yaml needs [1, 12, 32] "
        "(backbone in the file: model.embed_dim 16, depth 2, mlp_dim 64, patch_size 8)"
    )


@pytest.mark.parametrize("name", ["models/ssl.safetensors", "data/weights/start.safetensors"])
def test_a_file_that_the_chain_writes_is_no_source(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, name: str
) -> None:
    path = tmp_path / name
    checkpoint.save_weights(path, random_state(spec), {})
    (tmp_path / "link.safetensors").symlink_to(path)
    before = path.read_bytes()
    for given in (name, str(path), "link.safetensors"):
        with pytest.raises(PoseError, match="would replace its own source; set"):
            fetch(source="file", file=given)
    assert path.read_bytes() == before
    elsewhere = tmp_path / "kept.safetensors"
    elsewhere.write_bytes(before)
    fetch(source="file", file=str(elsewhere))


def test_a_model_of_an_earlier_run(
    tmp_path: Path, spec: ModelSpec, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """Its own provenance stays with it; tests/unit/pretrained/test_experiment.py has real runs."""
    state, copy = random_state(spec), tmp_path / "copy.safetensors"
    checkpoint.save_weights(copy, state, {"source": "mae.pth", "licence": "CC BY-NC 4.0"})
    asked = []

    def copied(*arguments: object) -> tuple[Path, str]:
        asked.append(arguments)
        return copy, "c0ffee"

    monkeypatch.setattr("pose.pretrained.experiment.copy_from_run", copied)
    with caplog.at_level(logging.INFO):
        fetch(source="experiment", revision="slow", head="keep", sha256=digest(copy))
    assert asked == [("models/ssl.safetensors", "slow", stage.RESUME / "fetch_weights")]
    assert "to pin this run: weights.revision=c0ffee" in caplog.text
    found = checkpoint.read_weights(stage.WEIGHTS)
    assert all(torch.equal(found[name], state[name]) for name in state)
    provenance = checkpoint.read_provenance(stage.WEIGHTS)
    assert provenance["source"] == "models/ssl.safetensors of slow"
    assert provenance["revision"] == "c0ffee"
    assert provenance["start licence"] == provenance["licence"] == "CC BY-NC 4.0"
    with pytest.raises(PoseError, match=r"correct weights\.revision or weights\.sha256"):
        fetch(source="experiment", revision="slow", sha256="a" * 64)
