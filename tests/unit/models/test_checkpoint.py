"""Save and load weights: bytes are stable, and no foreign file is unpickled."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malicious import Trap, traps
from pose.common.errors import PoseError
from pose.models import checkpoint
from pose.models.vit import ModelSpec, PoseModel


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


def test_require_finite() -> None:
    good = {"a": torch.ones(2), "steps": torch.tensor(3)}
    checkpoint.require_finite(good)
    with pytest.raises(PoseError, match="NaN or Inf in b;"):
        checkpoint.require_finite({**good, "b": torch.tensor([1.0, torch.inf])})


def test_shorten_shows_three_names_and_a_count() -> None:
    assert checkpoint.shorten(list("abc")) == "a, b, c"
    assert checkpoint.shorten(list("abcde")) == "a, b, c and 2 more"


def test_a_checkpoint_of_four_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1 << 20)}, path)
    assert checkpoint.read_weights(path)["a"].sum() == 1 << 20


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


class ConfigDict(dict):
    """Like mmengine's: pickled as a call with a plain dict."""

    def __reduce_ex__(self, protocol: object):
        return ConfigDict, (dict(self),)


class HistoryBuffer:
    """Like mmengine's: arrays in its attributes."""

    def __init__(self) -> None:
        self.history = np.arange(3.0)


MMENGINE = {
    ConfigDict: "mmengine.config.config",
    HistoryBuffer: "mmengine.logging.history_buffer",
}
METADATA = {
    "argparse": argparse.Namespace(lr=np.float64(5e-4), layers=[1, 2], out=Path("/x")),
    "datetime": [datetime.datetime(2024, 10, 24), datetime.timedelta(hours=1)],
    "scalar": [np.float64(3), np.int64(2), np.float32(1), np.bool_(True)],
    "array": [np.arange(6).reshape(2, 3), np.array(["a"]), np.array([1, None], dtype=object)],
    "dtype": np.dtype("float32"),
    "plain": [collections.OrderedDict(a=1), {1, 2}, b"abc", 1j, None, "text"],
    "mmengine": [ConfigDict(a=1, b=ConfigDict(c=2)), HistoryBuffer()],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_of_real_checkpoints_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, zipped: bool
) -> None:
    path, weights = tmp_path / "x.pth", torch.randn(2, 3)
    content = {"state_dict": {"a": weights}, "meta": {"x": METADATA[kind]}, "epoch": 3}
    with monkeypatch.context() as patch:  # mmengine is importable only while writing
        for fake in (ConfigDict, HistoryBuffer):
            name = MMENGINE[fake]
            patch.setattr(fake, "__module__", name)
            for end in [i for i, c in enumerate(f"{name}.") if c == "."]:
                patch.setitem(sys.modules, name[:end], types.ModuleType(name[:end]))
            setattr(sys.modules[name], fake.__name__, fake)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = checkpoint.read_weights(path)
    assert found.keys() == {"a"}
    assert torch.equal(found["a"], weights)
    assert "Inert" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "module"])
def test_tensors_are_found_under_a_wrapper_key(tmp_path: Path, wrap: str | None) -> None:
    state = {"a.weight": torch.randn(2), "b": torch.randn(1), "no_tensor": 3, 7: torch.ones(1)}
    found = checkpoint.read_weights(saved(tmp_path, {wrap: state, "epoch": 3} if wrap else state))
    assert found.keys() == {"a.weight", "b"}
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_nested_wrapper_keys(tmp_path: Path) -> None:
    inner = {"a": torch.randn(2)}
    found = checkpoint.read_weights(saved(tmp_path, {"model": {"state_dict_ema": inner, "n": 1}}))
    assert found.keys() == {"a"}


def test_a_file_without_tensors_lists_its_keys(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match=r"contains no tensors \(keys: epoch, 3\)"):
        checkpoint.read_weights(saved(tmp_path, {"epoch": 2, 3: "x"}))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", traps(Path()))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, kind: str, zipped: bool) -> None:
    harm, path = tmp_path / "harm", tmp_path / "x.pth"
    content = {"a": torch.ones(2), "meta": argparse.Namespace(b=traps(harm)[kind])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PoseError, match=path.name) as caught:
        checkpoint.read_weights(path)
    assert "\n" not in str(caught.value)
    assert not harm.exists()
    torch.load(path, weights_only=False)  # unpickling it does create the folder
    assert harm.exists()


def test_a_refused_type_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(2), "b": Trap(os.mkdir, "x")})
    with pytest.raises(PoseError) as caught:
        checkpoint.read_weights(path)
    assert str(caught.value) == (
        f"{path}: contains an object of type posix.mkdir, which is not unpickled; if it is "
        "harmless metadata, add it to HARMLESS in stages/pose/models/checkpoint.py"
    )


def test_the_name_of_a_refused_type_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"ctorch._utils", b"c\x1btorch_utils"))
    with pytest.raises(PoseError, match=r"an object of type \\x1btorch_utils\.") as caught:
        checkpoint.read_weights(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}, None, [], [1, 2], 3, "text"],
)
def test_a_file_without_tensors(tmp_path: Path, content) -> None:
    with pytest.raises(PoseError, match="contains no tensors"):
        checkpoint.read_weights(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty or truncated"),
        (b"\n", "it is empty or truncated"),
        (b"{}", ""),
        (b"<!DOCTYPE html><html>not found</html>", "it is a web page"),
        (b"\n <html></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"Entry not found", ""),
        (b"PK\3\4", ""),
        (b"\0" * 64, ""),
    ],
)
def test_files_that_are_not_checkpoints(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PoseError) as caught:
        checkpoint.read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable checkpoint ({reason}")
    assert message.endswith("); download it again")
    assert len(message) < len(str(path)) + 200
    assert "weights_only" not in message  # torch's own text advises to unpickle the file
    assert "()" not in message


def test_a_damaged_storage_key(tmp_path: Path) -> None:
    """torch's reader of its old format raises an AssertionError."""
    path, tensor = tmp_path / "x.pth", torch.ones(3)
    torch.save({"a": tensor}, path, _use_new_zipfile_serialization=False)
    key = str(tensor.untyped_storage()._cdata).encode()
    content = path.read_bytes()
    assert content.count(key) == 2
    path.write_bytes(content.replace(key, b"9" * len(key), 1))
    with pytest.raises(PoseError, match="not a readable checkpoint"):
        checkpoint.read_weights(path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*TorchScript archive")
def test_torchscript_is_named(tmp_path: Path) -> None:
    """As the files of Sapiens lite."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "x.pt2")
    with pytest.raises(PoseError, match="TorchScript"):
        checkpoint.read_weights(tmp_path / "x.pt2")


def test_an_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such checkpoint"):
        checkpoint.read_weights(tmp_path / "x.pth")


class Contents(dict[str, bytes]):
    """Files by name; not printed with a failing example."""

    def __repr__(self) -> str:
        return f"Contents of {', '.join(self)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("whole")
    state = {"a": torch.randn(5, 5), "b": torch.ones(3)}
    checkpoint.save_weights(folder / "x.safetensors", state, {"source": "here"})
    torch.save(state, folder / "x.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return Contents({path.name: path.read_bytes() for path in folder.iterdir()})


# old.pth is torch's format before 1.6: torch's unpickler raises an IndexError at its end
@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pth"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_truncated_at_any_byte_is_refused(
    tmp_path: Path, whole: Contents, name: str, share: float
) -> None:
    path = tmp_path / name
    path.write_bytes(whole[name][: int(share * len(whole[name]))])
    with pytest.raises(PoseError, match=name):
        checkpoint.read_weights(path)


def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path, whole: Contents) -> None:
    """One bit of the zip's directory; torch returns uninitialised memory for such a record."""
    content = bytearray(whole["x.pth"])
    entry = content[: content.rindex(b"/data/1")].rindex(b"PK\x01\x02")
    content[entry + 38] |= 0x10  # external attributes, MS-DOS: a folder
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(PoseError, match="damaged"):
        checkpoint.read_weights(tmp_path / "x.pth")
