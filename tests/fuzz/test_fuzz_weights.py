"""Checkpoints spoilt in any way, well made ones of odd tensors, and malicious ones."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st

from fuzz.corrupt import corrupted_bytes, corrupted_json, fuzz, inputs, refused, refused_or_fine
from layouts import hugging_face, random_state, sapiens_clean, sapiens_pose, vitpose
from pose.engine.checkpoint import read_training_state
from pose.models.checkpoint import read_provenance
from pose.models.pose_model import PoseModel, build_on_meta
from pose.models.spec import ModelSpec
from pose.pretrained.convert import convert
from pose.pretrained.read import read_checkpoint
from pose.pretrained.select import read_model

KINDS = {
    "zip.pth": sapiens_clean,
    "old.pth": vitpose,
    "x.safetensors": hugging_face,
}


def written(folder: Path, name: str, state: dict[str, Any]) -> bytes:
    path = folder / name
    if name.endswith(".safetensors"):
        tensors = {key: tensor.contiguous() for key, tensor in state.items()}
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name.startswith("zip"))
    return path.read_bytes()


def use(path: Path, model: PoseModel) -> None:
    """What fetch_weights does with a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, _ = read_model(path)
        for keep in (False, True):
            with refused_or_fine():
                convert(dict(state), model, keep)


@pytest.fixture
def spec(tiny_model_spec: ModelSpec) -> ModelSpec:
    """Of a model that all families know."""
    return replace(tiny_model_spec, head="classic", conv_channels=())


@pytest.mark.parametrize("name", KINDS)
@inputs(8, 1500)
def test_bytes_of_checkpoints(bounded: Path, spec: ModelSpec, name: str, examples: int) -> None:
    good = written(bounded, name, KINDS[name](random_state(spec)))
    path, model = bounded / name, build_on_meta(spec)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with refused_or_fine():
            use(path, model)
        with warnings.catch_warnings(), refused_or_fine():
            warnings.simplefilter("ignore")
            read_training_state(path)
        if name.endswith("safetensors"):
            with refused_or_fine():
                read_provenance(path)

    # where the structure is: the beginning and the end
    parts = [(good[:3000], b"", good[3000:]), (good[-3000:], good[:-3000], b"")]
    spoilt = [
        corrupted_bytes(part).map(lambda new, a=before, b=after: a + new + b)
        for part, before, after in parts
    ]
    fuzz(examples, st.one_of(*spoilt), check)


@inputs(15, 2000)
def test_headers_of_safetensors(bounded: Path, spec: ModelSpec, examples: int) -> None:
    good = written(bounded, "x.safetensors", sapiens_pose(random_state(spec)))
    size = struct.unpack("<Q", good[:8])[0]
    header, path = json.loads(good[8 : 8 + size]), bounded / "x.safetensors"
    model = build_on_meta(spec)

    def check(value: Any) -> None:
        text = json.dumps(value).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + size :])
        with refused_or_fine():
            use(path, model)
        with refused_or_fine():
            read_provenance(path)

    fuzz(examples, corrupted_json(header), check)


DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint16,
]
SHAPES = [(), (0,), (1,), (1, 0, 16), (0, 12, 16), (2, 12, 16), (1, 13, 16), (1, 13, 0), (1, 2)]
SHAPES += [(16, 3, 8, 8), (16, 3, 6, 6), (16, 3, 0, 0), (16, 1, 8, 8), (17, 8, 1, 1), (16, 3, 8, 6)]
NAMES = ["pos_embed", "patch_embed.proj.weight", "head.final_layer.weight", "layers.0.ln1.weight"]
NAMES += ["backbone.pos_embed", "blocks.99999999999999999999.norm1.weight", "\n", "a\ud7ff", ""]
NAMES += ["keypoint_head.final_layer.7.weight", "blocks." + "9" * 5000 + ".norm1.weight"]
NAMES += ["encoder.layer.0.attention.attention.query.weight", "head.deconv_layers.0.weight"]


@st.composite
def odd_states(draw: st.DrawFn, good: dict[str, torch.Tensor]) -> dict[Any, Any]:
    """A sound file's tensors, some of another name, shape or kind."""
    state: dict[Any, Any] = dict(good)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*good, *NAMES]))
        shape = draw(st.sampled_from([*SHAPES, *(tuple(t.shape) for t in good.values())]))
        tensor = torch.zeros(shape).to(draw(st.sampled_from(DTYPES)))
        kind = draw(st.sampled_from(["odd", "odd", "odd", "none", "vast", "nan", "lose", "sparse"]))
        if kind == "lose":
            state.pop(name, None)
        elif kind == "none":
            state[name] = draw(st.sampled_from([None, 3, "x", {"a": tensor}, [tensor]]))
        elif kind == "vast":
            state[name] = torch.zeros(1).expand(1, 10**7, 16)
        elif kind == "sparse":
            state[name] = torch.zeros(shape or (1,)).to_sparse()
        elif kind == "nan":
            state[name] = torch.full(shape, float("nan"))
        else:
            state[name] = tensor
    return state


@pytest.mark.parametrize("layout", [sapiens_pose, vitpose, hugging_face])
@inputs(12, 1000)
def test_odd_tensors(bounded: Path, spec: ModelSpec, layout: Any, examples: int) -> None:
    path, model = bounded / "x.pth", build_on_meta(spec)
    good = layout(random_state(spec))

    def check(state: dict[Any, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(state, path)
        with refused_or_fine():
            use(path, model)

    fuzz(examples, odd_states(good), check)


def test_a_packed_checkpoint_is_refused(bounded: Path) -> None:
    """torch packs nothing; a gigabyte of zeros would be a megabyte on the disk."""
    good, path = written(bounded, "zip.pth", {"a": torch.ones(4)}), bounded / "bomb.pth"
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(2_000_000 * name.endswith("data/0")))
    assert "bomb.pth" in refused(read_checkpoint, path)


def test_a_header_of_exabytes(bounded: Path) -> None:
    path = bounded / "x.safetensors"
    for size in (2**63 - 1, 2**64 - 1, 10**9, 0):
        path.write_bytes(struct.pack("<Q", size) + b"{}")
        assert "x.safetensors" in refused(read_checkpoint, path)


def test_nested_keys(bounded: Path) -> None:
    """Some metadata key that a million leaves share is not written out."""
    key: Any = "x"
    for _ in range(14):
        key = (key, key)
    path = bounded / "x.pth"
    torch.save({key: 1}, path)
    assert "contains no tensors" in refused(read_checkpoint, path)


def scripted(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def program(path: Path) -> None:
    """The members of torch.export's archive that tell its kind."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("archive_format", "models/model.json", "data/weights/weight_0"):
            archive.writestr(f"x/{name}", b"pt2" * 9)


def onnx_file(path: Path) -> None:
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    path.write_bytes(onnx.helper.make_model(graph, producer_name="p").SerializeToString())


def numpy_archive(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.ones(3))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"))


def web_page(path: Path) -> None:
    path.write_text("<!doctype html><html><body>Sign in</body></html>")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [scripted, program, onnx_file, numpy_archive, tar, web_page])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@inputs(4, 600)
def test_bytes_of_other_kinds(bounded: Path, name: str, write: Any, examples: int) -> None:
    """No spoilt file of them is a checkpoint; a whole one is not to be downloaded again."""
    path = bounded / name
    write(path)
    good = path.read_bytes()
    assert "again" not in refused(read_checkpoint, path)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused(read_checkpoint, path)

    parts = [(good[:600], b"", good[600:]), (good[-600:], good[:-600], b"")]
    spoilt = [
        corrupted_bytes(part).map(lambda new, a=before, b=after: a + new + b)
        for part, before, after in parts
    ]
    fuzz(examples, st.one_of(*spoilt), check)


@inputs(15, 2000)
def test_indexes(bounded: Path, spec: ModelSpec, examples: int) -> None:
    state = {name: t.contiguous() for name, t in random_state(spec).items()}
    (bounded / "in").mkdir()
    for i, part in enumerate(("backbone.", "head.")):
        shard = {name: t for name, t in state.items() if name.startswith(part)}
        safetensors.torch.save_file(shard, bounded / "in" / f"{i}.safetensors")
    safetensors.torch.save_file(state, bounded / "outside.safetensors")
    names = {name: f"{int(name.startswith('head.'))}.safetensors" for name in state}
    index = bounded / "in" / "model.safetensors.index.json"
    outside = {**names, "backbone.pos_embed": "../outside.safetensors"}
    index.write_text(json.dumps({"weight_map": outside}))
    assert "is not a file in the index's folder" in refused(read_checkpoint, index)

    def check(value: Any) -> None:
        index.write_text(json.dumps(value))
        with refused_or_fine():
            found, _ = read_model(index)
            assert all(torch.equal(t, state[name]) for name, t in found.items() if name in state)

    fuzz(examples, corrupted_json({"metadata": {"total_size": 1}, "weight_map": names}), check)


WRAPPER_PARTS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
PREFIXES = ["", "net.", "model.", "model.model.", "ema_model.", "a.b.", "x.backbone_of."]
KEYS = ["net", "model", "state_dict", "model_state_dict", "student", "generator", "x.y", "module"]


@st.composite
def wrapped(draw: st.DrawFn, state: dict[str, torch.Tensor]) -> tuple[Any, int]:
    """The state behind a prefix, wrappers and dictionaries; and how many copies there are."""
    prefix = draw(st.sampled_from(PREFIXES))
    parts = draw(st.lists(st.sampled_from(WRAPPER_PARTS), max_size=3))
    content: Any = {}
    for name, tensor in state.items():
        split = f"{prefix}{name}".split(".")
        for part in parts:
            place = draw(st.integers(0, len(split) - 1)) if draw(st.booleans()) else 0
            split.insert(place, part)
        content[".".join(split)] = tensor
    adam = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}
    for _ in range(draw(st.integers(0, 3))):
        content = {draw(st.sampled_from(KEYS)): content, "epoch": 3, "optimizer": adam}
    copies = draw(st.integers(1, 2))
    return ({"first": content, "second": content} if copies == 2 else content), copies


@inputs(25, 2000)
def test_wrappers_prefixes_and_dictionaries(bounded: Path, spec: ModelSpec, examples: int) -> None:
    """Read as what they are, or, where there are two, asked for."""
    state, path = random_state(spec), bounded / "x.pth"

    def check(case: tuple[Any, int]) -> None:
        content, copies = case
        torch.save(content, path)
        if copies == 2:
            assert "set weights.key to the name of one" in refused(read_model, path)
        found, _ = read_model(path, "second" if copies == 2 else None)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], t) for name, t in state.items())

    fuzz(examples, wrapped(state), check)


class Trap:
    def __reduce__(self) -> Any:
        return open, ("/tmp/pose-was-here", "w")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors", ".ckpt"])
def test_a_plain_pickle_runs_nothing(bounded: Path, suffix: str, protocol: int) -> None:
    path = bounded / f"x{suffix}"
    path.write_bytes(pickle.dumps({"a": Trap(), "b": OrderedDict()}, protocol))
    for read in (read_checkpoint, read_training_state):
        assert path.name in refused(read, path)
