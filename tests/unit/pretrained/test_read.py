"""Read foreign checkpoints: what is read, what is refused, and no file is unpickled."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malicious import Trap, traps
from pose.common.errors import PoseError
from pose.pretrained.read import read_checkpoint


def saved(folder: Path, content, name: str = "x.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file with one dictionary."""
    (state,) = read_checkpoint(path).values()
    return state


def test_a_checkpoint_of_four_megabytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1 << 20)}, path)
    assert read_all(path)["a"].sum() == 1 << 20


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
    found = read_all(path)
    assert found.keys() == {"a"}
    assert torch.equal(found["a"], weights)
    assert "Inert" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "module"])
def test_tensors_are_found_under_a_wrapper_key(tmp_path: Path, wrap: str | None) -> None:
    state = {"a.weight": torch.randn(2), "b": torch.randn(1), "no_tensor": 3, 7: torch.ones(1)}
    found = read_all(saved(tmp_path, {wrap: state, "epoch": 3} if wrap else state))
    assert found.keys() == {"a.weight", "b"}
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_nested_wrapper_keys(tmp_path: Path) -> None:
    inner = {"a": torch.randn(2)}
    found = read_all(saved(tmp_path, {"model": {"state_dict_ema": inner, "n": 1}}))
    assert found.keys() == {"a"}


def test_a_file_without_tensors_lists_its_keys(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match=r"contains no tensors \(keys: epoch, 3\)"):
        read_all(saved(tmp_path, {"epoch": 2, 3: "x"}))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", traps(Path()))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, kind: str, zipped: bool) -> None:
    harm, path = tmp_path / "harm", tmp_path / "x.pth"
    content = {"a": torch.ones(2), "meta": argparse.Namespace(b=traps(harm)[kind])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PoseError, match=path.name) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert not harm.exists()
    torch.load(path, weights_only=False)  # unpickling it does create the folder
    assert harm.exists()


def test_a_refused_type_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(2), "b": Trap(os.mkdir, "x")})
    with pytest.raises(PoseError) as caught:
        read_all(path)
    assert str(caught.value) == (
        f"{path}: contains an object of type posix.mkdir, which is not unpickled; save the tensors "
        "alone, as torch.save(model.state_dict(), ...) does, or, if it is harmless metadata, add "
        "it to HARMLESS in stages/pose/pretrained/read.py"
    )


def test_the_name_of_a_refused_type_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"ctorch._utils", b"c\x1btorch_utils"))
    with pytest.raises(PoseError, match=r"an object of type \\x1btorch_utils\.") as caught:
        read_all(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}, None, [], [1, 2], 3, "text"],
)
def test_a_file_without_tensors(tmp_path: Path, content) -> None:
    with pytest.raises(PoseError, match="contains no tensors"):
        read_all(saved(tmp_path, content))


def test_a_damaged_storage_key(tmp_path: Path) -> None:
    """torch's reader of its old format raises an AssertionError."""
    path, tensor = tmp_path / "x.pth", torch.ones(3)
    torch.save({"a": tensor}, path, _use_new_zipfile_serialization=False)
    key = str(tensor.untyped_storage()._cdata).encode()
    content = path.read_bytes()
    assert content.count(key) == 2
    path.write_bytes(content.replace(key, b"9" * len(key), 1))
    with pytest.raises(PoseError, match="not a readable checkpoint"):
        read_all(path)


def test_an_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(PoseError, match="no such checkpoint"):
        read_all(tmp_path / "x.pth")


class Contents(dict[str, bytes]):
    """Files by name; not printed with a failing example."""

    def __repr__(self) -> str:
        return f"Contents of {', '.join(self)}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Contents:
    folder = tmp_path_factory.mktemp("whole")
    state = {"a": torch.randn(5, 5), "b": torch.ones(3)}
    safetensors.torch.save_file(state, folder / "x.safetensors", {"source": "here"})
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
        read_all(path)


def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path, whole: Contents) -> None:
    """One bit of the zip's directory; torch returns uninitialised memory for such a record."""
    content = bytearray(whole["x.pth"])
    entry = content[: content.rindex(b"/data/1")].rindex(b"PK\x01\x02")
    content[entry + 38] |= 0x10  # external attributes, MS-DOS: a folder
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(PoseError, match=r"data/1 is marked as a folder.*; download it again"):
        read_all(tmp_path / "x.pth")


def test_a_record_that_does_not_match_its_checksum(tmp_path: Path, whole: Contents) -> None:
    """torch.load does not check it; the values would be others."""
    content = bytearray(whole["x.pth"])
    content[content.index(torch.ones(3).numpy().tobytes())] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(PoseError, match=r"x/data/1 does not match its CRC-32; download it again"):
        read_all(tmp_path / "x.pth")


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, {"a": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_all(path)["a"].sum() == 3


@pytest.mark.parametrize("mode", ["stored", "compressed"])
def test_an_archive_packed_again(tmp_path: Path, mode: str) -> None:
    """With entries for its folders, as zip and the Finder write; its records packed or not."""
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    path = saved(tmp_path, {"a": values})
    method = zipfile.ZIP_STORED if mode == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.pth", "w", method) as new:
        new.writestr("x/", b"")
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(read_all(tmp_path / "y.pth")["a"], values)


def test_protocol_4_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pth", pickle_protocol=4)
    with pytest.warns(UserWarning, match="protocol 4"), pytest.raises(PoseError) as caught:
        read_all(tmp_path / "x.pth")
    assert str(caught.value).endswith(
        "(it was saved with pickle_protocol=4 or above); save it again where it can be read, with "
        "the defaults of torch.save"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"a": torch.ones(1)}], "contains no tensors in a dictionary (it is a list); save the"),
        (
            {"state_dict": {"a": np.ones(3), "b": np.ones(2)}},
            "contains no tensors but 2 objects, such as NumPy arrays, which are not read; save",
        ),
    ],
)
def test_what_a_file_without_tensors_holds(tmp_path: Path, content, expected: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(PoseError) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


# ------------------------------------------------------------------------------ dictionaries


ADAM = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model_state_dict": {"a": 1}, "optimizer_state_dict": ADAM}, ["model_state_dict"]),
        ({"net": {"a": 1}, "optimizer": ADAM, "epoch": 3}, ["net"]),
        ({"teacher": {"a": 1}, "student": {"a": 2}}, ["student", "teacher"]),
        ({"a": {"b": {"c": {"d": 1}}}}, ["a.b.c"]),
        ({"a": 1, "ema": {"a": 2}}, ["", "ema"]),
        ({"m": {"a": 1}, "optim": {"exp_avg": {"a": 2}}}, ["m"]),
        ({"m": {"a": 1}, "adam": {"state": {"a": {"exp_avg": 2}}, "param_groups": []}}, ["m"]),
        ({"optimal": {"a": 1}}, ["optimal"]),
        ({"backbone": {"a": 1}, "keypoint_head": {"b": 2}}, [""]),
        ({"state_dict": {"backbone": {"a": 1}, "head": {"b": 2}}}, ["state_dict"]),
        ({"m": {"a": 1}, 3: {"b": 1}, "list": [{"c": 1}]}, ["m"]),
    ],
)
def test_dictionaries_of_tensors(tmp_path: Path, content, expected: list[str]) -> None:
    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) if k != "epoch" else v for k, v in value.items()}
        return torch.full((2,), float(value)) if isinstance(value, int) else value

    assert sorted(read_checkpoint(saved(tmp_path, filled(content)))) == expected


def test_dictionaries_that_are_parts_of_a_model_are_joined(tmp_path: Path) -> None:
    content = {"m": {"backbone": {"a": torch.ones(1)}, "head": {"b": torch.ones(1)}}}
    found = read_checkpoint(saved(tmp_path, content))
    assert {keys: list(state) for keys, state in found.items()} == {"m": ["backbone.a", "head.b"]}


def test_a_dictionary_that_contains_itself(tmp_path: Path) -> None:
    content: dict = {"a": torch.ones(1)}
    content.update({str(i): content for i in range(100)})
    assert len(read_checkpoint(saved(tmp_path, content))) <= 1000


# ------------------------------------------------------------------------------------ shards


def sharded(folder: Path, suffix: str = "safetensors") -> Path:
    """Two shards of two tensors and their index."""
    folder.mkdir(exist_ok=True)
    names, weights = {}, {}
    for i, letters in enumerate(("ab", "cd"), 1):
        state = {letter: torch.full((2,), float(ord(letter))) for letter in letters}
        name = f"model-{i:05}-of-00002.{suffix}"
        if suffix == "safetensors":
            safetensors.torch.save_file(state, folder / name)
        else:
            torch.save(state, folder / name)
        weights |= state
        names |= dict.fromkeys(letters, name)
    index = folder / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": names}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("given_by", ["index", "folder"])
def test_shards(tmp_path: Path, suffix: str, given_by: str) -> None:
    index = sharded(tmp_path / "model", suffix)
    (tmp_path / "model" / "config.json").write_text("{}")
    found = read_all(index if given_by == "index" else index.parent)
    assert {k: v.tolist() for k, v in found.items()} == {k: [ord(k)] * 2 for k in "abcd"}


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(PoseError) as caught:
        read_all(index)
    assert str(caught.value) == (
        f"{index}: 1 of 2 shards are not in its folder: model-00002-of-00002.safetensors; "
        "download them into it"
    )


def test_a_shard_that_lacks_a_tensor(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    safetensors.torch.save_file({"c": torch.ones(1)}, shard)
    with pytest.raises(PoseError, match=r"model-00002-of-00002\.safetensors: lacks d of model\.s"):
        read_all(index)


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "a/../../x", "..\\x", "", 3, None, "a\nb"]
)
def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, shard) -> None:
    (tmp_path / "in").mkdir()
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(PoseError, match="is not a file in the index's folder") as caught:
        read_all(index)
    assert "\n" not in str(caught.value)


def test_an_index_that_names_an_index_or_itself(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": index.name}}))
    with pytest.raises(PoseError, match=r"index\.json: is JSON, no checkpoint"):
        read_all(index)


@pytest.mark.parametrize("content", ['{"model_type": "vitpose"}', "{}", '{"weight_map": []}'])
def test_json_that_is_no_index(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(PoseError, match=r"config\.json: is JSON without a weight_map"):
        read_all(tmp_path / "config.json")
