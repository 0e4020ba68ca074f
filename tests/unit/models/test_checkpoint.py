"""Weights in and out: stable bytes, and nothing from outside is trusted."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pose.common.errors import PoseError
from pose.engine import checkpoint as engine_checkpoint
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


def test_load_model_wants_every_tensor(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    model, path = PoseModel(tiny_model_spec), tmp_path / "x.safetensors"
    state = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    checkpoint.save_weights(path, state, {})
    checkpoint.load_model(model, path)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    del state["head.final_layer.bias"]
    checkpoint.save_weights(path, state, {})
    with pytest.raises(PoseError, match=r"lacks tensors head\.final_layer\.bias"):
        checkpoint.load_model(model, path)


@pytest.mark.parametrize(("per", "maps"), [(1, 5), (3, 15)])
def test_a_head_of_other_keypoints_is_named(
    tmp_path: Path, tiny_model_spec: ModelSpec, per: int, maps: int
) -> None:
    checkpoint.save_weights(tmp_path / "x.safetensors", PoseModel(tiny_model_spec).state_dict(), {})
    other = PoseModel(replace(tiny_model_spec, num_keypoints=5, maps_per_keypoint=per))
    expected = rf"its head makes 17 maps, the keypoints here need {maps}; set weights\.head: fresh"
    with pytest.raises(PoseError, match=expected):
        checkpoint.load_start(other, tmp_path / "x.safetensors")


def test_a_last_layer_of_another_kernel_is_not_about_keypoints(tiny_model_spec: ModelSpec) -> None:
    expected = PoseModel(tiny_model_spec).state_dict()
    name = "head.final_layer.weight"
    wider = {**expected, name: torch.cat([expected[name]] * 2, dim=1)}
    with pytest.raises(PoseError, match=r"final_layer.weight is .*, the model .* needs \[[^;]*$"):
        checkpoint.require_same(expected, wider)
    with pytest.raises(PoseError, match="its head makes 0 maps"):
        checkpoint.require_same(expected, {**expected, name: torch.ones(())})


def test_only_what_is_no_number_is_not_finite() -> None:
    good = {"a": torch.ones(2), "steps": torch.tensor(3)}
    checkpoint.require_finite(good)
    with pytest.raises(PoseError, match="not finite in b;"):
        checkpoint.require_finite({**good, "b": torch.tensor([1.0, torch.inf])})


def test_many_names_are_three_and_a_count() -> None:
    assert checkpoint.shorten(list("abc")) == "a, b, c"
    assert checkpoint.shorten(list("abcde")) == "a, b, c and 2 more"


def test_a_checkpoint_of_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1 << 20)}, path)
    assert checkpoint.read_weights(path)["a"].sum() == 1 << 20


def test_load_start_says_what_it_found(tmp_path: Path, tiny_model_spec: ModelSpec) -> None:
    path, model = tmp_path / "x.safetensors", PoseModel(tiny_model_spec)
    state = {name: torch.randn(t.shape) for name, t in model.state_dict().items()}
    checkpoint.save_weights(path, state, {})
    assert checkpoint.load_start(model, path) == "backbone and head"
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    model = PoseModel(tiny_model_spec)
    fresh = {name: t.clone() for name, t in model.head.state_dict().items()}
    checkpoint.save_weights(path, {k: v for k, v in state.items() if k[:5] != "head."}, {})
    assert checkpoint.load_start(model, path) == "backbone; the head starts fresh"
    assert torch.equal(model.backbone.pos_embed, state["backbone.pos_embed"])
    assert all(torch.equal(t, fresh[name]) for name, t in model.head.state_dict().items())


def test_load_start_wants_the_backbone_and_a_whole_head(
    tmp_path: Path, tiny_model_spec: ModelSpec
) -> None:
    path, model = tmp_path / "x.safetensors", PoseModel(tiny_model_spec)
    for lost in ("backbone.pos_embed", "head.final_layer.bias"):
        state = {name: t for name, t in model.state_dict().items() if name != lost}
        checkpoint.save_weights(path, state, {})
        with pytest.raises(PoseError, match=f"^{path}: lacks tensors {lost}"):
            checkpoint.load_start(model, path)


class ConfigDict(dict):
    """As mmengine's: pickled as a call with a plain dict."""

    def __reduce_ex__(self, protocol: object):
        return ConfigDict, (dict(self),)


class HistoryBuffer:
    """As mmengine's: arrays in its attributes."""

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
def test_metadata_of_real_checkpoints_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, zipped: bool
) -> None:
    path, weights = tmp_path / "x.pth", torch.randn(2, 3)
    content = {"state_dict": {"a": weights}, "meta": {"x": METADATA[kind]}, "epoch": 3}
    with monkeypatch.context() as patch:  # mmengine is there to write, not to read
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
def test_tensors_are_found_under_their_wrapper(tmp_path: Path, wrap: str | None) -> None:
    state = {"a.weight": torch.randn(2), "b": torch.randn(1), "no_tensor": 3, 7: torch.ones(1)}
    found = checkpoint.read_weights(saved(tmp_path, {wrap: state, "epoch": 3} if wrap else state))
    assert found.keys() == {"a.weight", "b"}
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_a_wrapper_inside_another(tmp_path: Path) -> None:
    inner = {"a": torch.randn(2)}
    found = checkpoint.read_weights(saved(tmp_path, {"model": {"state_dict_ema": inner, "n": 1}}))
    assert found.keys() == {"a"}


def test_a_file_without_tensors_tells_its_keys(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match=r"holds no tensors \(keys: epoch, 3\)"):
        checkpoint.read_weights(saved(tmp_path, {"epoch": 2, 3: "x"}))


class Trap:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def traps(harm: Path) -> dict[str, Trap]:
    """Ways to make a folder `harm`."""
    code = f"__import__('os').mkdir({str(harm)!r})"
    return {
        "mkdir": Trap(os.mkdir, str(harm)),
        "eval": Trap(eval, code),
        "exec": Trap(exec, code),
        "process": Trap(subprocess.check_call, ["mkdir", str(harm)]),
        "wrapped": Trap(torch.utils._pytree.tree_map, os.mkdir, str(harm)),
    }


@pytest.mark.parametrize("read", [checkpoint.read_weights, engine_checkpoint.read_training_state])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", traps(Path()))
def test_a_malicious_pickle_is_refused_and_not_run(
    tmp_path: Path, kind: str, zipped: bool, read
) -> None:
    harm, path = tmp_path / "harm", tmp_path / "x.pth"
    content = {"a": torch.ones(2), "meta": argparse.Namespace(b=traps(harm)[kind])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PoseError, match=path.name) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not harm.exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert harm.exists()


def test_a_refused_type_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(2), "b": Trap(os.mkdir, "x")})
    with pytest.raises(PoseError) as caught:
        checkpoint.read_weights(path)
    assert str(caught.value) == (
        f"{path}: holds an object of type posix.mkdir, which is not unpickled; if you know it for "
        "harmless metadata, add it to HARMLESS in stages/pose/models/checkpoint.py"
    )


def test_the_name_of_a_refused_type_breaks_no_line(tmp_path: Path) -> None:
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
    with pytest.raises(PoseError, match="holds no tensors"):
        checkpoint.read_weights(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty or cut off"),
        (b"\n", "it is empty or cut off"),
        (b"{}", ""),
        (b"<!DOCTYPE html><html>not found</html>", "it is a web page"),
        (b"\n <html></html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer"),
        (b"Entry not found", ""),
        (b"PK\3\4", ""),
        (b"\0" * 64, ""),
    ],
)
def test_files_that_are_no_checkpoint(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PoseError) as caught:
        checkpoint.read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable checkpoint ({reason}")
    assert message.endswith("); fetch it again")
    assert len(message) < len(str(path)) + 200
    assert "weights_only" not in message  # torch's text advises to unpickle the file all the same
    assert "()" not in message


def test_a_damaged_storage_key(tmp_path: Path) -> None:
    """torch's reader of its old format meets it with an AssertionError."""
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
    """As Sapiens lite has it."""
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "x.pt2")
    with pytest.raises(PoseError, match="TorchScript"):
        checkpoint.read_weights(tmp_path / "x.pt2")


def test_an_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such checkpoint"):
        checkpoint.read_weights(tmp_path / "x.pth")
    assert engine_checkpoint.read_training_state(tmp_path / "x.pt") is None


def test_training_state_round_trip(tmp_path: Path) -> None:
    state = {"model": {"a": torch.randn(2)}, "step": 3, "history": [{"loss": 0.5}], "window": []}
    engine_checkpoint.save_training_state(tmp_path / "1.pt", state)
    engine_checkpoint.save_training_state(tmp_path / "other.pt", state)
    found = engine_checkpoint.read_training_state(tmp_path / "1.pt")
    assert torch.equal(found.pop("model")["a"], state["model"]["a"])
    assert found == {k: v for k, v in state.items() if k != "model"}
    assert (tmp_path / "1.pt").read_bytes() == (tmp_path / "other.pt").read_bytes()


def numbered(path: Path) -> int | None:
    found = engine_checkpoint.newest_training_state(path)
    return found and found["n"]


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(torch.full((64,), 7.0).numpy().tobytes())
    content[at + 9] ^= 1
    path.write_bytes(content)


def test_the_state_before_stands_in_for_a_damaged_one(tmp_path: Path, caplog) -> None:
    path = tmp_path / "state.pt"
    caplog.set_level("INFO", "pose")
    assert numbered(path) is None
    for n in (1, 2, 3):
        engine_checkpoint.save_training_state(path, {"n": n, "a": torch.full((64,), 7.0)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.previous.pt", "state.pt"]
    assert (numbered(path), caplog.text) == (3, "")
    spoil(path)
    assert numbered(path) == 2
    assert f"{path}: damaged" in caplog.text
    assert "an older one is taken" in caplog.text
    path.unlink()  # a power loss between the two renames
    assert numbered(path) == 2
    spoil(engine_checkpoint.previous(path))
    assert numbered(path) is None


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", range(1, 5))
def test_no_moment_leaves_nothing(tmp_path: Path, monkeypatch, call: str, at: int) -> None:
    """The power goes at the n-th call: what is there then is a whole state, the old or the new."""
    path, calls = tmp_path / "state.pt", []
    for n in (1, 2):
        engine_checkpoint.save_training_state(path, {"n": n})
    real = getattr(os, call)

    def lost(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == at:
            raise OSError("power")
        real(*arguments)

    monkeypatch.setattr(os, call, lost)
    with contextlib.suppress(OSError):
        engine_checkpoint.save_training_state(path, {"n": 3})
    monkeypatch.undo()
    assert numbered(path) in (2, 3)


def test_a_state_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    order = []
    fsync, replace = os.fsync, os.replace

    def synced(number: int) -> None:
        order.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def replaced(source: Path, target: Path) -> None:
        order.append(f"{source.name} -> {target.name}")
        replace(source, target)

    path = tmp_path / "state.pt"
    engine_checkpoint.save_training_state(path, {})
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    engine_checkpoint.save_training_state(path, {})
    first = order.index("sync state.pt.tmp")
    assert order[first:].index("state.pt -> state.previous.pt") > 0
    assert order[-2:] == ["state.pt.tmp -> state.pt", f"sync {tmp_path.name}"]


class Contents(dict[str, bytes]):
    """Files by name; a failing example need not print them."""

    def __repr__(self) -> str:
        return f"Contents of {', '.join(self)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("whole")
    state = {"a": torch.randn(5, 5), "b": torch.ones(3)}
    checkpoint.save_weights(folder / "x.safetensors", state, {"source": "here"})
    engine_checkpoint.save_training_state(folder / "x.pt", {"model": state, "step": 3})
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
    read = engine_checkpoint.read_training_state if name == "x.pt" else checkpoint.read_weights
    with pytest.raises(PoseError, match=name):
        read(path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_comes_into_a_run(
    tmp_path: Path, whole: Contents, share: float, bit: int
) -> None:
    """It is refused, or lies where nothing is read (padding, dates of the zip's entries)."""
    path, content = tmp_path / "y.pt", bytearray(whole["x.pt"])
    path.write_bytes(content)
    expected = engine_checkpoint.read_training_state(path)
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(PoseError):
        found = engine_checkpoint.read_training_state(path)
        assert found["step"] == expected["step"]
        for name, tensor in expected["model"].items():
            assert torch.equal(found["model"][name], tensor), name


@pytest.mark.parametrize("name", ["x.pt", "x.pth"])
def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path, whole: Contents, name: str) -> None:
    """One bit of the zip's directory; torch reads such a record as memory that it never filled."""
    content = bytearray(whole[name])
    entry = content[: content.rindex(b"/data/1")].rindex(b"PK\x01\x02")
    content[entry + 38] |= 0x10  # external attributes, MS-DOS: a folder
    (tmp_path / name).write_bytes(content)
    read = engine_checkpoint.read_training_state if name == "x.pt" else checkpoint.read_weights
    with pytest.raises(PoseError, match="damaged"):
        read(tmp_path / name)
