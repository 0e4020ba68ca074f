"""Save and load weights: bytes are stable, and no foreign file is unpickled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pose.common.errors import PoseError
from pose.models import checkpoint
from pose.models.pose_model import PoseModel
from pose.models.spec import ModelSpec


def saved(folder: Path, content, name: str = "x.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_safetensors_round_trip(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.tensor(1.5)}
    path = tmp_path / "deep" / "x.safetensors"
    checkpoint.save_weights(path, state, {"source": "here", "n": 1})
    found = checkpoint.read_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert checkpoint.read_provenance(path) == {"source": "here", "n": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


def test_bytes_are_stable(tmp_path: Path) -> None:
    state = {"b": torch.ones(3), "a": torch.zeros(2)}
    checkpoint.save_weights(tmp_path / "1.safetensors", state, {"x": 1, "y": 2})
    checkpoint.save_weights(tmp_path / "2.safetensors", state, {"y": 2, "x": 1})
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()


def test_load_model_requires_every_tensor(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    model, path = PoseModel(tiny_model_spec), tmp_path / "x.safetensors"
    state = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    checkpoint.save_weights(path, state, {})
    checkpoint.load_model(model, path)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    del state["head.final_layer.bias"]
    checkpoint.save_weights(path, state, {})
    with pytest.raises(PoseError, match=r"missing tensors head\.final_layer\.bias"):
        checkpoint.load_model(model, path)


@pytest.mark.parametrize(("per", "maps"), [(1, 5), (3, 15)])
def test_a_head_for_other_keypoints_is_named(
    tmp_path: Path, tiny_model_spec: ModelSpec, per: int, maps: int
) -> None:
    checkpoint.save_weights(tmp_path / "x.safetensors", PoseModel(tiny_model_spec).state_dict(), {})
    other = PoseModel(replace(tiny_model_spec, num_keypoints=5, maps_per_keypoint=per))
    expected = rf"its head has 17 maps, the keypoints here need {maps}; set weights\.head: fresh"
    with pytest.raises(PoseError, match=expected):
        checkpoint.load_start(other, tmp_path / "x.safetensors")


def test_another_kernel_of_the_last_layer_has_no_hint_on_keypoints(
    tiny_model_spec: ModelSpec,
) -> None:
    expected = PoseModel(tiny_model_spec).state_dict()
    name = "head.final_layer.weight"
    wider = {**expected, name: torch.cat([expected[name]] * 2, dim=1)}
    with pytest.raises(PoseError, match=r"final_layer.weight is .*, the model .* needs \[[^;]*$"):
        checkpoint.require_same(expected, wider)
    with pytest.raises(PoseError, match="its head has 0 maps"):
        checkpoint.require_same(expected, {**expected, name: torch.ones(())})


def test_shorten_shows_three_names_and_a_count() -> None:
    assert checkpoint.shorten(list("abc")) == "a, b, c"
    assert checkpoint.shorten(list("abcde")) == "a, b, c and 2 more"


def test_load_start_returns_what_was_loaded(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    path, model = tmp_path / "x.safetensors", PoseModel(tiny_model_spec)
    state = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    checkpoint.save_weights(path, state, {})
    assert checkpoint.load_start(model, path) == "backbone and head"
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    model = PoseModel(tiny_model_spec)
    fresh = {name: t.clone() for name, t in model.head.state_dict().items()}
    checkpoint.save_weights(path, {k: v for k, v in state.items() if k[:5] != "head."}, {})
    assert checkpoint.load_start(model, path) == "backbone; the head is newly initialised"
    assert torch.equal(model.backbone.pos_embed, state["backbone.pos_embed"])
    assert all(torch.equal(t, fresh[name]) for name, t in model.head.state_dict().items())


def test_load_start_requires_the_backbone_and_a_complete_head(
    tmp_path: Path, tiny_model_spec: ModelSpec
) -> None:
    path, model = tmp_path / "x.safetensors", PoseModel(tiny_model_spec)
    for lost in ("backbone.pos_embed", "head.final_layer.bias"):
        state = {name: t for name, t in model.state_dict().items() if name != lost}
        checkpoint.save_weights(path, state, {})
        with pytest.raises(PoseError, match=f"^{path}: missing tensors {lost}"):
            checkpoint.load_start(model, path)


def test_a_file_of_ours_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save_weights(path, {"a": torch.ones(9)}, {})
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4])
    for read in (checkpoint.read_weights, checkpoint.read_provenance):
        with pytest.raises(PoseError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}: not readable as safetensors (its header promises {size} bytes, the file has "
            f"{size - 4}); rerun the stage that writes it, or copy it again"
        )


def test_an_absent_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such checkpoint"):
        checkpoint.read_weights(tmp_path / "x.safetensors")


def test_another_kind_of_file_is_not_read_as_ours(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(PoseError, match="not readable as safetensors"):
        checkpoint.read_weights(tmp_path / "x.safetensors")
