"""Weights in and out: stable bytes, official names, and nothing from outside is trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pose import checkpoint
from pose.errors import PoseError
from pose.model import ModelSpec, PoseModel

TO_OFFICIAL = (
    ("patch_embed.proj.", "patch_embed.projection."),
    ("blocks.", "layers."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
)


def official_name(name: str) -> str:
    for ours, theirs in TO_OFFICIAL:
        name = name.replace(ours, theirs)
    return name.replace("norm.", "ln1.") if name.startswith("norm.") else name


@pytest.fixture
def backbone(tiny_model_spec: ModelSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return PoseModel(tiny_model_spec).backbone


@pytest.fixture
def official(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Other weights than backbone's, under Sapiens' names."""
    generator = torch.Generator().manual_seed(1)
    return {
        official_name(name): torch.randn(tensor.shape, generator=generator)
        for name, tensor in backbone.state_dict().items()
    }


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


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_official_layouts(tmp_path: Path, backbone, official, wrap, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in official.items()}
    if prefix:
        state["head.final_layer.weight"] = torch.ones(1)
    content = {wrap: state, "meta": {"epoch": 3}} if wrap else state
    report = checkpoint.load_backbone(backbone, saved(tmp_path, content))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, official[official_name(name)]), name
    assert len(report.loaded) == len(official)
    assert report.resized == []
    assert report.dropped == (["head.final_layer.weight"] if prefix else [])


def test_timm_names_load_as_they_are(tmp_path: Path, backbone) -> None:
    state = {name: torch.randn(t.shape) for name, t in backbone.state_dict().items()}
    checkpoint.load_backbone(backbone, saved(tmp_path, state))
    assert all(torch.equal(t, state[name]) for name, t in backbone.state_dict().items())


def test_pretraining_layout_with_class_token_and_square_grid(
    tmp_path: Path, backbone, official
) -> None:
    official["cls_token"] = torch.ones(1, 1, 16)
    official["pos_embed"] = torch.randn(1, 1 + 6 * 6, 16)
    report = checkpoint.load_backbone(backbone, saved(tmp_path, official))
    assert report.dropped == ["cls_token"]
    assert report.resized == ["pos_embed"]
    expected = checkpoint.resize_pos_embed(official["pos_embed"][:, 1:], (4, 3))
    assert torch.equal(backbone.pos_embed, expected)
    assert str(report) == "29 tensors loaded; resized: pos_embed; dropped: cls_token"


def test_vitpose_adds_its_class_row_to_all_others(tmp_path: Path, backbone) -> None:
    wanted = backbone.state_dict()
    row = torch.full((1, 1, wanted["pos_embed"].shape[2]), 0.5)
    stored = {name.replace("norm.", "last_norm.") if name.startswith("norm.") else name: tensor
              for name, tensor in wanted.items()}  # fmt: skip
    stored["pos_embed"] = torch.cat([row, wanted["pos_embed"] - row], dim=1)
    found, _ = checkpoint.backbone_state({f"backbone.{k}": v for k, v in stored.items()})
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found["pos_embed"], wanted["pos_embed"])


def keys_cubic(t: float) -> float:
    """The bicubic kernel of torch (a = -0.75)."""
    a, t = -0.75, abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resized_row(values: list[float], length: int) -> list[float]:
    """One axis: pixel centres aligned at the edges, four taps, the border repeated."""
    out, n = [], len(values)
    for i in range(length):
        at = (i + 0.5) * n / length - 0.5
        first = int(at // 1) - 1
        taps = range(first, first + 4)
        out.append(sum(keys_cubic(at - t) * values[min(max(t, 0), n - 1)] for t in taps))
    return out


def test_pos_embed_is_resized_bicubic_without_antialias() -> None:
    square = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    wide = [resized_row(row, 3) for row in square.tolist()]
    expected = torch.tensor([resized_row(list(column), 5) for column in zip(*wide, strict=True)]).T
    found = checkpoint.resize_pos_embed(square.reshape(1, 64, 1), (5, 3))
    torch.testing.assert_close(found.reshape(5, 3), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [12, 13])
def test_pos_embed_of_the_right_grid_is_kept(rows: int) -> None:
    source = torch.randn(1, rows, 4)
    assert torch.equal(checkpoint.resize_pos_embed(source, (4, 3)), source[:, rows - 12 :])


def test_pos_embed_that_is_no_square() -> None:
    with pytest.raises(PoseError, match="pos_embed has 14 rows: neither the grid nor a square"):
        checkpoint.resize_pos_embed(torch.zeros(1, 14, 4), (4, 3))


def refused(backbone, path: Path) -> str:
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(PoseError) as caught:
        checkpoint.load_backbone(backbone, path)
    assert all(torch.equal(t, before[name]) for name, t in backbone.state_dict().items())
    return str(caught.value)


def test_missing_tensors(tmp_path: Path, backbone, official) -> None:
    short = {n: t for n, t in official.items() if not n.startswith("layers.1.attn")}
    path = saved(tmp_path, short)
    assert refused(backbone, path) == (
        f"{path}: lacks backbone tensors blocks.1.attn.proj.bias, blocks.1.attn.proj.weight, "
        "blocks.1.attn.qkv.bias and 1 more; is model.depth right?"
    )


def test_unexpected_tensors(tmp_path: Path, backbone, official) -> None:
    path = saved(tmp_path, {**official, "layers.2.ln1.weight": torch.ones(16)})
    expected = f"{path}: has unexpected tensors blocks.2.norm1.weight; is model.depth right?"
    assert refused(backbone, path) == expected


def test_wrong_shapes(tmp_path: Path, backbone, official) -> None:
    path = saved(tmp_path, {**official, "ln1.weight": torch.ones(8)})
    expected = f"{path}: norm.weight is [8], the model of params.yaml needs [16]"
    assert refused(backbone, path) == expected


def test_load_model_wants_every_tensor(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    model, path = PoseModel(tiny_model_spec), tmp_path / "x.safetensors"
    state = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    checkpoint.save_weights(path, state, {})
    checkpoint.load_model(model, path)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    del state["head.final_layer.bias"]
    checkpoint.save_weights(path, state, {})
    with pytest.raises(PoseError, match=r"lacks backbone tensors head\.final_layer\.bias"):
        checkpoint.load_model(model, path)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("read", [checkpoint.read_weights, checkpoint.read_training_state])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, read) -> None:
    path = saved(tmp_path, {"a": torch.ones(2), "b": Evil(tmp_path / "harm")})
    with pytest.raises(PoseError, match=path.name):
        read(path)
    assert not (tmp_path / "harm").exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}, None, [], [1, 2], 3, "text"],
)
def test_a_file_without_tensors(tmp_path: Path, content) -> None:
    with pytest.raises(PoseError, match="holds no tensors"):
        checkpoint.read_weights(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"<html>not found</html>", b"\0" * 64])
def test_files_that_are_no_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PoseError, match="not a readable checkpoint"):
        checkpoint.read_weights(tmp_path / name)


def test_an_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such checkpoint"):
        checkpoint.read_weights(tmp_path / "x.pth")
    assert checkpoint.read_training_state(tmp_path / "x.pt") is None


def test_training_state_round_trip(tmp_path: Path) -> None:
    state = {"model": {"a": torch.randn(2)}, "step": 3, "history": [{"loss": 0.5}], "window": []}
    checkpoint.save_training_state(tmp_path / "1.pt", state)
    checkpoint.save_training_state(tmp_path / "other.pt", state)
    found = checkpoint.read_training_state(tmp_path / "1.pt")
    assert torch.equal(found.pop("model")["a"], state["model"]["a"])
    assert found == {k: v for k, v in state.items() if k != "model"}
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


class Contents(dict[str, bytes]):
    """Files by name; a failing example need not print them."""

    def __repr__(self) -> str:
        return f"Contents of {', '.join(self)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("whole")
    state = {"a": torch.randn(5, 5), "b": torch.ones(3)}
    checkpoint.save_weights(folder / "x.safetensors", state, {"source": "here"})
    checkpoint.save_training_state(folder / "x.pt", {"model": state, "step": 3})
    torch.save(state, folder / "x.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return Contents({path.name: path.read_bytes() for path in folder.iterdir()})


# old.pth is torch's format before 1.6: torch's unpickler meets its end with an IndexError
@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.pth", "old.pth"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_at_any_byte_is_refused(
    tmp_path: Path, whole: Contents, name: str, share: float
) -> None:
    path = tmp_path / name
    path.write_bytes(whole[name][: int(share * len(whole[name]))])
    read = checkpoint.read_training_state if name == "x.pt" else checkpoint.read_weights
    with pytest.raises(PoseError, match=name):
        read(path)
